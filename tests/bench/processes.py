"""The processes that are measured and those that measure: they end with the benchmark, whatever happens to it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec

from tests.servers.process import Process

from .measuring import Measured, Order

ROOT = Path(__file__).parents[2]
ROOTS = [ROOT, ROOT / "actors", ROOT / "broker", ROOT / "store"]
LOG_TAIL_LINES = 40
STOP_SECONDS = 20.0


class BenchError(Exception):
    """Something could not be measured."""


class Cast:
    """Processes that serve, and the clients that are started while they do."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._serving: dict[str, tuple[Process, Path]] = {}

    def serve(self, name: str, module: str, *arguments: str) -> int:
        """Start a process that serves until `stop`; return its process id."""
        process, log = self._start(name, module, *arguments)
        self._serving[name] = process, log
        return process.pid

    def stop(self, *names: str) -> None:
        """Stop these (all, if none is named), as an operator would."""
        chosen = [self._serving.pop(name)[0] for name in names or list(self._serving) if name in self._serving]
        for process in chosen:
            process.signal(signal.SIGTERM)
        for process in chosen:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.end()

    def measure(self, order: Order, module: str, *arguments: str) -> list[Measured]:
        """Run a client to its end; return what it measured.

        Raises:
            BenchError: it or one of those that serve failed, or it took too long.
        """
        answer = self.directory / "measured.json"
        answer.unlink(missing_ok=True)
        arguments = (*arguments, msgspec.json.encode(order).decode(), str(answer))
        process, log = self._start(f"client-{order.part}", module, *arguments)
        try:
            self._await(process, log, order)
        finally:
            process.end()
        return msgspec.json.decode(answer.read_bytes(), type=list[Measured])

    def check(self) -> None:
        """Raise BenchError if one of those that serve has ended."""
        for name, (process, log) in self._serving.items():
            if not process.running:
                raise BenchError(f"{name} ended on its own.\n{tail(log)}")

    def _await(self, process: Process, log: Path, order: Order) -> None:
        deadline = time.monotonic() + order.timeout
        while process.running:
            self.check()
            if time.monotonic() > deadline:
                serving = "\n".join(tail(log) for _, log in self._serving.values())
                raise BenchError(f"{order.part} did not end within {order.timeout:.0f} s.\n{tail(log)}\n{serving}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        if code := process.wait():
            raise BenchError(f"The client of {order.part} failed with exit code {code}.\n{tail(log)}")

    def _start(self, name: str, module: str, *arguments: str) -> tuple[Process, Path]:
        log = self.directory / f"{name}.log"
        log.unlink(missing_ok=True)
        path = os.pathsep.join([*map(str, ROOTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
        return Process(command, environment=os.environ | {"PYTHONPATH": path}, log=log), log


@contextlib.contextmanager
def cast() -> Generator[Cast]:
    """Yield a cast with a directory of its own; end both afterwards."""
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as directory:
        started = Cast(Path(directory))
        try:
            yield started
        finally:
            started.stop()


def fingerprint() -> str:
    """Return what tells one state of the measured code from another."""
    digest = hashlib.sha256()
    for root in ROOTS[1:]:
        for source in sorted(root.rglob("*.py")):
            with contextlib.suppress(FileNotFoundError):  # somebody works on it
                digest.update(str(source).encode() + source.read_bytes())
    return digest.hexdigest()[:12]


def tail(log: Path) -> str:
    """Return the end of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"--- end of {log.name}", *lines[-LOG_TAIL_LINES:]])


def server_processes() -> dict[str, list[int]]:
    """Return the process ids of the servers, as far as they are told."""
    variables: Sequence[tuple[str, str]] = (("rabbitmq", "AMQP_SERVER_PID"), ("mongod", "MONGODB_SERVER_PID"))
    return {name: [int(pid)] for name, variable in variables if (pid := os.environ.get(variable))}
