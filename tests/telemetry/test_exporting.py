"""Spans on their way: kept while the receiver is away, dropped beyond a limit, never waited for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from callboard.errors import ConfigurationError
from callboard.telemetry.encoding import SpanEncoder
from callboard.telemetry.exporting import SpanExport
from callboard.telemetry.live import LiveSpan
from callboard.telemetry.pipeline import CallboardTracerProvider
from callboard.telemetry.setting_up import otlp_transport, otlp_variables
from callboard.telemetry.tracing import open_telemetry_tracing
from callboard.telemetry.transport import (
    GrpcTransport,
    HttpTransport,
    Receiver,
    RefusedError,
    UnreachableError,
)
from tests.telemetry.collector import until
from tests.telemetry.test_encoding import decoded
from tests.telemetry.test_tracing import SPAN, call

ENCODER = SpanEncoder(Resource({}), InstrumentationScope("callboard"))


class Line:
    """A transport that does what a test says."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.sent: list[str] = []
        self.requests = 0
        self.closed = False

    def send(self, body: bytes) -> None:
        self.requests += 1
        if self.trouble is not None:
            raise self.trouble
        request: Any = decoded(body)
        self.sent += [
            span.name for each in request.resource_spans for scope in each.scope_spans for span in scope.spans
        ]

    def close(self) -> None:
        self.closed = True


def named(name: str) -> Any:
    return msgspec.structs.replace(SPAN, name=name)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def exporting(line: Line) -> Iterator[Callable[..., SpanExport]]:
    made: list[SpanExport] = []

    def make(**options: Any) -> SpanExport:
        chosen: dict[str, Any] = {"delay": 60.0, **options}
        made.append(SpanExport(ENCODER, line, **chosen))
        return made[-1]

    yield make
    line.trouble = None
    for each in made:
        each.shutdown()


def test_what_waits_is_sent_together_and_in_order(line: Line, exporting: Callable[..., SpanExport]) -> None:
    export = exporting()
    for n in range(5):
        export.put(named(str(n)))
    assert export.force_flush()
    assert line.sent == list("01234")
    assert line.requests == 1
    assert export.force_flush()
    assert line.requests == 1


def test_a_full_batch_does_not_wait(line: Line, exporting: Callable[..., SpanExport]) -> None:
    export = exporting(batch=3)
    for n in range(7):
        export.put(named(str(n)))
    until(lambda: len(line.sent) >= 6, "full batches are sent")


def test_spans_are_kept_while_the_receiver_is_away_and_dropped_beyond_a_limit(
    line: Line, exporting: Callable[..., SpanExport], caplog: pytest.LogCaptureFixture
) -> None:
    line.trouble = UnreachableError("down")
    export = exporting(delay=0.01, most=3)
    began = time.monotonic()
    with caplog.at_level(logging.INFO, "callboard"):
        for n in range(5):
            export.put(named(str(n)))
        assert not export.force_flush()  # does not wait for what may take hours
        line.trouble = None
        until(lambda: len(line.sent) == 3, "they are sent when it is back")
    assert line.sent == list("012")
    assert export.dropped == 2
    assert time.monotonic() - began < 20
    said = [record.getMessage() for record in caplog.records]
    assert sum("cannot be reached (down)" in each for each in said) == 1
    assert sum("reached again" in each for each in said) == 1
    assert sum("dropped" in each for each in said) == 1


def test_what_the_receiver_refuses_holds_nothing_up(
    line: Line, exporting: Callable[..., SpanExport], caplog: pytest.LogCaptureFixture
) -> None:
    export = exporting()
    for trouble in (RefusedError("it answers 400"), ValueError("odd")):
        line.trouble = trouble
        export.put(named("bad"))
        assert export.force_flush()
    line.trouble = None
    export.put(named("good"))
    assert export.force_flush()
    assert line.sent == ["good"]
    assert export.dropped == 2
    assert "it answers 400" in caplog.text


def test_the_last_spans_are_sent_at_the_end_and_later_ones_dropped(
    line: Line, exporting: Callable[..., SpanExport]
) -> None:
    export = exporting()
    export.put(named("last"))
    export.shutdown()
    assert line.sent == ["last"]
    assert line.closed
    export.put(named("too late"))
    assert export.dropped == 1


# Live spans


