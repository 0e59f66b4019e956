"""What an orchestrator's code may ask for."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, Protocol, TypeVar, overload

from callboard.core.calls import Calls
from callboard.core.codec import Content
from callboard.core.entities import EntityId
from callboard.core.entity_calls import Due, EntityCalls
from callboard.core.familiar import FamiliarContext, ReplaySafeLogger
from callboard.core.http_context import HttpContext
from callboard.core.locking import CriticalSection
from callboard.core.loop import DeterministicFuture, DeterministicLoop
from callboard.core.retrying import Call, RetryStrategy
from callboard.core.timeouts import Duration, Timeouts, interval

T = TypeVar("T")
D = TypeVar("D")
F = TypeVar("F", bound=Callable[..., Any])

#: For what has no default.
NO_DEFAULT: Final = object()


class DurableTask(DeterministicFuture[T]):
    """Something an orchestration waits for: an activity, a child, a timer, an external event. Await it, or yield it in a generator.

    It was scheduled when it was made. Cancelling it stops the waiting: a timer is taken back, an event waiter is removed from
    the line, an activity is told to stop (as best it can) and its result ignored; a child that has been started goes on.
    """

    __slots__ = ("_when_cancelled", "task_id")

    def __init__(
        self,
        *,
        loop: DeterministicLoop,
        task_id: int = -1,
        when_cancelled: Callable[[DurableTask[Any]], None] | None = None,
    ) -> None:
        super().__init__(loop=loop)
        self.task_id = task_id
        self._when_cancelled = when_cancelled

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        if self._when_cancelled is not None:
            self._when_cancelled(self)
        return True


class ContextHost(Protocol):
    """The execution behind a context."""

    instance_id: str
    execution_id: str
    name: str
    version: str | None
    parent_instance_id: str | None
    tags: dict[str, str]
    input: Content | None
    now: datetime
    replaying: bool
    calls: Calls
    entities: EntityCalls

    @property
    def will_continue_as_new(self) -> bool: ...

    def logger(self, logger: Any) -> ReplaySafeLogger: ...

    def new_task(self, when_cancelled: Callable[[DurableTask[Any]], None]) -> DurableTask[Any]: ...

    def ensure(self, awaitable: object) -> Any: ...

    def make(self, call: Call, retry: RetryStrategy | None) -> DurableTask[Any]: ...

    def create_timer(self, fire_at: datetime) -> DurableTask[None]: ...

    def wait_for_event(
        self, name: str, expected: Any, timeout: timedelta | None, default: object
    ) -> DurableTask[Any]: ...

    def send_event(self, instance_id: str, name: str, value: object) -> None: ...

    def send_message(self, instance_id: str, name: str, value: object) -> None: ...

    def publish(self, exchange: str, key: str, value: object) -> None: ...

    def ask_instance(self, instance_id: str, name: str, value: object, expected: Any) -> DurableTask[Any]: ...

    def on_message(self, name: str, function: Callable[..., Any], validator: Callable[..., Any] | None) -> None: ...

    def on_query(self, name: str, function: Callable[..., Any]) -> None: ...

    async def handlers_finished(self) -> None: ...

    def continue_as_new(self, value: object, version: str | None) -> None: ...

    def patched(self, patch: str) -> bool: ...

    def deprecate_patch(self, patch: str) -> None: ...

    def set_custom_status(self, value: object) -> None: ...

    def next_uuid(self) -> uuid.UUID: ...

    def random(self) -> Random: ...


class OrchestrationContext(FamiliarContext, HttpContext):
    """Handed to every orchestrator function as its first argument; the only durable door to the world outside.

    Everything else in the function must be deterministic: the same history must make it ask for the same things again.
    ``asyncio`` itself is durable here: ``asyncio.sleep`` is a durable timer, ``gather`` and ``TaskGroup`` replay in order.
    """

    __slots__ = ("_host",)

    def __init__(self, host: ContextHost) -> None:
        self._host = host

    @property
    def instance_id(self) -> str:
        return self._host.instance_id

    @property
    def execution_id(self) -> str:
        """Changes with every ``continue_as_new``."""
        return self._host.execution_id

    @property
    def name(self) -> str:
        """The name the orchestration was started by."""
        return self._host.name

    @property
    def version(self) -> str | None:
        return self._host.version

    @property
    def parent_instance_id(self) -> str | None:
        """The instance that started this one as its child; None at the root."""
        return self._host.parent_instance_id

    @property
    def tags(self) -> dict[str, str]:
        """The tags that this instance was started with."""
        return dict(self._host.tags)

    @property
    def current_utc_datetime(self) -> datetime:
        """The orchestration's clock: the time of the turn, the same again on replay. Use it for ``datetime.now``."""
        return self._host.now

    @property
    def is_replaying(self) -> bool:
        """True while the past is being repeated. For logging; a decision that depends on it breaks replay."""
        return self._host.replaying

    @overload
    def call_activity(
        self,
        activity: Callable[..., Coroutine[Any, Any, T]],
        input: object = None,
        *,
        retry: RetryStrategy | None = None,
        queue: str | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
    ) -> DurableTask[T]: ...

    @overload
    def call_activity(
        self,
        activity: Callable[..., T],
        input: object = None,
        *,
        retry: RetryStrategy | None = None,
        queue: str | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
    ) -> DurableTask[T]: ...

    @overload
    def call_activity(
        self,
        activity: str,
        input: object = None,
        *,
        retry: RetryStrategy | None = None,
        queue: str | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
    ) -> DurableTask[Any]: ...

    def call_activity(
        self,
        activity: object,
        input: object = None,
        *,
        retry: RetryStrategy | None = None,
        queue: str | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
    ) -> DurableTask[Any]:
        """Schedules an activity, at once, and returns its task.

        Time limits are timedeltas, or seconds; where one is not given, the activity's own counts, if it is registered here.

        Args:
            activity: The function (its result is typed then), or the name it is registered under, here or in another worker.
            input: One value for its one parameter, or a mapping by name if it has several.
            retry: When and how often to try again what has failed: a `callboard.RetryPolicy`.
            queue: The activity queue, where it is not the one it is registered with.
            timeout: How long a run may take (start-to-close).
            schedule_to_start: How long it may wait until a worker begins it.
            heartbeat_timeout: How long a run may be silent between heartbeats.

        Raises:
            ValueError: a time limit of nothing, or of more than 100 years.

        Raises (where the task is awaited):
            TaskFailedError: the activity raised, or was over a time limit; ``error.failure`` has the details, of the last of
                ``error.attempts`` attempts.
        """
        timeouts = Timeouts.of(timeout, schedule_to_start, heartbeat_timeout)
        return self._host.make(self._host.calls.activity(activity, input, queue, timeouts), retry)

    @overload
    def call_sub_orchestration(
        self,
        orchestration: Callable[..., Coroutine[Any, Any, T]],
        input: object = None,
        *,
        retry: RetryStrategy | None = None,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> DurableTask[T]: ...

    @overload
    def call_sub_orchestration(
        self,
        orchestration: str | Callable[..., Any],
        input: object = None,
        *,
        retry: RetryStrategy | None = None,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> DurableTask[Any]: ...

    def call_sub_orchestration(
        self,
        orchestration: object,
        input: object = None,
        *,
        retry: RetryStrategy | None = None,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> DurableTask[Any]:
        """Starts a child orchestration, at once, and returns a task for its result.

        Args:
            orchestration: The function, or the name it is registered under.
            input: Its input.
            retry: When and how often to start another child for one that has failed: a `callboard.RetryPolicy`.
            instance_id: The child's id, for each attempt; by default one that is unique to this execution and attempt.
            version: The child's version; by default the app's, or the newest that is registered here. It is not the parent's.
            tags: The child's tags, besides those of this instance.

        Raises (where the task is awaited):
            SubOrchestrationFailedError: the child failed or was terminated, or its id is in use.
        """
        return self._host.make(self._host.calls.child(orchestration, input, instance_id, version, tags), retry)

    def start_new_orchestration(
        self,
        orchestration: str | Callable[..., Any],
        input: object = None,
        *,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        """Starts an orchestration for itself, once this turn is durable, and returns its id: fire and forget.

        It has no parent: nobody waits for it, and it goes on whatever becomes of this one (terminating or purging this one does not
        reach it). If an instance that is not finished has the id, that one stays as it is, and nothing is started.

        Args:
            orchestration: The function, or the name it is registered under.
            input: Its input.
            instance_id: Its id; by default one that is unique to this call.
            version: Its version; by default the app's, or the newest that is registered here.
            tags: Its tags, besides those of this instance.
        """
        return self._host.calls.start_new(orchestration, input, instance_id, version, tags)

    def create_timer(self, due: datetime | timedelta) -> DurableTask[None]:
        """Sets a durable timer: a point in time (aware), or how long from now. Never fires early; survives anything.

        Raises:
            ValueError: a datetime without a time zone.
        """
        fire_at = self._host.now + due if isinstance(due, timedelta) else due
        if fire_at.tzinfo is None:
            raise ValueError(
                "create_timer needs an aware datetime, such as context.current_utc_datetime + timedelta(hours=1)"
            )
        return self._host.create_timer(fire_at)

    @overload
    def wait_for_external_event(
        self, name: str, expected: type[T], *, timeout: Duration | None = None
    ) -> DurableTask[T]: ...

    @overload
    def wait_for_external_event(
        self, name: str, expected: type[T], *, timeout: Duration, default: D
    ) -> DurableTask[T | D]: ...

    @overload
    def wait_for_external_event(
        self, name: str, expected: Any = Any, *, timeout: Duration | None = None, default: object = ...
    ) -> DurableTask[Any]: ...

    def wait_for_external_event(
        self, name: str, expected: Any = Any, *, timeout: Duration | None = None, default: object = NO_DEFAULT
    ) -> DurableTask[Any]:
        """Waits for an event that a client or another orchestration raises.

        Names are case-insensitive. Events that nobody looks for yet are kept, in order; of several tasks for one name that are awaited,
        the one made first gets the first event. One that is not awaited any more takes none.

        Args:
            name: The event's name.
            expected: The type to decode its data into.
            timeout: How long from now, at the most: a durable timer, which is taken back when the event comes first.
            default: What to return when the time is over.

        Raises:
            ValueError: a time limit of more than 100 years, or a default without a time limit.

        Raises (where the task is awaited):
            TimeoutError: the time is over, and there is no default.
            InvalidPayloadError: the event's data do not fit the type. The event is spent.
        """
        if timeout is None and default is not NO_DEFAULT:
            raise ValueError("wait_for_external_event(default=…) needs a timeout=…: without one it waits for ever.")
        return self._host.wait_for_event(name, expected, None if timeout is None else interval(timeout), default)

    def send_event(self, instance_id: str, name: str, data: object = None) -> None:
        """Raises an event on another instance, once this turn is durable; one that does not exist gets nothing."""
        self._host.send_event(instance_id, name, data)

    @overload
    def on_message(self, name: str, handler: F, /, *, validator: Callable[..., object] | None = None) -> F: ...

    @overload
    def on_message(self, handler: F, /) -> F: ...

    @overload
    def on_message(
        self, name: str | None = None, /, *, validator: Callable[..., object] | None = None
    ) -> Callable[[F], F]: ...

    def on_message(
        self,
        name: str | Callable[..., Any] | None = None,
        handler: Callable[..., Any] | None = None,
        /,
        *,
        validator: Callable[..., object] | None = None,
    ) -> Any:
        """Registers a handler for messages that clients and other orchestrations ``send`` or ``ask``.

        As a call, ``context.on_message("approve", approve)``, or as a decorator, ``@context.on_message`` or ``@context.on_message("approve")``.
        A message's data become the handler's arguments by its annotations. What it returns is the answer to those who ask, and so is what it
        raises; what it raises for a message that was only sent fails the orchestration. An ``async def`` handler may await what the body may
        await, and runs beside it.

        Register handlers before the first ``await``. Messages that have none yet are kept, in order. The handlers of what came run before the
        body goes on. A body that returns does not wait for handlers that still run: ``await context.handlers_finished()`` does.

        Args:
            name: The message's name, case-insensitive; by default the function's own.
            handler: The function.
            validator: Is called with the same data before the handler and refuses by raising. It must only look. What is asked and refused is
                not in history.
        """
        return _registered(name, handler, lambda name, function: self._host.on_message(name, function, validator))

    @overload
    def on_query(self, name: str, handler: F, /) -> F: ...

    @overload
    def on_query(self, handler: F, /) -> F: ...

    @overload
    def on_query(self, name: str, /) -> Callable[[F], F]: ...

    def on_query(self, name: str | Callable[..., Any], handler: Callable[..., Any] | None = None, /) -> Any:
        """Registers a function that answers queries: a plain one, which only looks; nothing of it is in history.

        It sees what the code holds after its last turn. It can be queried even after the orchestration has ended. Forms as of `on_message`.
        """
        return _registered(name, handler, self._host.on_query)

    async def handlers_finished(self) -> None:
        """Waits until no message handler runs, in order to end or to ``continue_as_new`` without leaving one behind."""
        await self._host.handlers_finished()

    def send(self, instance_id: str, name: str, data: object = None) -> None:
        """Sends a message to another instance's handler, once this turn is durable; one that does not exist gets nothing."""
        self._host.send_message(instance_id, name, data)

    def publish(self, exchange: str, routing_key: str, data: object = None) -> None:
        """Publishes JSON for other services, once this turn is durable; at least once, under one message id.

        Args:
            exchange: A topic exchange, which is made if it is not there; empty: the queue that ``routing_key`` names.
            routing_key: Words between dots.
            data: What goes with it: a value that JSON can carry.
        """
        self._host.publish(exchange, routing_key, data)

    @overload
    def ask(self, instance_id: str, name: str, data: object = None, *, expected: type[T]) -> DurableTask[T]: ...

    @overload
    def ask(self, instance_id: str, name: str, data: object = None, *, expected: Any = Any) -> DurableTask[Any]: ...

    def ask(self, instance_id: str, name: str, data: object = None, *, expected: Any = Any) -> DurableTask[Any]:
        """Asks another instance's handler, at once, and returns a task for its answer. For a time limit: ``asyncio.timeout``.

        Args:
            instance_id: Whom to ask.
            name: The message's name.
            data: What goes with it.
            expected: The type to decode the answer into.

        Raises (where the task is awaited):
            MessageRejectedError: the data do not fit, or a validator refused them.
            MessageFailedError: the handler raised, the instance ended before it answered, or there is none; ``error.failure`` says which.
        """
        return self._host.ask_instance(instance_id, name, data, expected)

    def continue_as_new(self, input: object = None, *, version: str | None = None) -> Any:
        """When the function returns, begins again with this input and an empty history, under the same instance id.

        Events that were not waited for yet, and messages that no handler has taken, are carried over. Return right after: ``return context.continue_as_new(state)``.

        Args:
            input: The next execution's input.
            version: The next execution's version: how an instance that never ends comes to run new code. By default it stays.
        """
        return self._host.continue_as_new(input, version)

    def patched(self, patch: str) -> bool:
        """Whether to go the new way at a place where the code was changed while instances run.

        ``if context.patched("fraud-check"): await context.call_activity(check_fraud) …``: an execution that comes here for the first time
        goes the new way, and its history says so; one that had passed here before the change goes the old way, on every replay.
        Once no instance from before the change is left, replace the call by `deprecate_patch` and drop the old way; the call of that may
        go when you please.

        Args:
            patch: Names the change. Never use a name for two changes.
        """
        return self._host.patched(patch)

    def deprecate_patch(self, patch: str) -> None:
        """Says that the old way of a patch is gone. An instance from before the patch is parked with an explanation, not run amiss."""
        self._host.deprecate_patch(patch)

    def set_custom_status(self, value: object) -> None:
        """Shows a value (at most 16 KiB of JSON) in the instance's status; None clears it.

        Raises:
            PayloadTooLargeError: over the limit.
            InvalidPayloadError: no JSON form.
        """
        self._host.set_custom_status(value)

    def new_uuid(self) -> uuid.UUID:
        """A UUID that is unique, and the same on replay (version 5, as Durable Functions makes it)."""
        return self._host.next_uuid()

    new_guid = new_uuid

    @property
    def random(self) -> Random:
        """A generator of random numbers seeded by the execution: the same numbers on replay. Not for secrets."""
        return self._host.random()

    # Entities

    @overload
    def call_entity(
        self, entity: EntityId, operation: Callable[..., Coroutine[Any, Any, T]], input: object = None
    ) -> DurableTask[T]: ...

    @overload
    def call_entity(self, entity: EntityId, operation: Callable[..., T], input: object = None) -> DurableTask[T]: ...

    @overload
    def call_entity(self, entity: EntityId, operation: str, input: object = None) -> DurableTask[Any]: ...

    def call_entity(self, entity: EntityId, operation: Any, input: object = None) -> DurableTask[Any]:
        """Calls an operation of an entity, at once, and returns a task for its result.

        Calls and signals of one orchestration to one entity are carried out in their order, each once.

        Args:
            entity: Which one; it need not exist yet.
            operation: Its name, or the method of the entity's class (its result is typed then).
            input: Its input.

        Raises:
            LockingRulesError: a critical section does not allow it.

        Raises (where the task is awaited):
            EntityOperationFailedError: the operation raised, and changed nothing; ``error.failure`` has the details.
        """
        task: DurableTask[Any] = self._host.entities.call(entity, operation, input)
        return task

    def signal_entity(
        self, entity: EntityId, operation: str | Callable[..., Any], input: object = None, *, at: Due | None = None
    ) -> None:
        """Has an entity carry out an operation, without waiting for it; nobody hears of its result or failure.

        Args:
            entity: Which one; it need not exist yet.
            operation: Its name, or the method of the entity's class.
            input: Its input.
            at: When, as an aware point in time or as how long from now; None: as soon as it comes there, in order.

        Raises:
            LockingRulesError: a critical section holds that entity: call it.
        """
        self._host.entities.signal(entity, operation, input, at)

    def lock_entities(self, *entities: EntityId | Iterable[EntityId]) -> CriticalSection:
        """A critical section: ``async with context.lock_entities(source, target): …`` holds these entities for this orchestration.

        Nobody else's requests reach them inside. It is no transaction: what was done stays done if the section fails. However the
        orchestration ends, the locks end with it.
        """
        chosen: list[EntityId] = []
        for each in entities:
            chosen.extend((each,) if isinstance(each, EntityId) else each)
        return self._host.entities.lock(chosen)

    @property
    def is_locked(self) -> bool:
        """Whether the orchestration is in a critical section."""
        return self._host.entities.rules.is_locked


def _registered(
    name: str | Callable[..., Any] | None,
    handler: Callable[..., Any] | None,
    register: Callable[[str, Callable[..., Any]], None],
) -> Any:
    """Registers now, or returns the decorator that will."""
    if callable(name):
        name, handler = None, name

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        register(name or function.__name__, function)
        return function

    return decorator if handler is None else decorator(handler)
