"""Our trace contexts as OpenTelemetry's, and back."""

from __future__ import annotations

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from callboard.core.tracing import TraceContext

_BAGGAGE = W3CBaggagePropagator()


def span_context(context: TraceContext) -> SpanContext:
    """The span that a context names, as a remote one."""
    return SpanContext(
        trace_id=int(context.trace_id, 16),
        span_id=int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(context.traceparent[53:], 16)),
        trace_state=TraceState.from_header([context.tracestate]) if context.tracestate else None,
    )


def otel_context(context: TraceContext) -> Context:
    """A context in which that span is the current one, with its baggage."""
    surrounding = Context()
    if context.baggage:
        surrounding = _BAGGAGE.extract({"baggage": context.baggage}, surrounding)
    return trace.set_span_in_context(NonRecordingSpan(span_context(context)), surrounding)


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
