"""What people write: an `App` (the task hub) and its functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, overload

import msgspec

from callboard.activity import ActivityOptions, check_concurrency, spacing
from callboard.codecs import CodecName, CodecOptions
from callboard.codecs.keys import Keys
from callboard.core.calls import CallTarget
from callboard.core.payloads import MAX_PAYLOAD, decodable
from callboard.core.timeouts import Duration, Timeouts
from callboard.core.turn import TurnRules
from callboard.core.versions import FailureStrategy, MatchStrategy, VersionRule
from callboard.entities import OPERATION_TIMEOUT, define_entity
from callboard.errors import ConfigurationError
from callboard.registry import (
    FOREIGN_QUEUE,
    ActivityDefinition,
    OrchestrationDefinition,
    Registry,
    TokenSource,
    check_queue,
    check_version,
)
from callboard.trigger import IdSource, Trigger

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=TokenSource)
T = TypeVar("T")

#: Longest hub name, in characters (Durable Functions' limit).
MAX_HUB_NAME = 45


class Blueprint:
    """Collects orchestrations and activities of one module, to be included in an `App`."""

    def __init__(self) -> None:
        self.registry = Registry()

    def trigger(
        self,
        queue: str,
        *,
        instance_id: IdSource = "message_id",
        event: str | None = None,
        exchange: str = "",
        keys: tuple[str, ...] = (),
        prefetch: int = 100,
        at_least_once: bool = False,
    ) -> Callable[[F], F]:
        """Lets each message on a queue start an orchestration, or raise an event on an instance. docs/triggers.md says more.

        As a decorator of an orchestration: ``@app.trigger("orders")`` above ``@app.orchestration``; the message's data are its input. With
        ``event``, it is complete by itself: ``app.trigger("payments", event="paid", instance_id="body:orderId")``.

        Args:
            queue: The queue's name; it is made if it is not there.
            instance_id: ``message_id``, ``correlation_id``, ``header:NAME``, ``body:PATH``, or a function of a `TriggerMessage`. A message that
                comes again, and any other for an instance that is there, starts nothing.
            event: The event to raise, on an instance that is there.
            exchange: A topic exchange to bind the queue to; it is made if it is not there.
            keys: The binding keys.
            prefetch: How many messages a worker has in hand.
            at_least_once: Take messages without an id, too; they may then count twice.

        Raises:
            RegistrationError: this cannot be.
        """

        def register(function: F) -> F:
            name = self.registry.name_of("orchestration", function)
            self.registry.triggers.append(msgspec.structs.replace(trigger, orchestration=name, event=None))
            return function

        trigger = Trigger(
            queue=queue,
            orchestration=None if event is not None else "?",
            event=event,
            instance_id=instance_id,
            exchange=exchange,
            keys=keys,
            prefetch=prefetch,
            at_least_once=at_least_once,
        )
        if event is not None:
            self.registry.triggers.append(trigger)
        return register

    def foreign_activity(self, name: str, *, queue: str, result_type: type[T] | None = None) -> str:
        """Declares an activity that programs in any language serve (docs/wire.md); returns its name, to call it by.

        Args:
            name: What it is called.
            queue: Its calls go to ``{hub}.activities.json.{queue}``, one plain JSON message each.
            result_type: The type to decode its results into.
        """
        target = CallTarget(
            name=name,
            queue=check_queue(FOREIGN_QUEUE + queue),
            result_type=Any if result_type is None else decodable(result_type),
            codec="json",
        )
        self.registry.add_foreign_activity(target)
        return name

    @overload
    def orchestration(self, function: F, /) -> F: ...

    @overload
    def orchestration(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        version: str | None = None,
        codec: CodecName | None = None,
    ) -> Callable[[F], F]: ...

    def orchestration(
        self,
        function: F | None = None,
        /,
        *,
        name: str | None = None,
        version: str | None = None,
        codec: CodecName | None = None,
    ) -> F | Callable[[F], F]:
        """Registers an orchestrator: ``async def f(context, input)``, or a generator that yields durable tasks.

        Args:
            name: The name it is started by; by default the function's own. Several versions share one name.
            version: The version that this code is for; it then runs instances of that version and no others.
            codec: How its input and what it hands out are encoded; by default as the app says.

        Raises:
            RegistrationError: the name (with this version) is taken or not allowed, or the signature cannot be bound.
        """

        def register(function: F) -> F:
            definition = OrchestrationDefinition(name or function.__name__, function, check_version(version), codec)
            self.registry.add_orchestration(definition)
            return function

        return register if function is None else register(function)

    @overload
    def activity(self, function: F, /) -> F: ...

    @overload
    def activity(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        codec: CodecName | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        concurrency: int | None = None,
        rate: str | None = None,
        hub_concurrency: int | None = None,
        hub_rate: str | None = None,
    ) -> Callable[[F], F]: ...

    def activity(
        self,
        function: F | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        codec: CodecName | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        concurrency: int | None = None,
        rate: str | None = None,
        hub_concurrency: int | None = None,
        hub_rate: str | None = None,
    ) -> F | Callable[[F], F]:
        """Registers an activity: ``async def``, or ``def``, which runs in a thread. It runs at least once; make it idempotent.

        A parameter annotated with `ActivityContext` is handed the run's context. Time limits are timedeltas, or seconds; a call may
        set others.

        Args:
            name: The name it is called by; by default the function's own.
            queue: The queue that its calls go to; workers choose which queues they serve.
            codec: How its input and result are encoded; by default as the app says.
            timeout: How long a run may take (start-to-close).
            schedule_to_start: How long a call may wait until a worker begins it.
            heartbeat_timeout: How long a run may be silent between heartbeats.
            concurrency: How many runs of it one worker lets go on at a time.
            rate: How fast one worker begins runs of it, evenly spaced: ``"10/s"``, ``"100/m"``, ``"5000/h"``.
            hub_concurrency: How many runs of it may go on at a time in the whole hub.
            hub_rate: How fast runs of it begin in the whole hub. Give an activity with limits of the hub a queue of its own, so that its
                waiting calls are in nobody's way.

        Raises:
            RegistrationError: the name is taken or not allowed, or the signature cannot be bound.
            ValueError: a time limit of nothing, or of more than 100 years.
        """
        options = ActivityOptions(
            timeouts=Timeouts.of(timeout, schedule_to_start, heartbeat_timeout),
            concurrency=check_concurrency(concurrency, "concurrency"),
            hub_concurrency=check_concurrency(hub_concurrency, "hub_concurrency"),
            every=spacing(rate, "rate"),
            hub_every=spacing(hub_rate, "hub_rate"),
        )

        def register(function: F) -> F:
            definition = ActivityDefinition(name or function.__name__, function, check_queue(queue), codec, options)
            self.registry.add_activity(definition)
            return function

        return register if function is None else register(function)

    @overload
    def entity(self, target: F, /) -> F: ...

    @overload
    def entity(
        self,
        target: None = None,
        /,
        *,
        name: str | None = None,
        timeout: float = OPERATION_TIMEOUT,
        codec: CodecName | None = None,
    ) -> Callable[[F], F]: ...

    def entity(
        self,
        target: F | None = None,
        /,
        *,
        name: str | None = None,
        timeout: float = OPERATION_TIMEOUT,
        codec: CodecName | None = None,
    ) -> F | Callable[[F], F]:
        """Registers an entity: a small state with a key, whose operations are carried out one at a time.

        A class: its public methods are the operations, its fields the state. Or a function of an `EntityContext`, which is asked for every
        operation. ``def`` operations share a thread with all turns: they must be short (2 s by default, then they fail). ``async def``
        operations may await what they like, beside others; they may run again after a crash.

        Args:
            name: The name it is addressed by, case-insensitive; by default the class's or function's own.
            timeout: How long an ``async def`` operation may take, in seconds.
            codec: How its state and results are encoded; by default as the app says.

        Raises:
            RegistrationError: the name is taken or not allowed, a signature cannot be bound, or the class needs arguments.
        """

        def register(target: F) -> F:
            self.registry.add_entity(define_entity(target, name, timeout, codec))
            return target

        return register if target is None else register(target)

    def token_source(self, name: str, /) -> Callable[[S], S]:
        """Registers a function (``async def`` or ``def``) that gets a token for ``context.call_http(token_source=name)``.

        It runs on the worker that sends the request; its token is in no history. Cache it if getting it is slow.

        Raises:
            RegistrationError: the name is taken.
        """

        def register(function: S) -> S:
            self.registry.add_token_source(name, function)
            return function

        return register


class App(Blueprint):
    """A task hub: a namespace of instances, and the functions that run in it.

    Args:
        hub: The hub's name: letters, digits, ``-`` and ``_``, starting with a letter, at most 45 characters.
        partitions: Into how many partitions a *new* hub is divided, hence the most workers that can share its orchestrations.
            Fixed for the hub's life; None takes what the hub has, or 32 for a new one.
        default_version: The version of this code: instances that are started without one, children too, get it.
        version_match_strategy: Which instances orchestrations that are registered without a version may run: ``none`` means all,
            ``strict`` those of the default version, ``current_or_older`` those up to it. By default ``current_or_older`` where there is
            a default version.
        version_failure_strategy: What becomes of an instance that no live worker may run: with ``reject`` it waits for one, parked,
            with ``fail`` it fails with a ``VersionMismatch``.
        on_nondeterminism: What becomes of an instance whose code asks for something else than its history holds: it waits for code that
            fits (``park``), or it fails with a ``NonDeterminism``, as in Durable Functions (``fail``).
        codec: How values are encoded, of functions that do not say it themselves: ``"json"`` or ``"cloudpickle"``.
        allow_pickle: Whether pickles may be decoded here. They run code, and only keys say whose: allow them where you trust all who
            hold the keys.
        encrypt: Whether every value is encrypted (AES-256-GCM); needs ``callboard[encryption]``.
        keys: What seals pickles and encrypts; None takes the hub's, which the command line reads from ``CALLBOARD_KEYS``.
        max_payload: Largest encoded value, in bytes; at most 64 MiB.
        lifecycle_events: Whether workers tell of instances that start and end, on the topic exchange ``{hub}.events``.
    """

    def __init__(
        self,
        hub: str,
        *,
        partitions: int | None = None,
        default_version: str | None = None,
        version_match_strategy: MatchStrategy | None = None,
        version_failure_strategy: FailureStrategy = "reject",
        on_nondeterminism: Literal["park", "fail"] = "park",
        codec: CodecName = "json",
        allow_pickle: bool = False,
        encrypt: bool = False,
        keys: Keys | None = None,
        max_payload: int = MAX_PAYLOAD,
        lifecycle_events: bool = False,
    ) -> None:
        super().__init__()
        self.lifecycle_events = lifecycle_events
        self.hub = check_hub(hub)
        if partitions is not None and not 1 <= partitions <= 1024:
            raise ConfigurationError(f"partitions={partitions} is not possible: use 1 to 1024.")
        self.partitions = partitions
        self.keys = keys
        self.codec_options = CodecOptions(
            codec=codec, allow_pickle=allow_pickle, encrypt=encrypt, max_payload=max_payload
        )
        self.registry.rules = TurnRules(
            fail_on_nondeterminism=_one_of(Literal["park", "fail"], on_nondeterminism) == "fail"
        )
        self.registry.versions = VersionRule(
            default=check_version(default_version),
            match=_one_of(MatchStrategy, version_match_strategy or ("current_or_older" if default_version else "none")),
            failure=_one_of(FailureStrategy, version_failure_strategy),
        )

    def include(self, blueprint: Blueprint) -> None:
        """Takes over all functions of a blueprint."""
        for orchestration in blueprint.registry.all_orchestrations():
            self.registry.add_orchestration(orchestration)
        for activity in blueprint.registry.activities.values():
            self.registry.add_activity(activity)
        for entity in blueprint.registry.entities.values():
            self.registry.add_entity(entity)
        for name, function in blueprint.registry.token_sources.items():
            self.registry.add_token_source(name, function)
        for target in blueprint.registry.foreign_activities.values():
            self.registry.add_foreign_activity(target)
        self.registry.triggers.extend(blueprint.registry.triggers)


def check_hub(hub: str) -> str:
    """Returns a hub's name unchanged when it is allowed; raises ConfigurationError otherwise."""
    if not hub[:1].isascii() or not hub[:1].isalpha() or len(hub) > MAX_HUB_NAME or not _WORD.issuperset(hub):
        raise ConfigurationError(
            f"{hub[:64]!r} cannot name a task hub: use letters, digits, '-' and '_', starting with a letter, at most "
            f"{MAX_HUB_NAME} characters."
        )
    return hub


def _one_of(allowed: Any, given: T) -> T:
    """Returns the value unchanged if it is one of a Literal's; raises ConfigurationError otherwise."""
    if given not in get_args(allowed):
        raise ConfigurationError(f"{given!r} is none of {', '.join(map(repr, get_args(allowed)))}.")
    return given


_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
