"""Effects are derived from commits and carried out until they are confirmed, by whoever owns the partition."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from callboard import App, OrchestrationContext, sweeping
from callboard.client import endings
from callboard.core.events import EventRaised, TaskCompleted, TimerFired
from callboard.core.instances import Commit
from callboard.core.messages import InstanceEnded, TaskResult
from callboard.errors import BrokerUnavailableError, StoreUnavailableError, UnroutableError
from callboard.ports import Destination, DestinationKind, TimerRow
from tests.runtime.support import Failing, Gate, Stage, a_while, eventually, to

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")
ran: list[str] = []


@app.activity
async def note(instance_id: str) -> int:
    ran.append(instance_id)
    return 1


@app.orchestration
async def one_call(context: OrchestrationContext) -> int:
    return await context.call_activity(note, context.instance_id)


@app.orchestration
async def sleeps(context: OrchestrationContext, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


@app.orchestration
async def waits(context: OrchestrationContext) -> Any:
    return await context.wait_for_external_event("go")


@app.orchestration
async def sends(context: OrchestrationContext, to: str) -> None:
    context.send_event(to, "go", "hello")


CALLS, PARTITIONS, INBOXES = map(to, (DestinationKind.ACTIVITIES, DestinationKind.PARTITION, DestinationKind.INBOX))


async def _all_sent(stage: Stage) -> bool:
    return not await stage.unsent()


async def test_a_call_that_could_not_be_published_is_swept() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        failing = worker.broker.before["publish"] = Failing(BrokerUnavailableError("gone"), times=3, applies=CALLS)
        client = await stage.client(app)
        assert await (await client.start(one_call, instance_id="a")).result(5) == 1
        assert failing.raised == 3
        await stage.exact("a")
        await eventually(lambda: _all_sent(stage))


async def test_a_call_whose_confirm_is_lost_is_sent_again_and_counts_once() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        worker.broker.after["publish"] = Failing(BrokerUnavailableError("no confirm"), times=2, applies=CALLS)
        client = await stage.client(app)
        assert await (await client.start(one_call, instance_id="confirm")).result(5) == 1
        await eventually(lambda: ran.count("confirm") >= 2)
        await eventually(lambda: _all_sent(stage))
        assert sum(isinstance(event, TaskCompleted) for event in await stage.exact("confirm")) == 1


async def test_everything_counts_once_when_messages_are_doubled_lost_and_reordered() -> None:
    async with Stage() as stage:
        faults = stage.server.faults
        faults.duplicate, faults.reorder, faults.lose_confirms, faults.lose_publishes = 0.3, 0.3, 0.1, 0.1
        for _ in range(2):
            await stage.worker(app)
        client = await stage.client(app)
        handles = [await client.start(one_call, instance_id=f"call{number}") for number in range(20)]
        waiting = [await client.start(waits, instance_id=f"wait{number}") for number in range(10)]
        handles += [await client.start(sends, f"wait{number}") for number in range(10)]
        handles += [await client.start(sleeps, 0.01) for _ in range(10)]
        for handle in [*handles, *waiting]:
            await handle.result(20)
        for instance in (await client.list_instances()).instances:
            await stage.exact(instance.instance_id)


async def test_what_is_in_flight_is_not_swept() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        publishing = worker.broker.before["publish"] = Gate(CALLS)
        await worker.start()
        client = await stage.client(app)
        handle = await client.start(one_call, instance_id="once")
        await eventually(lambda: publishing.waiting)
        sweeps = worker.store.counts["unsent"]
        await eventually(lambda: worker.store.counts["unsent"] > sweeps + 3)
        assert publishing.waiting == 1
        publishing.open()
        assert await handle.result(5) == 1
        assert ran.count("once") == 1


async def test_a_full_page_of_what_is_in_flight_does_not_make_sweeps_run_in_circles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeping, "PAGE", 2)
    monkeypatch.setattr(sweeping, "EVERY", 0.5)
    async with Stage() as stage:
        worker = stage.enter(app)
        publishing = worker.broker.before["publish"] = Gate(CALLS)
        await worker.start()
        client = await stage.client(app)
        handles = [await client.start(one_call) for _ in range(3)]
        await eventually(lambda: len(worker.worker.effects._in_flight) >= 3)
        await a_while()
        sweeps = worker.store.counts["unsent"]
        await a_while()
        assert worker.store.counts["unsent"] <= sweeps + 1
        publishing.open()
        for handle in handles:
            assert await handle.result(5) == 1


async def test_a_commit_whose_payload_is_gone_holds_up_no_other_and_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PAGE", 1)
    monkeypatch.setattr(sweeping, "EVERY", 0.3)
    async with Stage() as stage:
        broken = Commit(
            instance_id="broken",
            n=0,
            execution_id="e",
            first=0,
            partition=0,
            token="t",
            at=datetime(2020, 1, 1, tzinfo=UTC),
            runtime_status="Running",
            body="broken/" + "0" * 64,
        )
        await stage.store.append([broken])
        worker = await stage.worker(app)
        client = await stage.client(app)
        assert await (await client.start(one_call)).result(5) == 1
        sweeps = worker.store.counts["unsent"]
        await a_while()
        assert worker.store.counts["unsent"] <= sweeps + 1


async def test_marks_that_were_lost_cost_a_repetition_only() -> None:
    async with Stage() as stage:
        first = stage.enter(app)
        first.store.before["mark_sent"] = Gate()
        await first.start()
        client = await stage.client(app)
        await (await client.start(one_call, instance_id="a")).result(5)
        first.kill()
        second = await stage.worker(app)
        await eventually(lambda: _all_sent(stage))
        assert second.worker.sweeper.swept > 0
        await stage.exact("a")


async def test_a_new_owner_sweeps_at_once_whatever_the_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "AGE", 3600.0)
    async with Stage() as stage:
        first = stage.enter(app)
        publishing = first.broker.before["publish"] = Gate(CALLS)
        await first.start()
        client, actor = await stage.meddled_client(app)
        handle = await client.start(one_call, instance_id="a")
        await eventually(lambda: publishing.waiting)
        lost = actor.broker.before["publish"] = Failing(BrokerUnavailableError("gone"), times=1)
        unstarted = await client.start(one_call, instance_id="b")
        await eventually(lambda: lost.raised)
        await eventually(lambda: first.broker.unacked() == 0)
        first.kill()
        await stage.worker(app)
        assert await handle.result(5) == 1
        assert await unstarted.result(5) == 1


async def test_timer_rows_are_put_until_they_are_there() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        put = worker.store.before["put_timers"] = Failing(StoreUnavailableError("away"), times=2)
        client = await stage.client(app)
        assert await (await client.start(sleeps, 0.05, instance_id="a")).result(5) == "awake"
        await eventually(lambda: put.raised == 2)
        await eventually(lambda: _no_timers(stage))
        await stage.exact("a")


async def _no_timers(stage: Stage) -> bool:
    until = datetime.max.replace(tzinfo=UTC)
    return not await stage.store.due_timers(list(range(4)), until=until, limit=10)


async def test_a_stale_timer_row_fires_for_nobody_and_goes() -> None:
    async with Stage() as stage:
        client = await stage.client(app)
        await stage.store.put_timers(
            [
                TimerRow(
                    instance_id="nobody",
                    execution_id="f" * 32,
                    timer_id=1,
                    partition=0,
                    fire_at=datetime(2026, 1, 1, tzinfo=UTC),
                )
            ]
        )
        handle = await client.start(sleeps, 0.01, instance_id="a")
        await stage.worker(app)
        assert await handle.result(5) == "awake"
        await eventually(lambda: _no_timers(stage))
        assert sum(isinstance(event, TimerFired) for event in await stage.exact("a")) == 1


async def test_an_unroutable_message_is_done() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app, only="orchestrations")
        gone = worker.broker.before["publish"] = Failing(UnroutableError("its inbox"), times=1, applies=CALLS)
        client = await stage.client(app)
        await client.start(one_call, instance_id="a")
        await eventually(lambda: gone.raised)
        await eventually(lambda: _all_sent(stage))
        assert len(worker.broker.published("activities")) == 1


async def test_an_event_reaches_an_instance_of_this_worker_and_of_another_once() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        handles = [await client.start(waits, instance_id=f"w{number}") for number in range(8)]
        for number in range(8):
            await client.start(sends, f"w{number}")
        for number, handle in enumerate(handles):
            assert await handle.result(5) == "hello"
            events = await stage.exact(f"w{number}")
            assert sum(isinstance(event, EventRaised) for event in events) == 1


# Clients


async def test_a_client_looks_for_itself_after_a_reconnect() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        lost = worker.broker.before["publish"] = Failing(UnroutableError("lost"), times=100, applies=INBOXES)
        await worker.start()
        client, actor = await stage.meddled_client(app)
        handle = await client.start(waits, instance_id="a")
        waiting = asyncio.ensure_future(handle.result(10))
        await eventually(lambda: client._endings._waiting)
        await client.raise_event("a", "go", 1)
        await eventually(lambda: lost.raised)
        await a_while()
        assert not waiting.done()
        actor.broker.drop_connection()
        assert await asyncio.wait_for(waiting, 2) == 1


async def test_a_client_looks_for_itself_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endings.LOOK_AGAIN <= 30
    monkeypatch.setattr(endings, "LOOK_AGAIN", 0.3)
    async with Stage() as stage:
        worker = stage.enter(app)
        worker.broker.before["publish"] = Failing(UnroutableError("lost"), times=100, applies=INBOXES)
        await worker.start()
        client = await stage.client(app)
        assert await (await client.start(sleeps, 0.05)).result(2) == "awake"


async def test_a_client_asks_the_new_owner_when_a_partition_changes_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "VIEW_AGE", 0.05)
    monkeypatch.setattr(endings, "LOOK_AGAIN", 600.0)
    async with Stage() as stage:
        first = await stage.worker(app, balance=True)
        client = await stage.client(app)
        await client.start(waits, instance_id="a")
        waiting = asyncio.ensure_future(client.wait("a", 10))
        await eventually(lambda: client._endings._waiting)
        await eventually(lambda: client._connection.routes._owners[0])
        await first.stop()
        await stage.worker(app, balance=True)
        await eventually(lambda: client._connection.routes._owners[0] not in {None, first.worker.worker_id})
        await client.raise_event("a", "go", 1)
        assert (await asyncio.wait_for(waiting, 5)).output == 1


async def test_a_client_is_told_of_the_end_once_it_watches() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        await client.start(waits, instance_id="a")
        waiting = asyncio.ensure_future(client.wait("a", 10))
        await eventually(lambda: client._endings._waiting)
        await client.raise_event("a", "go", 1)
        assert (await asyncio.wait_for(waiting, 2)).output == 1
        assert [type(message) for message in worker.broker.published("inbox")] == [InstanceEnded]


async def test_a_foreign_result_is_acked_with_its_pack_and_not_before() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        stranger = TaskResult(instance_id="nobody", execution_id="e", task_scheduled_id=0, at=datetime.now(UTC))
        await stage.publish(Destination.partition(0), stranger)
        await eventually(lambda: worker.store.counts["confirm"] == 1)
        await eventually(lambda: worker.broker.unacked() == 0)
