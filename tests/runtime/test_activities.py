"""Activities: at least once, within the worker's means, with one result in history."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from callboard import App, OrchestrationContext
from callboard.activities import results, runner
from callboard.activities.runs import Run
from callboard.core.events import TaskCompleted, TaskFailed
from callboard.core.messages import ActivityCall
from callboard.errors import BrokerUnavailableError, OrchestrationFailedError
from callboard.packs import decode_pack
from callboard.ports import Destination, DestinationKind
from tests.runtime.support import Failing, Gate, Player, Stage, a_while, eventually, to

pytestmark = pytest.mark.usefixtures("fast")

QUEUE = Destination.activities("default")


class Work:
    """An app whose activity runs until it is let go; counts what runs where."""

    def __init__(self) -> None:
        self.app = App("stage")
        self.go = asyncio.Event()
        self.started: list[int] = []
        self.running = 0
        self.most = 0
        self.app.activity(self.work)
        self.app.orchestration(self.fan_out)

    async def work(self, number: int) -> int:
        self.started.append(number)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        return number

    async def fan_out(self, context: OrchestrationContext, count: int) -> int:
        return sum(await asyncio.gather(*(context.call_activity("work", number) for number in range(count))))


def claims_soon(player: Player, *, after: float = 0.05, claim: float = 30.0) -> Player:
    claims = player.worker.activities.claims
    claims.after, claims.ttl = after, claim
    return player


def pack_sizes(player: Player) -> list[int]:
    """How many calls each message to the activity queue carried."""
    sent = (args for name, args in player.broker.log if name == "publish" and args[0] == QUEUE)
    return [len(decode_pack(args[1])) for args in sent]


async def test_at_most_so_many_run_at_once() -> None:
    work = Work()
    async with Stage() as stage:
        await stage.worker(work.app, concurrency=3)
        handle = await (await stage.client(work.app)).start(work.fan_out, 10)
        await eventually(lambda: work.running == 3)
        await a_while()
        work.go.set()
        assert await handle.result(5) == 45
        assert work.most == 3


async def test_what_cannot_start_soon_is_given_back_to_whoever_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STARTS_WITHIN", 0.1)
    busy, free = Work(), Work()
    free.go.set()
    async with Stage() as stage:
        first = await stage.worker(busy.app, concurrency=1)
        client = await stage.client(busy.app)
        handle = await client.start(busy.fan_out, 8, instance_id="a")
        await eventually(lambda: busy.running == 1)
        await stage.worker(free.app, only="activities")
        await eventually(lambda: len(free.started) == 7)
        busy.go.set()
        assert await handle.result(5) == 28
        assert len(first.broker.published("activities")) >= 8 + 7
        assert sum(isinstance(event, TaskCompleted) for event in await stage.exact("a")) == 8


async def test_a_pack_that_is_delivered_again_runs_singly() -> None:
    doomed, work = Work(), Work()
    work.go.set()
    async with Stage() as stage:
        first = await stage.worker(doomed.app, only="activities")
        calls = [call_of("a", number) for number in range(4)]
        await stage.publish(QUEUE, *calls)
        await eventually(lambda: doomed.running == 4)
        first.kill()
        second = await stage.worker(work.app, only="activities")
        await eventually(lambda: len(work.started) == 4)
        assert pack_sizes(second) == [1, 1, 1, 1]


def call_of(instance_id: str, number: int, name: str = "work") -> ActivityCall:
    return ActivityCall(
        instance_id=instance_id, execution_id="e" * 32, task_scheduled_id=number, name=name, input=str(number)
    )


async def test_a_call_that_kills_its_worker_each_time_fails_and_harms_no_other() -> None:
    async with Stage() as stage:
        app = App("stage")
        lives: list[Player] = []

        @app.activity
        async def poison(_value: int) -> None:
            lives[-1].kill()

        @app.activity
        async def fine(value: int) -> int:
            return value

        @app.orchestration
        async def both(context: OrchestrationContext) -> int:
            deadly, good = context.call_activity(poison, 1), context.call_activity(fine, 2)
            with pytest.raises(Exception, match="its worker seems to die each time it runs"):
                await deadly
            return await good

        await stage.worker(app, only="orchestrations")
        client = await stage.client(app)
        handle = await client.start(both, instance_id="a")
        waiting = asyncio.ensure_future(handle.result(30))
        while not waiting.done():
            lives.append(stage.enter(app, only="activities"))
            await lives[-1].start()
            await asyncio.wait(
                [waiting, asyncio.ensure_future(lives[-1].doom.dead.wait())], return_when="FIRST_COMPLETED"
            )
        assert waiting.result() == 2
        await stage.exact("a")
        lives[-1].kill()


# Long ones


async def test_a_long_activity_claims_its_task_and_lets_its_message_go() -> None:
    work = Work()
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        runner = claims_soon(await stage.worker(work.app, only="activities"))
        client = await stage.client(work.app)
        handle = await client.start(work.fan_out, 1, instance_id="a")
        await eventually(lambda: work.running == 1)
        await eventually(lambda: runner.store.counts["claim"] and not runner.broker.unacked(QUEUE))
        (call,) = (call for player in stage.players for call in player.broker.published("activities"))
        assert isinstance(call, ActivityCall)
        assert await stage.store.claimed(call.key)
        runner.broker.drop_connection()
        await a_while()
        assert work.started == [0], "its message was let go, so it does not come again"
        work.go.set()
        assert await handle.result(5) == 0
        await eventually(lambda: _unclaimed(stage, call))


async def _unclaimed(stage: Stage, call: ActivityCall) -> bool:
    return not await stage.store.claimed(call.key)


async def test_a_long_activity_whose_worker_is_gone_is_sent_again_when_its_claim_lapses() -> None:
    work, again = Work(), Work()
    async with Stage() as stage:
        owner = await stage.worker(work.app, only="orchestrations")
        runner = claims_soon(await stage.worker(work.app, only="activities"), claim=0.4)
        client = await stage.client(work.app)
        handle = await client.start(work.fan_out, 1, instance_id="a")
        await eventually(lambda: work.running == 1)
        await eventually(lambda: runner.store.counts["claim"] and not runner.broker.unacked(QUEUE))
        await eventually(
            lambda: runner.store.counts["renew_claims"] >= 8, "claims are renewed for longer than they last"
        )
        assert work.started == [0]
        assert len(owner.broker.published("activities")) == 1
        runner.kill()
        again.go.set()
        await stage.worker(again.app, only="activities")
        assert await handle.result(5) == 0
        assert again.started == [0]
        assert sum(isinstance(event, TaskCompleted) for event in await stage.exact("a")) == 1


async def test_a_call_that_is_sent_again_does_not_run_beside_a_live_claim() -> None:
    work, other = Work(), Work()
    async with Stage() as stage:
        runner = claims_soon(await stage.worker(work.app, only="activities", drain=0.05))
        call = call_of("a", 7)
        await stage.publish(QUEUE, call)
        await eventually(lambda: runner.store.counts["claim"] and not runner.broker.unacked(QUEUE))
        second = await stage.worker(other.app, only="activities")
        for _ in range(2):  # one for each of them
            await stage.publish(QUEUE, msgspec.structs.replace(call, resent=True))
        await eventually(lambda: second.store.counts["claimed"] == 1)
        await eventually(lambda: not second.broker.unacked(QUEUE) and not runner.broker.unacked(QUEUE))
        assert (work.started, other.started) == ([7], [])


async def test_a_call_that_comes_again_to_the_worker_that_runs_it_is_kept_until_its_claim_is_sure() -> None:
    work = Work()
    async with Stage() as stage:
        runner = claims_soon(await stage.worker(work.app, only="activities", drain=0.05))
        call = call_of("a", 7)
        await stage.publish(QUEUE, call)
        await eventually(lambda: runner.store.counts["claim"] == 1 and not runner.broker.unacked(QUEUE))
        gate = runner.store.before["claim"] = Gate(lambda _claim: True)
        await stage.publish(QUEUE, msgspec.structs.replace(call, resent=True))
        await eventually(lambda: gate.waiting)
        assert runner.broker.unacked(QUEUE) == 1
        gate.open()
        await eventually(lambda: not runner.broker.unacked(QUEUE))
        assert work.started == [7]


async def test_a_reconnect_does_not_run_what_runs_already() -> None:
    work = Work()
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        runner = await stage.worker(work.app, only="activities")
        handle = await (await stage.client(work.app)).start(work.fan_out, 1, instance_id="a")
        await eventually(lambda: work.running == 1)
        runner.broker.drop_connection()
        await eventually(lambda: len(run_of(runner).accounts) == 2, "the same call is delivered again")
        work.go.set()
        assert await handle.result(5) == 0
        assert work.started == [0]
        await eventually(lambda: not runner.broker.unacked(QUEUE))


def run_of(player: Player) -> Run:
    (run,) = player.worker.activities._running
    return run


async def test_a_call_that_ends_while_it_is_being_claimed_leaves_no_claim() -> None:
    work = Work()
    async with Stage() as stage:
        runner = claims_soon(stage.enter(work.app, only="activities"))
        ended = asyncio.Event()

        async def claiming(_claim: Any) -> None:
            work.go.set()
            await ended.wait()

        runner.store.before["claim"] = claiming
        await runner.start()
        call = call_of("a", 7)
        await stage.publish(QUEUE, call)
        await eventually(lambda: not work.running and work.started and runner.worker.activities.idle)
        ended.set()
        await eventually(lambda: runner.store.counts["release_claim"])
        assert not await stage.store.claimed(call.key)


# Results


async def test_a_result_that_cannot_be_sent_is_kept_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FIRST_RETRY", 0.02)
    work = Work()
    work.go.set()
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        runner = await stage.worker(work.app, only="activities")
        sending = runner.broker.before["publish"] = Failing(
            BrokerUnavailableError("gone"), times=2, applies=to(DestinationKind.PARTITION)
        )
        client = await stage.client(work.app)
        assert await (await client.start(work.fan_out, 1, instance_id="a")).result(5) == 0
        assert sending.raised == 2
        assert work.started == [0]


async def test_a_worker_that_stops_in_order_finishes_what_runs() -> None:
    work = Work()
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        runner = await stage.worker(work.app, only="activities")
        client = await stage.client(work.app)
        handle = await client.start(work.fan_out, 1)
        await eventually(lambda: work.running == 1)
        stopping = asyncio.ensure_future(runner.worker.stop())
        await a_while()
        assert not stopping.done()
        work.go.set()
        await stopping
        assert await handle.result(5) == 0
        assert work.started == [0]


async def test_a_worker_that_may_not_wait_gives_back_what_runs_and_fails_nothing() -> None:
    work, again = Work(), Work()
    again.go.set()
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        runner = await stage.worker(work.app, only="activities", drain=0.05)
        client = await stage.client(work.app)
        handle = await client.start(work.fan_out, 2, instance_id="a")
        await eventually(lambda: work.running == 2)
        await runner.worker.stop()
        await stage.worker(again.app, only="activities")
        assert await handle.result(5) == 1
        assert not any(isinstance(event, TaskFailed) for event in await stage.exact("a"))


async def test_an_activity_that_is_cancelled_from_outside_has_not_failed() -> None:
    work = Work()
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        runner = await stage.worker(work.app, only="activities", drain=0.05)
        client = await stage.client(work.app)
        await client.start(work.fan_out, 1, instance_id="a")
        await eventually(lambda: work.running == 1)
        for task in list(runner.host.tasks):
            task.cancel()  # what asyncio.run does on Ctrl-C
        await a_while()
        assert runner.broker.published("partition") == []


outcomes = App("stage")


@outcomes.activity
def stops_iterating(_value: int) -> int:
    return next(iter([]))


@outcomes.activity
def exits(_value: int) -> None:
    raise SystemExit(3)


@outcomes.activity
async def exits_too(_value: int) -> None:
    raise SystemExit(3)


@outcomes.activity
async def cancels(_value: int) -> None:
    raise asyncio.CancelledError("by itself")


@outcomes.activity
def raises(_value: int) -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer") from error


@outcomes.activity
def says_thread(_value: int) -> bool:
    return threading.current_thread() is threading.main_thread()


@outcomes.orchestration
async def calls(context: OrchestrationContext, name: str) -> Any:
    return await context.call_activity(name, 1)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("stops_iterating", "StopIteration"),
        ("exits", "SystemExit: 3"),
        ("exits_too", "SystemExit: 3"),
        ("cancels", "CancelledError: by itself"),
        ("raises", "ValueError: outer"),
    ],
)
async def test_whatever_an_activity_raises_is_its_failure(name: str, error: str) -> None:
    async with Stage() as stage:
        await stage.worker(outcomes)
        client = await stage.client(outcomes)
        handle = await client.start(calls, name, instance_id="a")
        with pytest.raises(OrchestrationFailedError, match=error):
            await handle.result(5)
        (failed,) = (event for event in await stage.exact("a") if isinstance(event, TaskFailed))
        if name == "raises":
            assert failed.failure.is_caused_by(KeyError)


async def test_plain_functions_run_in_threads() -> None:
    async with Stage() as stage:
        await stage.worker(outcomes)
        client = await stage.client(outcomes)
        assert await (await client.start(calls, "says_thread")).result(5) is False
