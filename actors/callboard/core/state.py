"""What is known of an instance: the fold of its record and commits, against which messages are judged.

Rules of this file:

* It never runs code. An instance whose code cannot run is judged just the same.
* "Consumed" and "ended" only ever become true, so they may decide that a message is a duplicate. Everything else that speaks
  against a message ("unknown execution", "already terminal") can be a stale view's error: the verdict is then UNKNOWN, and
  only a linearizable read may turn it into a drop.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from callboard.core.events import (
    TERMINAL,
    AnswerReceived,
    ContinuedAsNew,
    EntityLockGranted,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityOperationSignaled,
    EntityUnlockSent,
    EventRaised,
    ExecutionCompleted,
    ExecutionParked,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    HistoryEvent,
    InputEvent,
    MessageAnswered,
    MessageReceived,
    MessageSent,
    PatchApplied,
    Payload,
    RuntimeStatus,
    SeenMessage,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
    ToEntityEvent,
)
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord, Parked, derived_execution_id
from callboard.core.messages import (
    Answer,
    ChildResult,
    ContinueExecution,
    DeliverMessage,
    EntityRequest,
    InstanceMessage,
    LockGranted,
    OperationResult,
    Query,
    RaiseEvent,
    Resume,
    StartExecution,
    Suspend,
    TaskResult,
    Terminate,
    TimerDue,
    Wake,
    Watch,
)
from callboard.core.ordering import Lines
from callboard.core.tracing import TraceContext, checked, execution_context

#: Most message ids that are remembered across ``continue_as_new``: the latest ones.
MOST_SEEN = 10_000


class Verdict(enum.Enum):
    """Why a message yields no event."""

    DUPLICATE = "duplicate"
    """It was consumed, or what it answers has ended: drop it."""
    UNKNOWN = "unknown"
    """It does not fit what is known here; drop it only after a linearizable read has said that this is current."""
    NUDGE = "nudge"
    """It asks for a turn and leaves no event."""


class InstanceState:
    """A live fold: `apply` takes commits, `judge` and `accept` take what comes in."""

    def __init__(self, record: InstanceRecord) -> None:
        self.instance_id = record.instance_id
        self.partition = record.partition
        self.execution_id = record.execution_id
        self.name = record.name
        self.version, self.tags = record.version, record.tags
        self.parent = record.parent
        self.generation = record.generation
        self.n = record.head
        self.first = record.head + 1
        self.status: RuntimeStatus = record.runtime_status
        self.custom_status: Payload | None = record.custom_status
        self.parked: Parked | None = None
        self.suspended = False
        self.start: ExecutionStarted | None = None if record.terminal else _start_of(record)
        """How the next execution begins, when it has not begun yet."""
        self.carried: tuple[EventRaised | MessageReceived, ...] = ()
        self.begins_suspended = False
        self.seen: dict[str, datetime] = {}
        """Ids of consumed messages, and when they were consumed (here: the clocks of senders prove nothing)."""
        self.asked: dict[str, MessageReceived] = {}
        """Messages whose answer somebody waits for, by id."""
        self.answers: dict[str, MessageAnswered] = {}
        """Answers given, by the message's id: who asks again is told the same again."""
        self.open: dict[int, HistoryEvent] = {}
        """Actions of this execution whose end has not come: tasks, children, timers and asks by number."""
        self.highest = -1
        """The highest action number of this execution."""
        self.lines, self.locks = Lines(), dict[int, EntityLockRequested]()
        """What it has sent to entities; the locks that it has or has asked for, by the number of the request."""
        self.trace: TraceContext | None = None
        """What led to this execution."""
        self.span: TraceContext | None = None
        """The execution's own span."""
        self.started: datetime | None = None
        self.closed: dict[int, HistoryEvent] = {}
        """Actions whose end the present turn has brought."""
        self.awaited_events: tuple[str, ...] = ()
        """External events that the code waits for."""
        self.at: datetime | None = None
        """Time of the last commit: the orchestration's clock never runs behind it."""

    @classmethod
    def fold(cls, record: InstanceRecord, commits: Sequence[Commit]) -> InstanceState:
        """The state after the commits that the store holds for the record's instance."""
        state = cls(record)
        for commit in commits:
            state.apply(commit)
            state.closed.clear()
        return state

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def waiting_to_begin(self) -> bool:
        return self.start is not None

    def due(self, now: datetime) -> bool:
        """Whether an execution waits to begin, and its time has come."""
        start = self.start
        return start is not None and (start.scheduled_start_time is None or start.scheduled_start_time <= now)

    def apply(self, commit: Commit) -> None:
        """Takes a commit of this instance, our own or one read from the store."""
        if commit.execution_id != self.execution_id or self.start is not None:
            self._begin(commit.execution_id, commit.first)
        self.n, self.first, self.at = commit.n, commit.first, commit.at
        for event in commit.events:
            self._record(event, commit.at)
        for timer in commit.timers_cancelled:
            self.open.pop(timer, None)
        for task in commit.tasks_cancelled:
            self._close(task)
        self.status, self.custom_status, self.parked = commit.runtime_status, commit.custom_status, commit.parked
        self.awaited_events = commit.awaited_events

    def judge(self, message: InstanceMessage) -> InputEvent | Verdict:
        """Says what a message means for this instance now: an event for its history, or why there is none."""
        match message:
            case TaskResult() | ChildResult() | TimerDue() | Answer() | OperationResult() | LockGranted():
                return self._judge_result(message)
            case StartExecution() | ContinueExecution():
                return self._judge_start(message.execution_id)
            case RaiseEvent() | DeliverMessage() | Terminate() | Suspend() | Resume():
                return self._judge_order(message)
            case Wake():
                return Verdict.NUDGE if self.parked or self.waiting_to_begin else Verdict.DUPLICATE
            case (
                Watch() | Query() | EntityRequest()
            ):  # the turn answers queries; requests are no orchestration's business
                return Verdict.DUPLICATE

    def accept(self, event: InputEvent, at: datetime) -> None:
        """Takes an event into account at once, so that its duplicate in the same turn is known.

        Args:
            event: What `judge` made of a message.
            at: The time of the turn that consumes it.
        """
        match event:
            case (
                TaskCompleted()
                | TaskFailed()
                | SubOrchestrationInstanceCompleted()
                | SubOrchestrationInstanceFailed()
                | AnswerReceived()
                | EntityOperationCompleted()
                | EntityOperationFailed()
                | EntityLockGranted()
            ):
                self._close(event.task_scheduled_id)
            case TimerFired():
                self._close(event.timer_id)
            case EventRaised() | ExecutionTerminated() | ExecutionSuspended() | ExecutionResumed():
                self.seen[event.message_id] = at
            case MessageReceived():
                self.seen[event.message_id] = at
                if event.asker is not None:
                    self.asked[event.message_id] = event
            case ExecutionStarted():
                pass
        if isinstance(event, ExecutionSuspended):
            self.suspended = True
        elif isinstance(event, ExecutionResumed):
            self.suspended = False

    def _close(self, number: int) -> None:
        action = self.open.pop(number, None)
        if action is not None:
            self.closed[number] = action

    def unaccept(self, message_ids: Iterable[str]) -> None:
        """Forgets messages that were refused after all."""
        for message_id in message_ids:
            self.seen.pop(message_id, None)
            self.asked.pop(message_id, None)

    def recently_seen(self, since: datetime) -> tuple[SeenMessage, ...]:
        """Consumed message ids that must be remembered by the next execution."""
        recent = sorted((at, key) for key, at in self.seen.items() if at >= since)
        return tuple(SeenMessage(message_id=key, at=at) for at, key in recent[-MOST_SEEN:])

    def begin(self, now: datetime) -> list[InputEvent]:
        """The first events of the execution that waits to begin."""
        if self.start is None:
            return []
        started = msgspec.structs.replace(self.start, timestamp=now)
        events: list[InputEvent] = [started, *self.carried]
        if self.begins_suspended:  # first of all, so that the code does not begin before it is resumed
            events.insert(0, ExecutionSuspended(timestamp=now, message_id=f"{started.execution_id}/suspended"))
        self._begin(started.execution_id, self.n + 1)
        self._follow(started)
        self.generation, self.parent, self.name = started.generation, started.parent, started.name
        self.version, self.tags = started.version, started.tags
        return events

    def open_tasks(self) -> list[int]:
        return [number for number, action in self.open.items() if isinstance(action, TaskScheduled)]

    def start_limits_over(self, cancelled: Sequence[int]) -> tuple[int, ...]:
        """Activities whose start was limited and whose end the present turn has brought, or that it cancels."""
        ended = {**self.closed, **{number: self.open[number] for number in cancelled if number in self.open}}
        return tuple(
            number for number, action in ended.items() if isinstance(action, TaskScheduled) and action.schedule_to_start
        )

    def open_children(self) -> list[SubOrchestrationInstanceCreated]:
        return [action for action in self.open.values() if isinstance(action, SubOrchestrationInstanceCreated)]

    def _begin(self, execution_id: str, first: int) -> None:
        self.execution_id, self.first = execution_id, first
        self.start, self.carried, self.begins_suspended = None, (), False
        self.open, self.highest = {}, -1
        self.locks = {}

    def _follow(self, started: ExecutionStarted) -> None:
        """Takes up the trace that led to this execution."""
        self.trace, self.started = started.trace, started.timestamp
        self.span = execution_context(started.trace, started.execution_id)

    def _record(self, event: HistoryEvent, at: datetime) -> None:
        match event:
            case SubOrchestrationInstanceCreated(fire_and_forget=True):
                self.highest = max(self.highest, event.event_id)
            case TaskScheduled() | SubOrchestrationInstanceCreated() | TimerCreated() | MessageSent(asks=True):
                self.open[event.event_id] = event
                self.highest = max(self.highest, event.event_id)
            case ContinuedAsNew():
                self.start, self.carried = event.next, event.carried
                self.suspended = self.begins_suspended = event.suspended
                self.seen = {raised.message_id: at for raised in event.carried}
                self.seen.update((seen.message_id, seen.at) for seen in event.next.seen)
                carried = (each for each in event.carried if isinstance(each, MessageReceived))
                self.asked = {each.message_id: each for each in carried if each.asker is not None}
                self.answers = {answer.message_id: answer for answer in event.next.answers}
            case ExecutionStarted():
                self.name, self.parent, self.version, self.tags = event.name, event.parent, event.version, event.tags
                self.generation = event.generation
                self._follow(event)
                self.seen.update((seen.message_id, seen.at) for seen in event.seen)
                self.lines = Lines(event.lines)
                self.answers.update((answer.message_id, answer) for answer in event.answers)
            case MessageAnswered():
                self.asked.pop(event.message_id, None)
                self.answers[event.message_id] = event
                self.highest = max(self.highest, event.event_id)
            case ExecutionCompleted() | ExecutionParked() | PatchApplied():
                pass
            case (
                TaskCompleted()
                | TaskFailed()
                | SubOrchestrationInstanceCompleted()
                | SubOrchestrationInstanceFailed()
                | EntityOperationCompleted()
                | EntityOperationFailed()
                | EntityLockGranted()
                | TimerFired()
                | EventRaised()
                | MessageReceived()
                | AnswerReceived()
                | ExecutionTerminated()
                | ExecutionSuspended()
                | ExecutionResumed()
            ):
                self.accept(event, at)
            case EntityOperationCalled() | EntityOperationSignaled() | EntityLockRequested() | EntityUnlockSent():
                self._record_sent(event, at)
            case _:  # EventSent, a MessageSent that asks nothing, TerminationSent: nothing waits for them
                self.highest = max(self.highest, getattr(event, "event_id", -1))

    def _record_sent(self, event: ToEntityEvent, at: datetime) -> None:
        """Something was sent to an entity."""
        self.highest = max(self.highest, event.event_id)
        if event.line is not None and not _has_own_line(event):
            self.lines.note(event.instance_id, event.line, at)
        match event:
            case EntityOperationCalled():
                self.open[event.event_id] = event
            case EntityLockRequested():
                self.open[event.event_id] = event
                self.locks[event.event_id] = event
            case EntityUnlockSent():
                self.locks.pop(event.task_scheduled_id, None)
            case EntityOperationSignaled():
                pass

    def _judge_result(
        self, message: TaskResult | ChildResult | TimerDue | Answer | OperationResult | LockGranted
    ) -> InputEvent | Verdict:
        number = message.timer_id if isinstance(message, TimerDue) else message.task_scheduled_id
        if message.execution_id != self.execution_id or self.waiting_to_begin or self.terminal:
            return Verdict.UNKNOWN
        action = self.open.get(number)
        if action is None:
            return Verdict.DUPLICATE if number <= self.highest else Verdict.UNKNOWN
        return _result_event(message, action)

    def _judge_start(self, execution_id: str) -> Verdict:
        if self.start is not None:
            return Verdict.NUDGE if self.start.execution_id == execution_id else Verdict.UNKNOWN
        return Verdict.DUPLICATE if execution_id == self.execution_id else Verdict.UNKNOWN

    def _judge_order(self, message: RaiseEvent | DeliverMessage | Terminate | Suspend | Resume) -> InputEvent | Verdict:
        if message.message_id in self.seen:
            return Verdict.DUPLICATE
        if self.terminal:
            return Verdict.UNKNOWN
        match message:
            case RaiseEvent():
                return EventRaised(
                    timestamp=message.at,
                    message_id=message.message_id,
                    name=message.name,
                    input=message.input,
                    trace=checked(message.trace),
                )
            case DeliverMessage():
                return MessageReceived(
                    timestamp=message.at,
                    message_id=message.message_id,
                    name=message.name,
                    input=message.input,
                    asker=message.asker,
                    trace=checked(message.trace),
                )
            case Terminate():
                current = self.start.execution_id if self.start else self.execution_id
                if message.execution_id is not None and not self._descends_from(message.execution_id, current):
                    return Verdict.UNKNOWN
                return ExecutionTerminated(
                    timestamp=message.at, message_id=message.message_id, input=message.reason, recurse=message.recurse
                )
            case Suspend():
                return ExecutionSuspended(timestamp=message.at, message_id=message.message_id, reason=message.reason)
            case Resume():
                return ExecutionResumed(timestamp=message.at, message_id=message.message_id, reason=message.reason)

    def _descends_from(self, execution_id: str, current: str) -> bool:
        """A parent names the child's first execution; the child may have continued as new since, under the same parent."""
        parent = self.start.parent if self.start else self.parent
        first = derived_execution_id(parent.execution_id, parent.task_scheduled_id, "child") if parent else None
        return execution_id in (current, first)


