"""OTLP by hand against opentelemetry-proto and the official encoder: the same messages."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings, strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from callboard.core.failure import FailureDetails
from callboard.core.spans import Span, SpanKind as SpanKindName
from callboard.core.tracing import TraceContext
from callboard.telemetry.encoding import SpanEncoder
from callboard.telemetry.sdk import SdkSpans
from tests.telemetry.memory import Kept

RESOURCE = Resource({"service.name": "é" * 200, "process.pid": 7, "flags": [True, False]}, "https://schema")
SCOPE = InstrumentationScope("callboard", "1.2")

texts = st.text(st.characters(codec="utf-8"), max_size=300)
values: st.SearchStrategy[Any] = st.one_of(
    texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.lists(texts, max_size=3)
)
attributes = st.dictionaries(texts, values, max_size=4)
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(1)),
    st.sampled_from([None, TraceState([("a", "1"), ("b", "2")])]),
)
times = st.integers(1, 2**63)
statuses = st.sampled_from([Status(), Status(StatusCode.OK), Status(StatusCode.ERROR, "no"), Status(StatusCode.ERROR)])
spans = st.builds(
    ReadableSpan,
    texts,
    contexts,
    st.none() | contexts,
    st.just(RESOURCE),
    attributes,
    st.lists(st.builds(Event, texts, attributes, times), max_size=2),
    st.lists(st.builds(Link, contexts, attributes), max_size=2),
    st.sampled_from(SpanKind),
    status=statuses,
    start_time=times,
    end_time=times,
    instrumentation_scope=st.sampled_from([SCOPE, InstrumentationScope("user", "", "https://s", {"k": "v"})]),
)


def decoded(body: bytes) -> ExportTraceServiceRequest:
    request: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(body)
    return request


@given(st.lists(spans, min_size=1, max_size=4))
@settings(deadline=None)
def test_spans_of_the_sdk_are_encoded_as_the_official_encoder_does(each: list[ReadableSpan]) -> None:
    assert decoded(SpanEncoder(RESOURCE, SCOPE).request(each)) == encode_spans(each)


_KINDS: tuple[SpanKindName, ...] = ("internal", "server", "client", "producer", "consumer")

hexes = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")


def _context(trace_id: int, span_id: str, state: str | None) -> TraceContext:
    return TraceContext(traceparent=f"00-{trace_id:032x}-{span_id}-01", tracestate=state)


def _failure(kind: str, message: str, stack: str | None) -> FailureDetails:
    return FailureDetails(error_type=kind, error_message=message, stack_trace=stack)


trace_contexts = st.builds(_context, st.integers(1, 2**128 - 1), hexes, st.sampled_from([None, "a=1,b=2"]))
moments = st.integers(0, 4_000_000_000_000).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))
failures = st.builds(_failure, texts, texts, st.none() | texts.filter(bool))


@st.composite
def our_spans(draw: st.DrawFn) -> Span:
    context, parent = draw(trace_contexts), draw(st.none() | hexes)
    return Span(
        name=draw(texts),
        kind=draw(st.sampled_from(_KINDS)),
        context=context if parent else TraceContext(traceparent=context.traceparent),  # a root has no state
        parent_id=parent,
        start=draw(moments),
        end=draw(moments),
        attributes=draw(st.dictionaries(texts.filter(bool), texts | st.integers(-(2**63), 2**63 - 1), max_size=5)),
        failure=draw(st.none() | failures),
        links=tuple(draw(st.lists(trace_contexts, max_size=2))),
    )


ours = our_spans()


@given(st.lists(ours, min_size=1, max_size=4))
@settings(deadline=None)
def test_spans_of_orchestrations_are_encoded_as_if_the_sdk_had_been_told_of_them(each: list[Span]) -> None:
    kept = Kept(resource=RESOURCE)
    told = SdkSpans(kept.provider.get_tracer("callboard", "1.2"))  # type: ignore[arg-type] # the SDK's, as the provider is
    for span in each:
        told.end(span)
    expected = encode_spans(kept.exporter.get_finished_spans())
    encoder = SpanEncoder(RESOURCE, SCOPE)
    assert decoded(encoder.request(each)) == expected
    assert decoded(encoder.request(each)) == expected  # now from what it keeps


def test_what_is_kept_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr("callboard.telemetry.encoding.MOST_KEPT", 3)
    encoder = SpanEncoder(RESOURCE, SCOPE)
    each = [
        Span(
            name=f"n{n}",
            kind="client",
            context=TraceContext(traceparent=f"00-{1:032x}-{2:016x}-01"),
            parent_id=None,
            start=datetime.fromtimestamp(0, UTC),
            end=datetime.fromtimestamp(0, UTC),
            attributes={"id": n},
        )
        for n in range(10)
    ]
    request = decoded(encoder.request(each))
    assert [span.name for span in request.resource_spans[0].scope_spans[0].spans] == [f"n{n}" for n in range(10)]
    assert len(encoder._names) <= 3
    assert len(encoder._attributes) <= 3
