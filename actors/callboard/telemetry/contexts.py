"""Our words as OpenTelemetry's: contexts there and back, times, failures."""

from __future__ import annotations

from datetime import datetime

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, TraceState

from callboard.core.failure import FailureDetails
from callboard.core.tracing import TraceContext

_BAGGAGE = W3CBaggagePropagator()
_EMPTY = Context()


def span_context(context: TraceContext) -> SpanContext:
    """The span that a context names, as a remote one."""
    return SpanContext(
        trace_id=int(context.trace_id, 16),
        span_id=int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(context.traceparent[53:], 16)),
        trace_state=TraceState.from_header([context.tracestate]) if context.tracestate else None,
    )


def baggage_context(context: TraceContext) -> Context:
    """What surrounds that span: its baggage."""
    return _BAGGAGE.extract({"baggage": context.baggage}, _EMPTY) if context.baggage else _EMPTY


def otel_context(context: TraceContext) -> Context:
    """A context in which that span is the current one, with its baggage."""
    return trace.set_span_in_context(NonRecordingSpan(span_context(context)), baggage_context(context))


def trace_context(span: SpanContext, surrounding: Context | None = None) -> TraceContext:
    """A span as the rest of the world refers to it, with the baggage that surrounds it."""
    return TraceContext(
        traceparent=f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}",
        tracestate=span.trace_state.to_header() if span.trace_state else None,
        baggage=_header(surrounding),
    )


def _header(surrounding: Context | None) -> str | None:
    if not baggage.get_all(surrounding):
        return None
    carrier: dict[str, str] = {}
    _BAGGAGE.inject(carrier, surrounding)
    return carrier.get("baggage")


def nanoseconds(time: datetime) -> int:
    """Since the epoch; times have whole milliseconds."""
    return round(time.timestamp() * 1_000) * 1_000_000


def failure_text(failure: FailureDetails) -> str:
    """The description of a failed span's status."""
    return f"{failure.error_type}: {failure.error_message}"


def failure_attributes(failure: FailureDetails) -> dict[str, str]:
    """The attributes of an exception event."""
    attributes = {"exception.type": failure.error_type, "exception.message": failure.error_message}
    if failure.stack_trace:
        attributes["exception.stacktrace"] = failure.stack_trace
    return attributes


def record_failure(span: trace.Span, failure: FailureDetails, at: int | None = None) -> None:
    """Says of a span that it failed, and why."""
    span.add_event("exception", failure_attributes(failure), at)
    span.set_status(StatusCode.ERROR, failure_text(failure))
