"""Orchestrations that continue as new for ever do not grow the store."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import pytest

from callboard import App, OrchestrationContext
from tests.runtime.support import Gate, Stage, eventually

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")

GENERATIONS = 10_000


@app.activity
async def double(number: int) -> int:
    return 2 * number


@app.orchestration
async def eternal(context: OrchestrationContext, left: int) -> int:
    """Most generations are one commit; some call an activity, and are two."""
    if left % 10 == 0:
        await context.call_activity(double, left)
    if left:
        context.continue_as_new(left - 1)
    return left


async def test_ten_thousand_generations_leave_nothing_but_the_last() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        sizes: list[int] = []

        async def look(*_: object) -> None:
            if worker.store.counts["trim"] % 20 == 0:
                sizes.append(len(await stage.store.history("a")))

        worker.store.after["trim"] = look
        client = await stage.client(app)
        assert await (await client.start(eternal, GENERATIONS, instance_id="a")).result(120) == 0
        await eventually(lambda: worker.worker.effects.idle)
        await eventually(lambda: _kept(stage, 2))  # the last generation: a call, and its result
        assert max(sizes) < 500
        assert len(stage.ledger) == GENERATIONS + GENERATIONS // 10 + 2


async def _kept(stage: Stage, commits: int) -> bool:
    return len(await stage.store.history("a")) == commits


async def test_a_commit_that_continues_and_is_marked_after_the_next_one_goes_too() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        clearing = worker.store.before["delete_execution_timers"] = Gate()  # an effect of the commits that continue
        await worker.start()
        client = await stage.client(app)
        assert await (await client.start(eternal, 2, instance_id="a")).result(10) == 0
        await eventually(lambda: worker.store.counts["trim"])
        assert await _kept(stage, 4)
        clearing.open()
        await eventually(lambda: _kept(stage, 2))


async def test_a_generation_whose_next_one_is_not_durable_is_not_trimmed() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        appending = worker.store.before["append"] = Gate(lambda commits: any(commit.n == 1 for commit in commits))
        await worker.start()
        client = await stage.client(app)
        handle = await client.start(eternal, 1, instance_id="a")
        await eventually(lambda: appending.waiting)
        worker.kill()
        assert len(await stage.store.history("a")) == 1
        await stage.worker(app)
        assert await handle.result(10) == 0
        await eventually(lambda: _kept(stage, 2))
