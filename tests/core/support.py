"""An instance in a test tube: its turns, its commits, and a scripted world around it. All in memory, all time virtual."""

from __future__ import annotations

import heapq
import inspect
import logging
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import count, repeat
from typing import TYPE_CHECKING, Any

import msgspec

from callboard.core import payloads
from callboard.core.calls import CallTarget
from callboard.core.codec import JSON, Codec, Content, input_place, load
from callboard.core.effects import CallActivity, Effect, SetTimer, StartChild, Tell, derive, projection
from callboard.core.events import (
    ContinuedAsNew,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    ParentInstance,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
    TimerCreated,
)
from callboard.core.execution import Unrunnable
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.messages import (
    ChildResult,
    ContinueExecution,
    InstanceMessage,
    RaiseEvent,
    Resume,
    StartExecution,
    Suspend,
    TaskResult,
    Terminate,
    TimerDue,
    Wake,
)
from callboard.core.replay import ACTION_EVENTS, INPUT_EVENTS
from callboard.core.turn import Activation, Turn
from callboard.replay_logging import ReplaySafeLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from callboard.core.context import OrchestrationContext
    from callboard.core.events import RuntimeStatus

EPOCH = datetime(2026, 1, 1, 12, tzinfo=UTC)
PARTITIONS = 8
DECLINED = FailureDetails(error_type="shop.DeclinedError", error_message="card declined", stack_trace="  at pay()\n")


def at(seconds: float) -> datetime:
    """The virtual time so many seconds after the beginning."""
    return EPOCH + timedelta(seconds=seconds)


class Code:
    """An orchestration out of a plain function of the context, and of its input if it has a second parameter."""

    codec = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.takes_input = len(inspect.signature(function).parameters) > 1

    def invoke(self, context: OrchestrationContext, payload: Content | None) -> Any:
        if self.takes_input:
            return self.function(context, load(payload, Any, "The input"))
        return self.function(context)

    def logger(
        self, logger: logging.Logger | None, marks: dict[str, str], quiet: Callable[[], bool]
    ) -> ReplaySafeLogger:
        return ReplaySafeLogger(logger or logging.getLogger(self.function.__module__), marks, quiet)


class Targets:
    """Calls by name, or by function: its name, and its return annotation for the result."""

    def activity(self, target: object) -> CallTarget:
        return self._target(target)

    def orchestration(self, target: object, version: str | None = None) -> CallTarget:
        return msgspec.structs.replace(self._target(target), version=version)

    def _target(self, target: object) -> CallTarget:
        if isinstance(target, str):
            return CallTarget(target)
        returned = inspect.signature(target, eval_str=True).return_annotation  # type: ignore[arg-type]
        return CallTarget(target.__name__, "default", returned)  # type: ignore[attr-defined]


def code_of(function: Callable[..., Any] | None) -> Code | Unrunnable:
    return Code(function) if function is not None else Unrunnable("Nobody knows 'program'.")


