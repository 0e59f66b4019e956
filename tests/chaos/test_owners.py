"""Leases are efficiency: several workers that all believe they own every partition spoil nothing."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from tests.chaos.scene import scene
from tests.chaos.worker_process import Orders

WORKERS = 3
ERRANDS = 60
TALLIES = 20
ROUNDS = 10
EVENTS = 3
SEED = random.randrange(1_000_000)


@pytest.mark.timeout(120)
async def test_workers_that_all_own_everything_spoil_nothing(orders: Orders) -> None:
    async with scene(msgspec.structs.replace(orders, keep_history=True), SEED) as on:
        on.fleet.launch(WORKERS, balance=False)
        async with asyncio.TaskGroup() as group:
            group.create_task(on.errands(range(ERRANDS), seconds=5))
            group.create_task(on.tallies(range(TALLIES), rounds=ROUNDS, each=EVENTS, pause=0.15))
        recovered = await on.over(45)
        snapshot = await on.verify()
        for worker in list(on.fleet.workers):
            on.fleet.stop(worker)
        lost = [counts.lost_races for counts in on.fleet.counts()]
        generations = [snapshot.histories[name][-1].generation for name in on.results if name.startswith("tally")]
        on.report(
            "everybody owns everything",
            instances=len(on.results),
            commits=sum(map(len, snapshot.histories.values())),
            lost_races=lost,
            generations=sum(generations) + TALLIES,
            over_after_the_last_fault=recovered,
        )
        assert sum(lost) > 0
        assert generations == [ROUNDS - 1] * TALLIES
