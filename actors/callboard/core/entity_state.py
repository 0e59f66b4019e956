"""What is known of an entity: the fold of its record and commits, against which requests are judged.

Rules of this file:

* What a turn does to the state and what loading it again does are the same: `record` for every event, then `close`.
* Nothing here runs the user's code.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice

from callboard.core.entities import (
    Caller,
    CleanUp,
    Ended,
    EntityId,
    EntityMemory,
    EntityView,
    Lock,
    Operation,
    Position,
    Request,
    Started,
    Timed,
    Unlock,
)
from callboard.core.events import (
    TERMINAL,
    EntityLocked,
    EntityOperationProcessed,
    EntityOperationSignaled,
    EntityRequestReceived,
    HistoryEvent,
    NewOrchestrationStarted,
    Payload,
    RuntimeStatus,
    StartedOrchestrationEnded,
    TimerFired,
)
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord, Parked
from callboard.core.messages import ChildResult, EntityRequest, InstanceMessage, TimerDue, Wake
from callboard.core.ordering import LINE_AGE, Lines, OrderBook
from callboard.core.state import Verdict

#: Estimated size of what is remembered of one request, line or sender beside its values, in bytes.
ENTRY_SIZE = 160


class EntityState:
    """A live fold: `judge` says what a message means, `record` takes events into account, `close` ends a commit."""

    def __init__(self, record: InstanceRecord) -> None:
        self.instance_id = record.instance_id
        self.entity_id = EntityId.parse(record.instance_id)
        self.partition = record.partition
        self.execution_id = record.execution_id
        self.n = record.head
        self.first = record.head + 1
        self.status: RuntimeStatus = record.runtime_status
        self.parked: Parked | None = None
        self.at: datetime | None = None
        self.value: Payload | None = None
        """The entity's state; None: it does not exist."""
        self.last_operation: datetime | None = None
        self.last_failure: FailureDetails | None = None
        self.lock: Caller | None = None
        self.numbers = 0
        self.clean_up: float | None = None
        """How long the last operation must have been ago for the entity to end, if it was asked to, in seconds."""
        self.since_memory = 0
        """Estimated size of the events since the last commit that carried the memory whole, in bytes."""
        self.deltas = 0
        """How many commits there were since."""
        self._queue: deque[Request] = deque()
        self._urgent: deque[Request] = deque()
        self._timed: OrderedDict[int, Operation] = OrderedDict()
        self._started: OrderedDict[int, Started] = OrderedDict()
        self.book = OrderBook(horizon=record.created_time if record.head >= 0 else None)
        self.lines = Lines()
        self._waiting_size = 0

    @classmethod
    def fold(cls, record: InstanceRecord, commits: Sequence[Commit]) -> EntityState:
        """The entity after the commits that the store holds of it: one with its memory, and those that followed."""
        state = cls(record)
        for commit in commits:
            state.apply(commit)
        return state

    def apply(self, commit: Commit) -> None:
        """Takes a commit that was read from the store."""
        if commit.memory is not None:
            self._restore(commit.memory)
        else:
            for event in commit.events:
                self.record(event)
            self.age(commit.at)
        if commit.entity is not None:
            self.value = commit.entity.state
            self.last_operation = commit.entity.last_operation
            self.last_failure = commit.entity.last_failure
        self.committed(commit, sum(map(event_size, commit.events)))

    def committed(self, commit: Commit, size: int) -> None:
        """Notes a commit whose events were recorded."""
        self.n, self.first, self.at = commit.n, commit.first, commit.at
        self.status, self.parked = commit.runtime_status, commit.parked
        self.clean_up = None
        whole = commit.memory is not None
        self.since_memory, self.deltas = (0, 0) if whole else (self.since_memory + size, self.deltas + 1)

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    # What comes in

    def judge(self, message: InstanceMessage, now: datetime) -> HistoryEvent | Verdict:
        """Says what a message means for this entity now."""
        match message:
            case EntityRequest(request=request):
                return Verdict.DUPLICATE if self.book.knows(request.line) else self._received(request, now)
            case TimerDue():
                return self._judge_timer(message)
            case ChildResult():
                return self._judge_ended(message)
            case Wake():
                return Verdict.NUDGE if self.parked or self.next_request() is not None else Verdict.DUPLICATE
            case _:
                return Verdict.DUPLICATE  # no entity's business

    def _received(self, request: Request, now: datetime) -> EntityRequestReceived:
        timed = isinstance(request, Operation) and request.due is not None and request.due > now
        return EntityRequestReceived(timestamp=now, request=request, timer_id=self.numbers if timed else None)

    def _judge_timer(self, message: TimerDue) -> TimerFired | Verdict:
        if message.execution_id != self.execution_id:
            return Verdict.UNKNOWN
        if message.timer_id in self._timed:
            return TimerFired(timestamp=message.fire_at, timer_id=message.timer_id, fire_at=message.fire_at)
        return Verdict.DUPLICATE if message.timer_id < self.numbers else Verdict.UNKNOWN

    def _judge_ended(self, message: ChildResult) -> StartedOrchestrationEnded | Verdict:
        number = message.task_scheduled_id
        if message.execution_id != self.execution_id:
            return Verdict.UNKNOWN
        if number in self._started:
            return StartedOrchestrationEnded(
                timestamp=message.at, number=number, result=message.result, failure=message.failure
            )
        return Verdict.DUPLICATE if number < self.numbers else Verdict.UNKNOWN

    # What has happened

    def record(self, event: HistoryEvent) -> None:
        """Takes an event of this entity into account."""
        match event:
            case EntityRequestReceived():
                self._on_received(event)
            case EntityOperationProcessed():
                self._on_processed(event)
            case EntityLocked():
                self._on_locked(event.caller)
            case TimerFired():
                self._enter(self._timed.pop(event.timer_id))
            case StartedOrchestrationEnded():
                started = self._started.pop(event.number)
                self._enter(_told(self.execution_id, started, event))
            case EntityOperationSignaled():
                self.numbers = max(self.numbers, event.event_id + 1)
                if event.line is not None and event.scheduled_time is None:
                    self.lines.note(event.instance_id, event.line, event.timestamp)
            case NewOrchestrationStarted():
                self.numbers = max(self.numbers, event.number + 1)
                if event.operation is not None:
                    self._started[event.number] = Started(
                        number=event.number, instance_id=event.instance_id, operation=event.operation
                    )
            case _:
                pass

    def _on_received(self, event: EntityRequestReceived) -> None:
        request = event.request
        if event.timer_id is not None and isinstance(request, Operation):
            self.book.take(request)
            self._timed[event.timer_id] = request
            self.numbers = max(self.numbers, event.timer_id + 1)
            return
        for ready in self.book.take(request):
            self._enter(ready)

    def _enter(self, request: Request) -> None:
        """A request's turn in its line has come."""
        match request:
            case Unlock():
                self._unlock(request.caller)
                return
            case CleanUp():
                self.clean_up = request.idle
                return
            case Operation() if self._is_owners(request):
                self._urgent.append(request)
            case _:
                self._queue.append(request)
        self._waiting_size += request_size(request)

    def _is_owners(self, request: Request) -> bool:
        return (
            self.lock is not None
            and isinstance(request, Operation)
            and request.caller is not None
            and request.caller.execution_id == self.lock.execution_id
        )

    def _unlock(self, caller: Caller) -> None:
        if self.lock == caller:
            self.lock = None
            self._queue.extendleft(reversed(self._urgent))
            self._urgent.clear()
            return
        for request in self._queue:
            if isinstance(request, Lock) and request.caller == caller:
                self._queue.remove(request)
                self._waiting_size -= request_size(request)
                return

    def _on_locked(self, caller: Caller) -> None:
        request = self._queue.popleft()
        assert isinstance(request, Lock)
        self._waiting_size -= request_size(request)
        self.lock = caller
        urgent = [waiting for waiting in self._queue if self._is_owners(waiting)]
        if urgent:
            self._urgent.extend(urgent)
            self._queue = deque(waiting for waiting in self._queue if not self._is_owners(waiting))

    def _on_processed(self, event: EntityOperationProcessed) -> None:
        line = self._urgent if self.lock is not None else self._queue
        request = line.popleft()
        assert isinstance(request, Operation)
        assert request.request_id == event.request_id
        self._waiting_size -= request_size(request)

    def next_request(self) -> Request | None:
        """What is to be carried out next; None: nothing at present."""
        line = self._urgent if self.lock is not None else self._queue
        return line[0] if line else None

    def upcoming(self, most: int) -> list[Request]:
        """The first of the requests that may be carried out."""
        return list(islice(self._urgent if self.lock is not None else self._queue, most))

    def age(self, at: datetime) -> None:
        """Ends the events of a commit: forgets what is old enough."""
        elapsed = at - self.at if self.at is not None else timedelta()
        for request in self.book.age(elapsed):
            self._enter(request)
        self.lines.forget(at - LINE_AGE)

    @property
    def is_empty(self) -> bool:
        """Whether the entity has no state, and nothing to do."""
        waiting = self._queue or self._urgent or self._timed or self._started or self.book.held
        return self.value is None and self.lock is None and not waiting

    # What is kept

    @property
    def view(self) -> EntityView:
        return EntityView(
            state=self.value,
            locked_by=self.lock.instance_id if self.lock else None,
            backlog=len(self._queue) + len(self._urgent),
            last_operation=self.last_operation,
            last_failure=self.last_failure,
        )

    @property
    def memory_size(self) -> int:
        """Estimated size of the memory, in bytes."""
        entries = len(self.book) + len(self.lines) + len(self._timed) + len(self._started)
        waiting = sum(map(request_size, (*self._timed.values(), *self.book.held)))
        return self._waiting_size + ENTRY_SIZE * entries + waiting

    def memory(self) -> EntityMemory:
        return EntityMemory(
            queue=tuple(self._queue),
            urgent=tuple(self._urgent),
            timed=tuple(Timed(timer_id=timer, request=request) for timer, request in self._timed.items()),
            held=self.book.held,
            lock=self.lock,
            heard=self.book.heard,
            lines=self.lines.values(),
            started=tuple(self._started.values()),
            clock=self.book.clock,
            horizon=self.book.horizon,
            numbers=self.numbers,
        )

    def _restore(self, memory: EntityMemory) -> None:
        self._queue, self._urgent = deque(memory.queue), deque(memory.urgent)
        self._timed = OrderedDict((each.timer_id, each.request) for each in memory.timed)
        self._started = OrderedDict((each.number, each) for each in memory.started)
        self.book = OrderBook(memory.heard, memory.held, clock=memory.clock, horizon=memory.horizon)
        self.lines = Lines(memory.lines)
        self.lock, self.numbers, self.clean_up = memory.lock, memory.numbers, None
        self._waiting_size = sum(map(request_size, (*memory.queue, *memory.urgent)))


def _told(execution_id: str, started: Started, event: StartedOrchestrationEnded) -> Operation:
    """The operation by which an entity hears of the end of an orchestration that it started."""
    request_id = f"{execution_id}/ended/{started.number}"
    return Operation(
        line=Position(sender=request_id),
        sent=event.timestamp,
        request_id=request_id,
        operation=started.operation,
        ended=Ended(number=started.number, instance_id=started.instance_id, result=event.result, failure=event.failure),
    )


def request_size(request: Request) -> int:
    """Estimated size of a request, in bytes."""
    if not isinstance(request, Operation):
        return ENTRY_SIZE
    result = request.ended.result if request.ended is not None else None
    return ENTRY_SIZE + len(request.input or result or "")


def event_size(event: HistoryEvent) -> int:
    """Estimated size of an event that only an entity's commit holds, in bytes."""
    match event:
        case EntityRequestReceived():
            return request_size(event.request)
        case EntityOperationSignaled() | NewOrchestrationStarted():
            return ENTRY_SIZE + len(event.input or "")
        case StartedOrchestrationEnded() | EntityOperationProcessed():
            return ENTRY_SIZE + len(event.result or "")
        case _:
            return ENTRY_SIZE