class Instance:
    """One instance and all its commits. `forget` loses what is in memory; the next delivery loads and replays."""

    def __init__(
        self,
        function: Callable[..., Any] | None,
        value: object = None,
        *,
        instance_id: str = "one",
        parent: ParentInstance | None = None,
        head: int = -1,
        execution_id: str = "e" * 32,
        version: str | None = None,
        projected: bool = True,
        codec: Codec = JSON,
    ) -> None:
        self.codec = codec
        self.code = code_of(function)
        self.record = InstanceRecord(
            instance_id=instance_id,
            partition=3,
            execution_id=execution_id,
            name="program",
            version=version,
            input=codec.seal(codec.encode(value, "The input"), input_place(instance_id, execution_id)),
            created_time=EPOCH,
            last_updated_time=EPOCH,
            parent=parent,
            head=head,
            first=head + 1,
        )
        self.commits: list[Commit] = []
        self.now = EPOCH
        self.projected = projected
        self.activation: Activation | None = None
        self._numbers = count()

    # Turns

    def deliver(self, *messages: InstanceMessage, after: float = 0) -> Turn:
        """One turn, some time later."""
        self.now += timedelta(seconds=after)
        activation = self.loaded()
        turn = activation.turn(messages, now=self.now, token=f"token-{len(self.commits)}")
        if turn.commit is not None:
            self.commits.append(turn.commit)
            if self.projected:
                self.record = apply_projection(self.record, turn.commit)
        if not activation.hot:
            self.forget()
        return turn

    def commit(self, *messages: InstanceMessage, after: float = 0) -> Commit:
        """One turn that must end in a commit and leave nothing unknown."""
        turn = self.deliver(*messages, after=after)
        assert turn.commit is not None
        assert turn.unknown == ()
        return turn.commit

    def loaded(self) -> Activation:
        if self.activation is None:
            self.activation = Activation(self.record, current_commits(self.commits), self.code, Targets(), self.codec)
        return self.activation

    def forget(self) -> None:
        if self.activation is not None:
            self.activation.close()
            self.activation = None

    def become(self, function: Callable[..., Any] | None) -> None:
        """Deploys other code."""
        self.code = code_of(function)
        self.forget()

    # Messages

    def start(self) -> StartExecution:
        return StartExecution(instance_id=self.record.instance_id, execution_id=self.record.execution_id)

    def go_on(self) -> ContinueExecution:
        continued = self.commits[-1].continued
        assert continued is not None
        return ContinueExecution(instance_id=self.record.instance_id, execution_id=continued.next.execution_id)

    def result(self, task_id: int, value: object = None, failure: FailureDetails | None = None) -> TaskResult:
        return TaskResult(
            instance_id=self.record.instance_id,
            execution_id=self.execution_id,
            task_scheduled_id=task_id,
            at=self.now,
            result=payloads.encode(value, "The result"),
            failure=failure,
        )

    def child(self, task_id: int, value: object = None, failure: FailureDetails | None = None) -> ChildResult:
        return ChildResult(
            instance_id=self.record.instance_id,
            execution_id=self.execution_id,
            task_scheduled_id=task_id,
            at=self.now,
            result=payloads.encode(value, "The result"),
            failure=failure,
        )

    def timer(self, timer_id: int) -> TimerDue:
        created = next(event for event in self.timers() if event.event_id == timer_id)
        return TimerDue(
            instance_id=self.record.instance_id,
            execution_id=self.execution_id,
            timer_id=timer_id,
            fire_at=created.fire_at,
        )

    def event(self, name: str, data: object = None, message_id: str | None = None) -> RaiseEvent:
        return RaiseEvent(
            instance_id=self.record.instance_id,
            message_id=message_id or self._message_id(),
            name=name,
            at=self.now,
            input=payloads.encode(data, "The data"),
        )

    def terminate(
        self,
        reason: object = None,
        *,
        recurse: bool = True,
        execution_id: str | None = None,
        message_id: str | None = None,
    ) -> Terminate:
        return Terminate(
            instance_id=self.record.instance_id,
            message_id=message_id or self._message_id(),
            at=self.now,
            reason=payloads.encode(reason, "The reason"),
            recurse=recurse,
            execution_id=execution_id,
        )

    def suspend(self, message_id: str | None = None) -> Suspend:
        return Suspend(
            instance_id=self.record.instance_id,
            message_id=message_id or self._message_id(),
            at=self.now,
            reason="lunch",
        )

    def resume(self, message_id: str | None = None) -> Resume:
        return Resume(instance_id=self.record.instance_id, message_id=message_id or self._message_id(), at=self.now)

    def wake(self) -> Wake:
        return Wake(instance_id=self.record.instance_id)

    def _message_id(self) -> str:
        return f"message-{next(self._numbers)}"

    # What is known afterwards

    @property
    def execution_id(self) -> str:
        return self.commits[-1].execution_id if self.commits else self.record.execution_id

    @property
    def status(self) -> RuntimeStatus:
        return self.commits[-1].runtime_status

    @property
    def completed(self) -> ExecutionCompleted:
        completed = self.commits[-1].completed
        assert completed is not None, f"still {self.status}"
        return completed

    @property
    def output(self) -> Any:
        assert self.completed.failure is None, self.completed.failure
        return payloads.decode(self.completed.result, Any, "The output")

    @property
    def failure(self) -> FailureDetails:
        assert self.completed.failure is not None
        return self.completed.failure

    @property
    def custom_status(self) -> Any:
        return payloads.decode(self.commits[-1].custom_status, Any, "The status")

    @property
    def history(self) -> list[HistoryEvent]:
        """All events of the present execution."""
        return [event for commit in self.commits if commit.execution_id == self.execution_id for event in commit.events]

    def scheduled(self) -> list[tuple[int, str, Any]]:
        """The activities called in this execution."""
        return [
            (event.event_id, event.name, payloads.decode(event.input, Any, "The input"))
            for event in self.history
            if isinstance(event, TaskScheduled)
        ]

    def timers(self) -> list[TimerCreated]:
        return [event for event in self.history if isinstance(event, TimerCreated)]

    def children(self) -> list[SubOrchestrationInstanceCreated]:
        return [event for event in self.history if isinstance(event, SubOrchestrationInstanceCreated)]


