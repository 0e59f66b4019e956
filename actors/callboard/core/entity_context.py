"""What an entity's operation may ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar, overload

import msgspec

from callboard.core import payloads
from callboard.core.codec import (
    JSON,
    Codec,
    Content,
    input_place,
    load,
    operation_place,
    result_place,
    state_place,
)
from callboard.core.entities import Ended, EntityId, Operation
from callboard.core.entity_calls import Due, OperationName, due_time, named
from callboard.core.events import Payload
from callboard.core.instances import check_instance_id, child_instance_id, derived_execution_id
from callboard.errors import InvalidPayloadError, PayloadRejectedError

T = TypeVar("T")


class UnreadableStateError(InvalidPayloadError):
    """An entity's state does not fit the type that the code declares: the entity is parked until other code is deployed."""


class EntityCode(Protocol):
    """A registered entity: what carries its operations out."""

    @property
    def codec(self) -> str | None:
        """How its state and results are encoded; None: as the app says."""
        ...

    def is_async(self, operation: str) -> bool:
        """Whether an operation awaits something: it is carried out beside the turns of others then."""
        ...

    async def run(self, context: EntityContext) -> None:
        """Carries an operation out: the context has its result and the new state afterwards. Never suspends if it is not async."""
        ...


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that an operation sent."""

    instance_id: str
    operation: str
    input: Content | None
    due: datetime | None


class NewOrchestration(msgspec.Struct, frozen=True, kw_only=True):
    """An orchestration that an operation started."""

    number: int
    name: str
    instance_id: str
    execution_id: str
    input: Payload | None
    version: str | None
    tags: dict[str, str] | None
    on_completed: str | None


class Targets(Protocol):
    """Resolves orchestrations that code names by function."""

    def orchestration(self, target: object, version: str | None = None) -> Any: ...


class EntityContext:
    """Handed to an entity's operations: its state, the operation's input, and the only durable door to the world outside.

    What an operation asks for happens once its result is committed; if it raises, nothing of it happens, and the state stays as it was.
    The names are Durable Functions'.
    """

    def __init__(
        self,
        entity_id: EntityId,
        request: Operation,
        state: Payload | None,
        *,
        now: datetime,
        execution_id: str,
        numbers: int,
        targets: Targets,
        codec: Codec = JSON,
        codec_name: str | None = None,
    ) -> None:
        self._entity_id = entity_id
        self._request = request
        self._payload = state
        self._existed = state is not None
        self._new: tuple[object] | None = None
        self._result: object = None
        self._now = now
        self._execution_id = execution_id
        self._numbers = numbers
        self._targets = targets
        self._codec = codec
        self._codec_name = codec_name
        self._signals: list[Signal] = []
        self._started: list[NewOrchestration] = []
        self._over = False

    @property
    def entity_id(self) -> EntityId:
        return self._entity_id

    @property
    def entity_name(self) -> str:
        return self._entity_id.name

    @property
    def entity_key(self) -> str:
        return self._entity_id.key

    @property
    def operation_name(self) -> str:
        return self._request.operation

    @property
    def current_utc_datetime(self) -> datetime:
        """The time of the turn."""
        return self._now

    @property
    def is_newly_constructed(self) -> bool:
        """Whether the entity had no state when the operation began."""
        return not self._existed

    @property
    def has_state(self) -> bool:
        """Whether the entity has a state now."""
        return self._new[0] is not None if self._new is not None else self._payload is not None

    @overload
    def get_input(self, expected: type[T]) -> T: ...

    @overload
    def get_input(self, expected: Any = Any) -> Any: ...

    def get_input(self, expected: Any = Any) -> Any:
        """The operation's input; None if it has none.

        Raises:
            InvalidPayloadError: it does not fit the type.
        """
        return load(self.content, payloads.decodable(expected), f"The input of operation {self.operation_name!r}")

    @property
    def content(self) -> Content | None:
        """The input, opened but not decoded.

        Raises:
            PayloadRejectedError: it is sealed, and cannot be opened here.
        """
        request = self._request
        if request.ended is not None:
            return self._told(request.ended)
        place = operation_place(self._entity_id.instance_id, request.request_id, request.operation)
        return self._codec.open(request.input, place)

    def _told(self, ended: Ended) -> Content | None:
        """The end of an orchestration that the entity started, as its operation's input."""
        failure = ended.failure
        status = "Completed" if failure is None else "Terminated" if failure.error_type == "Terminated" else "Failed"
        place = result_place(self._entity_id.instance_id, self._execution_id, ended.number)
        told = {
            "instanceId": ended.instance_id,
            "status": status,
            "result": load(self._codec.open(ended.result, place), Any, "The result"),
            "error": None if failure is None else f"{failure.error_type}: {failure.error_message}",
        }
        return self._codec.encode(told, f"The end of {ended.instance_id!r}")

    def get_state(self, initializer: Callable[[], Any] | None = None, expected: Any = Any) -> Any:
        """The entity's state; if it has none, what the initializer returns, or None. Change it with `set_state`.

        Args:
            initializer: Makes the state of an entity that has none: ``int``, ``list``, ``lambda: 100``.
            expected: The type to decode the state into.

        Raises:
            UnreadableStateError: the stored state does not fit the type. If the operation does not catch it, the entity is parked.
        """
        value: Any = None
        if self._new is not None:
            value = self._new[0]
        elif self._payload is not None:
            value = self._decoded(payloads.decodable(expected))
        return initializer() if value is None and initializer is not None else value

    def _decoded(self, expected: Any) -> Any:
        place = state_place(self._entity_id.instance_id, self._execution_id)
        try:
            content = self._codec.open(self._payload, place)
        except PayloadRejectedError as error:
            raise UnreadableStateError(str(error)) from error
        try:
            return load(content, expected, f"The state of {self._entity_id}")
        except InvalidPayloadError as error:
            raise UnreadableStateError(str(error)) from error

    def set_state(self, state: object) -> None:
        """Gives the entity a new state, kept when the operation has returned; None deletes the entity."""
        self._check()
        self._new = (state,)

    def delete_state(self) -> None:
        """Deletes the entity: it has no state, and comes into being again with the next operation that sets one."""
        self.set_state(None)

    destruct_on_exit = delete_state

    @property
    def state_was_set(self) -> bool:
        """Whether this operation has set or deleted the state."""
        return self._new is not None

    def set_result(self, result: object) -> None:
        """What a caller gets; the value that the operation returns, unless it is None, goes before it."""
        self._check()
        self._result = result

    def signal_entity(
        self, entity: EntityId, operation: OperationName, input: object = None, *, at: Due | None = None
    ) -> None:
        """Has another entity (or this one) carry out an operation, in the order of this entity's signals to it.

        Args:
            entity: Which one; it need not exist yet.
            operation: Its name, or the method of the entity's class.
            input: Its input.
            at: When, as an aware point in time or as how long from now; None: as soon as it comes there.
        """
        self._check()
        name, _ = named(operation)
        content = self._codec.encode(input, f"The input of operation {name!r}")
        due = None if at is None else due_time(at, self._now)
        self._signals.append(Signal(instance_id=entity.instance_id, operation=name, input=content, due=due))

    def start_new_orchestration(
        self,
        orchestration: str | Callable[..., Any],
        input: object = None,
        *,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
        on_completed: OperationName | None = None,
    ) -> str:
        """Starts an orchestration, and returns its instance id. An id in use by one that has not ended leaves that one alone.

        Args:
            orchestration: The function, or the name it is registered under.
            input: Its input.
            instance_id: Its id; by default one that is unique.
            version: Its version.
            tags: Its tags.
            on_completed: An operation of this entity that is carried out when it has ended, or could not be started. Its input:
                ``{"instanceId", "status": "Completed" | "Failed" | "Terminated", "result", "error"}``.
        """
        self._check()
        if version is not None:
            version = payloads.text(version, "The version of an orchestration")
        target = self._targets.orchestration(orchestration, version)
        name: str = target.name
        number = self._numbers + len(self._started)
        instance_id = check_instance_id(instance_id) if instance_id else child_instance_id(self._execution_id, number)
        execution_id = derived_execution_id(self._execution_id, number, "started")
        content = self._codec.encode(input, f"The input of orchestration {name!r}", target.codec)
        started = NewOrchestration(
            number=number,
            name=name,
            instance_id=instance_id,
            execution_id=execution_id,
            input=self._codec.seal(content, input_place(instance_id, execution_id)),
            version=target.version,
            tags=payloads.tags(tags),
            on_completed=None if on_completed is None else named(on_completed)[0],
        )
        self._started.append(started)
        return started.instance_id

    def _check(self) -> None:
        if self._over:
            raise RuntimeError(
                f"Operation {self.operation_name!r} of {self._entity_id} is over: its context cannot be used any more."
            )

    # For whoever carries the operation out

    def close(self) -> None:
        """Ends it with its operation: what keeps it cannot use it any more."""
        self._over = True

    def returned(self, result: object) -> None:
        """Takes what the operation returned."""
        if result is not None:
            self._result = result

    def outcome(self) -> Outcome:
        """What the operation did, encoded.

        Raises:
            InvalidPayloadError: the state or the result has no JSON form, or is too large.
        """
        state, result, caller = self._payload, None, self._request.caller
        if self._new is not None:
            content = self._codec.encode(self._new[0], f"The state of {self._entity_id}", self._codec_name)
            state = self._codec.seal(content, state_place(self._entity_id.instance_id, self._execution_id))
        if caller is not None:  # nobody hears of another one's
            content = self._codec.encode(
                self._result, f"The result of operation {self.operation_name!r}", self._codec_name
            )
            place = result_place(caller.instance_id, caller.execution_id, caller.task_scheduled_id)
            result = self._codec.seal(content, place)
        return Outcome(state=state, result=result, signals=self._signals, started=self._started)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation did."""

    state: Payload | None
    result: Payload | None
    signals: Sequence[Signal]
    started: Sequence[NewOrchestration]
