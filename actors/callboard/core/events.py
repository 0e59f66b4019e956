"""The history: what has happened to an orchestration, in the past tense.

Names and fields are Durable Task's (DTFx ``History/``), one to one. ``OrchestratorStarted`` and
``OrchestratorCompleted`` frame each episode there; here an episode is one commit, so they are not
stored: a commit's ``at`` is the timestamp of its ``OrchestratorStarted``.

| event                               | meaning                                                       |
|-------------------------------------|---------------------------------------------------------------|
| ExecutionStarted                    | a new execution begins, with its input                        |
| TaskScheduled                       | the code called an activity                                   |
| TaskCompleted / TaskFailed          | its result or failure arrived                                 |
| SubOrchestrationInstanceCreated     | the code started a child orchestration                        |
| SubOrchestrationInstanceCompleted / Failed | the child ended                                        |
| TimerCreated / TimerFired           | the code set a durable timer; it came due                     |
| EventRaised                         | an external event arrived                                     |
| EventSent                           | the code sent an event to another instance                    |
| MessageReceived                     | a message for one of the code's handlers arrived              |
| MessageAnswered                     | a handler answered, or will not any more                      |
| MessageSent                         | the code sent a message to another instance, or asked it      |
| MessagePublished                    | the code published something for other services               |
| AnswerReceived                      | the answer to what it asked arrived                           |
| ExecutionSuspended / Resumed        | an operator paused the execution, let it go on                |
| ExecutionTerminated                 | an operator ended it                                          |
| ExecutionCompleted                  | it ended: Completed, Failed or Terminated                     |
| ContinuedAsNew                      | it ended and goes on as a new execution with a new history    |
| PatchApplied                        | the code passed ``context.patched`` and went the new way      |
| ExecutionParked                     | its code cannot run (changed, missing, stuck); inputs are kept |
| TerminationSent                     | a terminated parent told a child to end too                   |
| EntityOperationCalled               | the code called an operation of an entity                     |
| EntityOperationCompleted / Failed   | its result or failure arrived                                 |
| EntityOperationSignaled             | the code, or an entity, signalled an entity                   |
| EntityLockRequested / LockGranted   | a critical section asked for an entity; it got it             |
| EntityUnlockSent                    | a critical section gave an entity back                        |

An entity's commits hold, besides signals that it sends, its timers and ExecutionCompleted:

| event                               | meaning                                                       |
|-------------------------------------|---------------------------------------------------------------|
| EntityRequestReceived               | a request arrived that was not at once carried out            |
| EntityOperationProcessed            | an operation was carried out, or failed                       |
| EntityLocked                        | a critical section got it                                     |
| NewOrchestrationStarted             | an operation started an orchestration                         |
| StartedOrchestrationEnded           | it ended, and the entity wanted to know                       |
| EntityYielded                       | more requests wait than one turn takes                        |
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from callboard.core.entities import Caller, Position, Request, SentLine
from callboard.core.failure import FailureDetails
from callboard.core.tracing import TraceContext

#: An encoded value: JSON text.
Payload: TypeAlias = str


class ParentInstance(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The orchestration that started a child, and the task of it that waits for the child."""

    instance_id: str
    execution_id: str
    task_scheduled_id: int


class _Asker(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="type", tag=True):
    """Who waits for the answer to a message."""


class AskingClient(_Asker, frozen=True, kw_only=True):
    inbox: str
    """Its private queue."""


class AskingTask(_Asker, frozen=True, kw_only=True):
    """A task of an orchestration."""

    instance_id: str
    execution_id: str
    task_scheduled_id: int


Asker: TypeAlias = AskingClient | AskingTask


class _Event(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="eventType", tag=True
):
    timestamp: datetime


class SeenMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A message id that was consumed, remembered across ``continue_as_new`` until the retention window has passed."""

    message_id: str
    at: datetime


class ExecutionStarted(_Event, frozen=True, kw_only=True):
    name: str
    execution_id: str
    input: Payload | None = None
    parent: ParentInstance | None = None
    version: str | None = None
    tags: dict[str, str] | None = None
    scheduled_start_time: datetime | None = None
    trace: TraceContext | None = None
    """What led to it: the span that the execution's own hangs under."""
    generation: int = 0
    seen: tuple[SeenMessage, ...] = ()
    """Message ids that earlier executions consumed within the retention window, so that a late duplicate is still known."""
    answers: tuple[MessageAnswered, ...] = ()
    """The latest answers that earlier executions gave, for those who ask again."""
    lines: tuple[SentLine, ...] = ()
    """How far earlier executions' requests to entities have got, so that order holds across ``continue_as_new``."""


