"""Our own tracer provider, for those who have none: the SDK's, with an export that is fast enough to be always on."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler
from opentelemetry.trace import NonRecordingSpan, Span as OtelSpan, SpanContext, SpanKind, TraceFlags, TraceState

from callboard.core.spans import Attributes, Span
from callboard.telemetry.exporting import SpanExport
from callboard.telemetry.live import LiveSpan

#: The instrumentation scope of all our spans (in .NET: the name of Durable Task's ``ActivitySource``).
SCOPE = "callboard"

_SAMPLED, _NOT_SAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


class CallboardTracerProvider(TracerProvider):
    """A provider for the whole process, whose runtime's spans take a shorter way to the export than those of others."""

    def __init__(self, resource: Resource, export: SpanExport, sampler: Sampler | None = None) -> None:
        super().__init__(sampler, resource, shutdown_on_exit=False)
        self.add_span_processor(export)
        self.export = export

    @property
    def follows_parents(self) -> bool:
        """Whether a trace is decided at its root alone, as it is unless ``OTEL_TRACES_SAMPLER`` says otherwise."""
        return isinstance(self.sampler, ParentBased)

    def end(self, span: Span) -> None:
        """Takes an orchestration's span."""
        self.export.put(span)

    def start(
        self, name: str, parent: SpanContext | None, surrounding: Context, kind: SpanKind, attributes: Attributes
    ) -> OtelSpan:
        """Begins a span."""
        generator = self.id_generator
        state: TraceState | None
        if parent is not None:
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
        else:
            trace_id = generator.generate_trace_id()
            decided = self.sampler.should_sample(surrounding, trace_id, name, kind, attributes)
            flags = _SAMPLED if decided.decision is Decision.RECORD_AND_SAMPLE else _NOT_SAMPLED
            state = decided.trace_state
        context = SpanContext(trace_id, generator.generate_span_id(), False, flags, state)
        if not flags.sampled:
            return NonRecordingSpan(context)
        return LiveSpan(name, kind, context, parent, attributes, self.export.put)
