"""What ``worker`` runs."""

from __future__ import annotations

import logging
import sys

from callboard.app import App
from callboard.cli.metrics import showing
from callboard.cli.running import Lifeline, Stopping
from callboard.hub import TaskHub
from callboard.instruments import worker_instruments
from callboard.worker import Worker, WorkerOptions

log = logging.getLogger("callboard.cli")


async def run_worker(
    app: App,
    hub: TaskHub,
    options: WorkerOptions,
    stopping: Stopping,
    lifeline: Lifeline | None,
    *,
    metrics: tuple[str, int | None] = ("127.0.0.1", None),
) -> None:
    """A worker, alone or one of a supervisor's."""
    if lifeline is not None:
        lifeline.hold()
    async with hub, Worker(app, hub, options) as worker, showing(worker_instruments(worker), *metrics):
        stopping.ready()
        say(f"Worker {worker.worker_id} is ready: hub {hub.name!r}, {_what_runs(worker)}.")
        if lifeline is not None:
            lifeline.report_ready()
        await stopping.wait()
        log.info("Stopping: what is in hand gets up to %g s. Ctrl-C again stops at once", options.drain)


async def check_servers(hub: TaskHub) -> None:
    """Connects once, so that what is wrong is found out."""
    async with hub:
        pass


def say(text: str) -> None:
    """Prints something for a person, or for a program that waits for it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _what_runs(worker: Worker) -> str:
    activities = f"activities of queue {', '.join(worker.queues)}" if worker.queues else "no activities"
    return f"orchestrations and {activities}" if worker.runs_orchestrations else activities
