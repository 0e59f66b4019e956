"""Runs an orchestrator's code against events: how a turn *decides*.

Rules of this file:

* Events are fed one at a time, and the code runs to quiescence after each, so that how a history was cut into commits
  makes no difference to what the code sees.
* Every action takes the next number, in the order the code asks. Replay compares by that number.
* After `close` the code's requests go nowhere: an evicted activation must not act.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from datetime import UTC, datetime, timedelta
from inspect import isawaitable, iscoroutine, isgenerator
from random import Random
from typing import Any, Protocol, TypeAlias, TypeVar, assert_never

import msgspec

from callboard.core import payloads
from callboard.core.actions import (
    Action,
    AnswerMessage,
    Completed,
    Continued,
    CreateTimer,
    Failed,
    Outcome,
    PublishMessage,
    SendEvent,
    SendMessage,
)
from callboard.core.answers import message_error
from callboard.core.calls import Calls, CallTarget, CallTargets
from callboard.core.codec import (
    JSON,
    Codec,
    Content,
    Place,
    answer_place,
    custom_status_place,
    event_place,
    input_place,
    load,
    message_place,
    next_input_place,
    output_place,
    published_place,
    result_place,
)
from callboard.core.context import DurableTask, OrchestrationContext
from callboard.core.entity_calls import EntityCalls
from callboard.core.events import (
    AnswerReceived,
    EntityLockGranted,
    EntityOperationCompleted,
    EntityOperationFailed,
    EventRaised,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    InputEvent,
    MessageReceived,
    ParentInstance,
    Payload,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from callboard.core.external_events import EventInbox
from callboard.core.failure import FailureDetails
from callboard.core.familiar import ReplaySafeLogger
from callboard.core.handlers import Handlers
from callboard.core.instances import (
    check_instance_id,
    sent_message_id,
)
from callboard.core.lines import calling_line, waiting_line
from callboard.core.loop import DeterministicFuture, DeterministicLoop
from callboard.core.messages import Query
from callboard.core.patches import Patches
from callboard.core.retrying import Attempt, Call, RetriedCall, RetryStrategy
from callboard.errors import (
    CallboardError,
    EntityOperationFailedError,
    InvalidPayloadError,
    ReadOnlyError,
    TaskFailedError,
)

T = TypeVar("T")

#: Durable Functions' namespace for ``new_guid`` (DTFx ``TaskOrchestrationContext``).
_UUID_NAMESPACE = uuid.UUID("9e952958-5e33-4daf-827f-2fa12937b875")
#: Longest name of an exchange, a routing key or a foreign queue, in bytes (AMQP's).
MAX_FOREIGN_NAME = 255
_MILLISECOND = timedelta(milliseconds=1)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


#: What ends a call well.
_Result: TypeAlias = (
    TaskCompleted | SubOrchestrationInstanceCompleted | EntityOperationCompleted | EntityLockGranted | AnswerReceived
)


class TurnInterrupted(BaseException):
    """Raised into the code by the watchdog when a turn takes too long. A signal: `except Exception` must not eat it."""


class Unrunnable(msgspec.Struct, frozen=True):
    """Stands in for code that is not here: why, and what to do about it."""

    reason: str
    fails: bool = False
    """Whether the instance fails, as the app's version failure strategy has it. Else it is parked."""


class Orchestration(Protocol):
    """A registered orchestrator function."""

    @property
    def codec(self) -> str | None:
        """How what it hands out is encoded; None: as the hub says."""
        ...

    def invoke(self, context: OrchestrationContext, payload: Content | None) -> Any:
        """Calls the function with its input; returns what it returns: a coroutine, a generator or a value."""
        ...

    def logger(self, logger: Any, marks: dict[str, str], quiet: Callable[[], bool]) -> ReplaySafeLogger:
        """A logger (the function's own, if none is given) whose records have marks, and that says nothing while it is quiet."""
        ...


class Step(msgspec.Struct, frozen=True):
    """What feeding some events brought about."""

    actions: tuple[Action, ...]
    timers_cancelled: tuple[int, ...]
    tasks_cancelled: tuple[int, ...]
    outcome: Outcome | None
    fed: int
    """How many of the events were fed; those behind the one that ended the code were not."""
    refused: dict[str, FailureDetails]
    """Messages that their validators refused, by id: history must not hold them."""
    validated: frozenset[str] = frozenset()
    """Messages that they let pass: history must say so."""
    patches: tuple[str, ...] = ()
    """Changes in place that the code took for the first time."""


