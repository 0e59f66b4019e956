"""Starts, ends, purges: atomic, swept when lost, never twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from callboard import App, OrchestrationContext, sweeping
from callboard.core.events import ExecutionStarted, ExecutionTerminated, TaskScheduled
from callboard.core.messages import RaiseEvent, StartExecution
from callboard.errors import (
    BrokerUnavailableError,
    InstanceAlreadyExistsError,
    InstanceNotFinishedError,
    InstanceNotFoundError,
    OrchestrationFailedError,
    StoreUnavailableError,
)
from tests.runtime.support import Failing, Gate, Stage, a_while, eventually

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")


@app.activity
async def echo(value: Any) -> Any:
    return value


@app.orchestration
async def says(context: OrchestrationContext, word: str) -> str:
    return word


@app.orchestration
async def waits(context: OrchestrationContext) -> Any:
    return await context.wait_for_external_event("go")


@app.orchestration
async def child(context: OrchestrationContext) -> Any:
    await context.call_activity(echo, 1)
    return await context.wait_for_external_event("go")


@app.orchestration
async def parent(context: OrchestrationContext) -> Any:
    return await context.call_sub_orchestration(child, instance_id="child")


async def test_of_clients_that_race_for_an_id_one_wins() -> None:
    async with Stage() as stage:
        clients = [await stage.client(app) for _ in range(4)]
        tries = [client.start(says, str(number), instance_id="a") for number, client in enumerate(clients)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        (winner,) = (number for number, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException))
        losers = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [type(loser) for loser in losers] == [InstanceAlreadyExistsError] * 3
        assert "Use another id" in str(losers[0])
        await stage.worker(app)
        assert (await clients[0].wait("a", 5)).output == str(winner)
        assert sum(isinstance(event, ExecutionStarted) for event in await stage.exact("a")) == 1


async def test_a_start_whose_reply_is_lost_has_succeeded() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client, actor = await stage.meddled_client(app)
        lost = actor.store.after["create"] = Failing(StoreUnavailableError("the reply was lost"))
        handle = await client.start(says, "yes", instance_id="a")
        assert lost.raised == 1
        assert await handle.result(5) == "yes"
        assert sum(isinstance(event, ExecutionStarted) for event in await stage.exact("a")) == 1


async def test_a_start_whose_message_was_lost_is_swept() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client, actor = await stage.meddled_client(app)
        lost = actor.broker.before["publish"] = Failing(BrokerUnavailableError("the connection broke"), times=1)
        await client.start(says, "yes", instance_id="a")
        await eventually(lambda: lost.raised)
        assert (await client.wait("a", 5)).output == "yes"


async def test_a_message_for_a_pending_instance_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "AGE", 3600.0)
    async with Stage() as stage:
        worker = await stage.worker(app)
        await eventually(lambda: worker.store.counts["pending_starts"] >= 2)  # what was gained has been swept
        client, actor = await stage.meddled_client(app)
        lost = actor.broker.before["publish"] = Failing(BrokerUnavailableError("the connection broke"), times=1)
        await client.start(waits, instance_id="a")
        await eventually(lambda: lost.raised)
        await a_while()
        assert await stage.events("a") == []
        await client.raise_event("a", "go", "now")
        assert (await client.wait("a", 5)).output == "now"


async def test_a_start_without_its_record_is_dropped() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(waits, instance_id="a")
        await eventually(lambda: stage.events("a"))
        for instance_id in ("a", "nobody"):
            stranger = StartExecution(instance_id=instance_id, execution_id="f" * 32)
            await stage.publish(stage.queue_of(instance_id), stranger)
        await eventually(lambda: worker.store.counts["confirm"] == 2)
        await eventually(lambda: worker.broker.unacked() == 0)
        assert await stage.store.records(["nobody"]) == {}
        await client.raise_event("a", "go", 1)
        assert await handle.result(5) == 1
        assert sum(isinstance(event, ExecutionStarted) for event in await stage.exact("a")) == 1


async def test_an_instance_that_has_ended_is_replaced_and_one_that_runs_is_not() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        first = await client.start(waits, instance_id="a")
        with pytest.raises(InstanceAlreadyExistsError, match=r"'a' already exists and is (Pending|Running)"):
            await client.start(says, "no", instance_id="a")
        await client.raise_event("a", "go", 1)
        assert await first.result(5) == 1
        assert await (await client.start(says, "yes", instance_id="a")).result(5) == "yes"
        await stage.exact("a")


async def test_a_child_is_made_once_and_a_taken_id_fails_the_call_only() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        await client.start(waits, instance_id="child")
        handle = await client.start(parent, instance_id="parent")
        with pytest.raises(
            OrchestrationFailedError, match="InstanceAlreadyExistsError: Instance 'child' already exists"
        ):
            await handle.result(5)
        await client.raise_event("child", "go", 1)
        assert (await client.wait("child", 5)).output == 1
        lost = worker.store.after["create"] = Failing(StoreUnavailableError("the reply was lost"))
        again = await client.start(parent, instance_id="parent")
        await eventually(lambda: lost.raised)
        await client.raise_event("child", "go", 2)
        assert await again.result(5) == 2
        await stage.exact("child")


# Terminate


async def test_terminate_overtakes_a_child_that_is_not_there_yet() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        creating = worker.store.before["create"] = Gate(lambda records: records[0].runtime_status == "Pending")
        await worker.start()
        client = await stage.client(app)
        await client.start(parent, instance_id="parent")
        await eventually(lambda: creating.waiting)
        await client.terminate("parent", "enough")
        await client.wait("parent", 5)
        record = await eventually(lambda: _record(stage, "child"))
        assert (record.runtime_status, record.output) == ("Terminated", '"enough"')
        creating.open()
        await eventually(lambda: worker.worker.effects.idle)
        assert await stage.events("child") == []
        assert (await client.get_status("child")).runtime_status == "Terminated"


async def test_terminate_reaches_a_child_that_is_made_at_the_same_moment() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        creating = worker.store.before["create"] = Gate(lambda records: records[0].runtime_status == "Pending")
        recording = Gate(lambda records: records[0].runtime_status == "Terminated")

        async def before_create(records: Any) -> None:
            await creating(records)
            await recording(records)

        worker.store.before["create"] = before_create
        await worker.start()
        client = await stage.client(app)
        await client.start(parent, instance_id="parent")
        await eventually(lambda: creating.waiting)
        await client.terminate("parent", "enough")
        await eventually(lambda: recording.waiting)  # no child was seen; now it comes to be
        creating.open()
        await eventually(lambda: _record(stage, "child"))
        recording.open()
        assert (await client.wait("child", 5)).runtime_status == "Terminated"
        await stage.exact("child")


async def _record(stage: Stage, instance_id: str) -> Any:
    return (await stage.store.records([instance_id])).get(instance_id)


async def test_terminate_reaches_running_children_and_wakes_their_parents_once() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await client.start(parent, instance_id="parent")
        await eventually(lambda: stage.events("child"))
        await client.terminate("parent")
        assert (await client.wait("parent", 5)).runtime_status == "Terminated"
        assert (await client.wait("child", 5)).runtime_status == "Terminated"
        assert sum(isinstance(event, ExecutionTerminated) for event in await stage.exact("child")) == 1
        await eventually(lambda: _all_sent(stage))
        await stage.exact("parent")


async def test_terminating_a_child_alone_fails_it_for_its_parent() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(parent, instance_id="parent")
        await eventually(lambda: stage.events("child"))
        await client.terminate("child", "no")
        with pytest.raises(OrchestrationFailedError, match="was terminated"):
            await handle.result(5)


# Purge


async def _all_sent(stage: Stage) -> bool:
    return not await stage.unsent()


async def test_purge_waits_until_everything_is_sent_and_nothing_comes_back_to_life() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        marking = worker.store.before["mark_sent"] = Gate()
        await worker.start()
        client = await stage.client(app)
        assert await (await client.start(says, "x", instance_id="a")).result(5) == "x"
        execution = (await client.get_status("a")).execution_id
        with pytest.raises(InstanceNotFinishedError, match="with effects under way"):
            await client.purge("a")
        marking.open()
        await eventually(lambda: _all_sent(stage))
        await client.purge("a")
        with pytest.raises(InstanceNotFoundError, match="No instance 'a' exists"):
            await client.get_status("a")
        (first,) = await stage.commits("a")
        for late in (
            StartExecution(instance_id="a", execution_id=execution),
            RaiseEvent(instance_id="a", message_id="m", name="go", at=first.at),
        ):
            await stage.publish(stage.queue_of("a"), late)
        await eventually(lambda: worker.store.counts["confirm"] >= 1)
        await eventually(lambda: worker.broker.unacked() == 0 and worker.worker.turns.quiet)
        assert await stage.store.records(["a"]) == {}
        assert await stage.store.history("a") == []
        assert len(await stage.commits("a")) == 1


async def test_purging_an_unfinished_instance_is_refused() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await client.start(waits, instance_id="a")
        with pytest.raises(InstanceNotFinishedError, match="wait until it has ended, or terminate it first"):
            await client.purge("a")


async def test_a_late_result_of_an_earlier_life_does_not_reach_the_next() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        await client.start(child, instance_id="a")
        await eventually(lambda: _scheduled(stage))
        await client.terminate("a")
        await client.wait("a", 5)
        await client.start(waits, instance_id="a")
        calls = worker.broker.published("activities")
        assert calls
        await stage.publish(
            stage.queue_of("a"),
            RaiseEvent(instance_id="a", message_id="m", name="go", at=(await stage.commits("a"))[0].at),
        )
        assert (await client.wait("a", 5)).runtime_status == "Completed"
        await stage.exact("a")


async def _scheduled(stage: Stage) -> bool:
    return any(isinstance(event, TaskScheduled) for event in await stage.events("a"))
