"""What the runtime tells about its work so that it can be traced. It knows spans as data, and no library that carries them away.

Rules of this file:

* An orchestration's spans are told of when the commit that ends them is durable, by the process whose commit it was.
* Telling never fails, never waits, and changes nothing but what is handed on as the trace context.
* With nobody to tell (`UNTRACED`) it costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Protocol

import msgspec

from callboard.core.failure import FailureDetails
from callboard.core.instances import InstanceRecord
from callboard.core.messages import ActivityCall, RaiseEvent
from callboard.core.spans import Span
from callboard.core.tracing import TraceContext

#: The trace that a request belongs to, while it is served: said by its headers, and handed on even where nobody traces.
INCOMING: ContextVar[TraceContext | None] = ContextVar("callboard_incoming_trace", default=None)


class RunSpan(Protocol):
    """One run of an activity, while it goes on."""

    def failed(self, failure: FailureDetails) -> None:
        """Says that it failed; to be called before it ends."""
        ...


class Tracing(Protocol):
    """Takes spans."""

    def begin(self, record: InstanceRecord) -> InstanceRecord:
        """Gives an instance that nobody's trace led to, and that has not begun yet, a trace of its own."""
        ...

    def starting(self, record: InstanceRecord) -> AbstractContextManager[InstanceRecord]:
        """While a client starts an instance: its record, with the trace that leads to it."""
        ...

    def raising(self, event: RaiseEvent, target: InstanceRecord) -> AbstractContextManager[RaiseEvent]:
        """While a client raises an event: the event, with the trace that leads to it."""
        ...

    def running(self, call: ActivityCall) -> AbstractContextManager[RunSpan]:
        """While an activity runs. What its code traces hangs under this run."""
        ...

    def ended(self, spans: Sequence[Span]) -> None:
        """Spans that a durable commit has brought to their end."""
        ...

    def flush(self) -> None:
        """Returns once all spans so far are with their receiver, or cannot be had there. Blocks: call it in a thread."""
        ...


class _Unheard:
    def failed(self, failure: FailureDetails) -> None:
        pass


class Untraced:
    """Nobody listens; what came in is handed on all the same."""

    _RUN = nullcontext(_Unheard())

    def begin(self, record: InstanceRecord) -> InstanceRecord:
        return record

    def starting(self, record: InstanceRecord) -> AbstractContextManager[InstanceRecord]:
        incoming = INCOMING.get()
        return nullcontext(record if incoming is None else msgspec.structs.replace(record, trace=incoming))

    def raising(self, event: RaiseEvent, target: InstanceRecord) -> AbstractContextManager[RaiseEvent]:
        incoming = INCOMING.get()
        return nullcontext(event if incoming is None else msgspec.structs.replace(event, trace=incoming))

    def running(self, call: ActivityCall) -> AbstractContextManager[RunSpan]:
        return self._RUN

    def ended(self, spans: Sequence[Span]) -> None:
        pass

    def flush(self) -> None:
        pass


UNTRACED: Tracing = Untraced()
