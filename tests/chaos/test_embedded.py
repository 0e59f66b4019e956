"""The embedded default: one process, one SQLite file, and kill -9."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.chaos.scene import Scene, scene
from tests.chaos.worker_process import Orders

INSTANCES = 100
KILLS = 20
SEED = random.randrange(1_000_000)


@pytest.mark.timeout(180)
async def test_one_process_on_one_file_resumes_after_every_kill(tmp_path: Path, hub: str) -> None:
    url = f"sqlite:///{tmp_path / 'callboard.db'}"
    orders = Orders(hub=hub, broker=url, store=url, folder=str(tmp_path))
    async with scene(orders, SEED) as on:
        on.fleet.launch()
        async with asyncio.TaskGroup() as group:
            group.create_task(on.errands(INSTANCES, seconds=25))
            killing = group.create_task(kill_again_and_again(on))
        recovered = await on.over(60)
        await on.verify()
        on.report(
            "embedded", instances=INSTANCES, kills=on.fleet.kills, recovered_after=recovered, alive_each_time=killing.result()
        )


async def kill_again_and_again(on: Scene) -> str:
    """Kills the process a moment after it has got something done, wherever it is then."""
    lives: list[float] = []
    for _ in range(KILLS):
        lives.append(await working(on))
        await asyncio.sleep(on.dice.uniform(0, 0.4))
        on.fleet.kill(on.fleet.workers[0])
        on.fleet.launch()
    return f"{sum(lives) / len(lives):.1f} s until work, at most {max(lives):.1f} s"


async def working(on: Scene) -> float:
    """Waits until the process has committed something; returns how long that took, in seconds."""
    loop = asyncio.get_running_loop()
    since, pid = loop.time(), on.fleet.workers[0].pid
    while not any(counts.pid == pid and counts.commits for counts in on.fleet.counts()):
        assert loop.time() - since < 30, await on.describe()
        await asyncio.sleep(0.05)
    return loop.time() - since
