"""A worker process: `python -m tests.bench.worker HUB BROKER_URL STORE_URL [PROFILE]`; works until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import uvloop

from callboard import TaskHub, Worker

from .app import make_app
from .measuring import stop_signal
from .profiling import profiled


async def work(hub: str, broker: str, store: str) -> None:
    async with TaskHub.from_urls(hub, broker=broker, store=store) as opened, Worker(make_app(hub), opened):
        await stop_signal()


def main(hub: str, broker: str, store: str, profile: str | None = None) -> None:
    uvloop.install()
    with profiled(Path(profile)) if profile else contextlib.nullcontext():
        asyncio.run(work(hub, broker, store))


if __name__ == "__main__":
    main(*sys.argv[1:])
