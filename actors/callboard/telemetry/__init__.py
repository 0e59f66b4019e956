"""OpenTelemetry, and the only part that knows it. Nothing is imported from it until somebody in this process has set it up."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from callboard.tracing import UNTRACED, Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["Telemetry", "is_set_up"]


class Telemetry:
    """Where a worker's or client's spans go.

    Args:
        tracer_provider: opentelemetry-sdk's; by default that of the process (``opentelemetry.trace.set_tracer_provider``), as it is when
            the worker or client is made. Without one nothing is traced.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer_provider = tracer_provider

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
