"""Spans as OTLP (``opentelemetry-proto``, trace/v1), by hand: a tenth of what building its message objects costs.

A message is a sequence of fields: a tag (number and wire type), then a varint, 4 or 8 bytes, or a length and that many bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, StatusCode, TraceState

from callboard.core.failure import FailureDetails
from callboard.core.spans import Span
from callboard.telemetry.contexts import failure_attributes, failure_text, nanoseconds, span_context
from callboard.telemetry.live import LiveSpan

#: Encoded attributes and names that are kept for the next span; most spans share most of theirs.
MOST_KEPT = 8_192

_REMOTE_KNOWN, _REMOTE = 0x100, 0x200
_KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_times = struct.Struct("<BQBQ").pack
_time = struct.Struct("<BQ").pack
_LOCAL_ROOT = b"\x85\x01" + _REMOTE_KNOWN.to_bytes(4, "little")
_REMOTE_PARENT = b"\x85\x01" + (_REMOTE_KNOWN | _REMOTE).to_bytes(4, "little")
_UNSET = b"\x7a\x00"
_double = struct.Struct("<Bd").pack


#: What is exported: orchestrations' spans as data, the runtime's others, and those of whoever else uses the SDK.
AnySpan: TypeAlias = Span | LiveSpan | ReadableSpan


def varint(number: int) -> bytes:
    """A number in as many bytes as it needs; a negative one in ten."""
    number &= 0xFFFF_FFFF_FFFF_FFFF
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _sized(tag: bytes, content: bytes) -> bytes:
    size = len(content)
    return tag + (bytes((size,)) if size < 0x80 else varint(size)) + content


def _text(tag: bytes, text: str) -> bytes:
    return _sized(tag, text.encode(errors="replace"))


def any_value(value: object) -> bytes:
    """An ``AnyValue``: whatever OpenTelemetry takes as an attribute."""
    encoded = b""
    match value:
        case str():
            encoded = _text(b"\x0a", value)
        case bool():
            encoded = b"\x10\x01" if value else b"\x10\x00"
        case int():
            encoded = b"\x18" + varint(value)
        case float():
            encoded = _double(0x21, value)
        case bytes():
            encoded = _sized(b"\x3a", value)
        case Mapping():
            encoded = _map(value)  # pyright: ignore[reportUnknownArgumentType]
        case Sequence():
            encoded = _array(value)  # pyright: ignore[reportUnknownArgumentType]
        case None:
            pass
        case _:
            encoded = _text(b"\x0a", str(value))
    return encoded


def _map(values: Mapping[str, Any]) -> bytes:
    return _sized(b"\x32", _attributes(b"\x0a", values))


def _array(values: Sequence[Any]) -> bytes:
    return _sized(b"\x2a", b"".join(_sized(b"\x0a", any_value(each)) for each in values))


def _key_value(tag: bytes, key: str, value: Any) -> bytes:
    return _sized(tag, _text(b"\x0a", key) + _sized(b"\x12", any_value(value)))


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None) -> bytes:
    return b"".join(_key_value(tag, key, value) for key, value in (attributes or {}).items())


def _trace_state(tag: bytes, state: TraceState | None) -> bytes:
    return _text(tag, ",".join(f"{key}={value}" for key, value in state.items())) if state else b""


def _remote(context: SpanContext | None) -> int:
    return _REMOTE_KNOWN | _REMOTE if context is not None and context.is_remote else _REMOTE_KNOWN


def _event(event: Event) -> bytes:
    return _sized(
        b"\x5a",
        _time(0x09, event.timestamp)
        + _text(b"\x12", event.name)
        + _attributes(b"\x1a", event.attributes)
        + _dropped(b"\x20", event.dropped_attributes),
    )


def _link(link: Link) -> bytes:
    context = link.context
    return _sized(
        b"\x6a",
        b"\x0a\x10"
        + context.trace_id.to_bytes(16)
        + b"\x12\x08"
        + context.span_id.to_bytes(8)
        + _attributes(b"\x22", link.attributes)
        + _dropped(b"\x28", link.dropped_attributes)
        + b"\x35"
        + _remote(context).to_bytes(4, "little"),
    )


def _dropped(tag: bytes, count: int) -> bytes:
    return tag + varint(count) if count else b""


def _status(description: str | None, code: int) -> bytes:
    return _sized(
        b"\x7a", (_text(b"\x12", description) if description else b"") + (b"\x18" + varint(code) if code else b"")
    )


def resource_message(resource: Resource) -> bytes:
    """A ``Resource``, as field 1."""
    return _sized(b"\x0a", _attributes(b"\x0a", resource.attributes))


class SpanEncoder:
    """Encodes the spans of one resource: orchestrations', which are many and alike, and whatever else the SDK hands over."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = resource_message(resource)
        self._schema = _text(b"\x1a", resource.schema_url) if resource.schema_url else b""
        self._scope = scope
        self._attributes: dict[tuple[str, str | int], bytes] = {}
        self._names: dict[tuple[str, str], bytes] = {}

    def request(self, spans: Sequence[AnySpan]) -> bytes:
        """An ``ExportTraceServiceRequest``."""
        scopes: dict[InstrumentationScope | None, list[bytes]] = {}
        for span in spans:
            if isinstance(span, Span):
                scopes.setdefault(self._scope, []).append(_sized(b"\x12", self.span(span)))
            elif isinstance(span, LiveSpan):
                scopes.setdefault(self._scope, []).append(_sized(b"\x12", self.live_span(span)))
            else:
                scopes.setdefault(span.instrumentation_scope, []).append(_sized(b"\x12", sdk_span(span)))
        scoped = b"".join(_scope_spans(scope, encoded) for scope, encoded in scopes.items())
        return _sized(b"\x0a", self._resource + scoped + self._schema)

    def span(self, span: Span) -> bytes:
        """A ``Span`` of an orchestration."""
        context = span.context
        parts = [
            b"\x0a\x10",
            bytes.fromhex(context.trace_id),
            b"\x12\x08",
            bytes.fromhex(context.span_id),
            b"" if span.parent_id is None else b"\x22\x08" + bytes.fromhex(span.parent_id),
            self._names.get((span.name, span.kind)) or self._named(span.name, span.kind),
            _times(0x39, nanoseconds(span.start), 0x41, nanoseconds(span.end)),
        ]
        known = self._attributes
        parts += [known.get(item) or self._attribute(item) for item in span.attributes.items()]
        parts.append(_LOCAL_ROOT if span.parent_id is None else _REMOTE_PARENT)
        if context.tracestate:
            parts.append(_text(b"\x1a", context.tracestate))
        if span.failure is None:
            parts.append(_UNSET)
        else:
            parts += self._failed(span.failure, nanoseconds(span.end))
        parts += [_link(Link(span_context(link))) for link in span.links]
        return b"".join(parts)

    def live_span(self, span: LiveSpan) -> bytes:
        """A ``Span`` of the runtime that was under way."""
        context, parent, known = span.context, span.parent, self._attributes
        kind = span.kind.name.lower()
        parts = [
            b"\x0a\x10",
            context.trace_id.to_bytes(16),
            b"\x12\x08",
            context.span_id.to_bytes(8),
            b"" if parent is None else b"\x22\x08" + parent.span_id.to_bytes(8),
            self._names.get((span.name, kind)) or self._named(span.name, kind),
            _times(0x39, span.start_time, 0x41, span.end_time),
        ]
        parts += [known.get(item) or self._attribute(item) for item in span.given.items()]
        parts.append(_REMOTE_PARENT if parent is not None and parent.is_remote else _LOCAL_ROOT)
        if span.attributes or span.events or span.links or context.trace_state:
            parts += [_trace_state(b"\x1a", context.trace_state), _attributes(b"\x4a", span.attributes)]
            parts += [_event(event) for event in span.events or ()]
            parts += [_link(link) for link in span.links or ()]
        status = span.status
        parts.append(_UNSET if status is None else _status(status.description, status.status_code.value))
        return b"".join(parts)

    def _failed(self, failure: FailureDetails, at: int) -> tuple[bytes, bytes]:
        event = Event("exception", failure_attributes(failure), at)
        return _event(event), _status(failure_text(failure), StatusCode.ERROR.value)

    def _named(self, name: str, kind: str) -> bytes:
        if len(self._names) >= MOST_KEPT:
            self._names.clear()
        encoded = self._names[name, kind] = _text(b"\x2a", name) + b"\x30" + varint(_KINDS[kind])
        return encoded

    def _attribute(self, item: tuple[str, str | int]) -> bytes:
        if len(self._attributes) >= MOST_KEPT:
            self._attributes.clear()
        encoded = self._attributes[item] = _key_value(b"\x4a", *item)
        return encoded