class _Open(msgspec.Struct):
    """A call that waits for its result."""

    task: DurableTask[Any]
    target: CallTarget
    failed: Callable[[str, int, FailureDetails], TaskFailedError]


class _Numbers:
    """Numbers from 0 on, but none while code may only look."""

    def __init__(self) -> None:
        self.given = 0
        self.refused = False

    def __next__(self) -> int:
        if self.refused:
            raise ReadOnlyError
        self.given += 1
        return self.given - 1


class Execution:
    """One activation of an orchestrator's code: a suspended coroutine on its own loop."""

    def __init__(
        self, instance_id: str, orchestration: Orchestration, targets: CallTargets, codec: Codec = JSON
    ) -> None:
        self.instance_id = instance_id
        self.execution_id = ""
        self.name = ""
        self.version: str | None = None
        self.parent_instance_id: str | None = None
        self._parent: ParentInstance | None = None
        self.tags: dict[str, str] = {}
        self.input: Content | None = None
        self.now = datetime.fromtimestamp(0, UTC)
        self.replaying = False
        self.custom_status: Payload | None = None
        self.recorded_retries: dict[tuple[int, int], datetime] = {}
        """When the next attempt comes, by call and attempt, as history has it. Replay goes by it."""
        self.patches = Patches()
        self.asked_at: dict[int, str | None] = {}
        """The lines of the code that asked for actions, by their numbers, in a replay."""
        self._orchestration = orchestration
        self.calls = Calls(self, targets, codec)
        self._codec = codec
        self._loop = DeterministicLoop(self)
        self.entities = EntityCalls(self)
        self._live = True
        self._ids = _Numbers()
        self._uuids = _Numbers()
        self._random: Random | None = None
        self._actions: list[Action] = []
        self._timers_cancelled: list[int] = []
        self._tasks_cancelled: list[int] = []
        self._open: dict[int, _Open] = {}
        self._timers: dict[int, DurableTask[None]] = {}
        self._inbox = EventInbox(self._loop)
        self.handlers = Handlers(self)
        self.meddled = False
        self._refused: dict[str, FailureDetails] = {}
        self._validated: set[str] = set()
        self._suspended = False
        self._deferred: deque[InputEvent] = deque()
        self._continue: Continued | None = None
        self._outcome: Outcome | None = None

    # What the turn calls

    def advance(self, now: datetime, events: Sequence[InputEvent], *, known: int = 0) -> Step:
        """Feeds events one by one, runs the code to quiescence after each, and tells what it asked for.

        Args:
            now: The orchestration's clock.
            events: What has happened.
            known: How many of the events are in history already, or will be whatever the code says of them.

        Raises:
            TurnInterrupted: the watchdog struck. The execution is good for `close` only.
            StrategyFailed: a retry strategy raised. The execution is good for `close` only.
            PayloadRejectedError: a value cannot be opened. Likewise.
        """
        self.now = now
        self._loop.set_time(now.timestamp())
        fed = 0
        for event in events:
            if self._outcome is not None:
                break
            self._take(event, fresh=fed >= known)
            fed += 1
        actions, self._actions = tuple(self._actions), []
        timers, self._timers_cancelled = tuple(self._timers_cancelled), []
        tasks, self._tasks_cancelled = tuple(self._tasks_cancelled), []
        refused, self._refused = self._refused, {}
        validated, self._validated = frozenset(self._validated), set()
        return Step(actions, timers, tasks, self._outcome, fed, refused, validated, self.patches.to_record())

    def waits_at(self) -> str | None:
        """The line of its code where the orchestration waits."""
        return next((waiting_line(task.get_coro()) for task in self._loop.pending_tasks()), None)

    def unclaimed_events(self) -> tuple[EventRaised | MessageReceived, ...]:
        """External events that nobody waited for, and messages that no handler took, in order of arrival."""
        waiting: dict[int, EventRaised | MessageReceived] = {**self._inbox.untaken(), **self.handlers.untaken()}
        held = (event for event in self._deferred if isinstance(event, EventRaised | MessageReceived))
        return (*(waiting[number] for number in sorted(waiting)), *held)

    def awaited_events(self) -> tuple[str, ...]:
        """Names of the external events that the code waits for."""
        return self._inbox.awaited()

    def close(self) -> None:
        """Ends the activation without letting the code act: its requests go nowhere from now on."""
        if not self._live:
            return
        self._live = False
        self._loop.close()
        self._inbox.close()
        for holder in (self._open, self._timers, self._actions):
            holder.clear()

    # What happens to the code, event by event

    def _take(self, event: InputEvent, *, fresh: bool) -> None:
        if self._suspended and not isinstance(event, (ExecutionResumed, ExecutionSuspended)):
            self._deferred.append(event)
            return
        self._dispatch(event, fresh=fresh)
        self._loop.run_until_quiescent()

    def _dispatch(self, event: InputEvent, *, fresh: bool) -> None:
        match event:
            case (
                TaskCompleted() | SubOrchestrationInstanceCompleted() | EntityOperationCompleted() | EntityLockGranted()
            ):
                self._on_result(event)
            case TaskFailed() | SubOrchestrationInstanceFailed() | EntityOperationFailed():
                self._on_failure(event, event.failure)
            case AnswerReceived(failure=failure) if failure is not None:
                self._on_failure(event, failure)
            case AnswerReceived():
                self._on_result(event)
            case MessageReceived():
                self._on_message(event, fresh=fresh)
            case TimerFired():
                self._on_timer(event)
            case EventRaised():
                place = event_place(self.instance_id, event.message_id, event.name)
                self._inbox.arrive(event, self._codec.open(event.input, place))
            case ExecutionStarted():
                self._on_started(event)
            case ExecutionSuspended():
                self._suspended = True
            case ExecutionResumed():
                self._on_resumed()
            case ExecutionTerminated():
                pass  # code does not see it: the turn ends the execution
            case _:
                assert_never(event)

    def _on_started(self, event: ExecutionStarted) -> None:
        self.execution_id, self.name, self.version = event.execution_id, event.name, event.version
        self._parent = event.parent
        self.parent_instance_id = event.parent.instance_id if event.parent else None
        content = self._codec.open(event.input, input_place(self.instance_id, self.execution_id))
        self.tags, self.input = dict(event.tags or {}), content
        main = self._loop.create_task(self._main(content, event.scheduled_start_time), name="main")
        main.add_done_callback(self._on_returned)

    async def _main(self, content: Content | None, not_before: datetime | None) -> Payload | None:
        if not_before is not None and not_before > self.now:  # a message was there before its time had come
            await self.create_timer(not_before)
        returned = await self.awaited(self._orchestration.invoke(OrchestrationContext(self), content))
        if self._continue is not None:
            return None
        result = self._encode(returned, f"The result of orchestration {self.name!r}")
        return self._codec.seal(result, output_place(self.instance_id, self.execution_id, self._parent))

    def _encode(self, value: object, what: str) -> Content | None:
        return self._codec.encode(value, what, self._orchestration.codec)

    async def awaited(self, returned: Any) -> Any:
        if isgenerator(returned):
            return await _drive(returned)
        return await returned if isawaitable(returned) else returned

    def _on_returned(self, main: Any) -> None:
        if not self._live or self._outcome is not None:
            return
        error = _CANCELLED if main.cancelled() else main.exception()
        if error is not None:
            self._outcome = Failed(failure=FailureDetails.from_exception(error))
        elif self._continue is not None:
            self._outcome = self._continue
        else:
            self._outcome = Completed(result=main.result())

    def _on_result(self, event: _Result) -> None:
        call = self._open.pop(event.task_scheduled_id, None)
        if call is None or call.task.done():
            return
        place = result_place(self.instance_id, self.execution_id, event.task_scheduled_id)
        content = None if isinstance(event, EntityLockGranted) else self._codec.open(event.result, place)
        try:
            value = load(content, call.target.result_type, f"The result of {call.target.name!r}")
        except CallboardError as error:
            call.task.set_exception(error)
        else:
            call.task.set_result(value)

    def _on_failure(
        self,
        event: TaskFailed | SubOrchestrationInstanceFailed | EntityOperationFailed | AnswerReceived,
        failure: FailureDetails,
    ) -> None:
        call = self._open.pop(event.task_scheduled_id, None)
        if call is not None and not call.task.done():
            error = call.failed(call.target.name, event.task_scheduled_id, failure)
            if isinstance(event, TaskFailed):
                error.heartbeat_details = event.heartbeat_details
            call.task.set_exception(error)

    def _on_message(self, event: MessageReceived, *, fresh: bool) -> None:
        content = self._codec.open(event.input, message_place(self.instance_id, event.message_id, event.name))
        if fresh and event.asker is not None and self.handlers.has(event.name):
            refusal = self.handlers.validate(event.name, content)
            if refusal is not None:
                self._refused[event.message_id] = refusal
                return
            self._validated.add(event.message_id)
            event = msgspec.structs.replace(event, validated=True)
        self.handlers.take(event, content)

    def _on_timer(self, event: TimerFired) -> None:
        task = self._timers.pop(event.timer_id, None)
        if task is None:
            self._loop.fire_timer(event.timer_id)
        elif not task.done():
            task.set_result(None)

    def _on_resumed(self) -> None:
        self._suspended = False
        while self._deferred and self._outcome is None:
            self._take(self._deferred.popleft(), fresh=False)

    # What the code calls, through its context

    def _ask(self, action: Action) -> None:
        if self._live and self._outcome is None:
            self._actions.append(action)
            if self.replaying:
                self.asked_at[action.id] = calling_line()

    def make(self, call: Call, retry: RetryStrategy | None) -> DurableTask[Any]:
        """Makes a call, again and again if need be."""
        return call.schedule(Attempt()) if retry is None else RetriedCall(self, call, retry).task

    def new_task(self, when_cancelled: Callable[[DurableTask[Any]], None]) -> DurableTask[Any]:
        """A task made of others."""
        return DurableTask(loop=self._loop, when_cancelled=when_cancelled)

    def ensure(self, awaitable: object) -> Any:
        if iscoroutine(awaitable):
            return self._loop.create_task(awaitable)
        if not callable(getattr(awaitable, "add_done_callback", None)):
            raise TypeError(
                f"{awaitable!r} is no task: pass what call_activity and its siblings return, or a coroutine."
            )
        return awaitable

    def retry_timer(
        self, retry_of: int, attempt: int, decide: Callable[[], timedelta | None]
    ) -> tuple[DurableTask[None], timedelta] | None:
        if self.replaying:
            fire_at = self.recorded_retries.get((retry_of, attempt))
        else:
            delay = decide()
            fire_at = None if delay is None else self._from_now(delay)
        if fire_at is None:
            return None
        return self._timer_task(self._set_timer(fire_at, retry_of=retry_of, attempt=attempt)), fire_at - self.now

    def _from_now(self, delay: timedelta) -> datetime:
        return _up_to_millisecond(self.now + min(max(delay, timedelta()), _LATEST - self.now))

    def open_call(
        self,
        task_id: int,
        target: CallTarget,
        failed: Callable[[str, int, FailureDetails], TaskFailedError],
        *,
        takes_back: bool = False,
    ) -> DurableTask[Any]:
        when_cancelled = self._task_cancelled if takes_back else None
        task: DurableTask[Any] = DurableTask(loop=self._loop, task_id=task_id, when_cancelled=when_cancelled)
        self._open[task_id] = _Open(task, target, failed)
        return task

    # What calls need (`callboard.core.calls.Caller`, `callboard.core.entity_calls.Caller`)

    def seal(self, content: Content | None, place: Place) -> Payload | None:
        return self._codec.seal(content, place)

    def next_id(self) -> int:
        return next(self._ids)

    def ask(self, action: Action) -> None:
        self._ask(action)

    def open_entity_call(self, task_id: int, name: str, result_type: Any) -> DurableTask[Any]:
        return self.open_call(task_id, CallTarget(name, result_type=result_type), EntityOperationFailedError)

    def _task_cancelled(self, task: DurableTask[Any]) -> None:
        self._open.pop(task.task_id, None)
        if self._live and self._outcome is None:
            self._tasks_cancelled.append(task.task_id)

    def create_timer(self, fire_at: datetime) -> DurableTask[None]:
        return self._timer_task(self._set_timer(fire_at))

    def _timer_task(self, task_id: int) -> DurableTask[None]:
        task: DurableTask[None] = DurableTask(
            loop=self._loop, task_id=task_id, when_cancelled=lambda task: self.timer_cancelled(task.task_id)
        )
        self._timers[task_id] = task
        return task

    def wait_for_event(self, name: str, expected: Any, timeout: timedelta | None, default: object) -> DurableTask[Any]:
        self._must_act()
        waiter = self._inbox.waiter(name, expected)
        if timeout is None:
            return waiter
        return waiter.limit(self._timer_task(self._set_timer(self._from_now(timeout))), default)

    def send_event(self, instance_id: str, name: str, value: object) -> None:
        check_instance_id(instance_id)
        name = payloads.text(name, "The name of an event")
        content = self._encode(value, f"The data of event {name!r}")
        action_id = next(self._ids)
        place = event_place(instance_id, sent_message_id(self.execution_id, action_id), name)
        self._ask(SendEvent(id=action_id, instance_id=instance_id, name=name, input=self._codec.seal(content, place)))

    def publish(self, exchange: str, key: str, value: object) -> None:
        for what, name in (("exchange", exchange), ("routing key", key)):
            if len(payloads.text(name, f"The name of the {what}").encode()) > MAX_FOREIGN_NAME:
                raise InvalidPayloadError(f"The {what} has more than {MAX_FOREIGN_NAME} bytes: {name[:64]!r}.")
        content = payloads.encode(value, f"What is published as {key!r}")
        action_id = next(self._ids)
        place = published_place(self.instance_id, self.execution_id, action_id)
        sealed = self._codec.seal(content, place)
        self._ask(PublishMessage(id=action_id, exchange=exchange, key=key, input=sealed))

    def send_message(self, instance_id: str, name: str, value: object) -> None:
        self._send_message(instance_id, name, value, asks=False)

    def ask_instance(self, instance_id: str, name: str, value: object, expected: Any) -> DurableTask[Any]:
        target = CallTarget(name=name, result_type=payloads.decodable(expected))
        return self.open_call(self._send_message(instance_id, name, value, asks=True), target, message_error)

    def _send_message(self, instance_id: str, name: str, value: object, *, asks: bool) -> int:
        check_instance_id(instance_id)
        name = payloads.text(name, "The name of a message")
        content = self._encode(value, f"The data of message {name!r}")
        task_id = next(self._ids)
        place = message_place(instance_id, sent_message_id(self.execution_id, task_id), name)
        payload = self._codec.seal(content, place)
        self._ask(SendMessage(id=task_id, instance_id=instance_id, name=name, input=payload, asks=asks))
        return task_id

    def on_message(self, name: str, function: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        self._must_act()
        self.handlers.on_message(name, function, validator)

    def on_query(self, name: str, function: Callable[..., Any]) -> None:
        self._must_act()
        self.handlers.on_query(name, function)

    async def handlers_finished(self) -> None:
        await self.handlers.finished()

    def continue_as_new(self, value: object, version: str | None) -> None:
        self._must_act()
        if version is not None:
            version = payloads.text(version, "The version of an orchestration")
        content = self._encode(value, "The input of continue_as_new")
        payload = self._codec.seal(content, next_input_place(self.instance_id, self.execution_id))
        self._continue = Continued(input=payload, version=version)

    def patched(self, patch: str) -> bool:
        patch = payloads.text(patch, "The id of a patch")
        if self._ids.refused or not self._live or self._outcome is not None:
            return self.patches.taken(patch)
        return self.patches.take(patch, replaying=self.replaying)

    def deprecate_patch(self, patch: str) -> None:
        if not self.patched(patch) and self.patches.disagreement is None and self._live and not self._ids.refused:
            self.patches.disagreement = (
                f"History passes without the patch {patch!r}, whose old way the code does not know any more. Deploy code with "
                f"context.patched({patch!r}) and both ways until the instances from before the patch have ended"
            )

    def set_custom_status(self, value: object) -> None:
        self._must_act()
        status = payloads.encode(value, "The custom status", limit=payloads.MAX_CUSTOM_STATUS)
        if self._live and self._outcome is None:
            self.custom_status = self._codec.seal(status, custom_status_place(self.instance_id))

    @property
    def will_continue_as_new(self) -> bool:
        return self._continue is not None

    def logger(self, logger: Any) -> ReplaySafeLogger:
        marks = {"instance_id": self.instance_id, "execution_id": self.execution_id, "orchestration": self.name}
        return self._orchestration.logger(logger, marks, lambda: self.replaying or not self._live)

    def next_uuid(self) -> uuid.UUID:
        name = f"{self.instance_id}_{self.execution_id}_{self.now.isoformat()}_{next(self._uuids)}"
        return uuid.uuid5(_UUID_NAMESPACE, name)

    def random(self) -> Random:
        self._must_act()
        if self._random is None:
            self._random = Random(self.execution_id)  # seeded: the same numbers on replay
        return self._random

    def _must_act(self) -> None:
        if self._ids.refused:
            raise ReadOnlyError

    # HandlerHost: what message handlers need

    def look(self, call: Callable[[], T]) -> T:
        self._ids.refused = self._uuids.refused = self._inbox.still = True
        ready = self._loop.ready
        try:
            return call()
        finally:
            self._ids.refused = self._uuids.refused = self._inbox.still = False
            self.meddled = self._loop.ready != ready

    def query(self, query: Query) -> Payload | None:
        """Answers a query; raises whatever its handler raises. If it did more than look, ``meddled`` is set."""
        content = self._codec.open(query.input, message_place(self.instance_id, query.query_id, query.name))
        answer = self.handlers.query(query.name, content)
        return self._codec.seal(answer, answer_place(self.instance_id, query.query_id, query.asker))

    def next_arrival(self) -> int:
        return self._inbox.arrived_so_far()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._loop.create_task(work, name=name)

    def future(self) -> DeterministicFuture[None]:
        return self._loop.create_future()

    def encode(self, value: object, what: str) -> Content | None:
        return self._encode(value, what)

    def answer(
        self, message: MessageReceived, *, result: Content | None = None, failure: FailureDetails | None = None
    ) -> None:
        place = answer_place(self.instance_id, message.message_id, message.asker)
        sealed = self._codec.seal(result, place)
        action = AnswerMessage(
            id=next(self._ids), message_id=message.message_id, result=sealed, failure=failure, asker=message.asker
        )
        self._ask(action)

    def fail(self, error: BaseException) -> None:
        if self._live and self._outcome is None:
            self._outcome = Failed(failure=FailureDetails.from_exception(error))

    # TimerHost: asyncio's own timers, made durable by the loop

    def timer_requested(self, when: float) -> int:
        try:
            fire_at = datetime.fromtimestamp(when, UTC)
        except (OverflowError, ValueError, OSError):
            fire_at = _LATEST if when > 0 else self.now
        return self._set_timer(fire_at)

    def timer_cancelled(self, key: int) -> None:
        self._timers.pop(key, None)
        if self._live and self._outcome is None:
            self._timers_cancelled.append(key)

    def _set_timer(self, fire_at: datetime, *, retry_of: int | None = None, attempt: int = 0) -> int:
        task_id = next(self._ids)
        fire_at = _up_to_millisecond(min(fire_at, _LATEST).astimezone(UTC))
        self._ask(CreateTimer(id=task_id, fire_at=fire_at, retry_of=retry_of, attempt=attempt))
        return task_id


def _up_to_millisecond(time: datetime) -> datetime:
    """Stores keep milliseconds; a timer must not fire early, so it is rounded up."""
    excess = time.microsecond % 1000
    return time + _MILLISECOND - timedelta(microseconds=excess) if excess else time


async def _drive(generator: Generator[Any, Any, Any]) -> Any:
    """Runs a generator orchestrator: what it yields is awaited, and the result or error sent back in."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            yielded = generator.send(value) if error is None else generator.throw(error)
        except StopIteration as stop:
            return stop.value
        value, error = None, None
        try:
            value = await yielded
        except BaseException as raised:  # noqa: BLE001 - all of it, even GeneratorExit, belongs to the code that yielded
            error = raised


_CANCELLED = RuntimeError("The orchestration's own task was cancelled from inside.")
