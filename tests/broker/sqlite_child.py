"""Another process on the same journal: ``python sqlite_child.py MODE FILE``. Says on stdout, line by line, what it has done."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING

from callboard.ports import Delivery, Destination
from callboard_broker.sqlite import SQLiteBroker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def hold(broker: SQLiteBroker) -> None:
    """Publishes without end and says what was confirmed; acks every third message that it gets and says so first."""
    taken = 0

    def take(delivery: Delivery) -> None:
        nonlocal taken
        taken += 1
        if taken % 3 == 0:
            print("acked", delivery.body.decode(), flush=True)
            delivery.ack()

    await broker.consume(Destination.partition(0), take, prefetch=50)

    async def produce(lane: int) -> None:
        for number in range(1_000_000):
            await broker.publish(Destination.partition(0), f"{lane}.{number}".encode())
            print("confirmed", f"{lane}.{number}", flush=True)

    await asyncio.gather(*(produce(lane) for lane in range(10)))


async def keep(broker: SQLiteBroker) -> None:
    """Takes everything from a partition and an inbox, and acks nothing."""

    def take(delivery: Delivery) -> None:
        print("took", delivery.body.decode(), flush=True)

    await broker.consume(Destination.partition(0), take)
    await broker.consume(Destination.inbox("child"), take)
    print("ready", flush=True)
    await asyncio.sleep(600)


async def orphan(broker: SQLiteBroker) -> None:
    """As ``keep``, with a forked child that outlives it."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; a process pool does it anyway
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    print("forked", child, flush=True)
    await keep(broker)


async def echo(broker: SQLiteBroker) -> None:
    """Sends every message back to the inbox that its header names."""
    requests: asyncio.Queue[Delivery] = asyncio.Queue()
    await broker.consume(Destination.partition(0), requests.put_nowait)
    print("ready", flush=True)
    while True:
        request = await requests.get()
        await broker.publish(Destination.inbox(request.headers["reply-to"]), request.body)
        request.ack()


async def forget(broker: SQLiteBroker) -> None:
    """Ends without closing."""
    await broker.consume(Destination.partition(0), lambda _: None)
    await broker.publish(Destination.partition(0), b"kept")
    print("bye", flush=True)


MODES: dict[str, Callable[[SQLiteBroker], Awaitable[None]]] = {
    "hold": hold,
    "keep": keep,
    "orphan": orphan,
    "echo": echo,
    "forget": forget,
}


async def main() -> None:
    mode, file = sys.argv[1:]
    broker = SQLiteBroker.from_url(f"sqlite:///{file}")
    await broker.open("hub", 4)
    await MODES[mode](broker)


if __name__ == "__main__":
    asyncio.run(main())
