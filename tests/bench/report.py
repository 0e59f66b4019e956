"""What a benchmark finds, as values and as a table."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from .measuring import Measured, Quantiles, Spread, Steps

#: The part that runs in one process, on SQLite.
ALONE = "embedded"
WIDTH = 130


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure, and how much of it."""

    only: tuple[str, ...]
    workers: int = 1
    rounds: int = 3
    count: int = 2000
    in_flight: int = 200
    warmup: int = 200
    latency_count: int = 200
    fan_out: int = 1000
    chain: int = 2000
    embedded_count: int = 1000
    idle_seconds: float = 10.0
    settle_seconds: float = 5.0
    aftermath_seconds: float = 0.3
    timeout: float = 180.0
    profiler: str | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part, measured some times."""

    rounds: list[Measured]
    rate: Spread
    seconds: Spread
    cpu_ms: dict[str, Spread]
    latency_ms: Quantiles | None
    """Medians of the rounds' quantiles."""

    @classmethod
    def of(cls, rounds: Sequence[Measured]) -> Part:
        latencies = [one.latency_ms for one in rounds if one.latency_ms is not None]
        return cls(
            rounds=list(rounds),
            rate=Spread.of(one.rate for one in rounds),
            seconds=Spread.of(one.seconds for one in rounds),
            cpu_ms={name: Spread.of(one.cpu_ms[name] for one in rounds) for name in rounds[0].cpu_ms},
            latency_ms=_middle(latencies) if latencies else None,
        )


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    cores: int
    processor: str
    python: str
    load: float
    """The load average (of one minute) at the beginning: what others did."""

    @classmethod
    def here(cls) -> Machine:
        return cls(
            cores=os.cpu_count() or 1, processor=_processor(), python=platform.python_version(), load=os.getloadavg()[0]
        )


class Report(msgspec.Struct, kw_only=True):
    """Everything that was found."""

    machine: Machine
    options: Options
    code: str
    """A fingerprint of the measured code."""
    code_changed: bool = False
    """Whether somebody changed it meanwhile: processes that were started before and after ran different code."""
    parts: dict[str, Part] = {}
    ratio_percent: Spread | None = None
    """hello's rate as a share of the floor's just before and after."""
    cpu_ratio: Spread | None = None
    """How many times the floor's CPU hello uses, all processes together; hardly depends on what else the machine does."""
    idle_percent: dict[str, float] | None = None
    """CPU of idle processes, in percent of a core."""
    failures: dict[str, str] = {}

    def compare(self, hellos: Sequence[Measured], floors: Sequence[Sequence[Measured]]) -> None:
        """Compare each measurement of hello_sequence with those of the floor around it."""
        pairs = list(zip(hellos, floors, strict=True))
        self.ratio_percent = Spread.of(
            100 * hello.rate / statistics.median(one.rate for one in floor) for hello, floor in pairs
        )
        self.cpu_ratio = Spread.of(
            hello.all_cpu_ms / statistics.median(one.all_cpu_ms for one in floor) for hello, floor in pairs
        )


def write(report: Report, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def show(report: Report, console: Console | None = None) -> None:
    """Print the report as tables."""
    console = console or Console(width=WIDTH, highlight=False)
    machine, options = report.machine, report.options
    console.print(
        f"{machine.cores} cores ({machine.processor}), Python {machine.python}, load {machine.load:.1f} before; "
        f"{options.workers} worker(s), medians of {options.rounds} round(s) (min–max)"
    )
    if report.code_changed:
        console.print("[bold red]The code changed while it was measured:[/] parts may have run different versions.")
    if options.profiler:
        console.print(f"[bold]Under {options.profiler}: everything is slower than it is.")
    if report.parts:
        console.print(_table(report))
    for line in _lines(report):
        console.print(line)
    for part, why in report.failures.items():
        console.print(f"[bold red]{part} failed:[/] {why.splitlines()[0]}")


def _table(report: Report) -> Table:
    users = list(dict.fromkeys(user for name, part in report.parts.items() if name != ALONE for user in part.cpu_ms))
    columns = users or [ALONE]
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="CPU: milliseconds per orchestration, activity or step; others: cores that everybody else used meanwhile. "
        "CPU is counted in steps of 10 ms for all together: short parts show it roughly.",
    )
    table.add_column("what", no_wrap=True)
    for heading in (
        "count",
        "per second",
        "p50\nms",
        "p95\nms",
        "p99\nms",
        *(f"{user}\nCPU" for user in columns),
        "others",
    ):
        table.add_column(heading, justify="right")
    for name, part in report.parts.items():
        latency = msgspec.structs.astuple(part.latency_ms) if part.latency_ms else ()
        cpu = part.cpu_ms if name != ALONE else {("workers" if users else ALONE): part.cpu_ms[ALONE]}
        table.add_row(
            _title(name, report.options),
            str(part.rounds[0].count),
            _spread(part.rate, 0),
            *(f"{quantile:.1f}" for quantile in latency),
            *([""] * (3 - len(latency))),
            *(f"{cpu[user].median:.2f}" if user in cpu else "" for user in columns),
            f"{statistics.median(one.others for one in part.rounds):.2f}",
        )
    return table


def _title(part: str, options: Options) -> str:
    titles = {
        "latency": "hello, one at a time",
        "hello": f"hello, {options.in_flight} in flight",
        ALONE: "hello, SQLite, one process",
        "floor": "the floor, all in flight",
        "fan-out": "fan-out, activities",
        "chain": "sequence, steps",
    }
    return titles[part]


def _lines(report: Report) -> Iterator[str]:
    if report.ratio_percent:
        yield f"hello_sequence reaches {_spread(report.ratio_percent, 1)} % of the floor."
    if report.cpu_ratio:
        yield f"It uses {_spread(report.cpu_ratio, 2)} times the CPU of the floor, all processes together."
    if part := report.parts.get("fan-out"):
        yield f"A fan-out of {part.rounds[0].count} activities takes {_spread(part.seconds, 2)} s."
    if part := report.parts.get("chain"):
        yield from _chain_lines([steps for one in part.rounds if (steps := one.steps)])
    if report.idle_percent:
        idle = ", ".join(f"{name} {percent:.1f} %" for name, percent in report.idle_percent.items())
        yield f"Idle, in percent of a core: {idle}."


def _chain_lines(chains: Sequence[Steps]) -> Iterator[str]:
    yield (
        f"A step in sequence takes {_spread(Spread.of(one.first_ms for one in chains), 2)} ms at first and "
        f"{_spread(Spread.of(one.last_ms for one in chains), 2)} ms at last: "
        f"{_spread(Spread.of(one.ratio for one in chains), 2)} times."
    )
    if cpu := [one.cpu_ratio for one in chains if one.cpu_ratio is not None]:
        yield f"In CPU of the worker, which depends less on the machine's load: {_spread(Spread.of(cpu), 2)} times."


def _spread(spread: Spread, digits: int) -> str:
    if spread.min == spread.max:
        return f"{spread.median:.{digits}f}"
    return f"{spread.median:.{digits}f} ({spread.min:.{digits}f}–{spread.max:.{digits}f})"


def _middle(quantiles: Sequence[Quantiles]) -> Quantiles:
    return Quantiles(
        *(statistics.median(column) for column in zip(*map(msgspec.structs.astuple, quantiles), strict=True))
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
