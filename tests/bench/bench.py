"""What is measured, in which order, on which processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.servers.process import Process

from .measuring import Measured, Order, cpu_seconds
from .processes import BenchError, Cast, server_processes
from .report import Options, Part, Report

PARTS = ("latency", "floor", "hello", "fan-out", "chain", "idle", "embedded")
#: Repetitions where one measurement is short.
REPEAT = 3
FLOOR_REPEAT = 2
#: The floor's processes: module and arguments by name.
FLOOR = {"floor-owner": ("floor", "owner"), "floor-activities": ("floor", "activities")}


def say(words: str) -> None:
    """Tell the person what is going on."""
    print(f"bench: {words}", file=sys.stderr, flush=True)


def spy(pid: int, path: Path) -> Process:
    """Sample a process's stacks with py-spy into a file: lines of `frame;frame;frame count`."""
    command = ["py-spy", "record", "--threads", "--format", "raw", "--output", str(path), "--pid", str(pid)]
    return Process(command, log=path.with_suffix(".log"))


def stop_spying(process: Process) -> None:
    process.signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    process.end()


class Bench:
    """Measures the parts that the report's options ask for, and fills the report."""

    def __init__(self, cast: Cast, report: Report, profiles: Path | None = None) -> None:
        self._cast = cast
        self._report = report
        self._options: Options = report.options
        self._profiles = profiles
        self._hub = f"bench-{uuid.uuid4().hex[:8]}"
        self._processes: dict[str, list[int]] = {}
        self._floor_pids: list[int] = []

    def run(self) -> None:
        """Measure everything; what fails is noted, and the rest goes on."""
        steps: dict[str, Callable[[], None]] = {
            "latency": self._latency,
            "floor": self._rounds,
            "hello": self._rounds,
            "fan-out": self._fan_out,
            "chain": self._chain,
            "idle": self._idle,
            "embedded": self._embedded,
        }
        done: set[Callable[[], None]] = set()
        for part in PARTS:
            if part not in self._options.only or steps[part] in done:
                continue
            done.add(steps[part])
            try:
                steps[part]()
            except BenchError as error:
                name = " and ".join(other for other in PARTS if steps[other] == steps[part])
                say(f"{name} failed: {error}")
                self._report.failures[name] = str(error)
                self._stop_workers()
        self._stop_workers()

    # Processes

    def _workers(self) -> dict[str, list[int]]:
        """Start the workers, if they do not run yet; return whose CPU to measure."""
        if not self._processes:
            say(f"starting {self._options.workers} worker(s)")
            pids = [self._start_worker(f"worker-{number}") for number in range(self._options.workers)]
            self._processes = {"workers": pids, **server_processes()}
        return self._processes

    def _start_worker(self, name: str) -> int:
        profile = []
        if self._profiles and self._options.profiler == "cprofile":
            profile = [str(self._profiles / f"{name}.pstats")]
        return self._cast.serve(name, "worker", self._hub, os.environ["AMQP_URL"], os.environ["MONGODB_URL"], *profile)

    def _stop_workers(self) -> None:
        self._processes = {}
        self._cast.stop()

    # Parts

    def _measure(self, part: str, count: int, *, warmup: int, in_flight: int = 1, repeat: int = 1) -> list[Measured]:
        order = Order(
            part=part,
            count=count,
            warmup=warmup,
            in_flight=in_flight,
            repeat=repeat,
            timeout=self._options.timeout,
            aftermath=self._options.aftermath_seconds,
            hub=self._hub,
            broker=os.environ["AMQP_URL"],
            store=os.environ["MONGODB_URL"],
            workers=self._options.workers,
            processes=self._workers(),
        )
        return self._cast.measure(order, "client")

    def _keep(self, part: str, rounds: list[Measured]) -> None:
        self._report.parts[part] = kept = Part.of(rounds)
        say(f"{part}: {kept.rate.median:.1f}/s, others used {rounds[-1].others:.2f} cores")

    def _latency(self) -> None:
        say(f"hello_sequence, one at a time, {self._options.latency_count} times")
        warmup = min(self._options.warmup, 50)
        self._keep("latency", self._measure("latency", self._options.latency_count, warmup=warmup))

    def _rounds(self) -> None:
        """Measure the floor and hello_sequence in turns, so that both meet the same machine: F H F H F."""
        floors: list[list[Measured]] = []
        hellos: list[Measured] = []
        for number in range(self._options.rounds):
            if "floor" in self._options.only and not floors:
                self._floor(floors)
            if "hello" in self._options.only:
                say(f"round {number + 1} of {self._options.rounds}: hello_sequence, {self._options.count} times")
                hellos += self._hello()
                self._keep("hello", hellos)
            if "floor" in self._options.only:
                self._floor(floors)
        self._cast.stop(*FLOOR)
        if hellos and floors:
            neighbours = [before + after for before, after in itertools.pairwise(floors)]
            self._report.compare(hellos, neighbours)

    def _floor(self, floors: list[list[Measured]]) -> None:
        say(f"the floor, {self._options.count} orchestrations, {FLOOR_REPEAT} times")
        if not floors:
            self._floor_pids = [self._cast.serve(name, *FLOOR[name]) for name in FLOOR]
        order = Order(
            part="floor",
            count=self._options.count,
            warmup=self._options.warmup,
            repeat=FLOOR_REPEAT,
            timeout=self._options.timeout,
            aftermath=self._options.aftermath_seconds,
            processes={"workers": self._floor_pids, **server_processes()},
        )
        floors.append(self._cast.measure(order, "floor", "client"))
        self._keep("floor", [one for floor in floors for one in floor])

    def _hello(self) -> list[Measured]:
        workers, spies = self._workers()["workers"], list[Process]()
        try:
            if self._profiles and self._options.profiler == "py-spy":
                spies = [spy(pid, self._profiles / f"worker-{number}.txt") for number, pid in enumerate(workers)]
            options = self._options
            return self._measure("hello", options.count, warmup=options.warmup, in_flight=options.in_flight)
        finally:
            for one in spies:
                stop_spying(one)

    def _fan_out(self) -> None:
        say(f"a fan-out of {self._options.fan_out} activities, {REPEAT} times")
        warmup = min(self._options.warmup, 50)
        self._keep("fan-out", self._measure("fan-out", self._options.fan_out, warmup=warmup, repeat=REPEAT))

    def _chain(self) -> None:
        say(f"{self._options.chain} activities in sequence, {REPEAT} times")
        warmup = min(self._options.warmup, 50)
        self._keep("chain", self._measure("chain", self._options.chain, warmup=warmup, repeat=REPEAT))

    def _idle(self) -> None:
        processes = self._workers()
        say(f"idle, for {self._options.idle_seconds:.0f} s, after {self._options.settle_seconds:.0f} s to calm down")
        time.sleep(self._options.settle_seconds)
        self._cast.check()
        before, started = cpu_seconds(processes), time.perf_counter()
        time.sleep(self._options.idle_seconds)
        after, elapsed = cpu_seconds(processes), time.perf_counter() - started
        self._cast.check()
        self._report.idle_percent = {
            f"each of {len(processes[name])} workers" if name == "workers" and len(processes[name]) > 1 else name: 100
            * (after[name] - before[name])
            / elapsed
            / len(processes[name])
            for name in before
        }

    def _embedded(self) -> None:
        say(f"hello_sequence on SQLite in one process, {self._options.embedded_count} orchestrations")
        self._stop_workers()
        url = f"sqlite:///{self._cast.directory / 'embedded.db'}"
        order = Order(
            part="embedded",
            count=self._options.embedded_count,
            warmup=self._options.warmup,
            in_flight=self._options.in_flight,
            timeout=self._options.timeout,
            aftermath=self._options.aftermath_seconds,
            hub=self._hub,
            broker=url,
            store=url,
            own="embedded",
        )
        self._keep("embedded", self._cast.measure(order, "client"))
