"""Spans with ids of our choosing, by way of the SDK's own tracer: its sampler, limits and processors apply."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, Span as OtelSpan, SpanContext, SpanKind, set_span_in_context

from callboard.core.spans import Attributes, Span
from callboard.core.tracing import TraceContext
from callboard.telemetry.contexts import nanoseconds, otel_context, record_failure, span_context

KINDS: Mapping[str, SpanKind] = {kind.name.lower(): kind for kind in SpanKind}


class DerivedIds(IdGenerator):
    """Gives the tracer's next span the ids that it is to have; else those of the provider's own generator."""

    def __init__(self, otherwise: IdGenerator) -> None:
        self._otherwise = otherwise
        self._next = threading.local()

    def choose(self, context: TraceContext | None) -> None:
        """Sets the ids of the next span in this thread, or takes them back."""
        self._next.context = context

    def generate_span_id(self) -> int:
        chosen: TraceContext | None = getattr(self._next, "context", None)
        return self._otherwise.generate_span_id() if chosen is None else int(chosen.span_id, 16)

    def generate_trace_id(self) -> int:
        chosen: TraceContext | None = getattr(self._next, "context", None)
        return self._otherwise.generate_trace_id() if chosen is None else int(chosen.trace_id, 16)

    def is_trace_id_random(self) -> bool:
        return self._otherwise.is_trace_id_random()


class SdkSpans:
    """Begins and ends spans by way of a tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        if not isinstance(tracer.id_generator, DerivedIds):  # the tracer is ours alone: nobody else has its name
            tracer.id_generator = DerivedIds(tracer.id_generator)
        self._ids: DerivedIds = tracer.id_generator

    def start(
        self, name: str, parent: SpanContext | None, surrounding: Context, kind: SpanKind, attributes: Attributes
    ) -> OtelSpan:
        """Begins a span."""
        if parent is not None:
            surrounding = set_span_in_context(NonRecordingSpan(parent), surrounding)
        return self._tracer.start_span(name, surrounding, kind, attributes)

    def end(self, span: Span) -> None:
        """Tells of a span that has ended."""
        parent = Context() if span.parent_id is None else otel_context(span.context.at(span.parent_id))
        self._ids.choose(span.context)
        try:
            told = self._tracer.start_span(
                span.name,
                context=parent,
                kind=KINDS[span.kind],
                attributes=span.attributes,
                links=[Link(span_context(link)) for link in span.links],
                start_time=nanoseconds(span.start),
            )
        finally:
            self._ids.choose(None)
        end = nanoseconds(span.end)
        if span.failure is not None:
            record_failure(told, span.failure, end)
        told.end(end)
