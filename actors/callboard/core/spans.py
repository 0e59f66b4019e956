"""Which spans follow from a commit. Names, kinds and attributes are Durable Task's (DTFx ``Tracing/TraceHelper``).

Rules of this file:

* Only what a commit says becomes a span, and only once the commit is durable: replay adds nothing, and neither does a lost race.
* A span is told of when it ends, with its true beginning, once: by whoever made the commit that ends it.
* A span that others may hang under is told of in any case: what is still open when its execution ends is told of then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import msgspec

from callboard.core.events import (
    ContinuedAsNew,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord, author_of
from callboard.core.state import InstanceState
from callboard.core.tracing import TraceContext, action_context, derived_span_id

SpanKind: TypeAlias = Literal["internal", "server", "client", "producer", "consumer"]
Attributes: TypeAlias = dict[str, str | int]


class Span(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A span that has ended."""

    name: str
    kind: SpanKind
    context: TraceContext
    parent_id: str | None
    start: datetime
    end: datetime
    attributes: Attributes
    failure: FailureDetails | None = None
    links: tuple[TraceContext, ...] = ()


def span_name(kind: str, name: str, version: str | None = None) -> str:
    """``{type}:{name}``, or ``{type}:{name}@({version})``."""
    return f"{kind}:{name}@({version})" if version else f"{kind}:{name}"


def orchestration_attributes(name: str, instance_id: str, version: str | None = None) -> Attributes:
    attributes: Attributes = {
        "durabletask.type": "orchestration",
        "durabletask.task.name": name,
        "durabletask.task.instance_id": instance_id,
    }
    if version:
        attributes["durabletask.task.version"] = version
    return attributes


def activity_attributes(name: str, instance_id: str, task_id: int) -> Attributes:
    return {
        "durabletask.type": "activity",
        "durabletask.task.name": name,
        "durabletask.task.instance_id": instance_id,
        "durabletask.task.task_id": task_id,
    }


def event_attributes(name: str, target: str) -> Attributes:
    return {
        "durabletask.type": "event",
        "durabletask.task.name": name,
        "durabletask.event.target_instance_id": target,
    }


def spans_of(commit: Commit, state: InstanceState) -> list[Span]:
    """The spans that a commit brings to their end.

    Args:
        commit: Durable.
        state: The instance's, right after this commit.
    """
    if commit.trace is None or not commit.trace.sampled:
        return []
    return list(_Telling(commit, commit.trace, state).spans())


def spans_again(record: InstanceRecord, commits: Sequence[Commit], which: Collection[int]) -> list[Span]:
    """The spans of some commits, as they were told of when those were made.

    Args:
        record: The instance's, as it is now.
        commits: All of one execution, up to the last of interest.
        which: The numbers of those of interest.
    """
    state = InstanceState(record)
    spans: list[Span] = []
    for commit in commits:
        state.closed.clear()
        state.apply(commit)
        if commit.n in which:
            spans.extend(spans_of(commit, state))
    return spans


def perhaps_untold(commits: Sequence[Commit], failed: Callable[[Commit], bool], *, within: timedelta) -> frozenset[int]:
    """The numbers of the commits whose spans may never have been sent.

    A worker that failed may not have sent those of its last commits; and if it had not acted for longer than that, neither what it told
    again of the worker before it.

    Args:
        commits: Of one execution, in order.
        failed: Whether a commit's author may have failed.
        within: How long before its last commit a worker may have made others whose spans were not sent yet.
    """
    found: set[int] = set()
    rest = list(commits)
    while rest and failed(rest[-1]):
        last, author = rest[-1], author_of(rest[-1])
        while rest and author_of(rest[-1]) == author:
            commit = rest.pop()
            if commit.at < last.at - within:
                return frozenset(found)
            found.add(commit.n)
    return frozenset(found)


