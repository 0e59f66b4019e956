"""OpenTelemetry, and the only part that knows it. Nothing is imported from it until somebody in this process has set it up."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from callboard.instruments import Instrument
from callboard.tracing import UNTRACED, Tracing

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Telemetry", "is_set_up"]


class Telemetry:
    """Where a worker's or client's spans and metrics go.

    Args:
        tracer_provider: opentelemetry-sdk's; by default that of the process (``opentelemetry.trace.set_tracer_provider``), as it is when
            the worker or client is made. Without one nothing is traced.
        meter_provider: Likewise (``opentelemetry.metrics.set_meter_provider``).
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider

    def tell(self, instruments: Sequence[Instrument]) -> None:
        """Has metrics collected."""
        asked_for = self._meter_provider is not None or "OTEL_PYTHON_METER_PROVIDER" in os.environ
        if asked_for or "opentelemetry.metrics" in sys.modules:
            from callboard.telemetry.metrics import tell_metrics  # noqa: PLC0415 - slow to import

            tell_metrics(instruments, self._meter_provider)

    def tracing(self) -> Tracing:
        """Takes spans."""
        asked_for = self._tracer_provider is not None or "OTEL_PYTHON_TRACER_PROVIDER" in os.environ
        if not asked_for and "opentelemetry.trace" not in sys.modules:
            return UNTRACED  # nobody can have set a provider
        from callboard.telemetry.tracing import open_telemetry_tracing  # noqa: PLC0415 - slow to import

        return open_telemetry_tracing(self._tracer_provider) or UNTRACED


def is_set_up() -> bool:
    """Whether this process has a tracer provider."""
    from opentelemetry import trace  # noqa: PLC0415 - slow to import

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