def test_the_users_code_may_add_to_a_runtimes_span(line: Line, exporting: Callable[..., SpanExport]) -> None:
    ended: list[LiveSpan] = []
    context = SpanContext(1, 2, False, TraceFlags(1))
    span = LiveSpan("activity:x", SpanKind.SERVER, context, None, {"durabletask.type": "activity"}, ended.append)
    assert span.is_recording()
    span.set_attribute("who", "me")
    span.set_attributes({"n": 1, "who": "you"})
    span.add_event("half", {"done": 0.5}, 7)
    span.add_link(SpanContext(3, 4, True), {"why": "x"})
    span.update_name("activity:y")
    span.record_exception(ValueError("no"), {"more": True})
    span.set_status(Status(StatusCode.ERROR, "first"))
    span.set_status(StatusCode.ERROR, "no")
    span.end()
    span.end()
    assert not span.is_recording()
    assert ended == [span]
    request: Any = decoded(ENCODER.request([span]))
    sent = request.resource_spans[0].scope_spans[0].spans[0]
    assert (sent.name, sent.status.message, sent.status.code) == ("activity:y", "no", 2)
    assert {each.key for each in sent.attributes} == {"durabletask.type", "who", "n"}
    assert [event.name for event in sent.events] == ["half", "exception"]
    assert [(link.trace_id.hex()[-1], link.span_id.hex()[-1]) for link in sent.links] == [("3", "4")]
    assert 0 < sent.start_time_unix_nano <= sent.end_time_unix_nano


def test_runs_and_starts_take_the_short_way(line: Line, exporting: Callable[..., SpanExport]) -> None:
    export = exporting()
    provider = CallboardTracerProvider(Resource({}), export)
    tracing = open_telemetry_tracing(provider)
    assert tracing is not None
    tracing.ended([SPAN])
    with tracing.running(call(SPAN.context)), provider.get_tracer("user").start_as_current_span("inner"):
        pass
    unsampled = SPAN.context.traceparent[:-2] + "00"
    silent = call(msgspec.structs.replace(SPAN.context, traceparent=unsampled))
    with tracing.running(silent), provider.get_tracer("user").start_as_current_span("silent"):
        pass
    assert export.force_flush()
    assert sorted(line.sent) == ["activity:work", "activity:work", "inner"]


# Lines


class Answers:
    """An HTTP server that answers as a test says, and may hang up after each answer."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.hang_up = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answers = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                answers.seen.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
                self.send_response(answers.codes.pop(0) if answers.codes else 200)
                self.send_header("content-length", "0")
                self.end_headers()
                self.close_connection = answers.hang_up

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has there
                pass

        return Handler

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def answers() -> Iterator[Answers]:
    server = Answers()
    yield server
    server.close()


def test_http_says_what_may_be_tried_again(answers: Answers) -> None:
    transport = HttpTransport(Receiver(url=answers.url, headers={"x-key": "secret"}))
    transport.send(b"one")
    answers.hang_up = True
    transport.send(b"two")
    transport.send(b"three")  # on a connection that the other side has closed
    path, headers, body = answers.seen[0]
    assert (path, headers["content-type"], headers["x-key"], body) == (
        "/v1/traces",
        "application/x-protobuf",
        "secret",
        b"one",
    )
    for code, error in ((429, UnreachableError), (503, UnreachableError), (400, RefusedError), (404, RefusedError)):
        answers.codes = [code]
        with pytest.raises(error, match=str(code)):
            transport.send(b"x")
    answers.close()
    transport.close()
    with pytest.raises(UnreachableError, match="Connection"):
        transport.send(b"x")


def test_http_compresses_on_demand(answers: Answers) -> None:
    transport = HttpTransport(Receiver(url=answers.url, compress=True))
    transport.send(b"x" * 10_000)
    transport.close()
    _, headers, body = answers.seen[0]
    assert headers["content-encoding"] == "gzip"
    assert len(body) < 1_000


def test_grpc_says_that_nobody_is_there() -> None:
    transport = GrpcTransport(Receiver(url="http://127.0.0.1:1", timeout=2.0))
    with pytest.raises(UnreachableError):
        transport.send(b"")
    transport.close()


@pytest.mark.parametrize(("variables", "kind", "url"), [
    ({}, HttpTransport, "http://localhost:4318/v1/traces"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://j:4318/"}, HttpTransport, "http://j:4318/v1/traces"),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://j/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://k"}, HttpTransport, "http://j/x"),
    ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, GrpcTransport, "http://localhost:4317"),
    ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "j:4317"}, GrpcTransport, "j:4317"),
    (otlp_variables("http://j:4317"), GrpcTransport, "http://j:4317"),
    (otlp_variables("http://j:4318"), HttpTransport, "http://j:4318/v1/traces"),
    (otlp_variables("https://j"), HttpTransport, "https://j/v1/traces"),
])  # fmt: skip
def test_the_environment_says_where_spans_go(variables: dict[str, str], kind: type[Any], url: str) -> None:
    transport: Any = otlp_transport(variables)
    assert isinstance(transport, kind)
    assert transport._receiver.url == url
    transport.close()


def test_the_environment_says_how_they_go() -> None:
    transport: Any = otlp_transport(
        {
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1, b=x%20y,nonsense",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        }
    )
    receiver = transport._receiver
    assert (dict(receiver.headers), receiver.compress, receiver.timeout) == ({"a": "1", "b": "x y"}, True, 3.0)


@pytest.mark.parametrize("variables", [
    {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "jaeger:4318"},
    {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http:///x"},
])  # fmt: skip
def test_what_is_not_possible_is_said(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        otlp_transport(variables)
    with pytest.raises(ConfigurationError):
        otlp_variables("http://j:port")
