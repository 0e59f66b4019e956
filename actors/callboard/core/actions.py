"""What an orchestrator's code decided, in the imperative. Each action becomes one history event when it is committed.

They correspond one to one with Durable Task's actions, so that whatever executes a turn (a coroutine here, another language
elsewhere) yields the same history.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

from callboard.core.events import (
    ActionEvent,
    Asker,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationSignaled,
    EntityUnlockSent,
    EventSent,
    MessageAnswered,
    MessagePublished,
    MessageSent,
    Payload,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
    TimerCreated,
    ToEntityEvent,
)
from callboard.core.failure import FailureDetails


class _Action(msgspec.Struct, frozen=True, kw_only=True):
    id: int


class ScheduleTask(_Action, frozen=True, kw_only=True):
    name: str
    input: Payload | None
    queue: str
    attempt: int = 1
    first_attempt: int | None = None
    heartbeat_details: Payload | None = None
    start_to_close: float | None = None
    schedule_to_start: float | None = None
    heartbeat_timeout: float | None = None

    def to_event(self, at: datetime) -> TaskScheduled:
        return TaskScheduled(
            timestamp=at,
            event_id=self.id,
            name=self.name,
            input=self.input,
            queue=self.queue,
            attempt=self.attempt,
            first_attempt=self.first_attempt,
            heartbeat_details=self.heartbeat_details,
            start_to_close=self.start_to_close,
            schedule_to_start=self.schedule_to_start,
            heartbeat_timeout=self.heartbeat_timeout,
        )

    def matches(self, event: ActionEvent) -> bool:
        return isinstance(event, TaskScheduled) and event.name == self.name

    def __str__(self) -> str:
        return f"activity {self.name!r}"


class StartSubOrchestration(_Action, frozen=True, kw_only=True):
    name: str
    instance_id: str
    execution_id: str
    input: Payload | None
    version: str | None = None
    tags: dict[str, str] | None = None
    fire_and_forget: bool = False

    def to_event(self, at: datetime) -> SubOrchestrationInstanceCreated:
        return SubOrchestrationInstanceCreated(
            timestamp=at,
            event_id=self.id,
            name=self.name,
            instance_id=self.instance_id,
            execution_id=self.execution_id,
            input=self.input,
            version=self.version,
            tags=self.tags,
            fire_and_forget=self.fire_and_forget,
        )

    def matches(self, event: ActionEvent) -> bool:
        return (
            isinstance(event, SubOrchestrationInstanceCreated)
            and event.name == self.name
            and event.instance_id == self.instance_id
        )

    def __str__(self) -> str:
        return f"sub-orchestration {self.name!r} as {self.instance_id!r}"


class CreateTimer(_Action, frozen=True, kw_only=True):
    fire_at: datetime
    retry_of: int | None = None
    attempt: int = 0

    def to_event(self, at: datetime) -> TimerCreated:
        return TimerCreated(
            timestamp=at, event_id=self.id, fire_at=self.fire_at, retry_of=self.retry_of, attempt=self.attempt
        )

    def matches(self, event: ActionEvent) -> bool:
        return isinstance(event, TimerCreated)

    def __str__(self) -> str:
        return _timer(self)


class SendEvent(_Action, frozen=True, kw_only=True):
    instance_id: str
    name: str
    input: Payload | None

    def to_event(self, at: datetime) -> EventSent:
        return EventSent(timestamp=at, event_id=self.id, instance_id=self.instance_id, name=self.name, input=self.input)

    def matches(self, event: ActionEvent) -> bool:
        return isinstance(event, EventSent) and event.name == self.name and event.instance_id == self.instance_id

    def __str__(self) -> str:
        return f"event {self.name!r} to {self.instance_id!r}"


class SendMessage(_Action, frozen=True, kw_only=True):
    instance_id: str
    name: str
    input: Payload | None
    asks: bool

    def to_event(self, at: datetime) -> MessageSent:
        return MessageSent(
            timestamp=at,
            event_id=self.id,
            instance_id=self.instance_id,
            name=self.name,
            input=self.input,
            asks=self.asks,
        )

    def matches(self, event: ActionEvent) -> bool:
        return isinstance(event, MessageSent) and (event.name, event.instance_id, event.asks) == (
            self.name,
            self.instance_id,
            self.asks,
        )

    def __str__(self) -> str:
        return _message(self)


class PublishMessage(_Action, frozen=True, kw_only=True):
    exchange: str
    key: str
    input: Payload | None

    def to_event(self, at: datetime) -> MessagePublished:
        return MessagePublished(timestamp=at, event_id=self.id, exchange=self.exchange, key=self.key, input=self.input)

    def matches(self, event: ActionEvent) -> bool:
        return isinstance(event, MessagePublished) and (event.exchange, event.key) == (self.exchange, self.key)

    def __str__(self) -> str:
        return f"publishing {self.key!r} to {self.exchange!r}"


class AnswerMessage(_Action, frozen=True, kw_only=True):
    message_id: str
    result: Payload | None = None
    failure: FailureDetails | None = None
    asker: Asker | None = None

    def to_event(self, at: datetime) -> MessageAnswered:
        return MessageAnswered(
            timestamp=at,
            event_id=self.id,
            message_id=self.message_id,
            result=self.result,
            failure=self.failure,
            asker=self.asker,
        )

    def matches(self, event: ActionEvent) -> bool:
        return isinstance(event, MessageAnswered) and event.message_id == self.message_id

    def __str__(self) -> str:
        return f"the answer to message {self.message_id!r}"


class CallEntity(_Action, frozen=True, kw_only=True):
    instance_id: str
    operation: str
    input: Payload | None

    def to_event(self, at: datetime) -> EntityOperationCalled:
        return EntityOperationCalled(
            timestamp=at, event_id=self.id, instance_id=self.instance_id, operation=self.operation, input=self.input
        )

    def matches(self, event: ActionEvent) -> bool:
        return (
            isinstance(event, EntityOperationCalled)
            and event.instance_id == self.instance_id
            and event.operation == self.operation
        )

    def __str__(self) -> str:
        return f"a call of {self.operation!r} of entity {self.instance_id!r}"


class SignalEntity(_Action, frozen=True, kw_only=True):
    instance_id: str
    operation: str
    input: Payload | None
    scheduled_time: datetime | None = None

    def to_event(self, at: datetime) -> EntityOperationSignaled:
        return EntityOperationSignaled(
            timestamp=at,
            event_id=self.id,
            instance_id=self.instance_id,
            operation=self.operation,
            input=self.input,
            scheduled_time=self.scheduled_time,
        )

    def matches(self, event: ActionEvent) -> bool:
        return (
            isinstance(event, EntityOperationSignaled)
            and event.instance_id == self.instance_id
            and event.operation == self.operation
        )

    def __str__(self) -> str:
        return f"a signal {self.operation!r} to entity {self.instance_id!r}"


class LockEntity(_Action, frozen=True, kw_only=True):
    lock_set: tuple[str, ...]
    position: int

    def to_event(self, at: datetime) -> EntityLockRequested:
        return EntityLockRequested(
            timestamp=at,
            event_id=self.id,
            instance_id=self.lock_set[self.position],
            lock_set=self.lock_set,
            position=self.position,
        )

    def matches(self, event: ActionEvent) -> bool:
        return isinstance(event, EntityLockRequested) and event.instance_id == self.lock_set[self.position]

    def __str__(self) -> str:
        return f"a lock on entity {self.lock_set[self.position]!r}"


class UnlockEntity(_Action, frozen=True, kw_only=True):
    instance_id: str
    task_scheduled_id: int

    def to_event(self, at: datetime) -> EntityUnlockSent:
        return EntityUnlockSent(
            timestamp=at, event_id=self.id, instance_id=self.instance_id, task_scheduled_id=self.task_scheduled_id
        )

    def matches(self, event: ActionEvent) -> bool:
        return isinstance(event, EntityUnlockSent) and event.instance_id == self.instance_id

    def __str__(self) -> str:
        return f"the end of a lock on entity {self.instance_id!r}"


Action: TypeAlias = (
    ScheduleTask
    | StartSubOrchestration
    | CreateTimer
    | SendEvent
    | SendMessage
    | PublishMessage
    | AnswerMessage
    | CallEntity
    | SignalEntity
    | LockEntity
    | UnlockEntity
)


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """The function returned."""

    result: Payload | None


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The function raised."""

    failure: FailureDetails


