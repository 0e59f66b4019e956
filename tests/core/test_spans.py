"""Which spans follow from a commit: Durable Task's, each once, whoever tells of it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from callboard.core.effects import CallActivity, StartChild, Tell, derive
from callboard.core.messages import RaiseEvent
from callboard.core.spans import Span, perhaps_untold, spans_again, spans_of
from callboard.core.tracing import TraceContext, root_context
from tests.core.support import DECLINED, PARTITIONS, Instance, at, through_json

if TYPE_CHECKING:
    from callboard.core.context import OrchestrationContext
    from callboard.core.instances import Commit
    from callboard.core.messages import InstanceMessage

STARTER = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1", baggage="who=me")
UNSAMPLED = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-00", baggage="who=me")
RAISER = TraceContext(traceparent="00-" + "c" * 32 + "-" + "d" * 16 + "-01")


class Traced(Instance):
    """An instance that was started from a trace; remembers the spans of each turn.

    Args:
        cold: Forget the activation after each turn, so that every turn is another worker's.
    """

    def __init__(
        self, function: Any, *, trace: TraceContext | None = STARTER, cold: bool = False, **options: Any
    ) -> None:
        super().__init__(function, **options)
        self.record = msgspec.structs.replace(self.record, trace=trace)
        self.cold = cold
        self.spans: list[Span] = []

    def take(self, *messages: InstanceMessage, after: float = 1) -> list[Span]:
        """A turn's spans."""
        state = self.loaded().state
        turn = self.deliver(*messages, after=after)
        spans = spans_of(turn.commit, state) if turn.commit is not None else []
        self.spans += spans
        if self.cold:
            self.forget()
        return spans


def traced(function: Any, **options: Any) -> Traced:
    instance = Traced(function, **options)
    assert instance.take(instance.start(), after=0) == []
    return instance


def shown(spans: list[Span]) -> list[tuple[str, str]]:
    return [(span.kind, span.name) for span in spans]


async def hello(context: OrchestrationContext) -> list[str]:
    return [await context.call_activity("say", city) for city in ("Tokyo", "London")]


@pytest.mark.parametrize("cold", [False, True])
def test_an_activity_has_a_span_from_the_call_to_the_result(*, cold: bool) -> None:
    instance = traced(hello, cold=cold)
    (first,) = instance.take(instance.result(0, "Hello Tokyo"), after=2)
    second, whole = instance.take(instance.result(1, "Hello London"), after=3)
    assert shown(instance.spans) == [
        ("client", "activity:say"),
        ("client", "activity:say"),
        ("server", "orchestration:program"),
    ]
    assert (first.start, first.end) == (at(0), at(2))
    assert (second.start, second.end) == (at(2), at(5))
    assert (whole.start, whole.end) == (at(0), at(5))
    assert whole.parent_id == STARTER.span_id
    assert first.parent_id == second.parent_id == whole.context.span_id
    assert {span.context.trace_id for span in instance.spans} == {STARTER.trace_id}
    assert len({span.context.span_id for span in instance.spans}) == 3
    assert first.attributes == {
        "durabletask.type": "activity",
        "durabletask.task.name": "say",
        "durabletask.task.instance_id": "one",
        "durabletask.task.task_id": 0,
    }
    assert whole.attributes == {
        "durabletask.type": "orchestration",
        "durabletask.task.name": "program",
        "durabletask.task.instance_id": "one",
        "durabletask.task.status": "Completed",
    }


def test_a_call_carries_the_span_that_its_run_hangs_under() -> None:
    instance = traced(hello)
    (call,) = effects(instance.commits[0], CallActivity)
    (span,) = instance.take(instance.result(0))
    assert call.call.trace == span.context
    assert span.context.tracestate == "v=1"
    assert span.context.baggage == "who=me"


def test_whoever_tells_of_a_commit_tells_the_same() -> None:
    told = [tell_everything(cold=cold) for cold in (False, True)]
    assert told[0] == told[1]
    assert len(told[0]) > 8


def tell_everything(*, cold: bool) -> list[Span]:
    instance = traced(everything, cold=cold)
    instance.take(instance.result(0, failure=DECLINED), instance.child(1, "ok"))
    instance.take(instance.timer(2), instance.event("go"))
    instance.take(instance.event("again"))
    instance.take(instance.go_on())
    instance.take(instance.terminate("enough"))
    return instance.spans


async def everything(context: OrchestrationContext) -> None:
    activity = context.call_activity("work")
    child = context.call_sub_orchestration("small", version="2")
    timer = context.create_timer(timedelta(seconds=2))
    context.create_timer(timedelta(hours=1)).cancel()
    await child
    await timer
    await context.wait_for_external_event("go")
    context.send_event("other", "ping")
    context.call_activity("never waited for")
    await context.wait_for_external_event("again")
    assert activity.done()
    context.continue_as_new()


