"""Who may knock, while there are no keys: programs on this machine, but no web page of somebody else's."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from callboard.http.problems import problem

_HARMLESS = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Refuses what a browser sends on behalf of another site: by a name that was made to point here, or from a foreign page."""

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        self._app = app
        self._allowed = {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._refusal(scope) if scope["type"] == "http" else None
        if reason is None:
            await self._app(scope, receive, send)
        else:
            await problem(403, reason)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if host and "*" not in self._allowed and _name(host) not in self._allowed:
            return f"This server does not answer to the name {host[:64]!r}: use the address it was started with."
        if origin is not None and scope["method"] not in _HARMLESS and origin.partition("://")[2] != host:
            return "This server takes no requests from pages of other sites."
        return None


def _name(host: str) -> str:
    """The host of a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower()
