"""What the processes of the benchmark tell one another, and how they measure time and CPU."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

TICKS = os.sysconf("SC_CLK_TCK")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is to do."""

    part: str
    count: int
    warmup: int = 0
    in_flight: int = 1
    repeat: int = 1
    timeout: float = 120.0
    aftermath: float = 0.3
    """How long what the last result caused (acks, marks) may take to end before CPU is read, in seconds."""
    hub: str = ""
    broker: str = ""
    store: str = ""
    workers: int = 1
    """How many workers there should be before it begins."""
    own: str = "client"
    """What the client's own CPU is called."""
    processes: dict[str, list[int]] = {}
    """Whose CPU to measure beside its own."""


class Quantiles(msgspec.Struct, frozen=True):
    """Of latencies, in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles:
        ordered = sorted(seconds)
        return cls(*(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 for share in (0.50, 0.95, 0.99)))


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """What a step costs along a history, in milliseconds."""

    first_ms: float
    """Time, the median of the first ones; it says as much about what else the machine did just then."""
    last_ms: float
    ratio: float
    tenths_ms: tuple[float, ...]
    """Medians of every tenth of the steps, in order: tells growth from a disturbance at one end."""
    cpu_first_ms: float | None = None
    """CPU of the worker, the mean of the first ones; None if there are several workers."""
    cpu_last_ms: float | None = None
    cpu_ratio: float | None = None

    @classmethod
    def of(cls, stamps: Sequence[Sequence[float]], ends: int, *, workers: int) -> Steps:
        """Compare the ends of a sequence of stamps: the time, and the CPU time of the process that stamped."""
        times, cpus = ([1000 * stamp[column] for stamp in stamps] for column in (0, 1))
        steps = [later - earlier for earlier, later in itertools.pairwise(times)]
        bounds = [len(steps) * number // 10 for number in range(11)]
        first, last = statistics.median(steps[:ends]), statistics.median(steps[-ends:])
        found = cls(
            first_ms=first,
            last_ms=last,
            ratio=last / first,
            tenths_ms=tuple(statistics.median(steps[a:b]) for a, b in itertools.pairwise(bounds) if b > a),
        )
        if workers != 1:
            return found
        first, last = (cpus[ends] - cpus[0]) / ends, (cpus[-1] - cpus[-1 - ends]) / ends
        return msgspec.structs.replace(found, cpu_first_ms=first, cpu_last_ms=last, cpu_ratio=last / first)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    count: int
    seconds: float
    rate: float
    """How many per second."""
    cpu_ms: dict[str, float]
    """CPU per one, by who used it; those whose processes cannot be seen are missing."""
    others: float
    """How many cores everybody else used meanwhile."""
    latency_ms: Quantiles | None = None
    steps: Steps | None = None

    @property
    def all_cpu_ms(self) -> float:
        return sum(self.cpu_ms.values())


class Spread(msgspec.Struct, frozen=True):
    """Of several measurements."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


class Meter:
    """Measures from its making to `stop`."""

    def __init__(self, order: Order) -> None:
        self._aftermath = order.aftermath
        self._processes = {order.own: [os.getpid()], **order.processes}
        self._cpu, self._busy = cpu_seconds(self._processes), busy_seconds()
        self._started = time.perf_counter()

    async def stop(
        self, count: int, *, latencies: Sequence[float] | None = None, steps: Steps | None = None
    ) -> Measured:
        elapsed = time.perf_counter() - self._started
        await asyncio.sleep(self._aftermath)
        cpu = {name: used - self._cpu[name] for name, used in cpu_seconds(self._processes).items() if name in self._cpu}
        foreign = busy_seconds() - self._busy - sum(cpu.values())
        return Measured(
            count=count,
            seconds=elapsed,
            rate=count / elapsed,
            cpu_ms={name: used / count * 1000 for name, used in cpu.items()},
            others=max(0.0, foreign / (elapsed + self._aftermath)),
            latency_ms=Quantiles.of(latencies) if latencies else None,
            steps=steps,
        )


def cpu_seconds(processes: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Return the CPU time used so far by each group of processes with all they started."""
    ticks, children = _process_table()
    groups = {name: list(roots) for name, roots in processes.items()}
    return {
        name: sum(_tree_ticks(root, ticks, children) for root in roots) / TICKS
        for name, roots in groups.items()
        if roots and all(root in ticks for root in roots)
    }


def busy_seconds() -> float:
    """Return the CPU time that the whole machine has used so far (other virtual machines' share included), or 0 where it does not say."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, words[1:9])
    return (user + nice + system + interrupts + soft + stolen) / TICKS


def _process_table() -> tuple[dict[int, int], dict[int, list[int]]]:
    """Return the ticks used by every process (its ended children included), and every process's children."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        pid = int(stat.parent.name)
        ticks[pid] = sum(map(int, fields[11:15]))
        children.setdefault(int(fields[1]), []).append(pid)
    return ticks, children


def _tree_ticks(root: int, ticks: Mapping[int, int], children: Mapping[int, list[int]]) -> int:
    return ticks.get(root, 0) + sum(_tree_ticks(child, ticks, children) for child in children.get(root, ()))


async def stop_signal() -> None:
    """Wait until somebody asks this process to stop."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
