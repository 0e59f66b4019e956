"""Spans that have ended, on their way to a receiver, many to one request.

Nothing here waits for the receiver but a thread of its own. While it cannot be reached spans are kept, up to a limit; beyond it the
newest are dropped and counted: an orchestration never suffers from who watches it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from callboard.telemetry.encoding import AnySpan, SpanEncoder
from callboard.telemetry.transport import RefusedError, Transport, UnreachableError

log = logging.getLogger("callboard")

#: How long spans wait for company, in seconds.
DELAY = 0.25
#: How many spans do not wait any longer, and most in one request.
BATCH = 2_048
#: How many are kept while the receiver cannot be reached.
MOST = 131_072
#: Shortest and longest pause before a receiver that could not be reached is tried again, in seconds.
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0
#: How long the last spans may take when the process ends, in seconds.
LAST_SPANS = 5.0


class SpanExport(SpanProcessor):
    """Takes spans, our own as data and those of the SDK, and sends them."""

    def __init__(
        self,
        encoder: SpanEncoder,
        transport: Transport,
        *,
        delay: float = DELAY,
        batch: int = BATCH,
        most: int = MOST,
    ) -> None:
        self._encoder = encoder
        self._transport = transport
        self._delay = delay
        self._batch = batch
        self._most = most
        self._waiting: deque[AnySpan] = deque()
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self._done = 0
        self._unreachable = False
        self._closing = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="callboard-spans", daemon=True)
        self._thread.start()

    def put(self, span: AnySpan) -> None:
        """Takes a span that has ended. Never waits."""
        if len(self._waiting) >= self._most or self._closing:
            self._drop(1)
            return
        self._waiting.append(span)
        if len(self._waiting) >= self._batch:
            self._wake.set()

    def on_end(self, span: ReadableSpan) -> None:
        """Takes a span of the SDK."""
        if span.context is not None and span.context.trace_flags.sampled:
            self.put(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Waits until all spans so far are sent; not longer than it takes to find out that the receiver is away."""
        with self._changed:
            target = self._done + len(self._waiting)
            self._wake.set()
            self._changed.wait_for(lambda: self._done >= target or self._unreachable, timeout_millis / 1_000)
            return self._done >= target

    def shutdown(self) -> None:
        """Sends what waits, for up to a few seconds, and ends."""
        self._closing = True
        self._wake.set()
        self._thread.join(LAST_SPANS)
        self._transport.close()

    # In the thread

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            self._wake.wait(pause if self._unreachable else self._delay)
            self._wake.clear()
            while self._waiting and self._send(
                [self._waiting[at] for at in range(min(self._batch, len(self._waiting)))]
            ):
                pass
            pause = min(pause * 2, LAST_PAUSE) if self._unreachable else FIRST_PAUSE
            if self._closing:
                self._drop(len(self._waiting))
                return

    def _send(self, spans: list[AnySpan]) -> bool:
        """Sends spans, which stay in the queue until they are gone; returns whether to go on."""
        try:
            self._transport.send(self._encoder.request(spans))
        except UnreachableError as error:
            self._note(unreachable=True, trouble=str(error))
            return False
        except RefusedError as error:
            log.error(  # noqa: TRY400 - where it was raised says nothing
                "The OTLP receiver refuses %d spans: %s", len(spans), error
            )
            self.dropped += len(spans)
        except (
            Exception
        ):  # whatever it was, the thread must go on: one span that cannot be encoded harms only its batch
            log.exception("%d spans could not be sent", len(spans))
            self.dropped += len(spans)
        self._note(unreachable=False, sent=len(spans))
        return True

    def _note(self, *, unreachable: bool, sent: int = 0, trouble: str = "") -> None:
        if unreachable and not self._unreachable:
            log.warning("The OTLP receiver cannot be reached (%s): up to %d spans are kept", trouble, self._most)
        elif self._unreachable and not unreachable:
            log.info("The OTLP receiver is reached again")
        with self._changed:
            self._unreachable = unreachable
            for _ in range(sent):
                self._waiting.popleft()
            self._done += sent
            self._changed.notify_all()

    def _drop(self, count: int) -> None:
        if count and not self.dropped:
            log.error("Spans are dropped: more than the OTLP receiver has taken")
        self.dropped += count