def started(function: Callable[..., Any], value: object = None, **options: Any) -> Instance:
    """An instance after its first turn."""
    instance = Instance(function, value, **options)
    instance.commit(instance.start())
    return instance


def current_commits(commits: Sequence[Commit]) -> tuple[Commit, ...]:
    """What a store's ``load`` returns."""
    if not commits:
        return ()
    last = commits[-1]
    if last.continued is not None:
        return (last,)
    return tuple(commit for commit in commits if commit.n >= last.first)


def apply_projection(record: InstanceRecord, commit: Commit) -> InstanceRecord:
    """What a store's ``project`` does to a record that is not ahead."""
    change = projection(commit)
    return msgspec.structs.replace(
        record,
        execution_id=change.next_execution_id,
        generation=change.next_generation,
        head=change.n,
        first=change.first,
        runtime_status=change.runtime_status,
        custom_status=change.custom_status,
        last_updated_time=change.last_updated_time,
        completed_time=change.completed_time,
        parked=change.parked,
        input=change.input if change.begins else record.input,
        version=change.version if change.begins else record.version,
        output=change.output,
        failure=change.failure,
    )


def through_json(commits: Iterable[Commit]) -> list[Commit]:
    """Commits as they come back from a store."""
    return [msgspec.json.decode(msgspec.json.encode(commit), type=Commit) for commit in commits]


# --- The world around an instance ---------------------------------------------------------------------------------------


class World:
    """Plays activities, children, timers and clients for one instance.

    An activity or child is called with ``[delay, fails, value]`` and does just that. Messages come in the order of their times, and
    at one time in the order of their causes, however the stream is cut into turns. Time goes on only when nothing waits.
    """

    MOST_TURNS = 2_000

    def __init__(self, instance: Instance, clients: Iterable[tuple[float, InstanceMessage]] = ()) -> None:
        self.instance = instance
        self.queue: deque[InstanceMessage] = deque([instance.start()])
        self.due: list[tuple[datetime, int, InstanceMessage]] = []
        self.sent: list[InstanceMessage] = []
        self.turns = 0
        self._order = count()
        for seconds, message in clients:
            self._schedule(at(seconds), message)

    def run(
        self,
        sizes: Iterable[int] = repeat(1),
        cut: Callable[[int], bool] = lambda turn: False,
        repeated: Callable[[int], bool] = lambda turn: False,
    ) -> Instance:
        """Runs until nothing is left to do.

        Args:
            sizes: How many messages each turn takes.
            cut: Whether to forget the activation after that turn.
            repeated: Whether the messages of that turn are delivered again, at the end of the queue.
        """
        plan: Iterator[int] = iter(sizes)
        while self._next() and not (self.instance.commits and self.instance.commits[-1].terminal):
            batch = [self.queue.popleft() for _ in range(min(next(plan, 1), len(self.queue)))]
            if repeated(self.turns):
                self.queue.extend(batch)
            turn = self.instance.deliver(*batch)
            if turn.commit is not None:
                for effect in derive(turn.commit, PARTITIONS):
                    self._play(effect)
            if cut(self.turns):
                self.instance.forget()
            self.turns += 1
            assert self.turns < self.MOST_TURNS
        return self.instance

    def _next(self) -> bool:
        if not self.queue and self.due:
            now = self.instance.now = max(self.instance.now, self.due[0][0])
            while self.due and self.due[0][0] <= now:
                self.queue.append(heapq.heappop(self.due)[2])
        return bool(self.queue)

    def _schedule(self, time: datetime, message: InstanceMessage) -> None:
        if time <= self.instance.now:
            self.queue.append(message)
        else:
            heapq.heappush(self.due, (time, next(self._order), message))

    def _play(self, effect: Effect) -> None:
        match effect:
            case CallActivity(call=call):
                delay, result, failure = _answer(call.input)
                time = self.instance.now + timedelta(seconds=delay)
                self._schedule(
                    time,
                    TaskResult(
                        instance_id=call.instance_id,
                        execution_id=call.execution_id,
                        task_scheduled_id=call.task_scheduled_id,
                        at=time,
                        result=result,
                        failure=failure,
                    ),
                )
            case StartChild(record=record):
                delay, result, failure = _answer(record.input)
                time = self.instance.now + timedelta(seconds=delay)
                assert record.parent is not None
                self._schedule(
                    time,
                    ChildResult(
                        instance_id=record.parent.instance_id,
                        execution_id=record.parent.execution_id,
                        task_scheduled_id=record.parent.task_scheduled_id,
                        at=time,
                        result=result,
                        failure=failure,
                    ),
                )
            case SetTimer(timer_id=timer_id, due=created):
                execution_id = self.instance.execution_id
                instance_id = self.instance.record.instance_id
                due = TimerDue(
                    instance_id=instance_id, execution_id=execution_id, timer_id=timer_id, fire_at=created.fire_at
                )
                self._schedule(created.fire_at, due)
            case Tell(message=message) if message.instance_id == self.instance.record.instance_id:
                self.queue.append(message)
            case Tell(message=message):
                self.sent.append(message)
            case _:
                pass  # a timer that is not cleared comes due, and must be recognised


