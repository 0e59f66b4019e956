"""Encoded spans to an OTLP receiver: HTTP with what Python has, gRPC with grpcio. Blocking: used from a thread of its own.

What the receiver says it may take later is sent again, with pauses; what it refuses is dropped, because it would refuse it again.
"""

from __future__ import annotations

import gzip
import http.client
import importlib
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from callboard.errors import ConfigurationError

#: Answers of a receiver that may take the same later (OTLP/HTTP "retryable response codes").
LATER = frozenset({429, 502, 503, 504})
_LATER_GRPC = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"})
_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class UnreachableError(Exception):
    """The receiver could not be reached, or asks to try again later."""


class RefusedError(Exception):
    """The receiver will not have it."""


class Transport(Protocol):
    """A line to a receiver."""

    def send(self, body: bytes) -> None:
        """Sends a request and waits for its answer.

        Raises:
            UnreachableError: the same may succeed later.
            RefusedError: the same will not succeed.
        """
        ...

    def close(self) -> None: ...


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """Where an OTLP receiver is, and how it is spoken to."""

    url: str
    headers: Mapping[str, str] = {}
    timeout: float = 10.0
    """How long one request may take, in seconds."""
    compress: bool = False
    ca_file: str | None = None
    key_file: str | None = None
    certificate_file: str | None = None
    insecure: bool | None = None
    """For gRPC to a URL without a scheme: without TLS."""


class HttpTransport:
    """OTLP/HTTP in binary Protobuf, over one connection that is kept."""

    def __init__(self, receiver: Receiver) -> None:
        parts = urlsplit(receiver.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"{receiver.url!r} is no URL of an OTLP receiver: write http://host:4318 or https://host:4318."
            )
        self._receiver = receiver
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._open: Callable[[], http.client.HTTPConnection]
        host, port = parts.hostname, parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=receiver.ca_file)
            if receiver.certificate_file:
                context.load_cert_chain(receiver.certificate_file, receiver.key_file)
            self._open = lambda: http.client.HTTPSConnection(host, port, timeout=receiver.timeout, context=context)
        else:
            self._open = lambda: http.client.HTTPConnection(host, port, timeout=receiver.timeout)
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"Content-Type": "application/x-protobuf", **receiver.headers}
        if receiver.compress:
            self._headers["Content-Encoding"] = "gzip"

    def send(self, body: bytes) -> None:
        if self._receiver.compress:
            body = gzip.compress(body, 1)
        try:
            status, said = self._ask(body)
        except (
            OSError,
            http.client.HTTPException,
        ):  # a connection that was kept may have been closed by the other side
            status, said = self._ask_anew(body)
        if status in LATER:
            raise UnreachableError(f"it answers {status}")
        if status >= 300:
            raise RefusedError(f"it answers {status}: {said[:200].decode(errors='replace')}")

    def _ask_anew(self, body: bytes) -> tuple[int, bytes]:
        self.close()
        try:
            return self._ask(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnreachableError(f"{type(error).__name__}: {error}") from error

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._open()
        self._connection.request("POST", self._path, body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class GrpcTransport:
    """OTLP/gRPC, by grpcio."""

    def __init__(self, receiver: Receiver) -> None:
        try:
            self._grpc: Any = importlib.import_module("grpc")
        except ImportError:
            raise ConfigurationError(
                "OTLP over gRPC needs grpcio: pip install 'callboard[otlp]'. Or use HTTP: port 4318 instead of 4317, or "
                "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf."
            ) from None
        self._receiver = receiver
        self._channel = self._opened()
        compression = self._grpc.Compression.Gzip if receiver.compress else None
        self._export = self._channel.unary_unary(_METHOD)
        self._options = {
            "timeout": receiver.timeout,
            "metadata": tuple((name.lower(), value) for name, value in receiver.headers.items()),
            "compression": compression,
        }

    def send(self, body: bytes) -> None:
        try:
            self._export(body, **self._options)
        except self._grpc.RpcError as error:
            code = error.code().name
            trouble = f"{code}: {error.details()}"
            raise (UnreachableError if code in _LATER_GRPC else RefusedError)(trouble) from error

    def close(self) -> None:
        self._channel.close()

    def _opened(self) -> Any:
        parts = urlsplit(self._receiver.url if "://" in self._receiver.url else f"//{self._receiver.url}")
        if not parts.hostname:
            raise ConfigurationError(f"{self._receiver.url!r} is no URL of an OTLP receiver: write http://host:4317.")
        target = f"{parts.hostname}:{parts.port or 4317}"
        plain = parts.scheme == "http" if parts.scheme else bool(self._receiver.insecure)
        if plain:
            return self._grpc.insecure_channel(target)
        files = (self._receiver.ca_file, self._receiver.key_file, self._receiver.certificate_file)
        return self._grpc.secure_channel(target, self._grpc.ssl_channel_credentials(*map(_read, files)))


def _read(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None
