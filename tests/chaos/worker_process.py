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

from callboard.hub import TaskHub
from callboard.worker import Worker, WorkerOptions
from tests.chaos.programs import Ledger, make_app

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
    hub = TaskHub.from_urls(orders.hub, broker=orders.broker, store=orders.store, partitions=orders.partitions)
    async with hub:
        worker = Worker(app, hub, msgspec.convert(orders.options, WorkerOptions))
        async with worker:
            while not asked_to_stop.is_set():
                tell(folder, worker)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asked_to_stop.wait(), TELL)
        tell(folder, worker)


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
