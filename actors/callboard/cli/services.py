"""What the commands run: a worker, the HTTP API, or both."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from callboard.app import App
from callboard.cli.embedded import DataFolder
from callboard.cli.running import Lifeline, Stopping
from callboard.cli.samples import sample_input
from callboard.cli.serving import Listener, serving
from callboard.client import Client
from callboard.http import create_http_app
from callboard.hub import TaskHub
from callboard.worker import Worker, WorkerOptions

log = logging.getLogger("callboard.cli")

#: How long `callboard dev` lets activities finish when it stops, in seconds.
DEV_DRAIN = 5.0


async def run_dev(app: App, hub: TaskHub, listener: Listener, folder: DataFolder, stopping: Stopping) -> None:
    """Worker and HTTP API in this process."""
    async with hub, Worker(app, hub, WorkerOptions(drain=DEV_DRAIN)), Client(hub, app) as client:
        api = create_http_app(client, allowed_hosts=listener.allowed_hosts)
        async with serving(api, listener, access_log=True):
            stopping.ready()
            say(_welcome(app, hub, listener, folder))
            await stopping.wait()
            log.info("Stopping. Ctrl-C again stops at once")


async def run_worker(
    app: App, hub: TaskHub, options: WorkerOptions, stopping: Stopping, lifeline: Lifeline | None
) -> None:
    """A worker, alone or one of a supervisor's."""
    if lifeline is not None:
        lifeline.hold()
    async with hub, Worker(app, hub, options) as worker:
        stopping.ready()
        say(f"Worker {worker.worker_id} is ready: hub {hub.name!r}, {_what_runs(worker)}.")
        if lifeline is not None:
            lifeline.report_ready()
        await stopping.wait()
        log.info("Stopping: what is in hand gets up to %g s. Ctrl-C again stops at once", options.drain)


async def run_serve(app: App | None, hub: TaskHub, listener: Listener, stopping: Stopping) -> None:
    """The HTTP API alone."""
    async with hub, Client(hub, app) as client:
        api = create_http_app(client, allowed_hosts=listener.allowed_hosts)
        async with serving(api, listener, access_log=True):
            stopping.ready()
            say(f"Serving hub {hub.name!r} at {listener.url}. Ctrl-C stops it.")
            await stopping.wait()


async def check_servers(hub: TaskHub) -> None:
    """Connects once, so that what is wrong is found out."""
    async with hub:
        pass


def say(text: str) -> None:
    """Prints something for a person, or for a program that waits for it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _welcome(app: App, hub: TaskHub, listener: Listener, folder: DataFolder) -> str:
    names = sorted(app.registry.orchestrations)
    base = f"{listener.url}/runtime/webhooks/durabletask"
    lines = [
        f"Callboard runs hub {hub.name!r} from {_shown(folder.file)}",
        f"  orchestrations  {', '.join(names) or 'none yet: decorate one with @app.orchestration'}",
        f"  activities      {', '.join(sorted(app.registry.activities)) or 'none yet: decorate one with @app.activity'}",
        f"  instances       {base}/instances",
    ]
    if names:
        lines.append(f"  start one       {_curl(app, names[0], listener)}")
    return "\n".join([*lines, "Ctrl-C stops it; the data stay."])


def _curl(app: App, name: str, listener: Listener) -> str:
    sample = sample_input(app.registry.orchestrations[name].function)
    body = "" if sample is None else f" -H 'Content-Type: application/json' -d '{sample.replace(chr(39), '')}'"
    return f"curl -X POST {listener.url}/api/orchestrators/{name}{body}"


def _what_runs(worker: Worker) -> str:
    activities = f"activities of queue {', '.join(worker.queues)}" if worker.queues else "no activities"
    return f"orchestrations and {activities}" if worker.runs_orchestrations else activities


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