def _scope_spans(scope: InstrumentationScope | None, spans: Sequence[bytes]) -> bytes:
    head, schema = b"", b""
    if scope is not None:
        version = _text(b"\x12", scope.version) if scope.version else b""
        head = _sized(b"\x0a", _text(b"\x0a", scope.name) + version + _attributes(b"\x1a", scope.attributes))
        schema = _text(b"\x1a", scope.schema_url) if scope.schema_url else b""
    return _sized(b"\x12", head + b"".join(spans) + schema)


def sdk_span(span: ReadableSpan) -> bytes:
    """A ``Span`` of the SDK."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return b"".join(
        (
            b"\x0a\x10" + context.trace_id.to_bytes(16),
            b"\x12\x08" + context.span_id.to_bytes(8),
            _trace_state(b"\x1a", context.trace_state),
            b"" if parent is None else b"\x22\x08" + parent.span_id.to_bytes(8),
            _text(b"\x2a", span.name),
            b"\x30" + varint(span.kind.value + 1),
            _times(0x39, span.start_time or 0, 0x41, span.end_time or 0),
            _attributes(b"\x4a", span.attributes),
            _dropped(b"\x50", span.dropped_attributes),
            b"".join(_event(event) for event in span.events),
            _dropped(b"\x60", span.dropped_events),
            b"".join(_link(link) for link in span.links),
            _dropped(b"\x70", span.dropped_links),
            _status(span.status.description, span.status.status_code.value),
            b"\x85\x01" + _remote(parent).to_bytes(4, "little"),
        )
    )
