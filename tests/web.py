"""A web server on a free port, whose answers a test chooses; it remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeAlias

import msgspec


class Asked(msgspec.Struct):
    """A request, as it came over the wire. Names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


class Says(msgspec.Struct):
    """An answer."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b""
    hang_up: bool = False
    """Closes the connection instead."""


Answering: TypeAlias = Callable[[Asked], Says | Awaitable[Says]]


class WebServer:
    """Serves while it is entered. ``url`` is its origin."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self.asked: list[Asked] = []
        self._serving: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for serving in self._serving.values():
            serving.cancel()
        await asyncio.gather(*self._serving.values(), return_exceptions=True)
        for writer in self._serving:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving[writer] = asyncio.create_task(self._serve(reader, writer))

    @property
    def connections(self) -> int:
        return len(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await _read(reader)) is not None:
                self.asked.append(asked)
                says: Any = self._answer(asked)
                if not isinstance(says, Says):
                    says = await says
                if says.hang_up:
                    break
                head = "".join(f"{name}: {value}\r\n" for name, value in says.headers.items())
                length = f"Content-Length: {len(says.body)}\r\n"
                writer.write(f"HTTP/1.1 {says.status} X\r\n{head}{length}\r\n".encode() + says.body)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.strip().split("\r\n")
    method, path, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body.decode())
