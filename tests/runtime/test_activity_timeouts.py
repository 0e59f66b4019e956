"""Time limits of activities: a run that takes too long or falls silent has failed, whatever it does afterwards."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from callboard import ActivityContext, App, OrchestrationContext, TaskFailedError
from callboard.activities.intake import CallAccount, DeliveryCalls
from callboard.activities.runs import Run
from callboard.activities.watching import overdue
from callboard.core.events import TaskCompleted, TaskFailed
from callboard.core.failure import FailureDetails
from callboard.core.messages import ActivityCall
from callboard.core.timeouts import TIMED_OUT, Timeouts
from tests.runtime.support import Stage, a_while, eventually

if TYPE_CHECKING:
    from callboard.ports import Delivery

pytestmark = pytest.mark.usefixtures("fast")


class Slow:
    """Activities that go on until they are let go."""

    def __init__(self) -> None:
        self.app = App("stage")
        self.go = threading.Event()
        self.stopped: list[str] = []
        self.started: list[str] = []
        self.app.activity(timeout=0.15)(self.waits)
        self.app.activity(timeout=timedelta(milliseconds=150))(self.blocks)
        self.app.activity(heartbeat_timeout=0.15)(self.falls_silent)
        self.app.activity(timeout=60, heartbeat_timeout=60)(self.within)
        self.app.orchestration(self.calls)
        self.app.orchestration(self.gives_time)

    async def waits(self) -> None:
        self.started.append("waits")
        try:
            await asyncio.Future[None]()
        finally:
            self.stopped.append("waits")

    def blocks(self, context: ActivityContext) -> str:
        self.started.append("blocks")
        context.heartbeat("begun")
        self.go.wait(10)
        self.stopped.append(f"blocks {context.cancelled}")
        return "too late"

    async def falls_silent(self, context: ActivityContext) -> None:
        for number in range(3):
            context.heartbeat(number)
            await asyncio.sleep(0.01)
        await self.waits()

    async def within(self) -> str:
        return "well"

    async def calls(self, context: OrchestrationContext, name: str) -> list[Any]:
        try:
            return ["result", await context.call_activity(name)]
        except TaskFailedError as error:
            return [error.failure.error_type, error.failure.error_message, error.heartbeat_details]

    async def gives_time(self, context: OrchestrationContext, name: str) -> str:
        return str(await context.call_activity(name, timeout=60, heartbeat_timeout=60))


@pytest.mark.parametrize(
    ("name", "message", "details"),
    [
        ("waits", "A run of it took longer than its timeout (start-to-close) of 0.15 s.", None),
        ("blocks", "A run of it took longer than its timeout (start-to-close) of 0.15 s.", '"begun"'),
        ("falls_silent", "A run of it sent no heartbeat within its heartbeat_timeout of 0.15 s.", "2"),
    ],
)
async def test_a_run_over_its_limit_has_failed_and_is_told_to_stop(
    name: str, message: str, details: str | None
) -> None:
    slow = Slow()
    async with Stage() as stage:
        await stage.worker(slow.app, only="orchestrations")
        acts = await stage.worker(slow.app, only="activities")
        handle = await (await stage.client(slow.app)).start("calls", name, instance_id="a")
        assert await handle.result(5) == [TIMED_OUT, message, details]
        slow.go.set()
        await eventually(lambda: slow.stopped == (["blocks True"] if name == "blocks" else ["waits"]))
        await eventually(lambda: acts.worker.activities.idle)
        assert len(acts.broker.published("partition")) == 1, "what it returned after that is dropped"
        events = await stage.exact("a")
        assert sum(isinstance(event, TaskFailed) for event in events) == 1
        assert not any(isinstance(event, TaskCompleted) for event in events)
        await eventually(lambda: _no_claims(stage))


async def _no_claims(stage: Stage) -> bool:
    return not await stage.store.claims("a")


async def test_a_run_within_its_limits_is_left_alone() -> None:
    slow = Slow()
    async with Stage() as stage:
        worker = await stage.worker(slow.app)
        handle = await (await stage.client(slow.app)).start("calls", "within")
        assert await handle.result(10) == ["result", "well"]
        await eventually(lambda: worker.worker.activities.idle)


def test_each_limit_counts_from_its_own_beginning() -> None:
    clock = 100.0
    call = ActivityCall(instance_id="a", execution_id="e", task_scheduled_id=0, name="work")
    account = CallAccount(DeliveryCalls(cast("Delivery", None), 2))
    run = Run(call, account, "w", now=lambda: datetime.now(UTC), monotonic=lambda: clock)
    run.begin()
    both = Timeouts(start_to_close=10, heartbeat=3)
    assert overdue(run, Timeouts(), 1e9) is None
    assert overdue(run, both, 101) == 2
    assert _message(overdue(run, both, 103)).startswith("A run of it sent no heartbeat")
    clock = 102.5
    run.beat(None)
    assert overdue(run, both, 103) == 2.5
    clock = 108
    run.beat(None)
    assert overdue(run, both, 108) == 2
    assert _message(overdue(run, both, 110)).startswith("A run of it took longer")


def _message(verdict: float | FailureDetails | None) -> str:
    assert isinstance(verdict, FailureDetails)
    return verdict.error_message


async def test_a_call_may_give_more_time_than_the_activity_is_registered_with() -> None:
    slow = Slow()
    async with Stage() as stage:
        await stage.worker(slow.app)
        handle = await (await stage.client(slow.app)).start("gives_time", "blocks")
        await eventually(lambda: slow.started)
        await asyncio.sleep(0.3)
        slow.go.set()
        assert await handle.result(5) == "too late"


async def test_a_limit_counts_even_where_the_caller_does_not_know_the_activity() -> None:
    slow, caller = Slow(), App("stage")

    @caller.orchestration
    async def calls(context: OrchestrationContext) -> str:
        try:
            await context.call_activity("waits")
        except TaskFailedError as error:
            return error.failure.error_type
        return "no"

    async with Stage() as stage:
        await stage.worker(caller, only="orchestrations")
        await stage.worker(slow.app, only="activities")
        handle = await (await stage.client(caller)).start(calls)
        assert await handle.result(5) == TIMED_OUT


async def test_a_thread_that_does_not_stop_keeps_its_place() -> None:
    slow = Slow()
    async with Stage() as stage:
        await stage.worker(slow.app, only="orchestrations")
        acts = await stage.worker(slow.app, only="activities", concurrency=1)
        client = await stage.client(slow.app)
        await (await client.start("calls", "blocks")).result(5)
        second = await client.start("calls", "within")
        await a_while()
        assert len(acts.worker.activities._running) == 1
        slow.go.set()
        assert await second.result(5) == ["result", "well"]
