"""Cancellation: what nobody waits for any more is told to stop, wherever it waits or runs."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from callboard import ActivityCancelledError, ActivityContext, App, Client, DurableTask, OrchestrationContext
from callboard.core.events import TaskCompleted, TaskFailed
from callboard.core.messages import ActivitiesCancelled, ActivityCall
from callboard.errors import UnroutableError
from callboard.ports import Destination, DestinationKind
from tests.runtime.support import Failing, Player, Stage, a_while, eventually, to

pytestmark = pytest.mark.usefixtures("fast")

QUEUE = Destination.activities("default")


class Play:
    """Activities that run until they are told to stop, and orchestrations that lose interest in them."""

    def __init__(self) -> None:
        self.app = App("stage")
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.go = threading.Event()
        for activity in (self.patient, self.in_thread, self.beating, self.stubborn):
            self.app.activity(activity)
        for orchestration in (self.waits, self.returns, self.begins_again, self.cancels, self.times_out, self.fails):
            self.app.orchestration(orchestration)
        self.app.orchestration(self.picks)

    async def patient(self) -> None:
        self.started.append("patient")
        try:
            await asyncio.Future[None]()
        finally:
            await asyncio.sleep(0)  # there is time to clean up
            self.stopped.append("patient")

    def in_thread(self, context: ActivityContext) -> str:
        self.started.append("in_thread")
        while not context.cancelled and not self.go.is_set():
            self.go.wait(0.005)
        self.stopped.append("in_thread")
        return "too late"

    def beating(self, context: ActivityContext) -> None:
        self.started.append("beating")
        try:
            while not self.go.wait(0.005):
                context.heartbeat()
        except ActivityCancelledError as error:
            self.stopped.append(f"beating: {error.reason}")
            raise

    async def stubborn(self) -> str:
        self.started.append("stubborn")
        while not self.go.is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                self.stopped.append("stubborn")
        return "unwanted"

    async def waits(self, context: OrchestrationContext, activity: str) -> None:
        await context.call_activity(activity)

    async def returns(self, context: OrchestrationContext, activity: str) -> str:
        context.call_activity(activity)
        await context.wait_for_external_event("go")
        return "without it"

    async def fails(self, context: OrchestrationContext, activity: str) -> None:
        context.call_activity(activity)
        await context.wait_for_external_event("go")
        raise ValueError("without it")

    async def begins_again(self, context: OrchestrationContext, activity: str | None) -> None:
        if activity is not None:
            context.call_activity(activity)
        await context.wait_for_external_event("go")
        context.continue_as_new()

    async def cancels(self, context: OrchestrationContext, activity: str) -> None:
        call = context.call_activity(activity)
        await context.wait_for_external_event("go")
        call.cancel()
        await context.wait_for_external_event("never")

    async def picks(self, context: OrchestrationContext) -> str:
        first, second = context.call_activity("in_thread"), context.call_activity("patient")
        await context.wait_for_external_event("go")
        second.cancel()
        return str(await first)

    async def times_out(self, context: OrchestrationContext, activity: str) -> None:
        call = context.call_activity(activity)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_awaits(call))
                await context.wait_for_external_event("go")
                raise TimeoutError
        except* TimeoutError:
            await context.wait_for_external_event("never")


async def _awaits(call: DurableTask[Any]) -> None:
    await call


async def cast(stage: Stage, play: Play, **options: Any) -> tuple[Player, Player]:
    """One who decides, and one who acts; both say that they live."""
    decides = await stage.worker(play.app, only="orchestrations", balance=True)
    acts = await stage.worker(play.app, only="activities", balance=True, drain=0.1, **options)
    return decides, acts


@pytest.mark.parametrize("how", ["waits", "returns", "fails", "begins_again", "cancels", "times_out"])
async def test_an_activity_is_told_when_its_orchestration_loses_interest(how: str) -> None:
    play = Play()
    async with Stage() as stage:
        _, acts = await cast(stage, play)
        client = await stage.client(play.app)
        await client.start(how, "patient", instance_id="a")
        await eventually(lambda: play.started)
        if how == "waits":
            await client.terminate("a")
        else:
            await client.raise_event("a", "go")
        await eventually(lambda: play.stopped)
        await eventually(lambda: acts.worker.activities.idle)
        await eventually(lambda: not acts.broker.unacked(QUEUE))
        assert acts.broker.published("partition") == []
        assert await stage.depth(QUEUE) == 0
        assert not any(isinstance(event, TaskFailed | TaskCompleted) for event in await stage.events("a"))


@pytest.mark.parametrize(
    ("activity", "said"),
    [
        ("in_thread", "in_thread"),
        ("beating", "beating: nobody waits for its result any more"),
        ("stubborn", "stubborn"),
    ],
)
async def test_what_cannot_be_stopped_is_told_and_keeps_its_place_until_it_ends(activity: str, said: str) -> None:
    play = Play()
    async with Stage() as stage:
        _, acts = await cast(stage, play, concurrency=1)
        client = await stage.client(play.app)
        await client.start("waits", activity, instance_id="a")
        await eventually(lambda: play.started)
        await client.terminate("a")
        await eventually(lambda: play.stopped == [said])
        if activity == "stubborn":
            await eventually(lambda: not acts.broker.unacked(QUEUE), "its message is not kept")
            await client.start("waits", "patient", instance_id="b")
            await a_while()
            assert play.started == ["stubborn"]
            play.go.set()
            await eventually(lambda: play.started == ["stubborn", "patient"])
        else:
            await eventually(lambda: acts.worker.activities.idle)
        assert acts.broker.published("partition") == []


async def test_what_runs_where_it_was_decided_is_told_too() -> None:
    play = Play()
    async with Stage() as stage:
        await stage.worker(play.app, drain=0.1)
        client = await stage.client(play.app)
        await client.start("waits", "patient", instance_id="a")
        await eventually(lambda: play.started)
        await client.terminate("a")
        await eventually(lambda: play.stopped)


async def test_what_still_waits_is_not_begun() -> None:
    play = Play()
    async with Stage() as stage:
        _, acts = await cast(stage, play, concurrency=1)
        client = await stage.client(play.app)
        handle = await client.start("picks", instance_id="a")
        await eventually(lambda: play.started == ["in_thread"] and len(acts.worker.activities._waiting))
        await client.raise_event("a", "go")
        await eventually(lambda: len(acts.worker.activities._calls) == 1)
        play.go.set()
        assert await handle.result(5) == "too late"
        await eventually(lambda: acts.worker.activities.idle)
        assert play.started == ["in_thread"]
        await eventually(lambda: not acts.broker.unacked(QUEUE))


async def test_what_comes_after_its_cancellation_is_not_begun() -> None:
    play = Play()
    async with Stage() as stage:
        acts = await stage.worker(play.app, only="activities")
        notice = ActivitiesCancelled(instance_id="a", execution_id="e" * 32, tasks=(3, 4))
        await stage.publish(Destination.inbox(acts.worker.worker_id), notice)
        await eventually(lambda: acts.worker.activities._cancelled)
        await stage.publish(QUEUE, *(call_of(number) for number in (3, 4, 5)))
        await eventually(lambda: play.started)
        await a_while()
        assert play.started == ["patient"]
        assert [run.call.task_scheduled_id for run in acts.worker.activities._running] == [5]


def call_of(number: int, name: str = "patient") -> ActivityCall:
    return ActivityCall(instance_id="a", execution_id="e" * 32, task_scheduled_id=number, name=name)


async def test_the_cancelled_calls_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from callboard.activities import runner  # noqa: PLC0415

    monkeypatch.setattr(runner, "MOST_CANCELLED", 3)
    async with Stage() as stage:
        acts = await stage.worker(Play().app, only="activities")
        acts.worker.activities.cancel(ActivitiesCancelled(instance_id="a", execution_id="e", tasks=(1, 2, 3, 4, 5)))
        assert [key.task_scheduled_id for key in acts.worker.activities._cancelled] == [3, 4, 5]


async def test_the_holder_of_a_claim_hears_of_it_even_without_a_message() -> None:
    play = Play()
    async with Stage() as stage:
        decides, acts = await cast(stage, play)
        acts.worker.activities.claims.after, acts.worker.activities.claims.ttl = 0.05, 0.2
        client = await stage.client(play.app)
        await client.start("waits", "patient", instance_id="a")
        await eventually(lambda: acts.store.counts["claim"] and not acts.broker.unacked(QUEUE))
        lost = decides.broker.before["publish"] = Failing(
            UnroutableError("its inbox"), times=10_000, applies=to(DestinationKind.INBOX)
        )
        await client.terminate("a")
        await eventually(lambda: play.stopped)
        assert lost.raised
        await eventually(lambda: _claims(stage, []))


async def _claims(stage: Stage, expected: list[object]) -> bool:
    return await stage.store.claims("a") == expected


async def test_a_claimed_activity_is_told_through_its_worker_alone() -> None:
    play = Play()
    async with Stage() as stage:
        decides, acts = await cast(stage, play)
        bystander = await stage.worker(play.app, only="activities", balance=True)
        workers = {acts.worker.worker_id: acts, bystander.worker.worker_id: bystander}
        for worker in workers.values():
            worker.worker.activities.claims.after = 0.05
        client = await stage.client(play.app)
        await client.start("waits", "patient", instance_id="a")
        (claim,) = await eventually(lambda: stage.store.claims("a"))
        await client.terminate("a")
        await eventually(lambda: play.stopped)
        notices = [
            args[0].name for name, args in decides.broker.log if name == "publish" and b"ActivitiesCancelled" in args[1]
        ]
        assert notices == [claim.worker_id]
        assert workers[claim.worker_id].worker.activities.idle


async def test_a_worker_that_cannot_be_reached_is_tried_while_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.cancelling.AGAIN", 0.05)
    play = Play()
    async with Stage() as stage:
        decides, _ = await cast(stage, play)
        client = await stage.client(play.app)
        await client.start("waits", "patient", instance_id="a")
        await eventually(lambda: play.started)
        gone = decides.broker.before["publish"] = Failing(
            UnroutableError("its inbox"), times=3, applies=to(DestinationKind.INBOX)
        )
        await client.terminate("a")
        await eventually(lambda: play.stopped)
        assert gone.raised == 3
        await eventually(lambda: decides.worker.effects.idle)


async def test_a_worker_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.cancelling.AGAIN", 0.05)
    play = Play()
    async with Stage() as stage:
        decides = await stage.worker(play.app, only="orchestrations", balance=True, lease=1.0, heartbeat=0.3)
        acts = await stage.worker(play.app, only="activities", balance=True)
        client = await stage.client(play.app)
        await client.start("waits", "patient", instance_id="a")
        await eventually(lambda: play.started)
        acts.kill()
        await client.terminate("a")
        await eventually(lambda: decides.worker.effects.idle)
        assert await stage.unsent() == []


async def test_a_cancellation_that_its_owner_did_not_live_to_send_is_swept() -> None:
    play = Play()
    async with Stage() as stage:
        decides, acts = await cast(stage, play)
        client = await stage.client(play.app)
        await client.start("waits", "patient", instance_id="a")
        await eventually(lambda: play.started)
        decides.store.before["cancel_claims"] = lambda *_: decides.kill()
        await client.terminate("a")
        await eventually(lambda: decides.doom.dead.is_set())
        assert play.stopped == []
        await stage.worker(play.app, only="orchestrations")
        await eventually(lambda: play.stopped)
        await eventually(lambda: acts.worker.activities.idle)


async def test_a_result_that_overtakes_its_cancellation_is_dropped() -> None:
    play = Play()
    async with Stage() as stage:
        decides, acts = await cast(stage, play)
        client = await stage.client(play.app)
        await client.start("returns", "in_thread", instance_id="a")
        await eventually(lambda: play.started)
        decides.broker.before["publish"] = Failing(
            UnroutableError("its inbox"), times=10_000, applies=to(DestinationKind.INBOX)
        )
        await client.raise_event("a", "go")
        await eventually(lambda: _completed(client))
        play.go.set()
        await eventually(lambda: acts.worker.activities.executed)
        await eventually(lambda: acts.worker.activities.idle)
        assert not any(isinstance(event, TaskCompleted) for event in await stage.exact("a"))


async def _completed(client: Client) -> bool:
    return (await client.get_status("a")).runtime_status == "Completed"
