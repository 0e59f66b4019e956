"""Metrics as text for Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from callboard.instruments import Instrument, Labels
from callboard.statistics import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: OpenTelemetry's units in Prometheus' words; what is counted in things of their own has none.
_UNITS = {"s": "_seconds"}


def exposition(instruments: Sequence[Instrument]) -> str:
    """All values now."""
    lines = [line for instrument in instruments for line in _lines(instrument)]
    return "\n".join([*lines, ""])


def prometheus_name(instrument: Instrument) -> str:
    """The name that Prometheus knows a metric by."""
    name = instrument.name.replace(".", "_").removesuffix("_count") + _UNITS.get(instrument.unit, "")
    return f"{name}_total" if instrument.kind == "counter" else name


def _lines(instrument: Instrument) -> Iterator[str]:
    name = prometheus_name(instrument)
    yield f"# HELP {name} {_escaped(instrument.description)}"
    yield f"# TYPE {name} {instrument.kind}"
    for labels, value in instrument.read():
        if isinstance(value, Histogram):
            yield from _histogram(name, labels, value)
        else:
            yield (
                f"{name}{_labels(labels)} {value:g}" if isinstance(value, float) else f"{name}{_labels(labels)} {value}"
            )


def _histogram(name: str, labels: Labels, histogram: Histogram) -> Iterator[str]:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    counts = list(accumulate(histogram.counts))
    for bound, count in zip(bounds, counts, strict=True):
        yield f"{name}_bucket{_labels({**labels, 'le': bound})} {count}"
    yield f"{name}_sum{_labels(labels)} {histogram.total:.9g}"
    yield f"{name}_count{_labels(labels)} {counts[-1]}"


def _labels(labels: Labels) -> str:
    pairs = (f'{name}="{_escaped(value, quotes=True)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}" if labels else ""


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
