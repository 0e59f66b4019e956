"""``/metrics`` of a worker, which has no web framework and needs none."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence

from callboard.cli.problems import CommandError
from callboard.instruments import Instrument
from callboard.prometheus import CONTENT_TYPE, exposition

#: Names the number, from 0, of a worker process among those of its supervisor.
PROCESS = "CALLBOARD_PROCESS"
#: How long a scraper may take to say what it wants, in seconds.
PATIENCE = 10.0
_MOST = 16_384


@contextlib.asynccontextmanager
async def showing(instruments: Sequence[Instrument], host: str, port: int | None) -> AsyncGenerator[None]:
    """Serves metrics while the block lasts; without a port it does not.

    Raises:
        CommandError: the port cannot be used.
    """
    if port is None:
        yield
        return
    number = port + int(os.environ.get(PROCESS, "0"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(reader, writer, instruments)

    try:
        server = await asyncio.start_server(serve, host, number, limit=_MOST)
    except OSError as error:
        raise CommandError(f"--metrics-port: port {number} of {host} cannot be used: {error.strerror}.") from None
    async with server:
        yield


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, instruments: Sequence[Instrument]) -> None:
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(PATIENCE):
            head = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
            writer.write(_answer(head.split("\r\n", 1)[0], instruments))
            await writer.drain()
    writer.close()


def _answer(request: str, instruments: Sequence[Instrument]) -> bytes:
    method, _, rest = request.partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if method not in ("GET", "HEAD"):
        return _response("405 Method Not Allowed", "text/plain", "Only GET.\n")
    if path == "/metrics":
        return _response("200 OK", CONTENT_TYPE, exposition(instruments))
    if path == "/healthz":
        return _response("200 OK", "application/json", '{"status": "live"}\n')
    return _response("404 Not Found", "text/plain", "There is /metrics, and /healthz.\n")


def _response(status: str, kind: str, body: str) -> bytes:
    content = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content