class ExecutionCompleted(_Event, frozen=True, kw_only=True):
    event_id: int = -1
    orchestration_status: Literal["Completed", "Failed", "Terminated"]
    result: Payload | None = None
    failure: FailureDetails | None = None
    parent: ParentInstance | None = None
    """Whom to tell; repeated here so that a terminal commit alone says what must be sent."""


class ExecutionTerminated(_Event, frozen=True, kw_only=True):
    message_id: str
    input: Payload | None = None
    """The reason."""
    recurse: bool = True


class ExecutionSuspended(_Event, frozen=True, kw_only=True):
    message_id: str
    reason: str | None = None


class ExecutionResumed(_Event, frozen=True, kw_only=True):
    message_id: str
    reason: str | None = None


class PatchApplied(_Event, frozen=True, kw_only=True):
    """Has no number: that it is asked for, or no longer, shifts no other action's."""

    patch: str


class ExecutionParked(_Event, frozen=True, kw_only=True):
    reason: str
    """What a person must know to get it going again."""


class TaskScheduled(_Event, frozen=True, kw_only=True):
    event_id: int
    name: str
    input: Payload | None = None
    queue: str = "default"
    attempt: int = 1
    """Which attempt of a retried call this is; each is a task of its own."""
    first_attempt: int | None = None
    """The task that was the first attempt, where this is a later one."""
    heartbeat_details: Payload | None = None
    """The progress that the attempt before this one had reported."""
    start_to_close: float | None = None
    """How long a run may take, in seconds."""
    schedule_to_start: float | None = None
    """How long the call may wait for a worker, in seconds."""
    heartbeat_timeout: float | None = None
    """How long a run may be silent between two heartbeats, in seconds."""


class TaskCompleted(_Event, frozen=True, kw_only=True):
    task_scheduled_id: int
    result: Payload | None = None


class TaskFailed(_Event, frozen=True, kw_only=True):
    task_scheduled_id: int
    failure: FailureDetails
    heartbeat_details: Payload | None = None
    """The progress that it had reported, for the next attempt."""


class SubOrchestrationInstanceCreated(_Event, frozen=True, kw_only=True):
    event_id: int
    name: str
    instance_id: str
    execution_id: str
    """The child's execution id, derived from the parent's execution and this event's id: a retry can be told from a clash."""
    input: Payload | None = None
    version: str | None = None
    tags: dict[str, str] | None = None
    fire_and_forget: bool = False
    """Whether it was started for itself: nobody waits for it, and it has no parent."""


class SubOrchestrationInstanceCompleted(_Event, frozen=True, kw_only=True):
    task_scheduled_id: int
    result: Payload | None = None


class SubOrchestrationInstanceFailed(_Event, frozen=True, kw_only=True):
    task_scheduled_id: int
    failure: FailureDetails


class TimerCreated(_Event, frozen=True, kw_only=True):
    event_id: int
    fire_at: datetime
    retry_of: int | None = None
    """The number of the call (its first attempt's) that is tried again when this fires; None for any other timer."""
    attempt: int = 0
    """The attempt of that call after which this was set."""


class TimerFired(_Event, frozen=True, kw_only=True):
    timer_id: int
    fire_at: datetime


class EventSent(_Event, frozen=True, kw_only=True):
    event_id: int
    instance_id: str
    name: str
    input: Payload | None = None


class MessagePublished(_Event, frozen=True, kw_only=True):
    event_id: int
    exchange: str
    key: str
    input: Payload | None = None


class EventRaised(_Event, frozen=True, kw_only=True):
    message_id: str
    name: str
    input: Payload | None = None
    trace: TraceContext | None = None
    """Where it was raised."""


class MessageReceived(_Event, frozen=True, kw_only=True):
    message_id: str
    name: str
    input: Payload | None = None
    asker: Asker | None = None
    """Who waits for the answer; nobody, if the message was only sent."""
    trace: TraceContext | None = None
    validated: bool = False
    """Whether its handler's validator let it pass before it was recorded. If not, the handler has it validated."""


class MessageAnswered(_Event, frozen=True, kw_only=True):
    event_id: int = -1
    """-1: no handler did; the orchestration ended, or went on as new, before one had."""
    message_id: str
    result: Payload | None = None
    failure: FailureDetails | None = None
    asker: Asker | None = None
    """Whom to tell; None for a message that was only sent, and refused."""


class MessageSent(_Event, frozen=True, kw_only=True):
    event_id: int
    instance_id: str
    name: str
    input: Payload | None = None
    asks: bool = False
    """Whether the code waits for an answer."""


class AnswerReceived(_Event, frozen=True, kw_only=True):
    task_scheduled_id: int
    result: Payload | None = None
    failure: FailureDetails | None = None


class ContinuedAsNew(_Event, frozen=True, kw_only=True):
    event_id: int
    next: ExecutionStarted
    """How the new execution begins."""
    carried: tuple[EventRaised | MessageReceived, ...] = ()
    """Events that nobody had waited for yet, and messages that no handler had taken, in order of arrival."""
    suspended: bool = False


