"""Heartbeats: progress outlives its worker, is written sparingly, and reaches whoever goes on."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from callboard import ActivityContext, App, OrchestrationContext, TaskFailedError, activity_context
from callboard.activities import claims
from callboard.activities.lapses import MOST_LAPSES, after_lapse
from callboard.core.events import TaskCompleted, TaskFailed
from callboard.core.messages import ActivityCall, TaskResult
from callboard.errors import InvalidPayloadError, PayloadTooLargeError, StoreUnavailableError
from callboard.ports import Claim, Destination
from tests.runtime.support import Failing, Player, Stage, a_while, eventually

pytestmark = pytest.mark.usefixtures("fast")

QUEUE = Destination.activities("default")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "FLUSH_EVERY", 0.05)
    monkeypatch.setattr(claims, "CLAIM", 0.6)


@dataclass
class Progress:
    row: int


class Import:
    """Reads rows until it is let go; goes on where an earlier run was."""

    def __init__(self) -> None:
        self.app = App("stage")
        self.app.activity(self.rows)
        self.app.orchestration(self.imports)
        self.began: list[int] = []
        self.keys: list[str] = []
        self.row = 0
        self.go = asyncio.Event()
        self.stopped = 0

    async def rows(self, context: ActivityContext, upto: int) -> int:
        progress = context.heartbeat_details(Progress)
        self.row = progress.row if progress else 0
        self.began.append(self.row)
        self.keys.append(context.idempotency_key)
        try:
            while self.row < upto:
                self.row += 1
                context.heartbeat(Progress(self.row))
                await asyncio.sleep(0)
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return self.row

    async def imports(self, context: OrchestrationContext, upto: int) -> int:
        return await context.call_activity(self.rows, upto)


async def recorded(stage: Stage, details: str) -> Claim | None:
    """The only claim, once the store knows that progress."""
    for claim in await stage.store.claims("a"):
        if claim.details == details:
            return claim
    return None


async def test_the_first_heartbeat_claims_the_task_and_lets_its_message_go() -> None:
    play = Import()
    async with Stage() as stage:
        await stage.worker(play.app, only="orchestrations")
        acts = await stage.worker(play.app, only="activities")
        handle = await (await stage.client(play.app)).start("imports", 500, instance_id="a")
        claim: Claim = await eventually(lambda: recorded(stage, '{"row":500}'))
        await eventually(lambda: not acts.broker.unacked(QUEUE))
        assert claim.worker_id == acts.worker.worker_id
        assert claim.started is not None
        assert claim.heartbeat is not None
        assert claim.started <= claim.heartbeat <= datetime.now(UTC)
        assert (claim.call.name, claim.cancelled, claim.expired) == ("rows", False, False)
        play.go.set()
        assert await handle.result(5) == 500
        await eventually(lambda: _no_claims(stage))


async def _no_claims(stage: Stage) -> bool:
    return not await stage.store.claims("a")


async def test_heartbeats_of_all_activities_are_written_together_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "CLAIM", 3600.0)
    monkeypatch.setattr(claims, "FLUSH_EVERY", 0.3)
    app, go = App("stage"), asyncio.Event()

    @app.activity
    async def beats(context: ActivityContext, number: int) -> None:
        while not go.is_set():
            context.heartbeat(number)
            await asyncio.sleep(0)

    @app.orchestration
    async def many(context: OrchestrationContext) -> None:
        await asyncio.gather(*(context.call_activity(beats, number) for number in range(5)))

    async with Stage() as stage:
        await stage.worker(app, only="orchestrations")
        acts = await stage.worker(app, only="activities")
        handle = await (await stage.client(app)).start(many, instance_id="a")
        await eventually(lambda: acts.store.counts["claim"] == 5)
        before = len(acts.store.log)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await eventually(lambda: acts.store.counts["renew_claims"] == 3)
        took = loop.time() - began
        calls = [args for name, args in acts.store.log[before:] if name == "renew_claims"]
        assert took > 0.5, "three writes are at least two pauses apart"
        assert all(len(beats) == 5 for _, beats in calls), "each write has all that was said"
        go.set()
        await handle.result(5)


async def test_the_next_worker_goes_on_from_what_was_recorded() -> None:
    first, second = Import(), Import()
    second.go.set()
    async with Stage() as stage:
        await stage.worker(first.app, only="orchestrations")
        acts = await stage.worker(first.app, only="activities")
        handle = await (await stage.client(first.app)).start("imports", 300, instance_id="a")
        await eventually(lambda: recorded(stage, '{"row":300}'))
        acts.kill()
        next_one = await stage.worker(second.app, only="activities")
        assert await handle.result(10) == 300
        assert (first.began, second.began) == ([0], [300])
        assert first.keys == second.keys
        assert next_one.store.counts["claim"], "a call that has lost a worker is claimed before it runs"
        assert sum(isinstance(event, TaskCompleted) for event in await stage.exact("a")) == 1
        await eventually(lambda: _no_claims(stage))


async def test_a_worker_that_stops_hands_over_at_once_with_its_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "CLAIM", 3600.0)
    first, second = Import(), Import()
    second.go.set()
    async with Stage() as stage:
        await stage.worker(first.app, only="orchestrations")
        acts = await stage.worker(first.app, only="activities", drain=0.05)
        handle = await (await stage.client(first.app)).start("imports", 300, instance_id="a")
        await eventually(lambda: recorded(stage, '{"row":300}'))
        (run,) = acts.worker.activities._running
        monkeypatch.setattr(claims, "FLUSH_EVERY", 3600.0)
        run.beat('{"row":301}')
        await acts.worker.stop()
        (call,) = acts.broker.published("activities")
        assert isinstance(call, ActivityCall)
        assert (call.resent, call.lapses, call.heartbeat_details) == (True, 0, '{"row":301}')
        assert first.stopped == 1
        await stage.worker(second.app, only="activities")
        assert await handle.result(10) == 301
        assert second.began == [301]


async def test_a_failure_brings_its_progress_to_the_orchestration() -> None:
    app = App("stage")

    @app.activity
    def fails(context: ActivityContext) -> None:
        context.heartbeat({"row": 7})
        raise ValueError("bad row")

    @app.orchestration
    async def catches(context: OrchestrationContext) -> str | None:
        try:
            await context.call_activity(fails)
        except TaskFailedError as error:
            return error.heartbeat_details
        return None

    async with Stage() as stage:
        await stage.worker(app)
        handle = await (await stage.client(app)).start(catches, instance_id="a")
        assert await handle.result(5) == '{"row":7}'
        (failed,) = (event for event in await stage.exact("a") if isinstance(event, TaskFailed))
        assert failed.heartbeat_details == '{"row":7}'


async def test_a_heartbeat_without_details_keeps_those_that_there_are() -> None:
    play = Import()
    async with Stage() as stage:
        await stage.worker(play.app, drain=0.05)
        await (await stage.client(play.app)).start("imports", 2, instance_id="a")
        await eventually(lambda: recorded(stage, '{"row":2}'))
        (run,) = stage.players[0].worker.activities._running
        ActivityContext(run).heartbeat()
        assert run.details == '{"row":2}'


async def test_details_that_cannot_be_kept_are_refused() -> None:
    play = Import()
    async with Stage() as stage:
        worker = await stage.worker(play.app, drain=0.05)
        await (await stage.client(play.app)).start("imports", 0, instance_id="a")
        await eventually(lambda: play.began)
        (run,) = worker.worker.activities._running
        with pytest.raises(InvalidPayloadError, match="The progress of activity 'rows' cannot be encoded"):
            ActivityContext(run).heartbeat(object())
        with pytest.raises(PayloadTooLargeError, match="The progress of activity 'rows'"):
            ActivityContext(run).heartbeat("x" * 70_000)


# Claims in doubt


async def claimed(stage: Stage, play: Import) -> Player:
    await stage.worker(play.app, only="orchestrations")
    acts = await stage.worker(play.app, only="activities", drain=0.05)
    await (await stage.client(play.app)).start("imports", 1, instance_id="a")
    await eventually(lambda: recorded(stage, '{"row":1}'))
    return acts


async def test_a_claim_that_was_lost_is_made_again() -> None:
    play = Import()
    async with Stage() as stage:
        acts = await claimed(stage, play)
        (claim,) = await stage.store.claims("a")
        await stage.store.release_claim(claim.call.key, claim.worker_id)
        await eventually(lambda: recorded(stage, '{"row":1}'))
        assert acts.store.counts["claim"] == 2
        assert play.stopped == 0


async def test_a_run_whose_claim_is_anothers_stops() -> None:
    play = Import()
    async with Stage() as stage:
        acts = await claimed(stage, play)
        (claim,) = await stage.store.claims("a")
        await stage.store.release_claim(claim.call.key, claim.worker_id)
        assert await stage.store.claim(msgspec.structs.replace(claim, worker_id="another"), ttl=60)
        await eventually(lambda: play.stopped)
        await eventually(lambda: acts.worker.activities.idle)
        assert acts.broker.published("partition") == []
        (claim,) = await stage.store.claims("a")
        assert claim.worker_id == "another"


async def test_a_claim_whose_answer_was_lost_is_made_again_and_released_in_the_end() -> None:
    play = Import()
    async with Stage() as stage:
        await stage.worker(play.app, only="orchestrations")
        acts = stage.enter(play.app, only="activities")
        lost = acts.store.after["claim"] = Failing(StoreUnavailableError("gone"), times=2)
        await acts.start()
        handle = await (await stage.client(play.app)).start("imports", 1, instance_id="a")
        await eventually(lambda: lost.raised == 2 and not acts.broker.unacked(QUEUE))
        play.go.set()
        assert await handle.result(5) == 1
        await eventually(lambda: _no_claims(stage))


async def test_a_claim_under_our_name_that_we_know_nothing_of_is_released() -> None:
    play = Import()
    async with Stage() as stage:
        acts = await claimed(stage, play)
        stray = ActivityCall(instance_id="a", execution_id="e" * 32, task_scheduled_id=9, name="rows")
        assert await stage.store.claim(Claim(call=stray, partition=0, worker_id=acts.worker.worker_id), ttl=60)
        await eventually(lambda: acts.store.counts["release_claim"])
        assert [claim.details for claim in await stage.store.claims("a")] == ['{"row":1}']


async def test_a_call_that_is_delivered_again_looks_for_a_claim_first() -> None:
    play = Import()
    async with Stage() as stage:
        dies = await stage.worker(play.app, only="activities")
        call = ActivityCall(instance_id="a", execution_id="e" * 32, task_scheduled_id=9, name="rows", input="0")
        await stage.publish(QUEUE, call)
        await eventually(lambda: play.began)
        assert await stage.store.claim(Claim(call=call, partition=0, worker_id="another"), ttl=60)
        dies.kill()
        acts = await stage.worker(play.app, only="activities")
        await eventually(lambda: acts.store.counts["claimed"] and not acts.broker.unacked(QUEUE))
        assert await stage.depth(QUEUE) == 0
        assert play.began == [0]


# Lapses


def lapsed(**fields: Any) -> Claim:
    call = ActivityCall(instance_id="a", execution_id="e", task_scheduled_id=0, name="rows", start_by=datetime.now(UTC))
    known = {name: fields.pop(name) for name in ("lapses", "heartbeat_details") if name in fields}
    return Claim(call=msgspec.structs.replace(call, **known), partition=0, worker_id="w", expired=True, **fields)


def test_a_lapsed_call_is_sent_with_its_progress() -> None:
    again = after_lapse(lapsed(details="5", lapses=3, heartbeat_details="4"), datetime.now(UTC))
    assert isinstance(again, ActivityCall)
    assert (again.resent, again.heartbeat_details, again.lapses, again.start_by) == (True, "5", 1, None)


@pytest.mark.parametrize("details", [None, "4"])
def test_a_lapsed_call_without_progress_counts_its_lost_workers(details: str | None) -> None:
    again = after_lapse(lapsed(details=details, lapses=3, heartbeat_details="4"), datetime.now(UTC))
    assert isinstance(again, ActivityCall)
    assert (again.heartbeat_details, again.lapses) == ("4", 4)


def test_a_call_that_kills_worker_after_worker_fails() -> None:
    ended = after_lapse(lapsed(lapses=MOST_LAPSES), datetime.now(UTC))
    assert isinstance(ended, TaskResult)
    assert ended.failure is not None
    assert (ended.failure.error_type, ended.failure.is_non_retriable) == ("ActivityDeadLettered", True)
    assert "has lost its worker 11 times" in ended.failure.error_message


def test_a_cancelled_call_is_not_sent_again() -> None:
    assert after_lapse(lapsed(cancelled=True), datetime.now(UTC)) is None


async def test_the_failure_of_a_call_that_kills_its_workers_is_seen_and_its_claim_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("callboard.activities.lapses.MOST_LAPSES", 0)
    play = Import()
    async with Stage() as stage:
        acts = await claimed(stage, play)
        acts.kill()
        await eventually(lambda: _failed(stage))
        await eventually(lambda: _no_claims(stage))
        (failed,) = (event for event in await stage.exact("a") if isinstance(event, TaskFailed))
        assert failed.heartbeat_details == '{"row":1}'


async def _failed(stage: Stage) -> bool:
    return any(isinstance(event, TaskFailed) for event in await stage.events("a"))


async def test_the_claim_of_a_cancelled_call_whose_worker_is_gone_just_goes() -> None:
    play = Import()
    async with Stage() as stage:
        acts = await claimed(stage, play)
        (claim,) = await stage.store.claims("a")
        acts.kill()
        await stage.store.cancel_claims([claim.call.key])
        await eventually(lambda: _no_claims(stage))
        await a_while()
        assert await stage.depth(QUEUE) == 0


# The context


async def test_the_context_says_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    app = App("stage")

    @app.activity(name="say.it")
    async def in_loop() -> list[Any]:
        return said(activity_context())

    @app.activity
    def in_thread(context: ActivityContext, value: int) -> list[Any]:
        assert activity_context() is context
        assert value == 5
        return said(context)

    @app.activity
    def by_name(first: int, context: ActivityContext, second: int) -> int:
        assert context.name == "by_name"
        return first + second

    def said(context: ActivityContext) -> list[Any]:
        context.logger.warning("hello")
        assert (context.cancelled, context.heartbeat_details(), context.attempt) == (False, None, 1)
        assert threading.current_thread() is threading.main_thread() or context.name == "in_thread"
        return [context.name, context.instance_id, context.execution_id, context.task_id, context.idempotency_key]

    @app.orchestration
    async def calls(context: OrchestrationContext) -> list[Any]:
        return [
            await context.call_activity(in_loop),
            await context.call_activity(in_thread, 5),
            await context.call_activity(by_name, {"first": 1, "second": 2}),
        ]

    async with Stage() as stage:
        await stage.worker(app)
        with caplog.at_level(logging.WARNING):
            handle = await (await stage.client(app)).start(calls, instance_id="a")
            first, second, third = await handle.result(5)
    execution = first[2]
    assert first == ["say.it", "a", execution, 0, f"{execution}:0000"]
    assert second == ["in_thread", "a", execution, 1, f"{execution}:0001"]
    assert third == 3
    records = [record for record in caplog.records if record.message == "hello"]
    assert [record.name for record in records] == ["callboard.activity.say.it", "callboard.activity.in_thread"]
    assert [vars(record)["task_id"] for record in records] == [0, 1]


def test_there_is_no_context_outside_of_an_activity() -> None:
    with pytest.raises(RuntimeError, match="works inside an activity"):
        activity_context()
