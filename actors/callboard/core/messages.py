"""What actors, activities and clients send each other. Every message carries the identity by which it is deduplicated."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

from callboard.core.entities import Request
from callboard.core.events import Asker, Payload
from callboard.core.failure import FailureDetails
from callboard.core.tracing import TraceContext

#: Version of the wire format, in each pack; a receiver refuses versions it does not know.
WIRE_VERSION = 1


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="type", tag=True
):
    pass


class _ToInstance(_Message, frozen=True, kw_only=True):
    instance_id: str


class StartExecution(_ToInstance, frozen=True, kw_only=True):
    """Wakes an instance whose record is Pending. Identity: the execution id, which must be the record's."""

    execution_id: str
    reply_to: str | None = None
    """Who wants to be told when it ends: saves a `Watch`."""


class TaskResult(_ToInstance, frozen=True, kw_only=True):
    """An activity ended. Identity: (execution, task)."""

    execution_id: str
    task_scheduled_id: int
    at: datetime
    result: Payload | None = None
    failure: FailureDetails | None = None
    heartbeat_details: Payload | None = None
    """The progress that a failed run had reported, for the next attempt."""


class ChildResult(_ToInstance, frozen=True, kw_only=True):
    """A child orchestration ended. Identity: (execution, task)."""

    execution_id: str
    task_scheduled_id: int
    at: datetime
    result: Payload | None = None
    failure: FailureDetails | None = None


class TimerDue(_ToInstance, frozen=True, kw_only=True):
    """A durable timer came due. Identity: (execution, timer)."""

    execution_id: str
    timer_id: int
    fire_at: datetime


class ContinueExecution(_ToInstance, frozen=True, kw_only=True):
    """Begins the execution that a ``ContinuedAsNew`` announced. Identity: the new execution id."""

    execution_id: str


class RaiseEvent(_ToInstance, frozen=True, kw_only=True):
    """An external event. Identity: the message id. Names no execution, so it survives ``continue_as_new``."""

    message_id: str
    name: str
    at: datetime
    input: Payload | None = None
    trace: TraceContext | None = None


class DeliverMessage(_ToInstance, frozen=True, kw_only=True):
    """A message for one of an orchestration's handlers. Identity: the message id. Names no execution, as `RaiseEvent`.

    Asked again under the same id, the same answer is given again.
    """

    message_id: str
    name: str
    at: datetime
    input: Payload | None = None
    asker: Asker | None = None
    trace: TraceContext | None = None


class Answer(_ToInstance, frozen=True, kw_only=True):
    """The answer to what an orchestration asked another instance. Identity: (execution, task)."""

    execution_id: str
    task_scheduled_id: int
    at: datetime
    result: Payload | None = None
    failure: FailureDetails | None = None


class Query(_ToInstance, frozen=True, kw_only=True):
    """Asks an orchestration's query handler. Leaves no trace in history; answered anew each time it comes."""

    query_id: str
    name: str
    asker: Asker
    input: Payload | None = None


class Terminate(_ToInstance, frozen=True, kw_only=True):
    """Ends an instance. Identity: the message id.

    One that a terminated parent sends names the child's execution and orchestration, because it can overtake the child's start:
    an execution unknown so far is then recorded as Terminated.
    """

    message_id: str
    at: datetime
    reason: Payload | None = None
    recurse: bool = True
    execution_id: str | None = None
    name: str | None = None


class Suspend(_ToInstance, frozen=True, kw_only=True):
    """Pauses an instance: inputs are kept, code does not advance. Identity: the message id."""

    message_id: str
    at: datetime
    reason: str | None = None


class Resume(_ToInstance, frozen=True, kw_only=True):
    """Lets a suspended or parked instance go on. Identity: the message id."""

    message_id: str
    at: datetime
    reason: str | None = None


class EntityRequest(_ToInstance, frozen=True, kw_only=True):
    """Asks something of an entity. Identity: the request's place. The first one makes the entity."""

    request: Request


class OperationResult(_ToInstance, frozen=True, kw_only=True):
    """An entity has carried out an operation that an orchestration called. Identity: (execution, task)."""

    execution_id: str
    task_scheduled_id: int
    at: datetime
    result: Payload | None = None
    failure: FailureDetails | None = None


class LockGranted(_ToInstance, frozen=True, kw_only=True):
    """An entity is locked for an orchestration's critical section. Identity: (execution, task)."""

    execution_id: str
    task_scheduled_id: int
    at: datetime