class _Telling:
    """One commit, while its spans are told."""

    def __init__(self, commit: Commit, trace: TraceContext, state: InstanceState) -> None:
        self._commit = commit
        self._trace = trace
        self._state = state
        self._told_before: frozenset[str] = frozenset()

    def spans(self) -> Iterator[Span]:
        for event in self._commit.events:
            match event:
                case TaskCompleted() | SubOrchestrationInstanceCompleted():
                    yield from self._closed(event.task_scheduled_id)
                case TaskFailed() | SubOrchestrationInstanceFailed():
                    yield from self._closed(event.task_scheduled_id, event.failure)
                case TimerFired():
                    yield from self._closed(event.timer_id)
                case EventRaised():
                    yield from self._event_raised(event)
                case EventSent():
                    yield self._event_sent(event)
                case SubOrchestrationInstanceCreated(fire_and_forget=True):
                    yield self._started(event)
                case ExecutionStarted():
                    self._told_before = frozenset(seen.message_id for seen in event.seen)
                case ExecutionCompleted():
                    yield from self._left_open()
                    yield self._execution(event.orchestration_status, event.failure)
                case ContinuedAsNew():
                    yield from self._left_open()
                    yield self._execution("ContinuedAsNew")
                case _:
                    pass
        if not self._commit.terminal and self._commit.continued is None:
            yield from self._cancelled()

    def _cancelled(self) -> Iterator[Span]:
        """Activities that nobody waits for any more."""
        for task in self._commit.tasks_cancelled:
            yield from self._closed(task)

    def _closed(self, number: int, failure: FailureDetails | None = None) -> Iterator[Span]:
        action = self._state.closed.get(number)
        if action is not None:
            yield from self._action(action, failure)

    def _left_open(self) -> Iterator[Span]:
        """Calls without a result yet: what runs hangs under them, and may be told of later."""
        yield from self._cancelled()
        for action in self._state.open.values():
            if not isinstance(action, TimerCreated):
                yield from self._action(action)

    def _action(self, action: HistoryEvent, failure: FailureDetails | None = None) -> Iterator[Span]:
        instance_id = self._commit.instance_id
        kind: SpanKind = "client"
        match action:
            case TaskScheduled():
                name = span_name("activity", action.name)
                attributes = activity_attributes(action.name, instance_id, action.event_id)
            case SubOrchestrationInstanceCreated():
                name = span_name("orchestration", action.name, action.version)
                attributes = orchestration_attributes(action.name, instance_id, action.version)
            case TimerCreated():
                name, kind = f"{span_name('orchestration', self._state.name)}:timer", "internal"
                attributes = self._timer_attributes(action)
            case _:
                return
        yield self._span(name, kind, action.event_id, action.timestamp, attributes, failure)

    def _timer_attributes(self, timer: TimerCreated) -> Attributes:
        return {
            "durabletask.type": "timer",
            "durabletask.task.name": self._state.name,
            "durabletask.task.instance_id": self._commit.instance_id,
            "durabletask.fire_at": timer.fire_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "durabletask.task.task_id": timer.event_id,
        }

    def _event_raised(self, event: EventRaised) -> Iterator[Span]:
        """From when the event was raised to when this execution took it. Events that were carried over were told of before."""
        if event.message_id in self._told_before:
            return
        raised = max(event.timestamp, self._state.started or event.timestamp)
        yield Span(
            name=span_name("orchestration_event", event.name),
            kind="consumer",
            context=self._trace.at(derived_span_id(self._commit.instance_id, event.message_id)),
            parent_id=self._trace.span_id,
            start=min(raised, self._commit.at),
            end=self._commit.at,
            attributes={
                "durabletask.type": "event",
                "durabletask.task.name": event.name,
                "durabletask.task.instance_id": self._commit.instance_id,
            },
            links=(event.trace,) if event.trace is not None else (),
        )

    def _event_sent(self, event: EventSent) -> Span:
        attributes = event_attributes(event.name, event.instance_id)
        attributes["durabletask.task.instance_id"] = self._commit.instance_id
        attributes["durabletask.task.execution_id"] = self._commit.execution_id
        name = span_name("orchestration_event", event.name)
        return self._span(name, "producer", event.event_id, event.timestamp, attributes)

    def _started(self, event: SubOrchestrationInstanceCreated) -> Span:
        """An orchestration that was started for itself: nobody hears of its end."""
        name = span_name("create_orchestration", event.name, event.version)
        attributes = orchestration_attributes(event.name, event.instance_id, event.version)
        return self._span(name, "producer", event.event_id, event.timestamp, attributes)

    def _execution(self, status: str, failure: FailureDetails | None = None) -> Span:
        """The whole life of an execution."""
        state, start = self._state, self._state.trace
        attributes = orchestration_attributes(state.name, self._commit.instance_id, state.version)
        attributes["durabletask.task.status"] = status
        parent_id = start.span_id if start is not None else None
        return Span(
            name=span_name("orchestration", state.name, state.version),
            kind="server",
            context=self._trace,
            parent_id=None if parent_id == self._trace.span_id else parent_id,
            start=state.started or self._commit.at,
            end=self._commit.at,
            attributes=attributes,
            failure=failure,
        )

    def _span(
        self,
        name: str,
        kind: SpanKind,
        number: int,
        start: datetime,
        attributes: Attributes,
        failure: FailureDetails | None = None,
    ) -> Span:
        context = action_context(self._trace, self._commit.execution_id, number) or self._trace
        return Span(
            name=name,
            kind=kind,
            context=context,
            parent_id=self._trace.span_id,
            start=start,
            end=self._commit.at,
            attributes=attributes,
            failure=failure,
        )