def test_each_thing_waited_for_has_a_span_and_what_is_left_open_is_told_of_at_the_end() -> None:
    instance = traced(everything)
    failed, child = instance.take(instance.result(0, failure=DECLINED), instance.child(1, "ok"), after=1)
    assert (failed.name, failed.failure, child.name, child.failure) == (
        "activity:work",
        DECLINED,
        "orchestration:small@(2)",
        None,
    )
    timer, event, ping = instance.take(instance.timer(2), instance.event("go"), after=1.5)
    assert shown([timer, event, ping]) == [
        ("internal", "orchestration:program:timer"),
        ("consumer", "orchestration_event:go"),
        ("producer", "orchestration_event:ping"),
    ]
    assert (timer.start, timer.end) == (at(0), at(2.5))
    assert timer.attributes["durabletask.fire_at"] == "2026-01-01T12:00:02.000Z"
    assert timer.attributes["durabletask.task.task_id"] == 2
    assert ping.attributes == {
        "durabletask.type": "event",
        "durabletask.task.name": "ping",
        "durabletask.event.target_instance_id": "other",
        "durabletask.task.instance_id": "one",
        "durabletask.task.execution_id": "e" * 32,
    }
    (told,) = effects(instance.commits[-1], Tell)
    assert isinstance(told.message, RaiseEvent)
    assert told.message.trace == ping.context
    again, open_call, whole = instance.take(instance.event("again"))
    assert shown([again, open_call, whole]) == [
        ("consumer", "orchestration_event:again"),
        ("client", "activity:never waited for"),
        ("server", "orchestration:program"),
    ]
    assert whole.attributes["durabletask.task.status"] == "ContinuedAsNew"


def test_a_child_hangs_under_the_span_of_its_call() -> None:
    instance = traced(everything)
    (start,) = effects(instance.commits[0], StartChild)
    spans = instance.take(instance.child(1, failure=DECLINED))
    call = spans[0]
    assert start.record.trace == call.context
    assert (call.kind, call.failure) == ("client", DECLINED)
    assert call.attributes["durabletask.task.instance_id"] == "one"
    child = Traced(hello, instance_id=start.record.instance_id, trace=start.record.trace)
    child.take(child.start())
    *_, whole = child.take(child.result(0), child.terminate("no more"))
    assert whole.parent_id == call.context.span_id
    assert whole.context.span_id != call.context.span_id


def test_what_is_started_for_itself_hangs_under_a_span_of_its_own() -> None:
    async def starts(context: OrchestrationContext) -> None:
        await context.call_activity("one")
        context.start_new_orchestration("audit", version="2")

    instance = traced(starts)
    spans = instance.take(instance.result(0))
    assert shown(spans) == [
        ("client", "activity:one"), ("producer", "create_orchestration:audit@(2)"), ("server", "orchestration:program"),
    ]  # fmt: skip
    (start,) = effects(instance.commits[-1], StartChild)
    assert start.record.trace == spans[1].context
    assert spans[1].attributes["durabletask.task.instance_id"] == start.record.instance_id


async def eternal(context: OrchestrationContext) -> None:
    await context.wait_for_external_event("next")
    context.continue_as_new()


@pytest.mark.parametrize("cold", [False, True])
def test_each_execution_of_an_instance_has_its_span_in_the_one_trace(*, cold: bool) -> None:
    instance = traced(eternal, cold=cold)
    instance.take(instance.event("next", message_id="m1"))
    instance.take(instance.go_on())
    instance.take(instance.event("next", message_id="m2"))
    wholes = [span for span in instance.spans if span.kind == "server"]
    assert [(span.start, span.end) for span in wholes] == [(at(0), at(1)), (at(2), at(3))]
    assert {span.parent_id for span in wholes} == {STARTER.span_id}
    assert len({span.context.span_id for span in wholes}) == 2
    assert {span.context.trace_id for span in wholes} == {STARTER.trace_id}


def test_an_event_links_to_where_it_was_raised() -> None:
    instance = traced(eternal)
    raised = msgspec.structs.replace(instance.event("next"), trace=RAISER)
    instance.now += timedelta(seconds=2)
    event, whole = instance.take(raised, after=0)
    assert event.links == (RAISER,)
    assert (event.start, event.end) == (at(0), at(2))
    assert event.parent_id == whole.context.span_id
    nonsense = TraceContext(traceparent="nonsense")
    instance.take(instance.go_on())
    event, _ = instance.take(msgspec.structs.replace(instance.event("next"), trace=nonsense))
    assert event.links == ()


def test_an_event_that_is_carried_over_is_told_of_once() -> None:
    instance = traced(eternal)
    first = instance.take(instance.event("next", message_id="m1"), instance.event("other", message_id="m2"))
    assert shown(first)[:2] == [("consumer", "orchestration_event:next"), ("consumer", "orchestration_event:other")]
    assert instance.take(instance.go_on()) == []


