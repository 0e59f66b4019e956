"""The runtime's numbers to a meter provider: counts and gauges are read when it collects, durations are told as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram as OtelHistogram, Meter, MeterProvider, Observation

from callboard.instruments import Instrument, Labels
from callboard.statistics import DURATIONS, Histogram


def tell_metrics(instruments: Sequence[Instrument], chosen: MeterProvider | None) -> None:
    """Registers instruments with a meter provider, or with the process's, if it has one."""
    provider = chosen or metrics.get_meter_provider()
    if not type(provider).__module__.startswith(
        "opentelemetry.metrics"
    ):  # neither the proxy nor the one that does nothing
        meter = provider.get_meter("callboard")
        for instrument in instruments:
            _register(meter, instrument)


def _register(meter: Meter, instrument: Instrument) -> None:
    name, unit, description = instrument.name, instrument.unit, instrument.description
    match instrument.kind:
        case "counter":
            meter.create_observable_counter(name, [_observed(instrument)], unit, description)
        case "gauge":
            meter.create_observable_gauge(name, [_observed(instrument)], unit, description)
        case "histogram":
            bounds = _bounds(instrument)
            histogram = meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)
            _forward(instrument, histogram)


def _observed(instrument: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(cast("float", value), dict(labels)) for labels, value in instrument.read()]

    return observe


def _forward(instrument: Instrument, histogram: OtelHistogram) -> None:
    for labels, value in instrument.read():
        cast("Histogram", value).forward = _recorder(histogram, labels)
    if instrument.named is not None:
        family, label = instrument.named
        family.forward = lambda name: _recorder(histogram, {label: name})


def _recorder(histogram: OtelHistogram, labels: Labels) -> Callable[[float], None]:
    attributes = dict(labels)
    return lambda value: histogram.record(value, attributes)


def _bounds(instrument: Instrument) -> Sequence[float]:
    return next((cast("Histogram", value).bounds for _, value in instrument.read()), DURATIONS)
