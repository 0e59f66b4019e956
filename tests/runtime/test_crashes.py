"""Kill -9 at every call to the store and the broker: whoever comes next finishes, and history holds each result once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from callboard import App, OrchestrationContext
from callboard.core.events import ExecutionCompleted
from tests.runtime.support import Player, Stage, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")


@app.activity
async def double(number: int) -> int:
    return 2 * number


@app.activity
def increase(number: int) -> int:
    return number + 1


@app.orchestration
async def child(context: OrchestrationContext, number: int) -> int:
    return await context.call_activity(increase, number)


@app.orchestration
async def journey(context: OrchestrationContext, leg: int) -> list[object]:
    first = await context.call_activity(double, leg)
    second = await context.call_activity(increase, first)
    await asyncio.sleep(0.005)
    third = await context.call_sub_orchestration(child, second)
    word = await context.wait_for_external_event("go", str)
    if leg == 1:
        context.continue_as_new(10)
    return [first, second, third, word]


async def travel(prepare: Callable[[Player], None]) -> list[str]:
    """Runs a journey on a worker that may die on the way, ends it on another; returns the calls of the first."""
    async with Stage() as stage:
        first = stage.enter(app)
        prepare(first)
        await first.start()
        client = await stage.client(app)
        handle = await client.start(journey, 1, instance_id="trip")
        await client.raise_event("trip", "go", "east")
        await client.raise_event("trip", "go", "west")
        if first.doom.at is not None:
            ended = asyncio.ensure_future(handle.result())
            await asyncio.wait([ended, asyncio.ensure_future(first.doom.dead.wait())], return_when="FIRST_COMPLETED")
            ended.cancel()
            await stage.worker(app)
        await eventually(lambda: _ended(stage), "the journey ends")
        assert await handle.result() == [20, 21, 22, "west"]
        await stage.exact("trip")
        for record in (await client.list_instances()).instances:
            await stage.exact(record.instance_id)
            assert record.runtime_status == "Completed"
        await eventually(lambda: _all_sent(stage), "every commit is marked sent")
        return list(first.doom.calls)


async def _ended(stage: Stage) -> bool:
    return any(isinstance(event, ExecutionCompleted) for event in await stage.events("trip"))


async def _all_sent(stage: Stage) -> bool:
    return not await stage.unsent()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_worker_may_die_at_any_call(after: bool) -> None:
    calls = await travel(lambda _worker: None)
    steps = len(calls)
    assert {"append", "publish", "project", "create", "put_timers", "delete_timers", "mark_sent"} <= set(calls)

    async def die_at(step: int) -> None:
        def prepare(worker: Player) -> None:
            worker.doom.at, worker.doom.after = step, after

        try:
            await travel(prepare)
        except AssertionError as error:
            raise AssertionError(f"killed {'after' if after else 'before'} call {step}: {error}") from error

    for start in range(1, steps + 1, 8):
        await asyncio.gather(*(die_at(step) for step in range(start, min(start + 8, steps + 1))))
