"""What ``dev`` and ``serve`` run: an HTTP server, with a worker beside it or not.

Imported only by the commands that serve: a worker's process has no use for a web framework.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from callboard.app import App
from callboard.cli.embedded import DataFolder
from callboard.cli.listening import Listener
from callboard.cli.running import Stopping
from callboard.cli.samples import sample_input
from callboard.cli.working import say
from callboard.client import Client
from callboard.core.payloads import MAX_PAYLOAD
from callboard.http import create_http_app
from callboard.hub import TaskHub
from callboard.instruments import Instrument, worker_instruments
from callboard.worker import Worker, WorkerOptions

log = logging.getLogger("callboard.cli")

#: How long requests under way may take when the server stops, in seconds.
LAST_REQUESTS = 5
#: How long `callboard dev` lets activities finish when it stops, in seconds.
DEV_DRAIN = 5.0


async def run_dev(app: App, hub: TaskHub, listener: Listener, folder: DataFolder, stopping: Stopping) -> None:
    """Worker and HTTP API in this process."""
    async with hub, Worker(app, hub, WorkerOptions(drain=DEV_DRAIN)) as worker, Client(hub, app) as client:
        # What is sent and published is the worker's too: one broker, one line to it.
        own = [
            each
            for each in worker_instruments(worker)
            if not each.name.startswith(("callboard.publish", "callboard.broker"))
        ]
        api = _api(client, listener, app, own)
        async with serving(api, listener, access_log=True):
            stopping.ready()
            say(_welcome(app, hub, listener, folder))
            await stopping.wait()
            log.info("Stopping. Ctrl-C again stops at once")


async def run_serve(app: App | None, hub: TaskHub, listener: Listener, stopping: Stopping) -> None:
    """The HTTP API alone."""
    async with hub, Client(hub, app) as client:
        api = _api(client, listener, app)
        async with serving(api, listener, access_log=True):
            stopping.ready()
            say(f"Serving hub {hub.name!r} at {listener.url}. Ctrl-C stops it.")
            await stopping.wait()


def _api(client: Client, listener: Listener, app: App | None, instruments: Sequence[Instrument] = ()) -> FastAPI:
    limit = app.codec_options.max_payload if app is not None else MAX_PAYLOAD
    return create_http_app(
        client, keys=listener.keys, allowed_hosts=listener.allowed_hosts, body_limit=limit, instruments=instruments
    )


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


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # signals are the command's: the worker has to stop too


@contextlib.asynccontextmanager
async def serving(api: FastAPI, listener: Listener, *, access_log: bool) -> AsyncGenerator[None]:
    """Serves HTTP inside the block; requests under way at its end get a few seconds."""
    config = uvicorn.Config(
        api,
        log_config=None,
        access_log=access_log,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener.socket]), name="callboard http")
    try:
        yield  # the socket listens already: who comes before the server has begun waits in the queue
    finally:
        server.should_exit = True
        await task
