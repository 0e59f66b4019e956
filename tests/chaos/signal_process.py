"""One process that signals counters: `python -m tests.chaos.signal_process '{"orders": …}'`. Ends when the broker keeps all signals."""

from __future__ import annotations

import asyncio
import sys

import msgspec

from callboard import Client, EntityId, TaskHub
from tests.chaos.worker_process import Orders

#: How many signals are under way at a time.
ABREAST = 500


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """What to send."""

    orders: Orders
    keys: int
    """How many counters there are."""
    rounds: int
    """How many signals each gets."""


async def main(signals: Signals) -> None:
    orders = signals.orders
    hub = TaskHub.from_urls(orders.hub, broker=orders.broker, store=orders.store, partitions=orders.partitions)
    async with hub, Client(hub) as client:
        for _ in range(signals.rounds):
            for first in range(0, signals.keys, ABREAST):
                some = range(first, min(first + ABREAST, signals.keys))
                await asyncio.gather(*(client.signal_entity(counter(key), "add", 1) for key in some))


def counter(key: int) -> EntityId:
    return EntityId("counter", f"{key:04d}")


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Signals)))
