"""One worker in a process of its own: `python -m tests.chaos.worker_process '{"hub": …}'`. Ends in order on SIGTERM.

It says in a file, again and again, what it has counted so far: what was counted until a kill -9 is known up to a moment before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from callboard.errors import UnavailableError
from callboard.hub import TaskHub
from callboard.worker import Worker, WorkerOptions
from tests.chaos.programs import Ledger, make_app

log = logging.getLogger("callboard.chaos")

#: How often the counts are written, in seconds.
TELL = 0.1


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker is to be made."""

    hub: str
    broker: str
    store: str
    folder: str
    """Where the ledger, the counts and the logs are."""
    partitions: int | None = None
    keep_history: bool = False
    """Do not trim executions that were continued as new, so that all of them can be judged."""
    options: dict[str, Any] = {}


class Counts(msgspec.Struct, kw_only=True):
    """What a worker process has counted."""

    pid: int
    worker_id: str
    turns: int = 0
    commits: int = 0
    lost_races: int = 0
    swept: int = 0
    executed: int = 0
    owned: int = 0


async def main(orders: Orders) -> None:
    """Works until SIGTERM."""
    asked_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    folder = Path(orders.folder)
    app = make_app(orders.hub, Ledger(folder / "ledger"), partitions=orders.partitions)
    hub = await opened(orders)
    async with contextlib.aclosing(hub):
        if orders.keep_history:
            hub.store.trim = trim_nothing  # type: ignore[method-assign]
        worker = Worker(app, hub, msgspec.convert(orders.options, WorkerOptions))
        async with worker:
            while not asked_to_stop.is_set():
                tell(folder, worker)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asked_to_stop.wait(), TELL)
        tell(folder, worker)


async def trim_nothing(instance_id: str, *, below: int) -> int:
    """Stands in for the store's own."""
    del instance_id, below
    return 0


async def opened(orders: Orders) -> TaskHub:
    """Opens the hub; tries again, as a supervisor would, while a server is down."""
    while True:
        hub = TaskHub.from_urls(orders.hub, broker=orders.broker, store=orders.store, partitions=orders.partitions)
        try:
            await hub.open()
        except UnavailableError as error:
            log.warning("The hub could not be opened: %s", error)
            await hub.aclose()
            await asyncio.sleep(0.5)
        else:
            return hub


def tell(folder: Path, worker: Worker) -> None:
    counted = worker.turns.statistics
    counts = Counts(
        pid=os.getpid(),
        worker_id=worker.worker_id,
        turns=counted.turns,
        commits=counted.commits,
        lost_races=counted.lost_races,
        swept=worker.sweeper.swept,
        executed=worker.activities.executed,
        owned=len(worker.ownership.owned),
    )
    written = folder / f"counts-{os.getpid()}.new"
    written.write_bytes(msgspec.json.encode(counts))
    written.rename(folder / f"counts-{os.getpid()}.json")


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Orders)))
