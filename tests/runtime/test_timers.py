"""Durable timers: never early, never skipped, in step with their rows."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Self, cast

import pytest

from callboard import App, OrchestrationContext, timers as timers_module
from callboard.core.events import TimerCreated, TimerFired
from callboard.core.messages import TimerDue
from callboard.mailbox import Account, Letter
from callboard.ports import Store, TimerRow
from callboard.timers import LOOK_AHEAD, Timers
from callboard_store.sqlite import SQLiteStore
from tests.runtime.support import Doom, MortalHost, Stage, eventually

app = App("stage")


@app.orchestration
async def sleeps(context: OrchestrationContext, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


@app.orchestration
async def hurries(context: OrchestrationContext) -> str:
    try:
        async with asyncio.timeout(30):
            return str(await context.wait_for_external_event("go", str))
    except TimeoutError:
        return "late"


class Desk:
    """Timers over a store, with a mailbox that keeps what fires."""

    def __init__(self) -> None:
        self.store = SQLiteStore(None)
        self.host = MortalHost(Doom())
        self.fired: list[Letter] = []
        self.at: list[datetime] = []
        self.takes = True
        self.gone: list[TimerRow] = []
        self.timers = Timers(cast("Store", self.store), self.host, self._post, self._limit_due)
        self.timers.on_settled = self.gone.append

    def _post(self, letter: Letter) -> bool:
        if self.takes:
            self.fired.append(letter)
            self.at.append(self.host.now())
        return self.takes

    def _limit_due(self, row: TimerRow, account: Account) -> None:
        raise AssertionError(f"{row} is no limit")

    def ids(self) -> list[int]:
        return [cast("TimerDue", letter.message).timer_id for letter in self.fired]

    async def __aenter__(self) -> Self:
        await self.store.open("desk", 4)
        self.timers.own(frozenset(range(4)))
        self.host.spawn(self.timers.run(), name="timers")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.host.tasks:
            task.cancel()
        await asyncio.gather(*self.host.tasks, return_exceptions=True)
        await self.store.aclose()
        self.host.close()

    def row(self, number: int, seconds: float, *, partition: int = 0) -> TimerRow:
        fire_at = self.host.now() + timedelta(seconds=seconds)
        return TimerRow(instance_id="a", execution_id="e", timer_id=number, partition=partition, fire_at=fire_at)


async def test_timers_fire_in_order_and_never_early() -> None:
    async with Desk() as desk:
        rows = [desk.row(number, 0.3 - number * 0.05) for number in range(6)]
        await desk.store.put_timers(rows[:3])
        desk.timers._stale = True
        desk.timers._wake.set()
        await eventually(lambda: len(desk.timers._rows) == 3)
        for row in rows[3:]:
            desk.timers.schedule(row)
        await eventually(lambda: len(desk.fired) == 6)
        assert desk.ids() == [5, 4, 3, 2, 1, 0]
        for letter, at in zip(desk.fired, desk.at, strict=True):
            message = cast("TimerDue", letter.message)
            assert message.fire_at <= at
            assert message.fire_at == rows[message.timer_id].fire_at


async def test_a_timer_is_scheduled_once_however_often_it_is_said() -> None:
    async with Desk() as desk:
        row = desk.row(1, 0.05)
        await eventually(lambda: desk.timers._horizon > row.fire_at)
        for _ in range(3):
            desk.timers.schedule(row)
        await eventually(lambda: desk.fired)
        desk.timers.schedule(row)  # it is in a mailbox
        desk.timers.schedule(desk.row(2, 0.05))
        await eventually(lambda: len(desk.fired) == 2)
        assert desk.ids() == [1, 2]


async def test_a_cancelled_timer_does_not_fire() -> None:
    async with Desk() as desk:
        first, second = desk.row(1, 0.05), desk.row(2, 0.1)
        await eventually(lambda: desk.timers._horizon > second.fire_at)
        desk.timers.schedule(first)
        desk.timers.schedule(second)
        desk.timers.cancel(first)
        await eventually(lambda: desk.fired)
        assert desk.ids() == [2]


async def test_a_row_goes_when_its_firing_is_settled_and_fires_again_when_it_is_not() -> None:
    async with Desk() as desk:
        row = desk.row(1, 0.02)
        await desk.store.put_timers([row])
        desk.timers.schedule(row)
        desk.timers._stale = True
        desk.timers._wake.set()
        await eventually(lambda: len(desk.fired) == 1)
        assert desk.gone == []
        desk.fired[0].account.abandon()
        desk.timers._stale = True
        desk.timers._wake.set()
        await eventually(lambda: len(desk.fired) == 2)
        desk.fired[1].account.settle()
        assert desk.gone == [row]


async def test_a_flood_is_fired_in_portions_none_skipped_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers_module, "MOST_ROWS", 100)
    monkeypatch.setattr(timers_module, "MOST_FIRED", 30)
    async with Desk() as desk:
        settled: list[int] = []
        portions: list[int] = []

        async def settle() -> None:
            while len(settled) < 450:
                portions.append(len(desk.fired) - len(settled))
                for letter in desk.fired[len(settled) :]:
                    message = cast("TimerDue", letter.message)
                    settled.append(message.timer_id)
                    row = desk.row(message.timer_id, 0)
                    await desk.store.delete_timers([row])
                    letter.account.settle()
                await asyncio.sleep(0)

        await desk.store.put_timers([desk.row(number, number * 0.001 - 60) for number in range(450)])
        desk.timers._stale = True
        desk.timers._wake.set()
        await asyncio.wait_for(settle(), 10)
        assert settled == list(range(450))
        assert max(portions) <= 60


async def test_what_is_far_away_is_left_to_its_row() -> None:
    async with Desk() as desk:
        far = desk.row(1, LOOK_AHEAD.total_seconds() + 60)
        await eventually(lambda: desk.timers._horizon > desk.host.now())
        desk.timers.schedule(far)
        assert not desk.timers._rows


async def test_rows_are_read_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers_module, "REFRESH", 0.05)
    monkeypatch.setattr(timers_module, "LOOK_AHEAD", timedelta(seconds=0.1))
    async with Desk() as desk:
        await desk.store.put_timers([desk.row(1, 0.3)])
        await eventually(lambda: desk.ids() == [1])


async def test_a_row_that_a_former_owner_wrote_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers_module, "OVERDUE", 0.05)
    async with Desk() as desk:
        await eventually(lambda: desk.timers._horizon > desk.host.now())
        await desk.store.put_timers([desk.row(1, -1)])
        await eventually(lambda: desk.ids() == [1])


async def test_timers_of_partitions_that_are_lost_are_forgotten_and_read_by_the_next_owner() -> None:
    async with Desk() as desk:
        rows = [desk.row(1, 0.15, partition=1), desk.row(2, 0.15, partition=2)]
        await desk.store.put_timers(rows)
        desk.timers._stale = True
        desk.timers._wake.set()
        await eventually(lambda: len(desk.timers._rows) == 2)
        desk.timers.own(frozenset({2}))
        await eventually(lambda: desk.fired)
        assert desk.ids() == [2]
        desk.timers.own(frozenset({1, 2}))
        await eventually(lambda: desk.ids() == [2, 1])


@pytest.mark.usefixtures("fast")
async def test_a_timer_survives_its_worker_and_fires_once() -> None:
    async with Stage() as stage:
        first = await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(sleeps, 0.3, instance_id="a")
        await eventually(lambda: first.store.counts["put_timers"])
        first.kill()
        await stage.worker(app)
        assert await handle.result(5) == "awake"
        (created,) = (event for event in await stage.exact("a") if isinstance(event, TimerCreated))
        (fired,) = (event for event in await stage.exact("a") if isinstance(event, TimerFired))
        assert fired.fire_at == created.fire_at
        assert created.fire_at - created.timestamp >= timedelta(seconds=0.3)


@pytest.mark.usefixtures("fast")
async def test_the_rows_of_an_execution_go_with_it() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(hurries, instance_id="a")
        await eventually(lambda: _rows(stage))
        await client.raise_event("a", "go", "fast")
        assert await handle.result(5) == "fast"
        await eventually(lambda: _none(stage))


async def _rows(stage: Stage) -> list[TimerRow]:
    return await stage.store.due_timers([0, 1, 2, 3], until=datetime.max.replace(tzinfo=UTC), limit=10)


async def _none(stage: Stage) -> bool:
    return not await _rows(stage)
