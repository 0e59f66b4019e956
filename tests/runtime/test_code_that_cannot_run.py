"""Suspended, parked, unknown, stuck, evicted: inputs are kept, others go on, and nothing is decided by code that must not run."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from callboard import App, OrchestrationContext
from callboard.core.events import EventRaised, ExecutionParked, ExecutionResumed, TaskScheduled
from callboard.core.execution import TurnInterrupted
from callboard.core.messages import RaiseEvent
from callboard.host import SystemHost
from callboard.turnthread import TurnJob, TurnThread, _Batch
from tests.runtime.support import Gate, Player, Stage, a_while, eventually

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")


@app.activity
async def echo(value: Any) -> Any:
    return value


@app.orchestration
async def waits(context: OrchestrationContext) -> Any:
    first = await context.wait_for_external_event("go")
    second = await context.wait_for_external_event("go")
    return [first, second]


@app.orchestration
async def quick(context: OrchestrationContext, value: int) -> Any:
    return await context.call_activity(echo, value)


async def kept(stage: Stage, worker: Player, instance_id: str, count: int) -> None:
    """Waits until events are in history and nothing of them is with the broker."""
    await eventually(lambda: _raised(stage, instance_id, count), "the events are in history")
    await eventually(lambda: worker.broker.unacked() == 0, "their messages are acked")


async def _raised(stage: Stage, instance_id: str, count: int) -> bool:
    return sum(isinstance(event, EventRaised) for event in await stage.events(instance_id)) == count


async def _status_is(client: Any, instance_id: str, status: str) -> bool:
    return (await client.get_status(instance_id)).runtime_status == status  # type: ignore[no-any-return]


async def _parked(client: Any, instance_id: str, reason: str) -> bool:
    parked = (await client.get_status(instance_id)).parked
    return parked is not None and reason in parked.reason


async def test_a_suspended_instance_keeps_its_inputs() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(waits, instance_id="a")
        await client.suspend("a", "lunch")
        await eventually(lambda: _status_is(client, "a", "Suspended"))
        await client.raise_event("a", "go", 1)
        await client.raise_event("a", "go", 2)
        await kept(stage, worker, "a", 2)
        await a_while()
        assert await _status_is(client, "a", "Suspended")
        worker.kill()
        await stage.worker(app)
        await client.resume("a")
        assert await handle.result(5) == [1, 2]
        await stage.exact("a")


async def test_an_instance_whose_code_has_changed_is_parked_and_keeps_its_inputs() -> None:
    changed = App("stage")

    @changed.orchestration(name="waits")
    async def waits_after_a_call(context: OrchestrationContext) -> Any:
        await context.call_activity("other")
        return await context.wait_for_external_event("go")

    old = App("stage")

    @old.orchestration(name="waits")
    async def waits_and_calls(context: OrchestrationContext) -> Any:
        first, _ = await context.wait_for_external_event("go"), context.call_activity("elsewhere", queue="far")
        return [first, await context.wait_for_external_event("go")]

    async with Stage() as stage:
        first = await stage.worker(old)
        client = await stage.client()
        handle = await client.start("waits", instance_id="a")
        await client.raise_event("a", "go", 1)
        await eventually(lambda: _scheduled(stage, "a"))
        first.kill()
        second = await stage.worker(changed)
        await client.raise_event("a", "go", 2)
        await eventually(lambda: _parked(client, "a", "the code asks for activity 'other'"))
        assert await _status_is(client, "a", "Suspended")
        await kept(stage, second, "a", 2)
        second.kill()
        await stage.worker(old)  # whoever gains the partition tries again
        assert await handle.result(5) == [1, 2]
        await stage.exact("a")


async def _scheduled(stage: Stage, instance_id: str) -> bool:
    return any(isinstance(event, TaskScheduled) for event in await stage.events(instance_id))


async def test_an_instance_that_no_worker_knows_is_parked_visibly_and_goes_on_where_it_is_known() -> None:
    async with Stage() as stage:
        first = await stage.worker(App("stage"))
        client = await stage.client()
        handle = await client.start("waits", instance_id="a")
        await eventually(
            lambda: _parked(client, "a", "No worker that is alive knows the orchestration 'waits'. Deploy one")
        )
        await client.raise_event("a", "go", 1)
        await client.raise_event("a", "go", 2)
        await kept(stage, first, "a", 2)
        first.kill()
        await stage.worker(app)
        assert await handle.result(5) == [1, 2]
        assert (await client.get_status("a")).parked is None
        await stage.exact("a")


async def test_a_parked_instance_can_be_terminated() -> None:
    async with Stage() as stage:
        await stage.worker(App("stage"))
        client = await stage.client()
        await client.start("waits", instance_id="a")
        await eventually(lambda: _parked(client, "a", "waits"))
        await client.terminate("a")
        assert (await client.wait("a", 5)).runtime_status == "Terminated"


async def test_looking_at_a_parked_instance_again_leaves_no_trace() -> None:
    async with Stage() as stage:
        first = await stage.worker(App("stage"))
        client = await stage.client()
        await client.start("waits", instance_id="a")
        await eventually(lambda: _parked(client, "a", "waits"))
        first.kill()
        second = await stage.worker(App("stage"))
        await eventually(lambda: second.worker.turns.statistics.turns >= 1)
        await a_while()
        assert len(await stage.commits("a")) == 1


# Eviction


async def test_evicting_an_activation_does_not_let_its_finally_blocks_act() -> None:
    tidy = App("stage")
    cleaned: list[str] = []

    @tidy.activity
    async def clean(where: str) -> None:
        cleaned.append(where)

    @tidy.orchestration
    async def careful(context: OrchestrationContext) -> Any:
        try:
            first = await context.wait_for_external_event("go")
            second = await context.wait_for_external_event("go")
        except BaseException:
            context.set_custom_status("interrupted")
            context.continue_as_new(None)
            raise
        finally:
            await context.call_activity(clean, "done")
        return [first, second]

    async with Stage() as stage:
        worker = await stage.worker(tidy, memory=1)
        client = await stage.client(tidy)
        handle = await client.start(careful, instance_id="a")
        await eventually(lambda: stage.events("a"))
        await client.raise_event("a", "other")
        await kept(stage, worker, "a", 1)
        await client.raise_event("a", "go", 1)
        await kept(stage, worker, "a", 2)
        await eventually(lambda: worker.worker.turns.statistics.evictions >= 2)
        await client.raise_event("a", "go", 2)
        assert await handle.result(5) == [1, 2]
        events = await stage.exact("a")
        assert sum(isinstance(event, TaskScheduled) for event in events) == 1
        assert cleaned == ["done"]
        assert (await client.get_status("a")).custom_status is None


@pytest.mark.parametrize("busy", [False, True], ids=["at rest", "while it commits"])
async def test_stopping_a_worker_does_not_let_finally_blocks_act(busy: bool) -> None:
    seen: list[str] = []
    tidy = App("stage")

    @tidy.orchestration
    async def careful(context: OrchestrationContext) -> Any:
        try:
            return await context.wait_for_external_event("go")
        finally:
            context.call_activity("clean")
            seen.append(threading.current_thread().name)

    async with Stage() as stage:
        worker = await stage.worker(tidy)
        client = await stage.client(tidy)
        await client.start(careful, instance_id="a")
        await eventually(lambda: stage.events("a"))
        if busy:
            appending = worker.store.before["append"] = Gate()
            await client.raise_event("a", "other")
            await eventually(lambda: appending.waiting)
        await worker.worker.stop()
        assert seen == ["callboard-turns"]
        assert not await _scheduled(stage, "a")
        assert worker.broker.published("activities") == []


async def test_finally_blocks_that_hang_do_not_hold_up_others() -> None:
    rude = App("stage")

    @rude.orchestration
    async def clings(context: OrchestrationContext) -> Any:
        try:
            return await context.wait_for_external_event("go")
        finally:
            while True:
                pass

    rude.include(_as_blueprint())
    async with Stage() as stage:
        worker = await stage.worker(rude, turn_limit=0.2, memory=1)
        client = await stage.client(rude)
        await client.start(clings, instance_id="a")
        await eventually(lambda: worker.worker.turns.statistics.evictions >= 1)
        assert await (await client.start("quick", 1)).result(5) == 1


def _as_blueprint() -> App:
    others = App("stage")
    others.activity(echo)
    others.orchestration(quick)
    return others


# The watchdog


def stuck_app(*, stuck: bool = True) -> App:
    stuck_one = App("stage")

    @stuck_one.orchestration
    async def gets_stuck(context: OrchestrationContext) -> Any:
        first = await context.wait_for_external_event("go")
        while stuck:  # this very line
            pass
        return [first, await context.wait_for_external_event("go")]

    stuck_one.include(_as_blueprint())
    return stuck_one


async def test_an_orchestrator_that_never_awaits_is_interrupted_named_and_parked() -> None:
    async with Stage() as stage:
        first = await stage.worker(stuck_app(), turn_limit=0.3)
        thread = first.worker.turns._thread._thread
        client = await stage.client(stuck_app())
        handle = await client.start("gets_stuck", instance_id="a")
        await client.raise_event("a", "go", 1)
        others = [await client.start("quick", number) for number in range(3)]
        assert [await other.result(5) for other in others] == [0, 1, 2]
        await eventually(lambda: _parked(client, "a", "while stuck:"))
        parked = (await client.get_status("a")).parked
        assert parked is not None
        assert "move blocking or heavy work into an activity" in parked.reason
        assert "gets_stuck" in parked.reason
        assert first.worker.turns._thread._thread is thread, "it goes on with the next"
        await client.raise_event("a", "go", 2)
        await kept(stage, first, "a", 2)
        first.kill()
        await stage.worker(stuck_app(stuck=False))
        assert await handle.result(5) == [1, 2]
        await stage.exact("a")


@pytest.mark.parametrize("stubborn", [False, True], ids=["in C", "catching everything"])
async def test_one_that_cannot_be_interrupted_costs_a_thread_only(
    stubborn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[bool] = []
    stuck_one = App("stage")

    @stuck_one.orchestration
    async def gets_stuck(context: OrchestrationContext) -> Any:
        first = await context.wait_for_external_event("go")
        if not stubborn and not released:
            time.sleep(1.5)
        while stubborn and not released:
            with contextlib.suppress(BaseException):
                time.sleep(0.001)
        return [first, await context.wait_for_external_event("go")]

    stuck_one.include(_as_blueprint())
    async with Stage() as stage:
        worker = await stage.worker(stuck_one, turn_limit=0.2)
        client = await stage.client(stuck_one)
        handle = await client.start("gets_stuck", instance_id="a")
        others = [await client.start("quick", number) for number in range(3)]
        await client.raise_event("a", "go", 1)
        assert [await other.result(5) for other in others] == [0, 1, 2]
        await eventually(lambda: _parked(client, "a", "gets_stuck"))
        assert await (await client.start("quick", 7)).result(5) == 7
        await kept(stage, worker, "a", 1)
        # Resumed before it is repaired, it hangs once more, and is parked once more.
        await client.resume("a")
        await eventually(lambda: _resumed(stage))
        await eventually(lambda: _parked(client, "a", "gets_stuck"))
        turns = worker.worker.turns.statistics.turns
        await asyncio.sleep(0.6)
        assert worker.worker.turns.statistics.turns == turns, "it rests"
        released.append(True)
        await client.resume("a")
        await client.raise_event("a", "go", 2)
        assert await handle.result(5) == [1, 2]
        parkings = sum(isinstance(event, ExecutionParked) for event in await stage.exact("a"))
        assert parkings == 2


async def _resumed(stage: Stage) -> bool:
    return any(isinstance(event, ExecutionResumed) for event in await stage.events("a"))


async def test_a_new_life_of_the_id_is_not_taken_for_the_one_that_hung() -> None:
    hangs = [True]
    stuck_one = App("stage")

    @stuck_one.orchestration
    async def gets_stuck(context: OrchestrationContext) -> str:
        if hangs.pop():
            time.sleep(1)
        return "fine"

    async with Stage() as stage:
        await stage.worker(stuck_one, turn_limit=0.2)
        client = await stage.client(stuck_one)
        await client.start("gets_stuck", instance_id="a")
        await eventually(lambda: _parked(client, "a", "gets_stuck"))
        await client.terminate("a")
        await client.wait("a", 5)
        hangs.append(False)
        assert await (await client.start("gets_stuck", instance_id="a")).result(5) == "fine"


async def test_turns_about_as_long_as_the_limit_leave_the_loop_alive() -> None:
    busy = App("stage")

    @busy.orchestration
    async def takes_long(context: OrchestrationContext, seconds: float) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return "done"

    async with Stage() as stage:
        worker = await stage.worker(busy, turn_limit=0.02)
        client = await stage.client(busy)
        handles = [await client.start("takes_long", 0.018 + 0.001 * (number % 12)) for number in range(24)]
        for handle in handles:
            await eventually(functools.partial(_ended_or_parked, client, handle.instance_id), "it ends or is parked")
        await eventually(lambda: worker.worker.turns.quiet)
        assert not any(loop.done() for loop in worker.worker._loops)


class FakeActivation:
    def __init__(self) -> None:
        self.turns = 0

    def turn(self, messages: object, *, now: object, token: object, pace: object) -> object:
        self.turns += 1
        return self


@pytest.mark.parametrize("strike_at", [0, 1, 2, 3])
def test_an_interrupt_that_comes_late_does_not_reach_the_next_turn(strike_at: int) -> None:
    host = SystemHost()
    thread = TurnThread(host)
    activations = [FakeActivation() for _ in range(2)]
    jobs = [TurnJob(str(number), (), cast("Any", each)) for number, each in enumerate(activations)]
    batch = _Batch((), jobs, datetime.now(UTC), host.monotonic)
    uses = [0]

    class Lock:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            uses[0] += 1
            if uses[0] == strike_at:
                raise TurnInterrupted

    batch.lock = cast("Any", Lock())
    thread._work(batch)
    assert batch.since is None
    assert [each.turns for each in activations][1] == (0 if strike_at == 3 else 1)
    assert all(job.error is None for job in jobs)
    thread.close()
    host.close()


async def _ended_or_parked(client: Any, instance_id: str) -> bool:
    status = await client.get_status(instance_id)
    return status.is_terminal or status.parked is not None


async def test_a_worker_stops_although_an_orchestrator_is_stuck() -> None:
    async with Stage() as stage:
        worker = await stage.worker(stuck_app(), turn_limit=30.0)
        client = await stage.client(stuck_app())
        await client.start("gets_stuck", instance_id="a")
        now = datetime.now(UTC)
        await stage.publish(stage.queue_of("a"), RaiseEvent(instance_id="a", message_id="m", name="go", at=now))
        await eventually(lambda: "while stuck:" in worker.worker.turns._thread._thread.stack())
        worker.worker.turns._thread._limit = 0.1
        await asyncio.wait_for(worker.worker.stop(), 5)
