"""What an orchestration asks of entities: calls, signals, locks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

from callboard.core import payloads
from callboard.core.actions import Action, CallEntity, LockEntity, SignalEntity, UnlockEntity
from callboard.core.binding import hints_of
from callboard.core.codec import Content, Place, operation_place
from callboard.core.entities import EntityId
from callboard.core.events import Payload
from callboard.core.instances import sent_message_id
from callboard.core.locking import CriticalSection, LockingRules

#: An operation by its name, or by the method of the entity's class that carries it out.
OperationName: TypeAlias = str | Callable[..., Any]
#: When a signal is to be delivered: a point in time (aware), or how long from now.
Due: TypeAlias = datetime | timedelta

_MILLISECOND = timedelta(milliseconds=1)


class Caller(Protocol):
    """The execution behind the calls."""

    now: datetime
    execution_id: str

    def encode(self, value: object, what: str) -> Content | None: ...

    def seal(self, content: Content | None, place: Place) -> Payload | None: ...

    def next_id(self) -> int: ...

    def ask(self, action: Action) -> None: ...

    def open_entity_call(self, task_id: int, name: str, result_type: Any) -> Any:
        """The durable task for the answer."""
        ...


class EntityCalls:
    """The entities' side of an orchestration's context."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.rules = LockingRules()

    def call(self, entity: EntityId, operation: OperationName, value: object) -> Any:
        name, result_type = named(operation)
        content = self._caller.encode(value, f"The input of operation {name!r}")
        self.rules.calls(entity.instance_id)
        task_id = self._caller.next_id()
        payload = self._sealed(content, entity, name, task_id)
        self._caller.ask(CallEntity(id=task_id, instance_id=entity.instance_id, operation=name, input=payload))
        task = self._caller.open_entity_call(task_id, f"{name} of {entity}", result_type)

        def over(_: object) -> None:
            self.rules.called(entity.instance_id)

        task.add_done_callback(over)
        return task

    def signal(self, entity: EntityId, operation: OperationName, value: object, due: Due | None) -> None:
        name, _ = named(operation)
        content = self._caller.encode(value, f"The input of operation {name!r}")
        time = None if due is None else due_time(due, self._caller.now)
        self.rules.signals(entity.instance_id)
        task_id = self._caller.next_id()
        payload = self._sealed(content, entity, name, task_id)
        self._caller.ask(
            SignalEntity(id=task_id, instance_id=entity.instance_id, operation=name, input=payload, scheduled_time=time)
        )

    def _sealed(self, content: Content | None, entity: EntityId, name: str, task_id: int) -> Payload | None:
        request_id = sent_message_id(self._caller.execution_id, task_id)
        return self._caller.seal(content, operation_place(entity.instance_id, request_id, name))

    def lock(self, entities: Sequence[EntityId]) -> CriticalSection:
        return CriticalSection(self, self.rules, entities)

    # For critical sections

    def request_lock(self, lock_set: tuple[str, ...], position: int) -> Any:
        task_id = self._caller.next_id()
        self._caller.ask(LockEntity(id=task_id, lock_set=lock_set, position=position))
        return self._caller.open_entity_call(task_id, f"the lock of {lock_set[position]}", Any)

    def release_lock(self, instance_id: str, task_id: int) -> None:
        self._caller.ask(UnlockEntity(id=self._caller.next_id(), instance_id=instance_id, task_scheduled_id=task_id))


def named(operation: OperationName) -> tuple[str, Any]:
    """An operation's name, and the type of its result if it is known."""
    if isinstance(operation, str):
        return payloads.text(operation, "The name of an operation"), Any
    name = operation.__name__
    return name, payloads.decodable(hints_of(operation, f"operation {name!r}").get("return", Any))


def due_time(due: Due, now: datetime) -> datetime:
    """A point in time, in whole milliseconds, rounded up: nothing is delivered early.

    Raises:
        ValueError: a datetime without a time zone.
    """
    time = now + due if isinstance(due, timedelta) else due
    if time.tzinfo is None:
        raise ValueError(
            "A signal's time must be aware, such as context.current_utc_datetime + timedelta(hours=1), or say how long from now: "
            "timedelta(hours=1)."
        )
    excess = time.microsecond % 1000
    time = time + _MILLISECOND - timedelta(microseconds=excess) if excess else time
    return time.astimezone(UTC)
