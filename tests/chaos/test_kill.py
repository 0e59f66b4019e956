"""Kill -9 loses nothing: workers, RabbitMQ and mongod die in the middle of everything."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from tests.chaos.conftest import Servers
from tests.chaos.scene import Scene, scene
from tests.chaos.worker_process import Orders

WORKERS = 4
INSTANCES = 300
KILLS = 20
#: Instances that are continued as new again and again, how often, and how many events each execution takes.
TALLIES, ROUNDS, EVENTS = 10, 10, 3
SEED = random.randrange(1_000_000)
#: A frozen worker sleeps longer than this.
SHORT_LEASE = 3.0


@pytest.mark.timeout(180)
async def test_workers_and_servers_die_and_nothing_is_lost(servers: Servers, orders: Orders) -> None:
    async with scene(orders, SEED) as on:
        on.fleet.launch(WORKERS)
        async with asyncio.TaskGroup() as group:
            group.create_task(on.errands(range(INSTANCES), seconds=KILLS))
            group.create_task(on.tallies(range(TALLIES), rounds=ROUNDS, each=EVENTS, pause=KILLS / (ROUNDS * EVENTS)))
            group.create_task(kill_a_worker_every_second(on))
            group.create_task(at(5.0, servers.rabbitmq.kill, servers.rabbitmq.start))
            group.create_task(at(14.0, servers.mongodb.kill, servers.mongodb.start))
        recovered = await on.over(60)
        await on.verify()
        on.report(
            "kill -9",
            instances=f"{INSTANCES} + {TALLIES}",
            kills=on.fleet.kills,
            servers_killed=2,
            over_after_the_last_fault=recovered,
            runs_per_activity=runs_per_activity(on),
        )


@pytest.mark.timeout(120)
async def test_zombies_do_no_harm(orders: Orders) -> None:
    async with scene(orders, SEED) as on:
        on.fleet.launch(WORKERS, lease=SHORT_LEASE, heartbeat=0.5)
        async with asyncio.TaskGroup() as group:
            group.create_task(on.errands(range(INSTANCES), seconds=20))
            group.create_task(on.tallies(range(TALLIES), rounds=ROUNDS, each=EVENTS, pause=20 / (ROUNDS * EVENTS)))
            group.create_task(freeze_workers(on, times=8))
        recovered = await on.over(60)
        await on.verify()
        on.report(
            "zombies",
            instances=f"{INSTANCES} + {TALLIES}",
            freezes=on.fleet.freezes,
            lost_races=sum(counts.lost_races for counts in on.fleet.counts()),
            over_after_the_last_fault=recovered,
            runs_per_activity=runs_per_activity(on),
        )


async def kill_a_worker_every_second(on: Scene) -> None:
    began = time.monotonic()
    for number in range(KILLS):
        await asyncio.sleep(began + number + 1 - time.monotonic())
        await asyncio.to_thread(on.fleet.kill, on.fleet.awake())
        await asyncio.to_thread(on.fleet.launch)


async def freeze_workers(on: Scene, *, times: int) -> None:
    """Lets workers sleep through their leases, up to two of four at a time; the others take over, and then they wake up."""
    async with asyncio.TaskGroup() as group:
        for _ in range(times):
            await asyncio.sleep(2)
            group.create_task(_sleep_through_the_lease(on))


async def _sleep_through_the_lease(on: Scene) -> None:
    worker = on.fleet.awake()
    on.fleet.freeze(worker)
    await asyncio.sleep(SHORT_LEASE + on.dice.uniform(0.5, 1.0))
    on.fleet.thaw(worker)


async def at(seconds: float, *steps: Callable[[], None]) -> None:
    """Does things to a server after a while, in a thread, because they take their time."""
    await asyncio.sleep(seconds)
    for step in steps:
        await asyncio.to_thread(step)


def runs_per_activity(on: Scene) -> str:
    runs = on.ledger.runs()
    return f"{sum(map(len, runs.values())) / len(runs):.2f}"