class Continued(msgspec.Struct, frozen=True, kw_only=True):
    """The function returned after ``continue_as_new``."""

    input: Payload | None
    version: str | None = None
    """The next execution's; None: this one's."""


Outcome: TypeAlias = Completed | Failed | Continued


def describe_event(event: ActionEvent) -> str:
    """How a person reads an action that history holds."""
    match event:
        case TaskScheduled():
            return f"activity {event.name!r}"
        case SubOrchestrationInstanceCreated():
            return f"sub-orchestration {event.name!r} as {event.instance_id!r}"
        case TimerCreated():
            return _timer(event)
        case EventSent():
            return f"event {event.name!r} to {event.instance_id!r}"
        case MessageSent():
            return _message(event)
        case MessagePublished():
            return f"publishing {event.key!r} to {event.exchange!r}"
        case MessageAnswered():
            return f"the answer to message {event.message_id!r}"
        case _:
            return _request(event)


def _request(event: ToEntityEvent) -> str:
    match event:
        case EntityOperationCalled():
            return f"a call of {event.operation!r} of entity {event.instance_id!r}"
        case EntityOperationSignaled():
            return f"a signal {event.operation!r} to entity {event.instance_id!r}"
        case EntityLockRequested():
            return f"a lock on entity {event.instance_id!r}"
        case EntityUnlockSent():
            return f"the end of a lock on entity {event.instance_id!r}"


def _message(sent: SendMessage | MessageSent) -> str:
    return f"{'an ask' if sent.asks else 'a message'} {sent.name!r} to {sent.instance_id!r}"


def _timer(timer: CreateTimer | TimerCreated) -> str:
    return "a timer" if timer.retry_of is None else f"the wait after attempt {timer.attempt} of task {timer.retry_of}"
