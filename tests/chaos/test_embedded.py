"""The embedded default: one process, one SQLite file, and kill -9."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.chaos.scene import Scene, scene
from tests.chaos.worker_process import Orders

KILLS = 20
#: Instances that begin in each of the process's lives: 100 in all.
EACH = 5
#: How often the instances that are continued as new are, and how many events each of their executions takes.
ROUNDS, EVENTS = 6, 3
SEED = random.randrange(1_000_000)


@pytest.mark.timeout(180)
async def test_one_process_on_one_file_resumes_after_every_kill(tmp_path: Path, hub: str) -> None:
    url = f"sqlite:///{tmp_path / 'callboard.db'}"
    orders = Orders(hub=hub, broker=url, store=url, folder=str(tmp_path))
    async with scene(orders, SEED) as on:
        lives: list[float] = []
        on.fleet.launch()
        async with asyncio.TaskGroup() as group:
            for kill in range(
                KILLS
            ):  # some instances begin in each life, so that there is always something to interrupt
                group.create_task(on.errands(range(kill * EACH, (kill + 1) * EACH), seconds=1))
                if kill % 5 == 0:
                    group.create_task(on.tallies([kill], rounds=ROUNDS, each=EVENTS, pause=0.4))
                lives.append(await working(on))
                await asyncio.sleep(on.dice.uniform(0, 0.4))
                on.fleet.kill(on.fleet.workers[0])
                on.fleet.launch()
        recovered = await on.over(60)
        await on.verify()
        on.report(
            "embedded",
            instances=len(on.results),
            kills=on.fleet.kills,
            from_start_to_work=sum(lives) / len(lives),
            at_most=max(lives),
            over_after_the_last_fault=recovered,
        )


async def working(on: Scene) -> float:
    """Waits until the process has committed something; returns how long that took, in seconds."""
    loop = asyncio.get_running_loop()
    since, pid = loop.time(), on.fleet.workers[0].pid
    while not any(counts.pid == pid and counts.commits for counts in on.fleet.counts()):
        assert loop.time() - since < 30, await on.describe()
        await asyncio.sleep(0.05)
    return loop.time() - since