def _start_of(record: InstanceRecord) -> ExecutionStarted | None:
    if record.runtime_status != "Pending":
        return None
    return ExecutionStarted(
        timestamp=record.created_time,
        name=record.name,
        execution_id=record.execution_id,
        input=record.input,
        parent=record.parent,
        version=record.version,
        tags=record.tags,
        scheduled_start_time=record.scheduled_start_time,
        trace=checked(record.trace),
        generation=record.generation,
    )


def _has_own_line(event: ToEntityEvent) -> bool:
    return isinstance(event, EntityOperationSignaled) and event.scheduled_time is not None


def _result_event(
    message: TaskResult | ChildResult | TimerDue | Answer | OperationResult | LockGranted, action: HistoryEvent
) -> InputEvent | Verdict:
    """The event that ends an action; a message of the wrong sort for it is not ours to believe."""
    match message, action:
        case TimerDue(), TimerCreated():
            return TimerFired(timestamp=message.fire_at, timer_id=message.timer_id, fire_at=action.fire_at)
        case TaskResult(), TaskScheduled():
            return _task_ended(message)
        case ChildResult(), SubOrchestrationInstanceCreated():
            return _child_ended(message)
        case Answer(), MessageSent():
            return AnswerReceived(
                timestamp=message.at,
                task_scheduled_id=message.task_scheduled_id,
                result=message.result,
                failure=message.failure,
            )
        case OperationResult(), EntityOperationCalled():
            return _operation_ended(message)
        case LockGranted(), EntityLockRequested():
            return EntityLockGranted(timestamp=message.at, task_scheduled_id=message.task_scheduled_id)
        case _:
            return Verdict.UNKNOWN


