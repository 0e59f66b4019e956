"""The HTTP side of the command line: a socket, a server on it, and who may reach it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import AsyncGenerator, Generator

import uvicorn
from fastapi import FastAPI

from callboard.cli.problems import CommandError

#: How long requests under way may take when the server stops, in seconds.
LAST_REQUESTS = 5


class Listener:
    """A bound socket and the URL that reaches it.

    Raises:
        CommandError: the address is in use, not ours, or open to others without leave.
    """

    def __init__(self, host: str, port: int, *, allow_remote: bool) -> None:
        if not allow_remote and not is_loopback(host):
            raise CommandError(
                f"--host {host} would let other machines reach the HTTP API, which has no keys yet: whoever reaches it can read, start and "
                "delete everything. Keep to 127.0.0.1; or give --allow-remote as well, behind something that authenticates."
            )
        self.host = host
        self.socket = _bound(host, port)
        number: int = self.socket.getsockname()[1]
        name = "127.0.0.1" if host in ("0.0.0.0", "") else "::1" if host == "::" else host  # noqa: S104 - how to reach it from here
        self.url = f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}"

    @property
    def allowed_hosts(self) -> list[str]:
        """The names under which the API answers; a web page's own name that was made to point here is none of them."""
        return ["localhost", "127.0.0.1", "::1", "[::1]", self.host.lower()] if is_loopback(self.host) else ["*"]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CommandError(f"--host {host} is no address of this machine: {error.strerror or error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)  # at once: bound alone, two programs could share the port
    except OSError as error:
        listener.close()
        raise CommandError(_why_not(error, host, port)) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} of {host} is in use by another program. Stop that one, or choose another port: --port {port + 1}"
        case errno.EACCES:
            return f"This user may not listen on port {port}. Choose one from 1024 on: --port 7071"
        case errno.EADDRNOTAVAIL:
            return f"--host {host} is no address of this machine."
        case _:
            return f"Port {port} of {host} cannot be used: {error.strerror}."


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # signals are the command's: the worker has to stop too


@contextlib.asynccontextmanager
async def serving(api: FastAPI, listener: Listener, *, access_log: bool) -> AsyncGenerator[None]:
    """Serves HTTP inside the block; requests under way at its end get a few seconds."""
    config = uvicorn.Config(
        api,
        log_config=None,
        access_log=access_log,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener.socket]), name="callboard http")
    try:
        yield  # the socket listens already: who comes before the server has begun waits in the queue
    finally:
        server.should_exit = True
        await task
