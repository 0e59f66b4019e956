"""What is told to the SDK, and what becomes of it when the SDK or its user does something else."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased

from callboard.core.failure import FailureDetails
from callboard.core.instances import InstanceRecord
from callboard.core.messages import ActivityCall
from callboard.core.spans import Span
from callboard.core.tracing import TraceContext, derived_span_id, derived_trace_id
from callboard.telemetry import Telemetry
from callboard.telemetry.contexts import otel_context, trace_context
from callboard.tracing import UNTRACED
from tests.telemetry.memory import Kept

NOW = datetime(2026, 1, 1, 12, 0, 0, 123_000, tzinfo=UTC)
CONTEXT = TraceContext(
    traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1,w=2", baggage="who=J%C3%B6"
)
SPAN = Span(
    name="activity:work",
    kind="client",
    context=CONTEXT.at("c" * 16),
    parent_id="b" * 16,
    start=NOW,
    end=NOW.replace(microsecond=999_000),
    attributes={"durabletask.type": "activity", "durabletask.task.task_id": 3},
    failure=FailureDetails(error_type="ValueError", error_message="no", stack_trace="at pay()"),
    links=(CONTEXT.at("d" * 16),),
)


def record(execution_id: str = "e" * 32, **fields: Any) -> InstanceRecord:
    return InstanceRecord(
        instance_id="one",
        partition=0,
        execution_id=execution_id,
        name="hello",
        created_time=NOW,
        last_updated_time=NOW,
        **fields,
    )


def call(trace_: TraceContext | None) -> ActivityCall:
    return ActivityCall(instance_id="one", execution_id="e", task_scheduled_id=3, name="work", trace=trace_)


def test_a_span_arrives_as_it_was_told() -> None:
    kept = Kept()
    kept.telemetry.tracing().ended([SPAN])
    (seen,) = kept.spans
    assert (seen.trace_id, seen.span_id, seen.parent_id) == ("a" * 32, "c" * 16, "b" * 16)
    assert (seen.name, seen.kind, seen.attributes) == ("activity:work", "CLIENT", SPAN.attributes)
    assert (seen.start, seen.end) == (1_767_268_800_123_000_000, 1_767_268_800_999_000_000)
    assert seen.error == "ValueError: no"
    assert seen.events == (
        (
            "exception",
            {"exception.type": "ValueError", "exception.message": "no", "exception.stacktrace": "at pay()"},
        ),
    )
    assert seen.links == (("a" * 32, "d" * 16),)


def test_a_span_without_a_parent_is_the_root_of_its_trace() -> None:
    kept = Kept()
    kept.telemetry.tracing().ended([msgspec.structs.replace(SPAN, parent_id=None)])
    assert (kept.spans[0].trace_id, kept.spans[0].span_id, kept.spans[0].parent_id) == ("a" * 32, "c" * 16, None)


def test_the_ids_of_other_spans_are_the_providers_own() -> None:
    kept = Kept()
    tracing = kept.telemetry.tracing()
    kept.telemetry.tracing()  # a second worker or client of this process
    tracing.ended([SPAN])
    for _ in range(2):
        with tracing.starting(record()), kept.provider.get_tracer("user").start_as_current_span("inner"):
            pass
    ids = [span.span_id for span in kept.spans]
    assert len(set(ids)) == len(ids) == 5
    assert "c" * 16 not in ids[1:]


def test_contexts_survive_the_way_there_and_back() -> None:
    there = otel_context(CONTEXT)
    span = trace.get_current_span(there).get_span_context()
    assert span.is_remote
    assert trace_context(span, there) == CONTEXT
    plain = TraceContext(traceparent=CONTEXT.traceparent)
    assert trace_context(trace.get_current_span(otel_context(plain)).get_span_context()) == plain


def test_a_root_is_decided_by_the_sampler_and_the_same_wherever_it_is_decided() -> None:
    sampler = TraceIdRatioBased(0.5)
    here, there = Kept(sampler=sampler).telemetry.tracing(), Kept(sampler=sampler).telemetry.tracing()
    begun = [here.begin(record(f"{n:032x}")).trace for n in range(200)]
    assert begun == [there.begin(record(f"{n:032x}")).trace for n in range(200)]
    sampled = [context.sampled for context in begun if context is not None]
    assert 60 < sum(sampled) < 140
    for n, context in enumerate(begun):
        assert context is not None
        assert context.trace_id == derived_trace_id(f"{n:032x}")
        assert context.span_id == derived_span_id(f"{n:032x}")


def test_only_what_has_not_begun_gets_a_root() -> None:
    tracing = Kept().telemetry.tracing()
    running, traced = record(runtime_status="Running"), record(trace=CONTEXT)
    assert tracing.begin(running) is running
    assert tracing.begin(traced) is traced


def test_a_run_that_is_interrupted_says_so() -> None:
    kept = Kept()
    with pytest.raises(KeyboardInterrupt), kept.telemetry.tracing().running(call(CONTEXT)):
        raise KeyboardInterrupt
    assert kept.spans[0].error == "It was interrupted (KeyboardInterrupt), and will run again"


def test_the_run_of_an_untraced_call_has_no_span_but_its_code_may_have() -> None:
    kept = Kept()
    with kept.telemetry.tracing().running(call(None)), kept.provider.get_tracer("user").start_as_current_span("inner"):
        pass
    assert [span.label for span in kept.spans] == ["INTERNAL inner"]
    assert kept.spans[0].parent_id is None


def test_a_processor_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("full")

    kept = Kept()
    kept.provider.add_span_processor(Failing())
    kept.telemetry.tracing().ended([SPAN])
    assert "could not be told of" in caplog.text
    kept.telemetry.tracing().ended([])


def test_processors_and_sampler_of_the_provider_apply() -> None:
    started: list[str] = []

    class Noting(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            started.append(span.name)
            span.set_attribute("noted", 1)

    kept = Kept()
    kept.provider.add_span_processor(Noting())
    kept.telemetry.tracing().ended([SPAN])
    assert started == ["activity:work"]
    assert kept.spans[0].attributes["noted"] == 1
    silent = Kept(sampler=ALWAYS_OFF)
    silent.telemetry.tracing().ended([SPAN])
    assert silent.spans == []
    with silent.telemetry.tracing().starting(record()) as started_record:
        assert started_record.trace is not None
        assert not started_record.trace.sampled


def test_without_an_sdk_provider_nothing_is_traced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Foreign(trace.TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            return trace.NoOpTracer()

    assert Telemetry().tracing() is UNTRACED
    assert Telemetry(trace.NoOpTracerProvider()).tracing() is UNTRACED
    with caplog.at_level(logging.WARNING):
        assert Telemetry(Foreign()).tracing() is UNTRACED
    assert "opentelemetry-sdk" in caplog.text
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert Telemetry(TracerProvider(shutdown_on_exit=False)).tracing() is UNTRACED


def test_flushing_waits_for_the_processors() -> None:
    flushed: list[int] = []

    class Slow(SpanProcessor):
        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            flushed.append(timeout_millis)
            return True

    kept = Kept()
    kept.provider.add_span_processor(Slow())
    kept.telemetry.tracing().flush()
    assert len(flushed) == 1
