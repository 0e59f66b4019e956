"""The address of the HTTP API: a bound socket, and who may reach it."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import TYPE_CHECKING

from callboard.cli.problems import CommandError

if TYPE_CHECKING:
    from callboard.http.keys import HttpKeys


class Listener:
    """A bound socket and the URL that reaches it.

    Raises:
        CommandError: the address is in use, not ours, or open to others without leave.
    """

    def __init__(self, host: str, port: int, *, allow_remote: bool, keys: HttpKeys | None = None) -> None:
        if not allow_remote and keys is None and not is_loopback(host):
            raise CommandError(
                f"--host {host} would let other machines reach the HTTP API, and there are no keys: whoever reaches it can read, start "
                "and delete everything. Set CALLBOARD_HTTP_KEYS=admin:… (or CALLBOARD_HTTP_KEYS_FILE), keep to 127.0.0.1, or give "
                "--allow-remote as well, behind something that authenticates."
            )
        self.host = host
        self.keys = keys
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
