"""OpenTelemetry for a process that has not set it up itself: by OpenTelemetry's own environment variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import unquote, urlsplit

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from callboard.errors import ConfigurationError
from callboard.telemetry.encoding import SpanEncoder
from callboard.telemetry.exporting import BATCH, DELAY, MOST, SpanExport
from callboard.telemetry.pipeline import SCOPE, CallboardTracerProvider
from callboard.telemetry.transport import GrpcTransport, HttpTransport, Receiver, Transport

_GRPC, _HTTP = "grpc", "http/protobuf"


def set_up_tracing(service: str, environment: Mapping[str, str] = os.environ) -> Callable[[], None]:
    """Gives the process a tracer provider, as the environment says.

    Args:
        service: What the process is called if ``OTEL_SERVICE_NAME`` does not say so.
        environment: ``OTEL_TRACES_EXPORTER`` (``otlp`` by default, ``console``, ``none``, or what else is installed), and the variables
            of OTLP exporters and of the SDK.

    Returns:
        What sends the last spans, when the process ends.

    Raises:
        ConfigurationError: an exporter is not known or not installed, or a URL is none.
    """
    resource = _resource(service, environment)
    names = [name.strip() for name in environment.get("OTEL_TRACES_EXPORTER", "otlp").split(",")]
    provider: TracerProvider
    if "otlp" in names:
        encoder = SpanEncoder(resource, InstrumentationScope(SCOPE))
        export = SpanExport(
            encoder,
            otlp_transport(environment),
            delay=_number(environment, "OTEL_BSP_SCHEDULE_DELAY", DELAY * 1_000) / 1_000,
            batch=int(_number(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH)),
            most=int(_number(environment, "OTEL_BSP_MAX_QUEUE_SIZE", MOST)),
        )
        provider = CallboardTracerProvider(resource, export)
    else:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in names:
        if name not in ("otlp", "none", ""):
            exporter: SpanExporter = _installed("traces", name)
            simple = name == "console"
            provider.add_span_processor(SimpleSpanProcessor(exporter) if simple else BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def set_up_metrics(service: str, environment: Mapping[str, str] = os.environ) -> Callable[[], None]:
    """Gives the process a meter provider, if ``OTEL_METRICS_EXPORTER`` names an exporter; otherwise as `set_up_tracing`."""
    names = [name.strip() for name in environment.get("OTEL_METRICS_EXPORTER", "none").split(",")]
    protocol = environment.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    otlp = "otlp_proto_grpc" if protocol == _GRPC else "otlp_proto_http"
    exporters: list[MetricExporter] = [
        _installed("metrics", otlp if name == "otlp" else name) for name in names if name not in ("none", "")
    ]
    readers = [PeriodicExportingMetricReader(exporter) for exporter in exporters]
    provider = MeterProvider(readers, _resource(service, environment), shutdown_on_exit=False)
    if readers:
        metrics.set_meter_provider(provider)
    return provider.shutdown


def otlp_transport(environment: Mapping[str, str]) -> Transport:
    """The line to the OTLP receiver that the environment names; by default one on this machine."""

    def said(name: str) -> str | None:
        return environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environment.get(f"OTEL_EXPORTER_OTLP_{name}")

    protocol = said("PROTOCOL") or _HTTP
    if protocol not in (_GRPC, _HTTP):
        raise ConfigurationError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is not possible: use {_HTTP} or {_GRPC}.")
    receiver = Receiver(
        url=_url(protocol, environment),
        headers=_headers(said("HEADERS")),
        timeout=_number(environment, "OTEL_EXPORTER_OTLP_TIMEOUT", 10.0),
        compress=said("COMPRESSION") == "gzip",
        ca_file=said("CERTIFICATE"),
        key_file=said("CLIENT_KEY"),
        certificate_file=said("CLIENT_CERTIFICATE"),
        insecure=(said("INSECURE") or "").lower() == "true",
    )
    return GrpcTransport(receiver) if protocol == _GRPC else HttpTransport(receiver)


def otlp_variables(url: str) -> dict[str, str]:
    """What ``--otlp URL`` stands for: port 4317 speaks gRPC, every other one HTTP."""
    try:
        grpc = urlsplit(url).port == 4317
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is no URL of an OTLP receiver: {error}. Write http://host:4318.") from None
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": _GRPC if grpc else _HTTP}


def _url(protocol: str, environment: Mapping[str, str]) -> str:
    if whole := environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return whole
    if protocol == _GRPC:
        return environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4317"
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
    return f"{base.rstrip('/')}/v1/traces"


def _headers(text: str | None) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in (text or "").split(",") if "=" in pair)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def _resource(service: str, environment: Mapping[str, str]) -> Resource:
    named = SERVICE_NAME in environment.get("OTEL_RESOURCE_ATTRIBUTES", "") or "OTEL_SERVICE_NAME" in environment
    attributes: dict[str, str | int] = {"host.name": socket.gethostname(), "process.pid": os.getpid()}
    if not named:
        attributes[SERVICE_NAME] = service
    return Resource.create(attributes)


def _number(environment: Mapping[str, str], name: str, otherwise: float) -> float:
    text = environment.get(name, "")
    try:
        return float(text) if text else otherwise
    except ValueError:
        raise ConfigurationError(f"{name}={text} is not possible: it must be a number.") from None


def _installed(signal: str, name: str) -> Any:
    """An exporter of some package."""
    found = {point.name: point for point in entry_points(group=f"opentelemetry_{signal}_exporter")}
    if name not in found:
        known = ", ".join(["otlp", "none", *sorted(found)])
        raise ConfigurationError(
            f"The exporter {name!r} of OTEL_{signal.upper()}_EXPORTER is not installed (pip install 'callboard[otlp]' brings those for "
            f"OTLP). There are: {known}."
        )
    return found[name].load()()
