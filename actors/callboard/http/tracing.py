"""The trace that a request belongs to: said by its headers (W3C Trace Context and Baggage), handed on to what it starts or sends."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from callboard.core.tracing import of_headers
from callboard.tracing import INCOMING


class TraceHeaders:
    """Takes up the trace of each request. One that is traced in this process already, by a framework's instrumentation, wins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "traceparent" not in headers:
            await self._app(scope, receive, send)
            return
        state, baggage = (",".join(headers.getlist(name)) for name in ("tracestate", "baggage"))
        token = INCOMING.set(of_headers(headers["traceparent"], state, baggage))
        try:
            await self._app(scope, receive, send)
        finally:
            INCOMING.reset(token)
