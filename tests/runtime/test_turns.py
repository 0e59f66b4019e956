"""The turn: what is dropped and when, numbers that never restart, limits, and records that never lie."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import functools
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import msgspec
import pytest

from callboard import App, OrchestrationContext
from callboard.core.events import ContinuedAsNew, EventRaised, TaskScheduled
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit
from callboard.core.messages import ActivityCall, RaiseEvent, TaskResult
from callboard.errors import InstanceNotFinishedError, StoreUnavailableError
from callboard.mailbox import Letter
from callboard.packs import decode_pack
from callboard.ports import Destination
from callboard.turns import MOST_MESSAGES
from tests.runtime.support import Failing, Gate, Player, Stage, a_while, eventually

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")


@app.activity
async def double(number: int) -> int:
    return 2 * number


@app.orchestration
async def one_call(context: OrchestrationContext, number: int) -> int:
    return await context.call_activity(double, number)


@app.orchestration
async def two_legs(context: OrchestrationContext, leg: int) -> int:
    await context.wait_for_external_event("go")
    if leg == 1:
        context.continue_as_new(2)
        return 0
    return await context.call_activity(double, leg)


@app.orchestration
async def collect(context: OrchestrationContext, count: int) -> int:
    for _ in range(count):
        await context.wait_for_external_event("item")
    return count


@app.orchestration
async def waits(context: OrchestrationContext) -> Any:
    return await context.wait_for_external_event("go")


class Account:
    """Hears what became of a letter."""

    def __init__(self) -> None:
        self.settled = False

    def settle(self) -> None:
        self.settled = True

    def abandon(self) -> None:
        pass


def result_for(instance_id: str, execution_id: str, task: int, result: str = "4") -> TaskResult:
    now = datetime.now(UTC)
    return TaskResult(instance_id=instance_id, execution_id=execution_id, task_scheduled_id=task, at=now, result=result)


async def deafen(player: Player) -> None:
    """Stops a worker from consuming; it goes on to believe that it owns what it owned."""
    for consumer in list(player.broker.inner._consumers):
        await consumer.aclose()


async def test_what_fits_nothing_is_dropped_only_after_a_linearizable_read() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        await client.start(waits, instance_id="a")
        await eventually(lambda: stage.events("a"))
        confirming = worker.store.before["confirm"] = Gate()
        for stranger in (result_for("a", "f" * 32, 0), result_for("nobody", "f" * 32, 0)):
            await stage.publish(stage.queue_of(stranger.instance_id), stranger)
        await eventually(lambda: confirming.waiting == 2)
        await a_while()
        assert worker.broker.unacked() == 2
        confirming.open()
        await eventually(lambda: worker.broker.unacked() == 0)
        assert await stage.store.records(["nobody"]) == {}


async def test_a_zombie_cached_before_continue_as_new_does_not_drop_a_live_result() -> None:
    async with Stage() as stage:
        zombie = await stage.worker(app, only="orchestrations")
        client = await stage.client(app)
        handle = await client.start(two_legs, 1, instance_id="a")
        await eventually(lambda: zombie.worker.turns.runs("a"))
        await deafen(zombie)
        await stage.worker(app, only="orchestrations")
        await client.raise_event("a", "go")
        await client.raise_event("a", "go")
        calls = await stage.listen(Destination.activities("default"))
        await eventually(lambda: calls)
        (call,) = decode_pack(calls[0].body)
        assert isinstance(call, ActivityCall)
        account = Account()
        zombie.worker._post(Letter(result_for("a", call.execution_id, call.task_scheduled_id), account))
        await eventually(lambda: account.settled)
        assert await handle.result(5) == 4
        await stage.exact("a")


async def test_a_lost_race_costs_the_activation_and_nothing_else() -> None:
    async with Stage() as stage:
        slow = await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(collect, 40, instance_id="a")
        await eventually(lambda: slow.worker.turns.runs("a"))
        await deafen(slow)
        quick = await stage.worker(app)
        appending = slow.store.before["append"] = Gate()
        for number in range(39):
            # Each takes its copy: the loser finds that the message has been consumed, and drops it.
            message = RaiseEvent(instance_id="a", message_id=f"m{number}", name="item", at=datetime.now(UTC))
            for player in (slow, quick):
                player.worker._post(Letter(message))
        account = Account()
        last = RaiseEvent(instance_id="a", message_id="last", name="item", at=datetime.now(UTC))
        await eventually(lambda: appending.waiting)
        slow.worker._post(Letter(last, account))
        await eventually(lambda: quick.worker.turns.quiet)
        appending.open()
        await eventually(lambda: account.settled)
        assert await handle.result(10) == 40
        await stage.exact("a")
        assert slow.worker.turns.statistics.lost_races > 0


async def test_a_commit_whose_reply_is_lost_is_found_to_be_our_own() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        worker.store.after["append"] = Failing(StoreUnavailableError("the reply was lost"), times=3)
        client = await stage.client(app)
        assert await (await client.start(one_call, 4, instance_id="a")).result(5) == 8
        assert len(await stage.exact("a")) == 4
        assert worker.worker.turns.statistics.lost_races == 0


async def test_nothing_is_acked_and_nothing_leaves_before_the_commit() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        appending = worker.store.before["append"] = Gate()
        client = await stage.client(app)
        handle = await client.start(one_call, 4, instance_id="a")
        await eventually(lambda: appending.waiting)
        await a_while()
        assert worker.broker.unacked(stage.queue_of("a")) == 1
        assert worker.broker.counts["publish"] == 0
        assert worker.store.counts["project"] == 0
        appending.open()
        assert await handle.result(5) == 8


async def test_a_pack_is_acked_when_the_last_of_its_messages_is_committed() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        for instance_id in ("a", "b"):
            await client.start(waits, instance_id=instance_id)
            await eventually(functools.partial(worker.worker.turns.runs, instance_id), "it runs")
        appending = worker.store.before["append"] = Gate(lambda commits: commits[0].instance_id == "a")
        now = datetime.now(UTC)
        pack = [RaiseEvent(instance_id=id_, message_id="m", name="go", at=now) for id_ in ("a", "b")]
        await stage.publish(stage.queue_of("a"), pack[0], pack[1])
        await eventually(lambda: appending.waiting)
        await a_while()
        assert worker.broker.unacked() == 1
        appending.open()
        await eventually(lambda: worker.broker.unacked() == 0)
        for instance_id in ("a", "b"):
            assert any(isinstance(event, EventRaised) for event in await stage.exact(instance_id))


async def test_numbers_go_on_across_executions_reuse_and_purge() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(two_legs, 1, instance_id="a")
        await client.raise_event("a", "go")
        await client.raise_event("a", "go")
        assert await handle.result(5) == 4
        for lives in range(3):
            if lives == 1:
                await eventually(lambda: _purged(client))
            before = len(await stage.commits("a"))
            assert await (await client.start(one_call, lives, instance_id="a")).result(5) == 2 * lives
            assert len(await stage.commits("a")) > before
        commits = await stage.commits("a")
        await stage.exact("a")
        executions = [execution for execution, _ in groupby(commits, lambda commit: commit.execution_id)]
        assert len(executions) == len(set(executions)) == 5


async def _purged(client: Any) -> bool:
    try:
        await client.purge("a")
    except InstanceNotFinishedError:
        return False
    return True


async def test_a_turn_takes_at_most_a_thousand_messages() -> None:
    async with Stage() as stage:
        worker = stage.enter(app, prefetch=5000)
        loading = worker.store.before["load"] = Gate()
        await worker.start()
        client = await stage.client(app)
        handle = await client.start(collect, 2_500, instance_id="a")
        now = datetime.now(UTC)
        events = [RaiseEvent(instance_id="a", message_id=f"m{number}", name="item", at=now) for number in range(2_500)]
        worker.worker.turns.own(frozenset(range(4)))
        for event in events:
            worker.worker._post(Letter(event))
        loading.open()
        assert await handle.result(10) == 2_500
        taken = [sum(isinstance(event, EventRaised) for event in commit.events) for commit in await stage.commits("a")]
        assert sum(taken) == 2_500
        assert max(taken) == MOST_MESSAGES == 1_000


@pytest.mark.parametrize("failing", [False, True], ids=["results", "failures"])
async def test_a_turn_takes_messages_up_to_a_mebibyte(failing: bool) -> None:
    fan = App("stage")

    @fan.orchestration
    async def fan_out(context: OrchestrationContext, count: int) -> int:
        calls = [context.call_activity("elsewhere") for _ in range(count)]
        return len(await asyncio.gather(*calls, return_exceptions=True))

    async with Stage() as stage:
        worker = await stage.worker(fan)
        client = await stage.client(fan)
        handle = await client.start(fan_out, 100, instance_id="a")
        await eventually(lambda: stage.events("a"))
        (first, *_) = await stage.commits("a")
        large = "x" * 100_000
        cause = FailureDetails(error_type="CauseError", error_message=large)
        failure = FailureDetails(error_type="Error", error_message="m", inner_failure=cause)
        for task in range(100):
            result = result_for("a", first.execution_id, task, f'"{large}"')
            if failing:
                result = msgspec.structs.replace(result, result=None, failure=failure)
            worker.worker._post(Letter(result))
        assert await handle.result(10) == 100
        sizes = [len(commit.events) for commit in (await stage.commits("a"))[1:]]
        assert max(sizes) <= 12


# What was consumed is remembered, but not for ever


@app.orchestration
async def legs(context: OrchestrationContext, left: int) -> list[Any]:
    first = await context.wait_for_external_event("go")
    if left:
        context.continue_as_new(left - 1)
    return [first]


def go(message_id: str) -> RaiseEvent:
    return RaiseEvent(instance_id="a", message_id=message_id, name="go", at=datetime.now(UTC), input=f'"{message_id}"')


async def test_a_message_consumed_before_continue_as_new_is_still_known() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(legs, 2, instance_id="a")
        for message_id in ("m1", "m2"):
            for _ in range(2):
                await stage.publish(stage.queue_of("a"), go(message_id))
            await eventually(lambda: worker.broker.unacked() == 0 and worker.worker.turns.quiet)
        worker.kill()
        await stage.worker(app)
        for message_id in ("m1", "m2", "m3"):
            await stage.publish(stage.queue_of("a"), go(message_id))
        assert await handle.result(5) == ["m3"]
        await stage.exact("a")


@pytest.mark.parametrize("limit", ["age", "number"])
async def test_what_is_remembered_is_bounded(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if limit == "age":
        monkeypatch.setattr("callboard.core.turn.DEDUPE_RETENTION", timedelta(0))
    else:
        monkeypatch.setattr("callboard.core.state.MOST_SEEN", 2)
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(legs, 6, instance_id="a")
        for number in range(7):
            await stage.publish(stage.queue_of("a"), go(f"m{number}"))
            await eventually(lambda: worker.broker.unacked() == 0 and worker.worker.turns.quiet)
        assert await handle.result(5) == ["m6"]
        for commit in await stage.commits("a"):
            if commit.continued is not None:
                assert len(commit.continued.next.seen) <= 2


# Records


async def test_a_terminal_record_is_written_before_anybody_is_told() -> None:
    family = App("stage")

    @family.orchestration
    async def child(context: OrchestrationContext) -> str:
        return "grown"

    @family.orchestration
    async def parent(context: OrchestrationContext) -> str:
        return await context.call_sub_orchestration(child, instance_id="child")

    async with Stage() as stage:
        worker = stage.enter(family)
        writing = worker.store.before["project"] = Gate(
            lambda projections: any(each.instance_id == "child" and each.completed_time for each in projections)
        )
        await worker.start()
        client = await stage.client(family)
        await client.start(parent, instance_id="parent")
        await eventually(lambda: writing.waiting)
        watching = asyncio.ensure_future(client.wait("child", 5))
        await a_while()
        assert len(await stage.commits("parent")) == 1
        assert worker.broker.published("inbox") == []
        assert not watching.done()
        writing.open()
        assert (await watching).output == "grown"
        assert (await client.wait("parent", 5)).output == "grown"


async def test_records_are_never_set_back() -> None:
    async with Stage() as stage:
        zombie = stage.enter(app)
        late = zombie.store.before["project"] = Gate()
        await zombie.start()
        client = await stage.client(app)
        handle = await client.start(waits, instance_id="a")
        await eventually(lambda: late.waiting)
        await deafen(zombie)
        await stage.worker(app)
        await client.raise_event("a", "go", "x")
        assert await handle.result(5) == "x"
        again = await client.start(waits, instance_id="a")
        await eventually(lambda: _status(stage, "Running"))
        before = (await stage.store.records(["a"]))["a"]
        late.open()
        await eventually(lambda: zombie.worker.effects.projector.idle)
        assert (await stage.store.records(["a"]))["a"] == before
        await client.raise_event("a", "go", "y")
        assert await again.result(5) == "y"


async def _status(stage: Stage, status: str) -> bool:
    return (await stage.store.records(["a"]))["a"].runtime_status == status


async def test_a_record_that_is_gone_is_not_made_again_by_a_late_projection() -> None:
    async with Stage() as stage:
        zombie = stage.enter(app)
        late = zombie.store.before["project"] = Gate()
        await zombie.start()
        client = await stage.client(app)
        handle = await client.start(waits, instance_id="a")
        await eventually(lambda: late.waiting)
        await deafen(zombie)
        await stage.worker(app)
        await client.raise_event("a", "go", "x")
        await handle.result(5)
        await eventually(lambda: _purged(client))
        late.open()
        await eventually(lambda: zombie.worker.effects.projector.idle)
        assert await stage.store.records(["a"]) == {}


async def test_a_record_left_behind_by_a_crash_catches_up_when_its_instance_is_loaded() -> None:
    async with Stage() as stage:
        first = stage.enter(app)
        first.store.before["project"] = Gate()
        await first.start()
        client = await stage.client(app)
        await client.start(waits, instance_id="a")
        await eventually(lambda: first.store.counts["mark_sent"] and first.worker.effects.idle)
        first.kill()
        assert await _status(stage, "Pending")  # and nothing is left to be swept
        await stage.worker(app)
        await eventually(lambda: _status(stage, "Running"))


# Large commits


@app.orchestration
async def large_calls(context: OrchestrationContext, size: int) -> int:
    texts = await asyncio.gather(*(context.call_activity("echo", str(number) * size) for number in range(6)))
    return sum(map(len, texts))


@app.activity
async def echo(text: str) -> str:
    return text


async def test_a_large_commit_is_moved_to_payloads_before_it_is_committed_and_read_back() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app, memory=1)
        client = await stage.client(app)
        assert await (await client.start(large_calls, 200_000, instance_id="a")).result(10) == 1_200_000
        calls = [name for name, _ in worker.store.log]
        assert calls.index("put_payload") < calls.index("append")
        stored = await stage.store.history("a")
        assert stored[0].body is not None
        assert stored[0].body.startswith("a/")
        assert stored[0].events == ()
        await stage.exact("a")
        assert [type(event).__name__ for event in (await client.history("a"))[0].events][1:] == ["TaskScheduled"] * 6
        assert worker.worker.turns.statistics.loads > 1  # evicted after each turn: it was read back


async def test_the_effects_of_a_large_commit_are_swept_like_any_other() -> None:
    async with Stage() as stage:
        first = stage.enter(app)
        publishing = first.broker.before["publish"] = Gate()
        await first.start()
        client = await stage.client(app)
        handle = await client.start(large_calls, 200_000, instance_id="a")
        await eventually(lambda: publishing.waiting)
        first.kill()
        await stage.worker(app)
        assert await handle.result(10) == 1_200_000


async def test_buffered_events_that_are_carried_on_may_be_large() -> None:
    buffering = App("stage")

    @buffering.orchestration
    async def buffers(context: OrchestrationContext, leg: int) -> int:
        await context.wait_for_external_event("go")
        if leg == 1:
            context.continue_as_new(2)
            return 0
        return sum([len(await context.wait_for_external_event("item", str)) for _ in range(8)])

    async with Stage() as stage:
        await stage.worker(buffering)
        client = await stage.client(buffering)
        handle = await client.start(buffers, 1, instance_id="a")
        for _ in range(8):
            await client.raise_event("a", "item", "x" * 250_000)
        await client.raise_event("a", "go")
        await client.raise_event("a", "go")
        assert await handle.result(10) == 2_000_000
        largest = max(len(_json(commit)) for commit in stage.ledger.values())
        assert largest < 2_000_000
        assert any(isinstance(event, ContinuedAsNew) for event in await stage.exact("a"))


def _json(commit: Commit) -> bytes:
    return msgspec.json.encode(commit)


async def test_payloads_of_one_instance_do_not_go_with_another() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        for instance_id in ("a", "b"):
            await (await client.start(large_calls, 200_000, instance_id=instance_id)).result(10)
        await eventually(lambda: _purged(client))
        first = (await client.history("b"))[0]
        assert sum(isinstance(event, TaskScheduled) for event in first.events) == 6


async def test_a_commit_that_the_store_refuses_holds_nobody_up() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        refused = worker.store.before["append"] = Failing(
            ValueError("cannot be stored"),
            times=1000,
            applies=lambda commits: any(c.instance_id == "bad" for c in commits),
        )
        client = await stage.client(app)
        bad = await client.start(one_call, 1, instance_id="bad")
        handles = [await client.start(one_call, number) for number in range(20)]
        assert [await handle.result(5) for handle in handles] == [2 * number for number in range(20)]
        await a_while()
        assert refused.raised < 20, "it is tried again and again without a pause"
        worker.store.before.clear()
        assert await bad.result(5) == 2


# Large values


@app.orchestration
async def two_large_calls(context: OrchestrationContext, size: int) -> int:
    first = await context.call_activity("echo", "1" * size)
    return len(first) + len(await context.call_activity("echo", "2" * size))


async def test_large_values_are_put_before_what_refers_to_them() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        assert await (await client.start(two_large_calls, 300_000, instance_id="a")).result(10) == 600_000
        calls = [name for name, _ in worker.store.log if name in ("put_payload", "append")]
        # the call's input, its commit; its result, that of the next input, their commit; and so on
        assert calls[:3] == ["put_payload", "append", "put_payload"]
        assert all(len(_json(commit)) < 10_000 for commit in stage.ledger.values())
        await stage.exact("a")


async def test_a_worker_that_dies_between_value_and_commit_leaves_the_turn_to_another() -> None:
    async with Stage() as stage:
        first = stage.enter(app)
        appending = first.store.before["append"] = Gate()
        await first.start()
        client = await stage.client(app)
        handle = await client.start(two_large_calls, 300_000, instance_id="a")
        await eventually(lambda: appending.waiting)
        assert first.store.counts["put_payload"] == 1
        first.kill()
        await stage.worker(app)
        assert await handle.result(10) == 600_000
        await stage.exact("a")


async def test_the_effects_that_carry_references_are_swept_like_any_other() -> None:
    async with Stage() as stage:
        first = stage.enter(app)
        publishing = first.broker.before["publish"] = Gate()
        await first.start()
        client = await stage.client(app)
        handle = await client.start(two_large_calls, 300_000, instance_id="a")
        await eventually(lambda: publishing.waiting)
        first.kill()
        await stage.worker(app)
        assert await handle.result(10) == 600_000
        await stage.exact("a")


async def test_a_large_value_whose_store_refuses_it_holds_nobody_up() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        refused = worker.store.before["put_payload"] = Failing(ValueError("disk full"), times=1)
        client = await stage.client(app)
        large = await client.start(two_large_calls, 300_000, instance_id="a")
        assert await (await client.start(two_large_calls, 10, instance_id="b")).result(10) == 20
        assert await large.result(20) == 600_000
        assert refused.raised == 1
        await stage.exact("a")


async def test_large_events_are_taken_in_the_order_they_came_with_small_ones() -> None:
    mixing = App("stage")

    @mixing.orchestration
    async def mix(context: OrchestrationContext) -> list[int]:
        return [len(await context.wait_for_external_event("item", str)) for _ in range(6)]

    async with Stage() as stage:
        await stage.worker(mixing, memory=1)
        client = await stage.client(mixing)
        handle = await client.start(mix, instance_id="a")
        sizes = [300_000, 1, 400_000, 2, 500_000, 3]
        for size in sizes:
            await client.raise_event("a", "item", "x" * size)
        assert await handle.result(20) == sizes
