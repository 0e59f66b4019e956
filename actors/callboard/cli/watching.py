"""``--otlp`` and OpenTelemetry's own environment variables."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Generator

log = logging.getLogger("callboard.cli")

#: What in the environment asks for traces.
FOR_TRACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
#: What in the environment asks for metrics.
FOR_METRICS = "OTEL_METRICS_EXPORTER"


@contextlib.contextmanager
def watched(service: str, otlp: str | None) -> Generator[None]:
    """Traces what runs inside, if that was asked for; the last spans are sent at the end.

    What the App has set up itself stays as it is. Nothing is imported that nobody asked for.

    Args:
        service: The service's name, unless ``OTEL_SERVICE_NAME`` says otherwise.
        otlp: The receiver's URL, from the command line.

    Raises:
        ConfigurationError: what was asked for is not possible; says why.
    """
    traces = otlp is not None or any(os.environ.get(name) for name in FOR_TRACES)
    if not (traces or os.environ.get(FOR_METRICS)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield
        return
    if _is_set_up():
        if otlp is not None:
            log.warning("The App has set up OpenTelemetry itself: --otlp changes nothing")
        yield
        return
    from callboard.telemetry.setting_up import otlp_variables, set_up_metrics, set_up_tracing  # noqa: PLC0415 - slow to import

    if otlp is not None:
        os.environ.update(otlp_variables(otlp))
    with contextlib.ExitStack() as at_the_end:
        if traces:
            at_the_end.callback(set_up_tracing(service))
        at_the_end.callback(set_up_metrics(service))
        yield


def _is_set_up() -> bool:
    if "opentelemetry.trace" not in sys.modules:
        return False
    from callboard.telemetry import is_set_up  # noqa: PLC0415 - as above

    return is_set_up()