class Wake(_ToInstance, frozen=True, kw_only=True):
    """Asks the owner to look at an instance again (a parked one after a deployment, an entity with more to do than one turn takes).

    Leaves no trace in history.
    """


class Watch(_ToInstance, frozen=True, kw_only=True):
    """Asks to be told when an instance ends. Kept in the owner's memory only: a client reads again now and then."""

    reply_to: str
    execution_id: str | None = None


InstanceMessage: TypeAlias = (
    StartExecution
    | TaskResult
    | ChildResult
    | TimerDue
    | ContinueExecution
    | RaiseEvent
    | DeliverMessage
    | Answer
    | Query
    | Terminate
    | Suspend
    | Resume
    | EntityRequest
    | OperationResult
    | LockGranted
    | Wake
    | Watch
)


class TaskKey(msgspec.Struct, frozen=True):
    """The identity of an activity call."""

    instance_id: str
    execution_id: str
    task_scheduled_id: int


class ActivityCall(_Message, frozen=True, kw_only=True):
    """Asks for one run of an activity. Identity: (execution, task)."""

    instance_id: str
    execution_id: str
    task_scheduled_id: int
    name: str
    queue: str = "default"
    input: Payload | None = None
    trace: TraceContext | None = None
    """The span of the call, which its runs hang under."""
    resent: bool = False
    """Sent again by a sweep: look for a claim before running it."""
    attempt: int = 1
    """Which attempt of a retried call this is; each is a task of its own."""
    first_attempt: int | None = None
    """The task that was the first attempt, where this is a later one."""
    heartbeat_details: Payload | None = None
    """The progress that an earlier run or attempt had reported."""
    start_to_close: float | None = None
    """How long a run may take, in seconds; None: what the activity is registered with."""
    heartbeat_timeout: float | None = None
    """How long a run may be silent between two heartbeats, in seconds; None: what the activity is registered with."""
    start_by: datetime | None = None
    """When it is too late to begin."""
    lapses: int = 0
    """How many workers that ran it have disappeared."""
    scheduled_at: datetime | None = None

    @property
    def key(self) -> TaskKey:
        return TaskKey(self.instance_id, self.execution_id, self.task_scheduled_id)


class ActivitiesCancelled(_Message, frozen=True, kw_only=True):
    """Tells workers that nobody waits for these activities of an execution any more."""

    instance_id: str
    execution_id: str
    tasks: tuple[int, ...]


class InstanceEnded(_Message, frozen=True, kw_only=True):
    """Tells a watcher that an instance is terminal; the record has been written before."""

    instance_id: str
    execution_id: str


class Reply(_Message, frozen=True, kw_only=True):
    """The answer to a client that asked or queried. Identity: the id of its message or query."""

    reply_to: str
    result: Payload | None = None
    failure: FailureDetails | None = None


class WorkersChanged(_Message, frozen=True, kw_only=True):
    """Tells the other workers that one has come or is going, so that they balance partitions at once."""

    worker_id: str
    gone: tuple[str, ...] = ()
    """Workers that were found to be gone without having left."""
    leaving: bool = False
    """Whether it is going, in order."""


class RunTurn(_Message, frozen=True, kw_only=True):
    """Asks a worker to run a turn of an instance that it does not own, because the owner has not its code."""

    request_id: str
    reply_to: str
    instance_id: str
    n: int | None = None
    """The number of the instance's last commit, where it is known: whoever has it hot and knows another one looks again."""
    messages: tuple[InstanceMessage, ...]


class TimerSet(_Message, frozen=True, kw_only=True):
    """A timer that a turn has set elsewhere: its owner need not wait until it reads the row."""

    execution_id: str
    timer_id: int
    fire_at: datetime


class TurnRun(_Message, frozen=True, kw_only=True):
    """Answers a `RunTurn`. Only ``done`` means something for safety: all of its messages are committed, or rightly dropped."""

    request_id: str
    done: bool
    ran: bool = False
    """The instance's code ran."""
    failed: bool = False
    """The instance's code was tried, and could not run: it is parked."""
    ended: bool = False
    timers: tuple[TimerSet, ...] = ()


class Ping(_Message, frozen=True, kw_only=True):
    """Says nothing: that it could be routed is the answer."""


Message: TypeAlias = (
    InstanceMessage
    | ActivityCall
    | ActivitiesCancelled
    | InstanceEnded
    | Reply
    | WorkersChanged
    | RunTurn
    | TurnRun
    | Ping
)


class Pack(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Many messages for one destination, in one broker message."""

    v: int = WIRE_VERSION
    messages: tuple[Message, ...]