def test_failure_and_termination_show() -> None:
    async def fails(context: OrchestrationContext) -> None:
        await context.call_activity("work")

    instance = traced(fails)
    _, whole = instance.take(instance.result(0, failure=DECLINED))
    assert whole.failure is not None
    assert whole.attributes["durabletask.task.status"] == "Failed"
    instance = traced(fails)
    call, whole = instance.take(instance.terminate("enough"))
    assert (call.failure, whole.failure) == (None, None)
    assert (call.name, whole.attributes["durabletask.task.status"]) == ("activity:work", "Terminated")


def test_a_cancelled_call_has_its_span_when_it_is_cancelled() -> None:
    async def changes_its_mind(context: OrchestrationContext) -> None:
        call = context.call_activity("work")
        await context.wait_for_external_event("go")
        call.cancel()
        await context.wait_for_external_event("end")

    instance = traced(changes_its_mind)
    event, call = instance.take(instance.event("go"), after=3)
    assert shown([event, call]) == [("consumer", "orchestration_event:go"), ("client", "activity:work")]
    assert (call.start, call.end) == (at(0), at(3))
    _, whole = instance.take(instance.event("end"))
    assert whole.kind == "server"


def test_an_instance_terminated_before_it_began_has_its_span() -> None:
    instance = Traced(hello)
    (whole,) = instance.take(instance.terminate("never mind"))
    assert (whole.start, whole.end) == (at(1), at(1))


def test_a_root_has_no_parent_and_later_executions_hang_under_the_first() -> None:
    instance = traced(eternal, trace=root_context("e" * 32, sampled=True))
    instance.take(instance.event("next"))
    instance.take(instance.go_on())
    instance.take(instance.event("next"))
    first, second = (span for span in instance.spans if span.kind == "server")
    assert first.parent_id is None
    assert second.parent_id == first.context.span_id


@pytest.mark.parametrize("trace", [None, UNSAMPLED])
def test_what_is_not_traced_has_no_spans_but_hands_on_what_it_was_given(trace: TraceContext | None) -> None:
    instance = traced(everything, trace=trace)
    assert instance.take(instance.result(0), instance.child(1), instance.timer(2), instance.event("go"), after=5) == []
    (call,) = effects(instance.commits[0], CallActivity)
    (child,) = effects(instance.commits[0], StartChild)
    (told,) = effects(instance.commits[1], Tell)
    assert isinstance(told.message, RaiseEvent)
    assert call.call.trace == child.record.trace == told.message.trace == trace
    instance.take(instance.event("again"))
    assert instance.commits[-1].continued is not None
    assert instance.commits[-1].continued.next.trace == trace
    assert instance.spans == []


def test_a_duplicate_and_a_repeated_replay_add_nothing() -> None:
    instance = traced(hello)
    result = instance.result(0)
    assert len(instance.take(result)) == 1
    assert instance.take(result) == []
    instance.forget()
    assert instance.take(result) == []
    assert len(instance.take(instance.result(1))) == 2


def effects(commit: Commit, kind: Any) -> list[Any]:
    return [effect for effect in derive(commit, PARTITIONS) if isinstance(effect, kind)]


def test_what_a_worker_may_not_have_sent_is_told_again_the_same() -> None:
    instance = traced(everything)
    instance.take(instance.result(0, failure=DECLINED), instance.child(1, "ok"))
    instance.take(instance.timer(2), instance.event("go"))
    instance.take(instance.event("again"))
    commits = through_json(instance.commits)
    assert spans_again(instance.record, commits, range(4)) == instance.spans
    assert spans_again(instance.record, commits, (2, 3)) == instance.spans[2:]
    assert spans_again(instance.record, commits, ()) == []


@pytest.mark.parametrize(("authors", "expected"), [
    ("aaaa", {1, 2, 3}), ("aaac", frozenset[int]()), ("caa", {1, 2}), ("aab", {0, 1, 2}), ("aabbbb", {3, 4, 5}), ("a---b", {0, 4}), ("aca", {2}),
    ("", frozenset[int]()),
])  # fmt: skip
def test_what_was_perhaps_never_sent_is_what_workers_did_in_their_last_moments(
    authors: str, expected: set[int]
) -> None:
    """Each letter is a commit, four seconds after the one before; ``a`` and ``b`` are workers that failed."""
    first = traced(hello).commits[0]
    commits = [
        msgspec.structs.replace(first, n=n, token=author * 32, at=at(4 * n))
        for n, author in enumerate(authors)
        if author != "-"
    ]
    within = timedelta(seconds=10)
    assert perhaps_untold(commits, lambda commit: commit.token[0] in "ab", within=within) == expected
