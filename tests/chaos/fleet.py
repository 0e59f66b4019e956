"""Worker processes that are started, frozen and killed; they end with us, whatever happens."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.chaos.worker_process import Counts, Orders
from tests.servers.process import Process

ROOT = Path(__file__).parents[2]
#: How long a worker that is asked to stop may take, in seconds.
STOP_SECONDS = 20.0


class Fleet:
    """The worker processes of one test.

    Args:
        orders: How each is made; ``launch`` may change the options for one.
        dice: Chooses victims.
    """

    def __init__(self, orders: Orders, dice: random.Random) -> None:
        self.orders = orders
        self.dice = dice
        self.kills = 0
        self.freezes = 0
        self.last_fault = time.monotonic()
        self.workers: list[Process] = []
        self.frozen: list[Process] = []
        self._folder = Path(orders.folder)
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("actors", "broker", "store", ".")),
            "PYTHONUNBUFFERED": "1",
        }

    def launch(self, count: int = 1, **options: Any) -> Process:
        """Starts workers; returns the last one."""
        for _ in range(count):
            orders = msgspec.structs.replace(self.orders, options={**self.orders.options, **options})
            command = [sys.executable, "-m", "tests.chaos.worker_process", msgspec.json.encode(orders).decode()]
            log = self._folder / f"worker-{len(list(self._folder.glob('worker-*.log'))):03d}.log"
            self.workers.append(Process(command, environment=self.environment, log=log))
        return self.workers[-1]

    def awake(self) -> Process:
        """One that runs and is not frozen, at random."""
        return self.dice.choice([worker for worker in self.workers if worker.running and worker not in self.frozen])

    def kill(self, worker: Process) -> None:
        """Kill -9."""
        worker.signal(signal.SIGKILL)
        worker.wait()
        self.workers.remove(worker)
        self.kills += 1
        self.last_fault = time.monotonic()

    def freeze(self, worker: Process) -> None:
        """Stops it in the middle of whatever it does, without its knowing."""
        worker.signal(signal.SIGSTOP)
        self.frozen.append(worker)
        self.freezes += 1

    def thaw(self, worker: Process) -> None:
        worker.signal(signal.SIGCONT)
        self.frozen.remove(worker)
        self.last_fault = time.monotonic()

    def stop(self, worker: Process) -> float:
        """Asks it to leave in order; returns how long that took, in seconds.

        Raises:
            AssertionError: it did not end, or not in order.
        """
        since = time.monotonic()
        worker.signal(signal.SIGTERM)
        try:
            code = worker.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"worker {worker.pid} did not end in {STOP_SECONDS:g} s:\n{self.troubles()}") from None
        self.workers.remove(worker)
        assert code == 0, f"worker {worker.pid} ended with {code}:\n{self.troubles()}"
        return time.monotonic() - since

    def counts(self) -> list[Counts]:
        """What all workers have counted, also those that are gone."""
        return [
            msgspec.json.decode(path.read_bytes(), type=Counts) for path in sorted(self._folder.glob("counts-*.json"))
        ]

    def troubles(self, limit: int = 60) -> str:
        """Errors and tracebacks in the workers' logs."""
        found: list[str] = []
        for log in sorted(self._folder.glob("worker-*.log")):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            for at, line in enumerate(lines):
                if " ERROR " in line or line.startswith("Traceback"):
                    found.extend(f"{log.name}: {each}" for each in lines[at : at + 25])
                    break
        return "\n".join(found[-limit:])

    def crashes(self) -> list[str]:
        """Lines of the logs that no fault explains: tasks that failed, tracebacks of ours."""
        found: list[str] = []
        for log in sorted(self._folder.glob("worker-*.log")):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            found.extend(f"{log.name}: {line}" for line in lines if line.startswith("Traceback") or "was never" in line)
        return found

    def close(self) -> None:
        """Kills all that is left, frozen or not."""
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.end()
        self.workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
