"""A real OTLP collector that is not ours, and what arrives behind it.

`rotel-agent` (Rust) takes spans over gRPC and over HTTP, and hands them on to a server of this process, where they are decoded with
opentelemetry-proto.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.servers.process import Process, free_port
from tests.telemetry.trees import Forest, Seen

DEADLINE = 60.0
_KINDS: tuple[str, ...] = ("", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")


class Collector:
    """A running collector."""

    def __init__(self, folder: Path) -> None:
        self.spans: list[Seen] = []
        self.requests = 0
        self.ports = {"grpc": free_port(), "http": free_port()}
        self._sink = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._sink.serve_forever, daemon=True)
        self._thread.start()
        self._log = folder / "rotel.log"
        command = [
            str(_agent()), "start",
            "--otlp-grpc-endpoint", f"127.0.0.1:{self.ports['grpc']}", "--otlp-http-endpoint", f"127.0.0.1:{self.ports['http']}",
            "--exporter", "otlp", "--otlp-exporter-protocol", "http",
            "--otlp-exporter-endpoint", f"http://127.0.0.1:{self._sink.server_address[1]}", "--batch-timeout", "20ms",
            "--pid-file", str(folder / "rotel.pid"), "--log-file", str(self._log),
        ]  # fmt: skip
        self._agent = Process(command, log=self._log)
        for port in self.ports.values():
            until(lambda: _listens(port), "the collector listens")  # noqa: B023 - called at once

    def url(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self.ports[protocol]}"

    def take(self, body: bytes) -> None:
        """What the collector hands on."""
        request: Any = ExportTraceServiceRequest.FromString(body)
        self.requests += 1
        for resource_spans in request.resource_spans:
            resource = _values(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self.spans += [_seen(span, resource) for span in scope_spans.spans]

    def forest(self, instance_id: str) -> Forest:
        """The spans of one instance's trace, as far as they have arrived."""
        spans = list(self.spans)
        ids = {span.trace_id for span in spans if span.attributes.get("durabletask.task.instance_id") == instance_id}
        return Forest(span for span in spans if span.trace_id in ids)

    def shows(self, instance_id: str, expected: str, *, by_name: bool = False) -> Forest:
        """Waits until an instance's trace has arrived with no span missing, and asserts that it is the expected tree.

        A web framework may trace the request that started the instance: what is above its start does not matter.
        """
        lines = expected.splitlines()
        top = lines[0].split()[1]
        until(lambda: len(self._arrived(instance_id, top)) >= len(lines), lambda: self._missing(instance_id, expected))
        forest = self.forest(instance_id)
        shown = forest.shown(by_name=by_name, under=top)
        assert shown == expected, f"expected\n{expected}\nbut there is\n{shown}"
        return forest

    def _arrived(self, instance_id: str, top: str) -> list[str]:
        forest = self.forest(instance_id)
        return [] if forest.orphans or not forest.spans else forest.shown(under=top).splitlines()

    def close(self) -> None:
        self._agent.end()
        self._sink.shutdown()
        self._sink.server_close()

    def _missing(self, instance_id: str, expected: str) -> str:
        labels = sorted(span.label for span in self.forest(instance_id).spans.values())
        return f"of\n{expected}\nthere arrived {labels}"


@contextlib.contextmanager
def collecting(folder: Path) -> Generator[Collector]:
    collector = Collector(folder)
    try:
        yield collector
    finally:
        collector.close()


def until(condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.02)


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.take(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has there
            pass

    return Handler


def _agent() -> Path:
    found = importlib.util.find_spec("rotel")
    assert found is not None, "rotel is missing: pip install --group dev"
    assert found.origin is not None
    return Path(found.origin).parent / "rotel-agent"


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _seen(span: Any, resource: dict[str, Any]) -> Seen:
    return Seen(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        name=span.name,
        kind=_KINDS[int(span.kind)],
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        error=span.status.message if span.status.code == 2 else None,
        events=tuple((event.name, _values(event.attributes)) for event in span.events),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {str(each.key): _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = str(value.WhichOneof("value") or "")
    return getattr(value, kind) if kind else None
