"""Spans to the tracer provider of this process."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Protocol

import msgspec
from opentelemetry import context as contexts, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode

from callboard.core.failure import FailureDetails
from callboard.core.instances import InstanceRecord
from callboard.core.messages import ActivityCall, RaiseEvent
from callboard.core.spans import (
    Attributes,
    Span,
    activity_attributes,
    event_attributes,
    orchestration_attributes,
    span_name,
)
from callboard.core.tracing import TraceContext, checked, derived_trace_id, root_context
from callboard.telemetry.contexts import baggage_context, record_failure, span_context, trace_context
from callboard.telemetry.pipeline import SCOPE, CallboardTracerProvider
from callboard.telemetry.sdk import SdkSpans
from callboard.tracing import INCOMING, UNTRACED, RunSpan

log = logging.getLogger("callboard")

#: How long spans that wait to be exported may take when they are flushed, in milliseconds.
FLUSH = 5_000


class Spans(Protocol):
    """Begins spans, and takes those that have ended."""

    def start(
        self, name: str, parent: SpanContext | None, surrounding: Context, kind: SpanKind, attributes: Attributes
    ) -> trace.Span:
        """Begins a span under a parent; ``surrounding`` has what else there is, such as baggage."""
        ...

    def end(self, span: Span) -> None: ...


def open_telemetry_tracing(chosen: trace.TracerProvider | None) -> OpenTelemetryTracing | None:
    """Tracing by a tracer provider, or by the process's; None if there is none, or it is switched off."""
    provider = chosen or trace.get_tracer_provider()
    tracer = provider.get_tracer(SCOPE)
    if isinstance(provider, TracerProvider) and isinstance(tracer, Tracer):
        if isinstance(provider, CallboardTracerProvider) and provider.follows_parents:
            return OpenTelemetryTracing(provider, provider)
        return OpenTelemetryTracing(provider, SdkSpans(tracer))
    if not isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider, TracerProvider)):
        log.warning(
            "Nothing is traced: the process's tracer provider is a %s, and orchestrations, which live in many processes, need the "
            "opentelemetry-sdk's TracerProvider to give their spans ids.",
            type(provider).__name__,
        )
    return None


class OpenTelemetryTracing:
    """Tells a tracer provider of spans."""

    def __init__(self, provider: TracerProvider, spans: Spans) -> None:
        self._provider = provider
        self._spans = spans

    def begin(self, record: InstanceRecord) -> InstanceRecord:
        if record.trace is not None or record.runtime_status != "Pending":
            return record
        attributes = orchestration_attributes(record.name, record.instance_id, record.version)
        trace_id = int(derived_trace_id(record.execution_id), 16)
        name = span_name("orchestration", record.name, record.version)
        decided = self._provider.sampler.should_sample(Context(), trace_id, name, SpanKind.SERVER, attributes, ())
        root = root_context(record.execution_id, sampled=decided.decision is Decision.RECORD_AND_SAMPLE)
        return msgspec.structs.replace(record, trace=root)

    @contextmanager
    def starting(self, record: InstanceRecord) -> Generator[InstanceRecord]:
        name = span_name("create_orchestration", record.name, record.version)
        attributes = orchestration_attributes(record.name, record.instance_id, record.version)
        attributes["durabletask.task.execution_id"] = record.execution_id
        with self._producing(name, attributes, None) as context:
            yield msgspec.structs.replace(record, trace=context)

    @contextmanager
    def raising(self, event: RaiseEvent, target: InstanceRecord) -> Generator[RaiseEvent]:
        name = span_name("orchestration_event", event.name)
        attributes = event_attributes(event.name, event.instance_id)
        with self._producing(name, attributes, checked(target.trace)) as context:
            yield msgspec.structs.replace(event, trace=context)

    @contextmanager
    def _producing(self, name: str, attributes: Attributes, otherwise: TraceContext | None) -> Generator[TraceContext]:
        """A span of something that is sent: in the trace that it is sent from, or else in another."""
        surrounding = contexts.get_current()
        around = trace.get_current_span(surrounding).get_span_context()
        parent = around if around.is_valid else None
        if parent is None and (from_elsewhere := INCOMING.get() or otherwise) is not None:
            parent, surrounding = span_context(from_elsewhere), baggage_context(from_elsewhere)
        span = self._spans.start(name, parent, surrounding, SpanKind.PRODUCER, attributes)
        token = contexts.attach(trace.set_span_in_context(span, surrounding))
        try:
            yield trace_context(span.get_span_context(), surrounding)
        except Exception as error:
            record_failure(span, FailureDetails.from_exception(error))
            raise
        finally:
            contexts.detach(token)
            span.end()

    def running(self, call: ActivityCall) -> AbstractContextManager[RunSpan]:
        context = checked(call.trace)
        return UNTRACED.running(call) if context is None else _Run(self._spans, call, context)

    def ended(self, spans: Sequence[Span]) -> None:
        try:
            for span in spans:
                self._spans.end(span)
        except Exception:  # the orchestration must not suffer from who watches it
            log.exception("Spans of %s could not be told of", spans[0].name)

    def flush(self) -> None:
        self._provider.force_flush(FLUSH)


class _Run:
    """One run of an activity: the current span of its code."""

    def __init__(self, spans: Spans, call: ActivityCall, parent: TraceContext) -> None:
        called, surrounding = span_context(parent), baggage_context(parent)
        self._span: trace.Span = NonRecordingSpan(called)
        if parent.sampled:
            attributes = activity_attributes(call.name, call.instance_id, call.task_scheduled_id)
            name = span_name("activity", call.name)
            self._span = spans.start(name, called, surrounding, SpanKind.SERVER, attributes)
        self._surrounding = trace.set_span_in_context(self._span, surrounding)

    def __enter__(self) -> RunSpan:
        self._token = contexts.attach(self._surrounding)
        return self

    def failed(self, failure: FailureDetails) -> None:
        record_failure(self._span, failure)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        if error is not None:
            self._span.set_status(StatusCode.ERROR, f"It was interrupted ({type(error).__name__}), and will run again")
        self._span.end()
