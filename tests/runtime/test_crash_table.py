"""The crash table of the reliability reference, row by row: what is lost where, who goes on, what is filtered by what."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from callboard import App, OrchestrationContext
from callboard.core.events import TaskCompleted
from callboard.errors import BrokerUnavailableError, StoreUnavailableError
from callboard.ports import DestinationKind
from tests.runtime.support import Failing, Player, Stage, eventually, to

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("fast")


class Play:
    """An app that counts what its activity did; one for each row."""

    def __init__(self) -> None:
        self.app = App("stage")
        self.runs: list[int] = []
        self.app.activity(self.work)
        self.app.orchestration(self.play)

    async def work(self, number: int) -> int:
        self.runs.append(number)
        return number + 1

    async def play(self, context: OrchestrationContext, number: int) -> int:
        for _ in range(2):
            number = await context.call_activity("work", number)
        return number


async def crash(prepare: Callable[[Player], None]) -> None:
    """Runs a play on a worker that dies where `prepare` has it die, and ends it on another."""
    play = Play()
    async with Stage() as stage:
        first = stage.enter(play.app)
        prepare(first)
        await first.start()
        client = await stage.client(play.app)
        handle = await client.start("play", 0, instance_id="a")
        await asyncio.wait_for(first.doom.dead.wait(), 5)
        await stage.worker(play.app)
        assert await handle.result(10) == 2
        await eventually(lambda: _all_sent(stage))
        events = await stage.exact("a")
        assert sum(isinstance(event, TaskCompleted) for event in events) == 2
        assert set(play.runs) == {0, 1}


async def _all_sent(stage: Stage) -> bool:
    return not await stage.unsent()


class DieAt:
    """A hook that kills its worker the nth time it applies, and never returns."""

    def __init__(self, player: Player, nth: int = 1, applies: Callable[[Any], bool] = lambda _first: True) -> None:
        self._player, self._left, self._applies = player, nth, applies

    async def __call__(self, *args: Any) -> None:
        if self._applies(args[0]):
            self._left -= 1
            if self._left == 0:
                self._player.kill()
                await asyncio.Future[None]()


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_before_the_commit_nothing_has_happened(nth: int) -> None:
    def prepare(player: Player) -> None:
        player.store.before["append"] = DieAt(player, nth)

    await crash(prepare)


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_after_the_commit_before_acks_and_effects_the_input_is_known_and_the_effects_are_swept(nth: int) -> None:
    def prepare(player: Player) -> None:
        player.store.after["append"] = DieAt(player, nth)

    await crash(prepare)


async def test_during_the_commit_with_its_reply_lost_the_token_tells_that_it_is_ours() -> None:
    play = Play()
    async with Stage() as stage:
        worker = await stage.worker(play.app)
        lost = worker.store.after["append"] = Failing(StoreUnavailableError("the reply was lost"), times=2)
        client = await stage.client(play.app)
        assert await (await client.start("play", 0, instance_id="a")).result(10) == 2
        await stage.exact("a")
        assert lost.raised == 2
        assert worker.worker.turns.statistics.lost_races == 0
        assert set(play.runs) == {0, 1}


@pytest.mark.parametrize("nth", [1, 2])
async def test_before_an_effect_is_published_the_next_owner_publishes_it(nth: int) -> None:
    def prepare(player: Player) -> None:
        player.broker.before["publish"] = DieAt(player, nth, to(DestinationKind.ACTIVITIES))

    await crash(prepare)


@pytest.mark.parametrize("nth", [1, 2])
async def test_published_without_a_confirm_it_is_published_again_and_counts_once(nth: int) -> None:
    def prepare(player: Player) -> None:
        player.broker.after["publish"] = DieAt(player, nth, to(DestinationKind.ACTIVITIES))

    await crash(prepare)


async def test_confirmed_but_not_marked_it_is_published_again_and_counts_once() -> None:
    def prepare(player: Player) -> None:
        player.store.before["mark_sent"] = DieAt(player)

    await crash(prepare)


async def test_marked_but_not_told_nothing_is_repeated() -> None:
    def prepare(player: Player) -> None:
        player.store.after["mark_sent"] = DieAt(player)

    await crash(prepare)


async def test_a_lost_ack_brings_the_input_again_and_it_is_known() -> None:
    play = Play()
    async with Stage() as stage:
        worker = await stage.worker(play.app)
        breaks = [2]

        def break_connection(_commits: object) -> None:
            if breaks[0]:
                breaks[0] -= 1
                worker.broker.drop_connection()

        worker.store.after["append"] = break_connection
        client = await stage.client(play.app)
        assert await (await client.start("play", 0, instance_id="a")).result(10) == 2
        await stage.exact("a")
        assert breaks == [0]
        await eventually(lambda: worker.broker.unacked() == 0)


async def test_a_zombie_and_its_successor_commit_each_number_once() -> None:
    play = Play()
    async with Stage() as stage:
        workers = [await stage.worker(play.app) for _ in range(2)]
        faults = stage.server.faults
        faults.duplicate, faults.reorder = 1.0, 0.5
        client = await stage.client(play.app)
        handles = [await client.start("play", 0, instance_id=f"i{number}") for number in range(30)]
        assert [await handle.result(20) for handle in handles] == [2] * 30
        for number in range(30):
            await stage.exact(f"i{number}")
        assert sum(worker.worker.turns.statistics.lost_races for worker in workers) > 0


@pytest.mark.parametrize("after", [False, True], ids=["before it is sent", "after it is sent"])
async def test_a_result_that_dies_with_its_worker_is_made_again(after: bool) -> None:
    play = Play()
    async with Stage() as stage:
        await stage.worker(play.app, only="orchestrations")
        runner = stage.enter(play.app, only="activities")
        hooks = runner.broker.after if after else runner.broker.before
        hooks["publish"] = DieAt(runner, applies=to(DestinationKind.PARTITION))
        await runner.start()
        client = await stage.client(play.app)
        handle = await client.start("play", 0, instance_id="a")
        await asyncio.wait_for(runner.doom.dead.wait(), 5)
        await stage.worker(play.app, only="activities")
        assert await handle.result(10) == 2
        assert play.runs.count(0) == 2
        assert sum(isinstance(event, TaskCompleted) for event in await stage.exact("a")) == 2


async def test_an_outage_of_the_broker_and_one_of_the_store_are_waited_out() -> None:
    play = Play()
    async with Stage() as stage:
        worker = await stage.worker(play.app)
        client = await stage.client(play.app)
        worker.broker.before["publish"] = Failing(BrokerUnavailableError("restarting"), times=4)
        worker.store.before["append"] = Failing(StoreUnavailableError("restarting"), times=2)
        worker.store.before["load"] = Failing(StoreUnavailableError("restarting"), times=2)
        worker.store.before["records"] = Failing(StoreUnavailableError("restarting"), times=2)
        stage.server.drop_connections(outage_seconds=0.2)
        handle = await client.start("play", 0, instance_id="a")
        assert await handle.result(10) == 2
        await stage.exact("a")