def _task_ended(message: TaskResult) -> TaskCompleted | TaskFailed:
    at, task_id = message.at, message.task_scheduled_id
    if message.failure is None:
        return TaskCompleted(timestamp=at, task_scheduled_id=task_id, result=message.result)
    return TaskFailed(
        timestamp=at,
        task_scheduled_id=task_id,
        failure=message.failure,
        heartbeat_details=message.heartbeat_details,
    )


def _child_ended(message: ChildResult) -> SubOrchestrationInstanceCompleted | SubOrchestrationInstanceFailed:
    at, task_id = message.at, message.task_scheduled_id
    if message.failure is None:
        return SubOrchestrationInstanceCompleted(timestamp=at, task_scheduled_id=task_id, result=message.result)
    return SubOrchestrationInstanceFailed(timestamp=at, task_scheduled_id=task_id, failure=message.failure)


def _operation_ended(message: OperationResult) -> EntityOperationCompleted | EntityOperationFailed:
    at, task_id = message.at, message.task_scheduled_id
    if message.failure is None:
        return EntityOperationCompleted(timestamp=at, task_scheduled_id=task_id, result=message.result)
    return EntityOperationFailed(timestamp=at, task_scheduled_id=task_id, failure=message.failure)


def terminated_failure(name: str, reason: Payload | None) -> FailureDetails:
    """What a parent sees when its child was terminated."""
    return FailureDetails(
        error_type="Terminated",
        error_message=f"{name!r} was terminated" + (f": {reason}" if reason else ""),
        is_non_retriable=True,
    )
