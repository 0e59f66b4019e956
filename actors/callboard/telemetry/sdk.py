"""Spans with ids of our choosing, by way of the SDK's own tracer: its sampler, limits and processors apply."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, SpanKind, StatusCode

from callboard.core.failure import FailureDetails
from callboard.core.spans import Span
from callboard.core.tracing import TraceContext
from callboard.telemetry.contexts import otel_context, span_context

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
    """Ends spans by way of a tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        if not isinstance(tracer.id_generator, DerivedIds):  # the tracer is ours alone: nobody else has its name
            tracer.id_generator = DerivedIds(tracer.id_generator)
        self._ids: DerivedIds = tracer.id_generator

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


def nanoseconds(time: datetime) -> int:
    """Since the epoch; times have whole milliseconds."""
    return round(time.timestamp() * 1_000) * 1_000_000


def failure_attributes(failure: FailureDetails) -> dict[str, str]:
    """The attributes of an exception event."""
    attributes = {"exception.type": failure.error_type, "exception.message": failure.error_message}
    if failure.stack_trace:
        attributes["exception.stacktrace"] = failure.stack_trace
    return attributes


def record_failure(span: trace.Span, failure: FailureDetails, at: int | None = None) -> None:
    """Says of a span that it failed, and why."""
    span.add_event("exception", failure_attributes(failure), at)
    span.set_status(StatusCode.ERROR, f"{failure.error_type}: {failure.error_message}")
