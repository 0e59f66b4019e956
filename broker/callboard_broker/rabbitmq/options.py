"""How to reach RabbitMQ, and how patient to be."""

from __future__ import annotations

import dataclasses
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from callboard.errors import ConfigurationError

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, kw_only=True)
class RabbitMQOptions:
    """Where the server is, and every limit of the adapter. Any field may be given in the URL's query."""

    host: str = "localhost"
    port: int = 5672
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    virtual_host: str = "/"

    tls: bool = False
    tls_verify: bool = True
    """Whether the server's certificate must be valid for its name."""
    tls_ca_file: str | None = None
    """Certificates to trust (PEM) instead of the system's."""
    tls_certificate_file: str | None = None
    """Our own certificate (PEM), if the server asks for one."""
    tls_key_file: str | None = None

    accept_existing_queues: bool = False
    """Use queues that exist with other properties, rather than refuse. RabbitMQ 4 drops messages that were delivered 20 times from a
    quorum queue that RabbitMQ 3 made for us: set ``delivery-limit`` by policy before you say so."""

    connect_timeout: float = 10.0
    """Seconds that ``open`` keeps trying, and that one attempt may take."""
    publish_timeout: float = 30.0
    """Seconds until a publish that is not confirmed is given up; includes waiting for a connection."""
    rpc_timeout: float = 10.0
    """Seconds until a server that does not answer a request counts as gone."""
    heartbeat: int = 15
    """Seconds; the connection counts as dead after some three of them without a sign of life."""
    probe_interval: float = 15.0
    """Seconds between checks that both connections answer and that every consumer gets what waits in its queue."""
    backoff_initial: float = 0.1
    """Seconds before the first attempt to reconnect; doubled with each one that fails."""
    backoff_max: float = 5.0
    """Seconds between attempts, at most."""

    message_limit: int = 16 * 1024 * 1024
    """Bytes. RabbitMQ 4 refuses more than 16 MiB by default; 3.x takes 128 MiB, so that only production would fail."""
    publish_window: int = 1000
    """Messages that may be sent and not yet confirmed."""
    publish_window_per_queue: int = 200
    """Those of them that may be for one queue. RabbitMQ takes 400 for a queue that has lost its leader, then stops reading them all."""
    publish_window_bytes: int = 64 * 1024 * 1024
    """Bytes that may be sent and not yet confirmed."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RabbitMQOptions:
        """Reads ``amqp[s]://user:password@host:port/vhost?option=value``; keyword options win over the URL's.

        Raises:
            ConfigurationError: the URL or an option cannot be understood.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"The broker URL cannot be read: {error}.") from None
        if parts.scheme not in DEFAULT_PORTS:
            raise ConfigurationError(f"The broker URL must begin with amqp:// or amqps://, not {parts.scheme!r}.")
        values: dict[str, Any] = {
            "tls": parts.scheme == "amqps",
            "host": parts.hostname or "localhost",
            "port": port or DEFAULT_PORTS[parts.scheme],
            "virtual_host": unquote(parts.path[1:]) or "/",
        }
        if parts.username is not None:
            values["user"], values["password"] = unquote(parts.username), unquote(parts.password or "")
        for name, text in parse_qsl(parts.query, keep_blank_values=True):
            values[name] = _value(name, text)
        unknown = (values.keys() | options.keys()) - _TYPES.keys()
        if unknown:
            raise ConfigurationError(
                f"Unknown broker option {', '.join(sorted(unknown))}. Known are: {', '.join(sorted(_TYPES))}."
            )
        return cls(**{**values, **options})

    @property
    def address(self) -> str:
        """Host, port and virtual host, for people. Never the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + ("" if self.virtual_host == "/" else f", virtual host {self.virtual_host!r}")

    def tls_context(self) -> ssl.SSLContext | None:
        """What TLS needs; None without TLS. Reads files.

        Raises:
            ConfigurationError: a file cannot be used.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
            if self.tls_certificate_file:
                context.load_cert_chain(self.tls_certificate_file, self.tls_key_file)
        except OSError as error:
            raise ConfigurationError(
                f"The TLS files cannot be used: {error}. Check tls_ca_file, tls_certificate_file and tls_key_file."
            ) from error
        if not self.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


_TYPES = {each.name: each.type for each in dataclasses.fields(RabbitMQOptions)}


def _value(name: str, text: str) -> Any:
    try:
        match _TYPES.get(name):
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "bool":
                if text.lower() not in TRUE_WORDS + FALSE_WORDS:
                    raise ValueError(text)
                return text.lower() in TRUE_WORDS
            case _:
                return text
    except ValueError:
        raise ConfigurationError(f"Broker option {name}={text!r} is not a valid {_TYPES[name]}.") from None
