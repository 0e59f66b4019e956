"""Traces of real workers and clients."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import pytest
from opentelemetry import baggage, context as contexts, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

from callboard import Client, Worker
from callboard.core.tracing import TraceContext
from callboard.errors import InstanceAlreadyExistsError
from callboard.tracing import INCOMING
from tests.e2e.stage import Stage, ended
from tests.telemetry.memory import Kept
from tests.telemetry.programs import app, eternal, failing, hello_sequence, lingering, nesting, parent, waiting
from tests.telemetry.trees import Forest, by_trace, tree

ELSEWHERE = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1", baggage="who=me")


@contextlib.asynccontextmanager
async def playing(stage: Stage, worker: Kept | None, client: Kept | None) -> AsyncGenerator[Client]:
    """A worker and a client, each with a tracer provider of its own, or none."""
    async with (
        stage.connected(app) as theirs,
        Worker(app, theirs, telemetry=worker.telemetry if worker else None),
        stage.connected(app) as ours,
        Client(ours, app, telemetry=client.telemetry if client else None) as caller,
    ):
        yield caller


async def test_a_run_is_one_tree_from_the_client_to_the_activities(stage: Stage) -> None:
    worker, client = Kept(), Kept()
    async with playing(stage, worker, client) as caller:
        started = await caller.start(hello_sequence, ["Tokyo", "London"], version="2")
        await ended(caller, started.instance_id)
        forest = Forest([*client.spans, *worker.spans])
    assert forest.shown() == tree("""
        PRODUCER create_orchestration:hello_sequence@(2)
          SERVER orchestration:hello_sequence@(2) Completed
            CLIENT activity:say_hello
              SERVER activity:say_hello
            CLIENT activity:say_hello
              SERVER activity:say_hello
    """)
    assert forest.repeated == []
    (create,), (whole,) = (
        forest.named(f"{kind}:hello_sequence@(2)") for kind in ("create_orchestration", "orchestration")
    )
    assert create.attributes == {
        "durabletask.type": "orchestration",
        "durabletask.task.name": "hello_sequence",
        "durabletask.task.version": "2",
        "durabletask.task.instance_id": started.instance_id,
        "durabletask.task.execution_id": create.attributes["durabletask.task.execution_id"],
    }
    assert whole.attributes == {
        "durabletask.type": "orchestration",
        "durabletask.task.name": "hello_sequence",
        "durabletask.task.version": "2",
        "durabletask.task.instance_id": started.instance_id,
        "durabletask.task.status": "Completed",
    }
    for kind in ("CLIENT", "SERVER"):
        first, second = sorted(forest.named("activity:say_hello", kind), key=lambda span: span.start)
        assert first.attributes == {
            "durabletask.type": "activity",
            "durabletask.task.name": "say_hello",
            "durabletask.task.instance_id": started.instance_id,
            "durabletask.task.task_id": 0,
        }
        assert second.attributes["durabletask.task.task_id"] == 1
        assert whole.start <= first.start <= first.end
        assert first.start <= second.start <= second.end <= whole.end + 1_000_000


async def test_what_an_activity_traces_hangs_under_its_run_in_threads_too(stage: Stage) -> None:
    kept = Kept()
    trace_here = kept.provider.get_tracer("caller")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "get_tracer", kept.provider.get_tracer)
        async with playing(stage, kept, kept) as caller:
            token = contexts.attach(baggage.set_baggage("who", "me"))
            with trace_here.start_as_current_span("checkout"):
                started = await caller.start(nesting, "job")
            contexts.detach(token)
            await ended(caller, started.instance_id)
    assert kept.forest.shown() == tree("""
        INTERNAL checkout
          PRODUCER create_orchestration:nesting
            SERVER orchestration:nesting Completed
              CLIENT activity:work_in_a_thread
                SERVER activity:work_in_a_thread
                  INTERNAL inner job
              CLIENT activity:work_in_the_loop
                SERVER activity:work_in_the_loop
                  INTERNAL inner JOB.0
                  INTERNAL inner JOB.1
    """)
    (inner,) = kept.forest.named("inner job")
    assert inner.attributes == {"who": "me"}
    (run,) = kept.forest.named("activity:work_in_the_loop", "SERVER")
    assert run.attributes["what"] == "JOB"


async def test_children_hang_under_their_parents(stage: Stage) -> None:
    kept = Kept()
    async with playing(stage, kept, kept) as caller:
        started = await caller.start(parent)
        await ended(caller, started.instance_id)
    child = """
            CLIENT orchestration:hello_sequence
              SERVER orchestration:hello_sequence Completed
                CLIENT activity:say_hello
                  SERVER activity:say_hello"""
    assert kept.forest.shown() == tree(f"""
        PRODUCER create_orchestration:parent
          SERVER orchestration:parent Completed{child}{child}
    """)
    assert kept.forest.repeated == []
    calls = kept.forest.named("orchestration:hello_sequence", "CLIENT")
    assert {call.attributes["durabletask.task.instance_id"] for call in calls} == {started.instance_id}


async def test_timers_and_events_have_spans_and_events_link_to_where_they_were_raised(stage: Stage) -> None:
    worker, client = Kept(), Kept()
    async with playing(stage, worker, client) as caller:
        first = await caller.start(waiting, instance_id="first")
        second = await caller.start(waiting, instance_id="second")
        with client.provider.get_tracer("user").start_as_current_span("button"):
            await caller.raise_event("first", "name", "Ada")
        await caller.raise_event("first", "whom", "second")
        await caller.raise_event("second", "whom", "nobody")
        for each in (first, second):
            assert (await ended(caller, each.instance_id)).output == "Ada"
    traces = by_trace([*client.spans, *worker.spans]).values()
    (first_trace,), (second_trace,) = (
        [
            each
            for each in traces
            for whole in each.named("orchestration:waiting")
            if whole.attributes["durabletask.task.instance_id"] == instance_id
        ]
        for instance_id in ("first", "second")
    )
    for forest in (first_trace, second_trace):
        assert forest.shown(by_name=True) == tree("""
            PRODUCER create_orchestration:waiting
              PRODUCER orchestration_event:whom
              SERVER orchestration:waiting Completed
                CONSUMER orchestration_event:name
                CONSUMER orchestration_event:whom
                INTERNAL orchestration:waiting:timer
                PRODUCER orchestration_event:name
        """)
    (pressed,) = Forest(client.spans).named("button")
    (raised,) = (span for span in client.spans if span.name == "orchestration_event:name")
    (taken,) = first_trace.named("orchestration_event:name", "CONSUMER")
    assert raised.parent_id == pressed.span_id
    assert taken.links == ((raised.trace_id, raised.span_id),)
    (sent,) = first_trace.named("orchestration_event:name", "PRODUCER")
    (taken,) = second_trace.named("orchestration_event:name", "CONSUMER")
    assert taken.links == ((sent.trace_id, sent.span_id),)


async def test_a_failure_shows_everywhere_it_was_felt(stage: Stage) -> None:
    kept = Kept()
    async with playing(stage, kept, kept) as caller:
        started = await caller.start(failing)
        await ended(caller, started.instance_id)
    assert kept.forest.shown() == tree("""
        PRODUCER create_orchestration:failing
          SERVER orchestration:failing Failed ERROR
            CLIENT activity:decline ERROR
              SERVER activity:decline ERROR
    """)
    (run,) = kept.forest.named("activity:decline", "SERVER")
    ((event, attributes),) = run.events
    assert (event, attributes["exception.type"], attributes["exception.message"]) == (
        "exception",
        "ValueError",
        "order 1 is declined",
    )
    assert "programs.py" in attributes["exception.stacktrace"]
    (call,) = kept.forest.named("activity:decline", "CLIENT")
    assert call.error == run.error == "ValueError: order 1 is declined"
    (whole,) = kept.forest.named("orchestration:failing")
    assert [name for name, _ in whole.events] == ["exception"]


async def test_executions_that_continue_as_new_stay_in_the_trace(stage: Stage) -> None:
    kept = Kept()
    async with playing(stage, kept, kept) as caller:
        started = await caller.start(eternal, 2)
        await ended(caller, started.instance_id)
    activity = """
            CLIENT activity:say_hello
              SERVER activity:say_hello"""
    assert kept.forest.shown() == tree(f"""
        PRODUCER create_orchestration:eternal
          SERVER orchestration:eternal ContinuedAsNew{activity}
          SERVER orchestration:eternal ContinuedAsNew{activity}
          SERVER orchestration:eternal Completed{activity}
    """)


async def test_what_is_open_when_an_orchestration_is_terminated_is_told_of(stage: Stage) -> None:
    kept = Kept()
    async with playing(stage, kept, kept) as caller:
        started = await caller.start(lingering)
        child = f"{started.instance_id}-child"
        while await caller.find(child) is None or not kept.forest.named("activity:say_hello", "SERVER"):
            await caller.find(child)
        await caller.terminate(started.instance_id)
        await ended(caller, started.instance_id)
        await ended(caller, child)
    shown = kept.forest.shown()
    assert "SERVER orchestration:lingering Terminated" in shown
    assert "CLIENT orchestration:waiting\n      SERVER orchestration:waiting Terminated" in shown
    assert kept.forest.repeated == []


async def test_a_start_that_fails_is_an_error_of_the_client_alone(stage: Stage) -> None:
    kept = Kept()
    async with playing(stage, None, kept) as caller:
        await caller.start(waiting, instance_id="one")
        with pytest.raises(InstanceAlreadyExistsError):
            await caller.start(waiting, instance_id="one")
        assert [span.error is None for span in kept.spans] == [True, False]
        assert [name for span in kept.spans for name, _ in span.events] == ["exception"]
        await caller.terminate("one")


@pytest.mark.parametrize("incoming", [None, ELSEWHERE])
async def test_a_worker_traces_what_an_untraced_client_starts(stage: Stage, incoming: TraceContext | None) -> None:
    worker = Kept()
    async with playing(stage, worker, None) as caller:
        token = INCOMING.set(incoming)
        started = await caller.start(hello_sequence, ["Tokyo"])
        INCOMING.reset(token)
        await ended(caller, started.instance_id)
    (whole,) = worker.forest.named("orchestration:hello_sequence")
    assert whole.parent_id == (incoming.span_id if incoming else None)
    assert len(worker.traces) == 1
    assert incoming is None or worker.traces.keys() == {incoming.trace_id}
    assert {span.label for span in worker.spans} == {
        "SERVER orchestration:hello_sequence Completed",
        "CLIENT activity:say_hello",
        "SERVER activity:say_hello",
    }


@pytest.mark.parametrize("where", ["client", "worker", "elsewhere"])
async def test_what_is_not_sampled_at_its_root_is_traced_nowhere(stage: Stage, where: str) -> None:
    never, always = ParentBased(ALWAYS_OFF), ParentBased(ALWAYS_ON)
    worker = Kept(sampler=never if where == "worker" else always)
    client = Kept(sampler=never if where == "client" else always)
    async with playing(stage, worker, None if where == "worker" else client) as caller:
        unsampled = TraceContext(traceparent=ELSEWHERE.traceparent[:-2] + "00", baggage="who=me")
        token = INCOMING.set(unsampled if where == "elsewhere" else None)
        started = await caller.start(nesting, "job")
        INCOMING.reset(token)
        await ended(caller, started.instance_id)
        history = await caller.history(started.instance_id)
    assert worker.spans == client.spans == []
    assert all(commit.trace is not None and not commit.trace.sampled for commit in history)


async def test_without_a_provider_nothing_is_traced_or_stored(stage: Stage) -> None:
    async with playing(stage, None, None) as caller:
        started = await caller.start(hello_sequence, ["Tokyo"])
        await ended(caller, started.instance_id)
        history = await caller.history(started.instance_id)
    assert [commit.trace for commit in history] == [None] * len(history)