def _answer(payload: str | None) -> tuple[float, str | None, FailureDetails | None]:
    delay, fails, value = payloads.decode(payload, Any, "The input")
    return (delay, None, DECLINED) if fails else (delay, payloads.encode(value, "The result"), None)


# --- What must not depend on how a history was cut ------------------------------------------------------------------------


def story(commits: Sequence[Commit]) -> list[dict[str, Any]]:
    """Each execution as its code lived it, by whatever ids it went: what came in, what it asked for, how it ended."""
    ids = list(dict.fromkeys(commit.execution_id for commit in commits))
    return [_chapter([commit for commit in commits if commit.execution_id == each], ids) for each in ids]


def _chapter(commits: Sequence[Commit], ids: Sequence[str]) -> dict[str, Any]:
    events = [event for commit in commits for event in commit.events]
    cancelled = {timer for commit in commits for timer in commit.timers_cancelled}
    end = next((event for event in events if isinstance(event, ExecutionCompleted | ContinuedAsNew)), None)
    return {
        "inputs": [_told(event, ids) for event in events if isinstance(event, INPUT_EVENTS)],
        "actions": [_told(event, ids) for event in events if isinstance(event, ACTION_EVENTS)],
        "cancelled": sorted(cancelled) if end is None else None,
        "end": _told(end, ids) if end is not None else None,
        "status": commits[-1].custom_status,
    }


def _told(event: HistoryEvent, ids: Sequence[str]) -> str:
    match event:
        case ContinuedAsNew():
            event = msgspec.structs.replace(event, carried=(), next=msgspec.structs.replace(event.next, seen=()))
        case SubOrchestrationInstanceCreated():
            event = msgspec.structs.replace(event, execution_id="")
        case ExecutionStarted():
            event = msgspec.structs.replace(event, execution_id="", seen=())
        case _:
            pass
    text = msgspec.json.encode(event).decode()
    for number, execution_id in enumerate(ids):
        text = text.replace(execution_id, f"<execution {number}>")
    return text


_TAKEN_BACK = ("TimerFired", "TaskCompleted", "TaskFailed")


def same_story(one_by_one: Sequence[Commit], other: Sequence[Commit]) -> None:
    """Asserts that the code lived the same.

    A turn of many messages may also record some that its code does not hear: those after its end, and timers that came due or
    activities that ended in the very turn that cancelled them.
    """
    expected, actual = story(one_by_one), story(other)
    assert len(actual) == len(expected)
    for was, now in zip(expected, actual, strict=True):
        inputs = was.pop("inputs")
        heard = [
            event for event in now.pop("inputs") if event in inputs or not any(kind in event for kind in _TAKEN_BACK)
        ]
        assert heard[: len(inputs)] == inputs
        assert now == was