class TerminationSent(_Event, frozen=True, kw_only=True):
    instance_id: str
    execution_id: str
    name: str
    reason: Payload | None = None


class EntityOperationCalled(_Event, frozen=True, kw_only=True):
    event_id: int
    instance_id: str
    operation: str
    input: Payload | None = None
    line: Position | None = None
    """Set when it is committed."""


class EntityOperationSignaled(_Event, frozen=True, kw_only=True):
    event_id: int
    instance_id: str
    operation: str
    input: Payload | None = None
    scheduled_time: datetime | None = None
    line: Position | None = None
    """Set when it is committed."""
    trace: TraceContext | None = None
    """What led an entity to send it."""


class EntityOperationCompleted(_Event, frozen=True, kw_only=True):
    task_scheduled_id: int
    result: Payload | None = None


class EntityOperationFailed(_Event, frozen=True, kw_only=True):
    task_scheduled_id: int
    failure: FailureDetails


class EntityLockRequested(_Event, frozen=True, kw_only=True):
    event_id: int
    instance_id: str
    lock_set: tuple[str, ...] = ()
    """All entities of the critical section, in the order in which they are asked for."""
    position: int = 0
    line: Position | None = None
    """Set when it is committed."""


class EntityLockGranted(_Event, frozen=True, kw_only=True):
    task_scheduled_id: int


class EntityUnlockSent(_Event, frozen=True, kw_only=True):
    event_id: int = -1
    """-1: the execution ended or went on as a new one, and its lock with it."""
    instance_id: str
    task_scheduled_id: int
    """The number of the request for the lock."""
    line: Position | None = None
    """Set when it is committed."""


class EntityRequestReceived(_Event, frozen=True, kw_only=True):
    request: Request
    timer_id: int | None = None
    """The timer that was set for it, if its time had not come."""


class EntityOperationProcessed(_Event, frozen=True, kw_only=True):
    request_id: str
    operation: str
    caller: Caller | None = None
    """Who is told."""
    trace: TraceContext | None = None
    """Where it was asked for."""
    result: Payload | None = None
    """What a caller is told; a signal's is not kept."""
    failure: FailureDetails | None = None


class EntityLocked(_Event, frozen=True, kw_only=True):
    caller: Caller


class NewOrchestrationStarted(_Event, frozen=True, kw_only=True):
    number: int
    name: str
    instance_id: str
    execution_id: str
    input: Payload | None = None
    version: str | None = None
    tags: dict[str, str] | None = None
    operation: str | None = None
    """The operation that is to be carried out when it has ended."""
    trace: TraceContext | None = None
    """What led to it."""


class StartedOrchestrationEnded(_Event, frozen=True, kw_only=True):
    number: int
    result: Payload | None = None
    failure: FailureDetails | None = None


class EntityYielded(_Event, frozen=True, kw_only=True):
    pass


#: What arrives from outside the orchestrator's code.
InputEvent: TypeAlias = (
    ExecutionStarted
    | TaskCompleted
    | TaskFailed
    | SubOrchestrationInstanceCompleted
    | SubOrchestrationInstanceFailed
    | TimerFired
    | EventRaised
    | MessageReceived
    | AnswerReceived
    | ExecutionSuspended
    | ExecutionResumed
    | ExecutionTerminated
    | EntityOperationCompleted
    | EntityOperationFailed
    | EntityLockGranted
)

#: What is sent to entities; each has its place in the sender's line to the entity.
ToEntityEvent: TypeAlias = EntityOperationCalled | EntityOperationSignaled | EntityLockRequested | EntityUnlockSent

#: What the orchestrator's code asked for; each carries the number of the action in ``event_id``.
ActionEvent: TypeAlias = (
    TaskScheduled
    | SubOrchestrationInstanceCreated
    | TimerCreated
    | EventSent
    | MessageSent
    | MessageAnswered
    | MessagePublished
    | ToEntityEvent
)

#: What only an entity's commits hold.
EntityEvent: TypeAlias = (
    EntityRequestReceived
    | EntityOperationProcessed
    | EntityLocked
    | NewOrchestrationStarted
    | StartedOrchestrationEnded
    | EntityYielded
)

HistoryEvent: TypeAlias = (
    InputEvent
    | ActionEvent
    | ExecutionCompleted
    | ContinuedAsNew
    | PatchApplied
    | ExecutionParked
    | TerminationSent
    | EntityEvent
)

#: Statuses that an instance never leaves.
TERMINAL: frozenset[str] = frozenset({"Completed", "Failed", "Terminated"})

RuntimeStatus: TypeAlias = Literal[
    "Pending", "Running", "Suspended", "Completed", "Failed", "Terminated", "ContinuedAsNew"
]
