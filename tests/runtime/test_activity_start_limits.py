"""``schedule_to_start``: a call that no worker begins in time fails, whether or not there is any worker."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from callboard import App, OrchestrationContext, TaskFailedError, startlimits
from callboard.core.events import TaskCompleted, TaskFailed
from callboard.core.messages import ActivityCall, TaskResult
from callboard.core.timeouts import TIMED_OUT
from callboard.errors import StoreUnavailableError
from callboard.ports import Destination
from tests.runtime.support import PARTITIONS, Failing, Stage, a_while, eventually

pytestmark = pytest.mark.usefixtures("fast")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startlimits, "SECOND_LOOK", 0.05)


class Play:
    def __init__(self, *, limit: float) -> None:
        self.app = App("stage")
        self.app.activity(self.work)
        self.app.orchestration(self.calls)
        self.limit = limit
        self.started = 0
        self.go = asyncio.Event()

    async def work(self) -> str:
        self.started += 1
        await self.go.wait()
        return "done"

    async def calls(self, context: OrchestrationContext) -> str:
        try:
            return await context.call_activity(self.work, schedule_to_start=self.limit)
        except TaskFailedError as error:
            return f"{error.failure.error_type}: {error.failure.error_message}"


async def rows(stage: Stage) -> list[bool]:
    until = datetime.now(UTC) + timedelta(days=1)
    return [row.of_task for row in await stage.store.due_timers(list(range(PARTITIONS)), until=until, limit=9)]


async def no_rows(stage: Stage) -> bool:
    return await rows(stage) == []


async def test_a_call_that_nobody_serves_fails_when_its_time_has_come() -> None:
    play = Play(limit=0.1)
    async with Stage() as stage:
        await stage.worker(play.app, only="orchestrations")
        handle = await (await stage.client(play.app)).start("calls", instance_id="a")
        assert await handle.result(5) == (
            f"{TIMED_OUT}: No worker began it within its schedule_to_start limit: is one running that serves its queue?"
        )
        (failed,) = (event for event in await stage.exact("a") if isinstance(event, TaskFailed))
        assert not failed.failure.is_non_retriable
        await eventually(lambda: no_rows(stage))
        # It is still in the queue. Whoever serves it at last does not begin it.
        late = await stage.worker(play.app, only="activities")
        await eventually(lambda: late.worker.activities.executed)
        await eventually(lambda: late.worker.activities.idle)
        assert play.started == 0


async def test_a_call_that_began_in_time_may_take_as_long_as_it_likes() -> None:
    play = Play(limit=0.3)
    async with Stage() as stage:
        owner = await stage.worker(play.app, only="orchestrations")
        acts = await stage.worker(play.app, only="activities")
        handle = await (await stage.client(play.app)).start("calls", instance_id="a")
        await eventually(lambda: play.started)
        assert acts.store.counts["claim"] == 1, "it is claimed before it begins"
        await eventually(lambda: owner.store.counts["claims"], "its owner looks when the time has come")
        await eventually(lambda: no_rows(stage))
        await a_while()
        play.go.set()
        assert await handle.result(5) == "done"
        assert sum(isinstance(event, TaskCompleted) for event in await stage.exact("a")) == 1


async def test_an_end_in_time_lifts_the_limit() -> None:
    play = Play(limit=60)
    play.go.set()
    async with Stage() as stage:
        owner = await stage.worker(play.app)

        @play.app.orchestration
        async def goes_on(context: OrchestrationContext) -> None:
            await context.call_activity(play.work, schedule_to_start=60)
            await context.wait_for_external_event("never")

        await (await stage.client(play.app)).start(goes_on, instance_id="a")
        await eventually(lambda: _completed(stage))
        await eventually(lambda: owner.worker.effects.idle)
        assert owner.store.counts["put_timers"] == 1
        assert await rows(stage) == []


async def _completed(stage: Stage) -> bool:
    return any(isinstance(event, TaskCompleted) for event in await stage.events("a"))


async def test_the_next_owner_keeps_the_limit() -> None:
    play = Play(limit=0.5)
    async with Stage() as stage:
        first = await stage.worker(play.app, only="orchestrations")
        handle = await (await stage.client(play.app)).start("calls", instance_id="a")
        await eventually(lambda: rows(stage))
        first.kill()
        assert await rows(stage) == [True]
        await stage.worker(play.app, only="orchestrations")
        assert (await handle.result(10)).startswith(TIMED_OUT)


async def test_a_look_that_fails_is_looked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.timers.OVERDUE", 0.05)
    play = Play(limit=0.05)
    async with Stage() as stage:
        owner = await stage.worker(play.app, only="orchestrations")
        broken = owner.store.before["claims"] = Failing(ValueError("who knows"), times=3)
        gone = owner.store.after["claims"] = Failing(StoreUnavailableError("gone"), times=1)
        handle = await (await stage.client(play.app)).start("calls", instance_id="a")
        assert (await handle.result(10)).startswith(TIMED_OUT)
        assert (broken.raised, gone.raised) == (3, 1)


async def test_a_worker_does_not_begin_what_is_too_late() -> None:
    play = Play(limit=1)
    async with Stage() as stage:
        acts = await stage.worker(play.app, only="activities")
        call = ActivityCall(
            instance_id="a",
            execution_id="e" * 32,
            task_scheduled_id=0,
            name="work",
            start_by=datetime.now(UTC) - timedelta(seconds=1),
        )
        await stage.publish(Destination.activities("default"), call)
        (result,) = await eventually(lambda: acts.broker.published("partition"))
        assert isinstance(result, TaskResult)
        assert result.failure is not None
        assert result.failure.error_type == TIMED_OUT
        assert play.started == 0
        assert acts.store.counts["claim"] == 0


async def test_a_call_that_was_claimed_once_was_begun_in_time() -> None:
    play = Play(limit=0.4)
    async with Stage() as stage:
        await stage.worker(play.app, only="orchestrations")
        acts = await stage.worker(play.app, only="activities")
        acts.worker.activities.claims.ttl = 0.2
        handle = await (await stage.client(play.app)).start("calls", instance_id="a")
        await eventually(lambda: play.started)
        acts.kill()
        await asyncio.sleep(0.5)  # the limit passes, while the call waits for another worker
        play.go.set()
        await stage.worker(play.app, only="activities")
        assert await handle.result(5) == "done"
