"""A tracer provider that keeps its spans."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode

from callboard.telemetry import Telemetry
from tests.telemetry.trees import Forest, Seen, by_trace


class Kept:
    """A provider, and the spans that were ended with it so far."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = Telemetry(self.provider)

    @property
    def spans(self) -> list[Seen]:
        return [seen(span) for span in self.exporter.get_finished_spans()]

    @property
    def forest(self) -> Forest:
        return Forest(self.spans)

    @property
    def traces(self) -> dict[str, Forest]:
        return by_trace(self.spans)


def seen(span: ReadableSpan) -> Seen:
    context = span.get_span_context()
    assert context is not None
    return Seen(
        trace_id=_trace_id(context),
        span_id=_span_id(context),
        parent_id=_span_id(span.parent) if span.parent else None,
        name=span.name,
        kind=span.kind.name,
        start=span.start_time or 0,
        end=span.end_time or 0,
        attributes=dict(span.attributes or {}),
        error=(span.status.description or "") if span.status.status_code is StatusCode.ERROR else None,
        events=tuple((event.name, dict(event.attributes or {})) for event in span.events),
        links=tuple((_trace_id(link.context), _span_id(link.context)) for link in span.links),
    )


def _trace_id(context: SpanContext) -> str:
    return f"{context.trace_id:032x}"


def _span_id(context: SpanContext) -> str:
    return f"{context.span_id:016x}"
