"""Trace contexts as data: how a span is referred to from elsewhere, in the words of W3C Trace Context and Baggage.

The spans themselves follow from commits (`callboard.core.spans`). Their ids are derived from the execution and the number of the
action, so that whoever tells of a commit again, in whatever process, tells the same.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

#: Longest ``tracestate`` and ``baggage`` that are carried, in characters (the limits of the W3C recommendations).
MAX_TRACESTATE, MAX_BAGGAGE = 512, 8_192

_LENGTH = 55
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class TraceContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A span, as those that hang under it and those that link to it know it."""

    traceparent: str
    """``00-{trace id}-{span id}-{flags}``, lower-case hex."""
    tracestate: str | None = None
    baggage: str | None = None

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether spans of this trace are recorded: decided once, at its root."""
        return self.traceparent[-1:] in _ODD

    def at(self, span_id: str) -> TraceContext:
        """Another span of the same trace."""
        return TraceContext(
            traceparent=f"{self.traceparent[:36]}{span_id}{self.traceparent[52:]}",
            tracestate=self.tracestate,
            baggage=self.baggage,
        )


_ODD = frozenset("13579bdf")


def checked(context: TraceContext | None) -> TraceContext | None:
    """The context, without what does not keep to the recommendations: it may come from anybody. None if nothing is left."""
    if context is None or not _TRACEPARENT.fullmatch(context.traceparent):
        return None
    state, baggage = context.tracestate or "", context.baggage or ""
    if len(state) <= MAX_TRACESTATE and len(baggage) <= MAX_BAGGAGE:
        return context
    return TraceContext(
        traceparent=context.traceparent,
        tracestate=state if 0 < len(state) <= MAX_TRACESTATE else None,
        baggage=baggage if 0 < len(baggage) <= MAX_BAGGAGE else None,
    )


def of_headers(traceparent: str | None, tracestate: str | None, baggage: str | None) -> TraceContext | None:
    """What came with a message or a request; later versions of the recommendation are read as the first, which they contain."""
    if traceparent is None:
        return None
    text = traceparent.strip()
    if len(text) > _LENGTH and text[:2] not in ("00", "ff") and text[_LENGTH] == "-":
        text = f"00{text[2:_LENGTH]}"
    return checked(TraceContext(traceparent=text, tracestate=tracestate or None, baggage=baggage or None))


def derived_span_id(owner: str, what: object = "") -> str:
    """A span id that whoever derives it again finds again: 16 hex digits."""
    return hashlib.blake2b(f"{owner}/{what}".encode(), digest_size=8).hexdigest()


def derived_trace_id(execution_id: str) -> str:
    """The trace of an execution that nobody's trace led to: 32 hex digits."""
    return hashlib.blake2b(f"{execution_id}/trace".encode(), digest_size=16).hexdigest()


def root_context(execution_id: str, *, sampled: bool) -> TraceContext:
    """What an execution starts from that nobody's trace led to. It names the execution's own span, which thereby has no parent."""
    flags = "01" if sampled else "00"
    return TraceContext(traceparent=f"00-{derived_trace_id(execution_id)}-{derived_span_id(execution_id)}-{flags}")


def execution_context(start: TraceContext | None, execution_id: str) -> TraceContext | None:
    """The span of an execution that was started from a context."""
    if start is None or not start.sampled:
        return start
    return start.at(derived_span_id(execution_id))


def action_context(execution: TraceContext | None, execution_id: str, event_id: int) -> TraceContext | None:
    """The span of something that an execution asked for."""
    if execution is None or not execution.sampled:
        return execution
    return execution.at(derived_span_id(execution_id, event_id))
