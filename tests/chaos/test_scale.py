"""Scaling out is starting more workers: partitions spread evenly within seconds, and work can be divided by kind and by queue."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import msgspec
import pytest

from tests.chaos.scene import Scene, scene
from tests.chaos.worker_process import Orders
from tests.servers.process import Process

SEED = random.randrange(1_000_000)
#: Within what time partitions must be spread evenly again, in seconds.
SECONDS = 10.0
CALLS = 40


@pytest.mark.timeout(120)
async def test_partitions_spread_evenly_whoever_comes_and_goes(orders: Orders) -> None:
    async with scene(orders, SEED) as on, asyncio.TaskGroup() as group:
        group.create_task(on.errands(range(120), seconds=12))
        times: dict[str, float] = {}
        for number in (1, 2, 3):
            on.fleet.launch()
            times[f"join_{number}"] = await spread(on, on.fleet.workers)
        leaving = on.dice.choice(on.fleet.workers)
        stopping = group.create_task(asyncio.to_thread(on.fleet.stop, leaving))
        times["leave"] = await spread(on, [worker for worker in on.fleet.workers if worker is not leaving])
        times["stop"] = await stopping
        on.fleet.launch()
        times["join_again"] = await spread(on, on.fleet.workers)
        on.fleet.kill(on.dice.choice(on.fleet.workers))
        times["kill"] = await spread(on, on.fleet.workers)
        for worker in list(on.fleet.workers):  # one after the other, down to none, and up again
            await asyncio.to_thread(on.fleet.stop, worker)
        on.fleet.launch(2)
        times["two_at_once"] = await spread(on, on.fleet.workers)
        recovered = await on.over(40)
        await on.verify()
        on.report("scaling", instances=len(on.results), **times, over_after_the_last_fault=recovered)


@pytest.mark.timeout(90)
async def test_work_is_divided_by_kind_and_by_queue(orders: Orders) -> None:
    async with scene(orders, SEED) as on:
        conductor = on.fleet.launch(only="orchestrations")
        ordinary = on.fleet.launch(only="activities", queues=("default",))
        special = on.fleet.launch(only="activities", queues=("special",))
        handle = await on.client.start("specials", CALLS)
        await on.errands(range(30), seconds=1)
        pids = await handle.result(30)
        await on.over(40)
        await on.verify()
        for worker in list(on.fleet.workers):
            await asyncio.to_thread(on.fleet.stop, worker)
        counts = {count.pid: count for count in on.fleet.counts()}
        on.report("divided", **{f"worker_{pid}": msgspec.to_builtins(count) for pid, count in counts.items()})
        assert pids == [special.pid] * CALLS
        assert counts[special.pid].executed >= CALLS
        assert counts[ordinary.pid].executed >= 30 * 6
        assert counts[conductor.pid].executed == 0
        assert counts[conductor.pid].commits > 0
        assert counts[ordinary.pid].commits == counts[special.pid].commits == 0


async def spread(on: Scene, workers: list[Process]) -> float:
    """Waits until these workers, and nobody else, hold all partitions in fair shares; returns how long that took, in seconds."""
    since = time.monotonic()
    expected = {worker.pid for worker in workers}
    while True:
        view = await on.hub.store.view(ttl=15.0)
        pids = {worker.worker_id: worker.pid for worker in view.workers}
        held = Counter(pids.get(lease.owner or "") for lease in view.leases if not lease.expired)
        if (
            held.keys() == expected
            and sum(held.values()) == len(view.leases)
            and max(held.values()) - min(held.values()) <= 1
        ):
            return time.monotonic() - since
        assert time.monotonic() - since < SECONDS, f"{expected} should share, but hold {held}:\n{await on.describe()}"
        await asyncio.sleep(0.02)
