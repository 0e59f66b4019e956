"""Limits of activities: so many at a time and so fast, here and in the whole hub, without holding up anybody else."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from callboard import App, OrchestrationContext, Worker, WorkerOptions
from callboard.activities import limits, runner
from callboard.activities.intake import CallAccount, DeliveryCalls
from callboard.activities.limits import Limited
from callboard.activities.runs import Run
from callboard.activities.waiting import Waiting
from callboard.activity import ActivityOptions, spacing
from callboard.core.messages import ActivityCall
from callboard.errors import RegistrationError, StoreUnavailableError
from callboard.ports import Permits, Starts
from tests.runtime.support import Failing, Stage, a_while, eventually

if TYPE_CHECKING:
    from callboard.ports import Delivery

pytestmark = pytest.mark.usefixtures("fast")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ASK_AGAIN", 0.02)
    monkeypatch.setattr(limits, "KEEP", 0.02)
    monkeypatch.setattr(limits, "LEASE", 0.6)


class Work:
    """One activity with limits and one without; counts what goes on, in all workers together."""

    def __init__(self, **given: Any) -> None:
        self.app = App("stage")
        self.go = asyncio.Event()
        self.running = self.most = self.done = self.free = 0
        self.began: list[float] = []
        self.app.activity(**given)(self.limited)
        self.app.activity(self.unlimited)
        self.app.orchestration(self.fan_out)

    async def limited(self) -> None:
        self.began.append(asyncio.get_running_loop().time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
            await asyncio.sleep(0.001)
        finally:
            self.running -= 1
        self.done += 1

    async def unlimited(self) -> None:
        self.free += 1

    async def fan_out(self, context: OrchestrationContext, limited: int, unlimited: int) -> None:
        calls = [context.call_activity(self.limited) for _ in range(limited)]
        calls += [context.call_activity(self.unlimited) for _ in range(unlimited)]
        await asyncio.gather(*calls)


async def started(stage: Stage, work: Work, limited: int, unlimited: int = 0, instance_id: str = "a") -> Any:
    client = await stage.client(work.app)
    return await client.start("fan_out", {"limited": limited, "unlimited": unlimited}, instance_id=instance_id)


@pytest.mark.parametrize(
    "given", [{"concurrency": 2}, {"hub_concurrency": 2}, {"concurrency": 2, "hub_concurrency": 9}]
)
async def test_so_many_run_at_a_time_and_others_pass_them(given: dict[str, int]) -> None:
    work = Work(**given)
    async with Stage() as stage:
        await stage.worker(work.app)
        handle = await started(stage, work, 6, 6)
        await eventually(lambda: work.free == 6)
        await eventually(lambda: work.running == 2)
        await a_while()
        assert work.running == 2
        work.go.set()
        await handle.result(5)
        assert (work.most, work.done) == (2, 6)


async def test_a_limit_of_the_hub_holds_over_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STARTS_WITHIN", 0.1)
    work = Work(hub_concurrency=3)
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        players = [await stage.worker(work.app, only="activities") for _ in range(3)]
        handles = [await started(stage, work, 4, instance_id=f"i{number}") for number in range(4)]
        await eventually(lambda: work.running == 3)
        await a_while()
        assert work.running == 3
        work.go.set()
        for handle in handles:
            await handle.result(10)
        assert (work.most, work.done) == (3, 16)
        await eventually(lambda: all(player.worker.activities.idle for player in players))
        await eventually(lambda: _free(stage, 3), "all permits are given back")


async def _free(stage: Stage, count: int) -> bool:
    """Whether somebody else could have so many permits."""
    held = await stage.store.hold_permits("tester", [Permits(name="limited", wanted=count, limit=3)], ttl=60)
    await stage.store.hold_permits("tester", [Permits(name="limited", wanted=0, limit=3)], ttl=60)
    return held == [count]


async def test_the_permits_of_a_dead_worker_lapse() -> None:
    dying, work = Work(hub_concurrency=2), Work(hub_concurrency=2)
    work.go.set()
    async with Stage() as stage:
        await stage.worker(dying.app, only="orchestrations")
        first = await stage.worker(dying.app, only="activities")
        handle = await started(stage, dying, 2)
        await eventually(lambda: dying.running == 2)
        await stage.worker(work.app, only="activities")
        await a_while()
        first.kill()
        assert work.began == []
        await handle.result(10)
        assert work.done == 2


async def test_permits_are_renewed_for_as_long_as_it_takes() -> None:
    work, other = Work(hub_concurrency=1), Work(hub_concurrency=1)
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        first = await stage.worker(work.app, only="activities")
        handle = await started(stage, work, 1)
        await eventually(lambda: work.running == 1)
        await stage.worker(other.app, only="activities")
        second = await started(stage, work, 1, instance_id="b")
        await eventually(lambda: first.store.counts["hold_permits"] >= 6, "it is renewed for longer than it lasts")
        assert (work.running, other.running) == (1, 0)
        work.go.set()
        other.go.set()
        await handle.result(5)
        await second.result(5)


async def test_a_worker_that_stops_gives_its_permits_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASE", 3600.0)
    work = Work(hub_concurrency=3)
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        first = await stage.worker(work.app, only="activities", drain=0.02)
        await started(stage, work, 3)
        await eventually(lambda: work.running == 3)
        assert not await _free(stage, 1)
        await first.worker.stop()
        assert await _free(stage, 3)


async def test_what_cannot_be_asked_now_is_asked_later() -> None:
    work = Work(hub_concurrency=2, hub_rate="1000/s")
    work.go.set()
    async with Stage() as stage:
        player = stage.enter(work.app)
        permits = player.store.before["hold_permits"] = Failing(StoreUnavailableError("gone"), times=2)
        starts = player.store.after["reserve_starts"] = Failing(StoreUnavailableError("gone"), times=2)
        await player.start()
        handle = await started(stage, work, 4)
        await handle.result(5)
        assert (permits.raised, starts.raised, work.done) == (2, 2, 4)


@pytest.mark.parametrize("given", [{"rate": "20/s"}, {"hub_rate": "20/s"}])
async def test_starts_are_spaced_evenly(given: dict[str, str]) -> None:
    work = Work(**given)
    work.go.set()
    async with Stage() as stage:
        await stage.worker(work.app)
        handle = await started(stage, work, 6, 3)
        await handle.result(10)
        gaps = [later - sooner for sooner, later in zip(work.began, work.began[1:], strict=False)]
        assert len(gaps) == 5
        # One that was late may be followed by one that is not: no two are sooner than the spacing allows in all.
        assert work.began[-1] - work.began[0] >= 5 * 0.05 - 0.01
        assert work.free == 3


async def test_a_rate_of_the_hub_holds_over_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STARTS_WITHIN", 0.2)
    work = Work(hub_rate="20/s")
    work.go.set()
    async with Stage() as stage:
        await stage.worker(work.app, only="orchestrations")
        for _ in range(3):
            await stage.worker(work.app, only="activities")
        for handle in [await started(stage, work, 4, instance_id=f"i{number}") for number in range(3)]:
            await handle.result(10)
        assert max(work.began) - min(work.began) >= 11 * 0.05 - 0.01


async def test_what_has_no_limits_asks_nobody() -> None:
    work = Work()
    work.go.set()
    async with Stage() as stage:
        player = await stage.worker(work.app)
        handle = await started(stage, work, 5, 5)
        await handle.result(5)
        assert player.store.counts["hold_permits"] == player.store.counts["reserve_starts"] == 0


async def test_the_loop_of_the_limits_rests_when_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASE", 3600.0)
    monkeypatch.setattr(limits, "ASK_AGAIN", 3600.0)
    work = Work(hub_concurrency=1, concurrency=1)
    async with Stage() as stage:
        player = await stage.worker(work.app)
        await started(stage, work, 5)
        await eventually(lambda: work.running == 1)
        await a_while()
        rounds = 0
        real = player.worker.activities.limits._hold_permits

        async def counting() -> None:
            nonlocal rounds
            rounds += 1
            await real()

        monkeypatch.setattr(player.worker.activities.limits, "_hold_permits", counting)
        await a_while()
        assert rounds <= 1
        work.go.set()


async def test_every_activity_that_may_run_has_a_thread() -> None:
    app, go, begun = App("stage"), threading.Event(), threading.Semaphore(0)

    @app.activity
    def blocks(_number: int) -> None:
        begun.release()
        go.wait(10)

    @app.orchestration
    async def many(context: OrchestrationContext) -> None:
        await asyncio.gather(*(context.call_activity(blocks, number) for number in range(40)))

    async with Stage() as stage:
        client, actor = await stage.meddled_client(app)
        worker = Worker(app, actor.hub, WorkerOptions(concurrency=40, balance=False))
        async with worker:
            handle = await client.start(many)
            try:
                await eventually(lambda: begun._value == 40)
            finally:
                go.set()
            await handle.result(10)


# Parts


def test_a_limit_of_the_worker_counts_what_runs_here() -> None:
    limited = Limited("work", ActivityOptions(concurrency=2))
    limited.begin(0)
    assert limited.wait(0) == 0
    limited.begin(0)
    assert limited.wait(0) is None
    limited.end()
    assert limited.wait(0) == 0


def test_permits_are_wanted_for_what_runs_and_waits_as_far_as_this_worker_may() -> None:
    limited = Limited("work", ActivityOptions(concurrency=3, hub_concurrency=9))
    assert limited.wait(0) is None
    assert [limited.wanted(waiting) for waiting in (0, 2, 7)] == [0, 2, 3]
    limited.granted(2, 3, now=10, again=1)
    assert (limited.wait(10), limited.ask_permits) == (0, 11)
    limited.granted(3, 3, now=12, again=1)
    assert limited.ask_permits == 0
    for _ in range(3):
        limited.begin(12)
    assert (limited.wait(12), limited.wanted(5), limited.wanted(0)) == (None, 3, 3)


def test_a_rate_spaces_starts_and_saves_none_up() -> None:
    limited = Limited("work", ActivityOptions(every=2))
    assert limited.wait(100) == 0
    limited.begin(100)
    assert (limited.wait(100), limited.wait(101.5), limited.wait(110)) == (2, 0.5, 0)
    limited.begin(110)
    assert limited.wait(110) == 2


def test_reserved_starts_are_used_in_their_time_and_not_much_later() -> None:
    limited = Limited("work", ActivityOptions(hub_every=2))
    assert limited.wait(100) is None
    limited.reserved(Starts(3, 1), 100)  # at 101, 103, 105
    assert (limited.wait(100), limited.wait(101.5), limited.ask_starts) == (1, 0, 105)
    limited.begin(101.5)
    assert limited.wait(101.5) == 1.5
    assert limited.wait(105.5) == 0, "the one at 103 is gone"
    limited.begin(105.5)
    assert limited.wait(105.5) is None
    limited.reserved(Starts(0, 7), 106)
    assert (limited.wait(106), limited.ask_starts) == (None, 113)


def test_those_who_wait_longest_go_first_if_they_may() -> None:
    waiting = Waiting()
    runs = [_run(name, number) for number, name in enumerate("aabab")]
    for run in runs:
        waiting.add(run)
    assert (len(waiting), waiting.count("a"), waiting.count("c")) == (5, 3, 0)
    order = [waiting.next(lambda name: name == "b"), *(waiting.next(lambda _name: True) for _ in range(3))]
    assert order == [runs[2], runs[0], runs[1], runs[3]]
    assert waiting.next(lambda name: name == "a") is None
    assert waiting.next(lambda name: True) is runs[4]
    assert waiting.next(lambda name: True) is None


def test_those_who_have_waited_too_long_are_taken_out() -> None:
    waiting = Waiting()
    runs = [_run(name, number) for number, name in enumerate("aabb")]
    for run in runs:
        waiting.add(run)
    assert waiting.since_before(1) == runs[:1]
    assert waiting.since_before(3) == runs[1:3]
    assert (waiting.names(), len(waiting)) == (["b"], 1)


def _run(name: str, number: int) -> Run:
    call = ActivityCall(instance_id="i", execution_id="e", task_scheduled_id=number, name=name)
    account = CallAccount(DeliveryCalls(cast("Delivery", None), 2))
    return Run(call, account, "w", now=lambda: datetime.now(UTC), monotonic=lambda: float(number))


@pytest.mark.parametrize(
    ("rate", "seconds"), [("10/s", 0.1), ("120/m", 0.5), ("1/h", 3600), ("0.5/s", 2), ("2/d", 43_200), (None, None)]
)
def test_rates_are_read(rate: str | None, seconds: float | None) -> None:
    assert spacing(rate, "rate") == seconds


@pytest.mark.parametrize("rate", ["", "10", "/s", "10/w", "-1/s", "0/s", "0.0/m", "1e3/s", "10 / s", "١/s\n"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(RegistrationError, match=r"hub_rate=.* is no rate"):
        App("stage").activity(hub_rate=rate)


@pytest.mark.parametrize("name", ["concurrency", "hub_concurrency"])
def test_a_limit_that_lets_nothing_run_is_refused(name: str) -> None:
    with pytest.raises(RegistrationError, match=f"^{name}=0 would let nothing run"):
        App("stage").activity(**cast("dict[str, Any]", {name: 0}))
