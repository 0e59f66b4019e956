"""What the chaos tests once found, each on its own and quickly: these fail for the one reason that they name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from callboard import App, OrchestrationContext
from callboard.consumers import PartitionConsumers
from callboard.core.instances import InstanceRecord
from callboard.core.messages import StartExecution, TimerDue
from callboard.core.turn import Activation
from callboard.errors import BrokerUnavailableError, UnroutableError
from callboard.host import SystemHost
from callboard.mailbox import Account, Letter
from callboard.ownership import Ownership
from callboard.ports import (
    Delivery,
    Destination,
    HubView,
    Lease,
    Store,
    Subscription,
    TimerRow,
    WorkerInfo,
)
from callboard.timers import Timers
from callboard.turnthread import TurnJob, TurnThread


class JumpingHost(SystemHost):
    """A machine whose clock jumps ahead, as it does for a process that was stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


async def test_a_turn_is_not_blamed_for_a_process_that_was_stopped() -> None:
    app = App("stopped")
    host = JumpingHost()

    @app.orchestration
    async def busy(context: OrchestrationContext) -> str:
        time.sleep(0.4)
        host.ahead += 60  # SIGSTOP, SIGCONT
        time.sleep(0.6)
        return "done"

    now = host.now()
    record = InstanceRecord(
        instance_id="1", partition=0, execution_id="e", name="busy", created_time=now, last_updated_time=now
    )
    definition = app.registry.orchestrations["busy"]
    message = StartExecution(instance_id="1", execution_id="e")
    job = TurnJob("1", [message], None, lambda: Activation(record, (), definition, app.registry))
    thread = TurnThread(host, limit=2.0)
    assert await thread.run([job], now) is None
    assert job.turn is not None
    assert job.turn.commit is not None
    assert job.turn.commit.runtime_status == "Completed"
    thread.close()
    host.close()


class TimerStore:
    """Has the rows that a test puts there, and calls the test when it is read."""

    def __init__(self) -> None:
        self.rows: list[TimerRow] = []
        self.when_read: Callable[[], None] = lambda: None

    async def due_timers(self, partitions: Sequence[int], *, until: datetime, limit: int) -> list[TimerRow]:
        found = [row for row in self.rows if row.fire_at <= until][:limit]
        self.when_read()
        await asyncio.sleep(0)
        return found


async def fired(store: TimerStore, row: TimerRow, *, within: float) -> bool:
    """Whether the timers of a worker that owns partition 0 fire one row in time."""
    letters: list[Letter] = []
    host = SystemHost()

    def post(letter: Letter) -> bool:
        letters.append(letter)
        return True

    def limit_due(row: TimerRow, account: Account) -> None:
        raise AssertionError(f"{row} is no limit")

    timers = Timers(cast("Store", store), host, post, limit_due)
    timers.own(frozenset({0}))
    store.when_read = lambda: timers.schedule(row)
    task = asyncio.create_task(timers.run())
    until = time.monotonic() + within
    while not letters and time.monotonic() < until:
        await asyncio.sleep(0.01)
    task.cancel()
    host.close()
    return [message for message in (letter.message for letter in letters) if isinstance(message, TimerDue)] != []


def row_due(seconds: float) -> TimerRow:
    due = SystemHost().now() + timedelta(seconds=seconds)
    return TimerRow(instance_id="1", execution_id="e", timer_id=0, partition=0, fire_at=due)


async def test_a_timer_that_is_set_while_rows_are_read_fires_in_time() -> None:
    assert await fired(TimerStore(), row_due(0.2), within=1.0)


async def test_a_row_that_a_former_owner_wrote_late_fires_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.timers.OVERDUE", 0.3)
    store = TimerStore()
    late = row_due(0.1)
    asyncio.get_running_loop().call_later(0.2, store.rows.append, late)
    other = TimerRow(instance_id="2", execution_id="e", timer_id=0, partition=7, fire_at=late.fire_at)
    assert await fired(store, other, within=1.5)


class LostSubscription:
    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


class AbsentBroker:
    """A server that is away, until a test brings it back."""

    def __init__(self) -> None:
        self.back = asyncio.Event()
        self.gone: set[str] = set()
        self.consumed: list[str] = []
        self.published: list[str] = []

    async def publish(self, destination: Destination, body: bytes, headers: object = None) -> None:
        await self.back.wait()
        self.published.append(destination.name)
        if destination.name in self.gone:
            raise UnroutableError(destination)

    async def consume(
        self, destination: Destination, on_delivery: Callable[[Delivery], None], *, prefetch: int = 100
    ) -> Subscription:
        if not self.back.is_set():
            raise BrokerUnavailableError("away")
        self.consumed.append(destination.name)
        return LostSubscription()


class LeaseStore:
    """Counts heartbeats of the worker ``me``, beside workers that only a view shows."""

    def __init__(self, *others: str) -> None:
        self.heartbeats = 0
        self.left: list[str] = []
        self.workers = ["me", *others]

    async def heartbeat(self, worker: WorkerInfo, *, ttl: float) -> HubView:
        self.heartbeats += 1
        return await self.view(ttl=ttl)

    async def view(self, *, ttl: float) -> HubView:
        now = SystemHost().now()
        return HubView(
            now=now,
            workers=tuple(info(worker) for worker in self.workers),
            leases=(Lease(partition=0, owner="me", epoch=1, expired=False),),
        )

    async def leave(self, worker_id: str) -> None:
        self.left.append(worker_id)
        self.workers.remove(worker_id)


def info(worker_id: str) -> WorkerInfo:
    return WorkerInfo(
        worker_id=worker_id, host="here", pid=1, started=SystemHost().now(), orchestrations=worker_id == "me", queues=()
    )


async def _nothing(*_: object, **__: object) -> None:
    """Gains or loses."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience, for a quick test."""
    monkeypatch.setattr("callboard.ownership.REACH", 0.2)
    monkeypatch.setattr("callboard.ownership.SECOND_LOOK", 0.3)


def ownership(store: LeaseStore, broker: AbsentBroker, host: SystemHost) -> Ownership:
    known: dict[str, Any] = {"store": store, "broker": broker, "host": host, "worker": info("me")}
    return Ownership(**known, gain=_nothing, lose=_nothing, seen=lambda _view: None, lease=2.0, heartbeat=0.3)


async def running(work: Awaitable[None], seconds: float) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(seconds)
    task.cancel()


@pytest.mark.usefixtures("impatient")
async def test_heartbeats_go_on_while_the_broker_is_away() -> None:
    store, host = LeaseStore("other"), SystemHost()
    await running(ownership(store, AbsentBroker(), host).run(), 1.5)
    assert store.heartbeats >= 2  # a publish that waits for its broker lasts 30 s
    host.close()


@pytest.mark.usefixtures("impatient")
async def test_several_dead_workers_are_noticed_together() -> None:
    store, broker, host = LeaseStore("a", "b", "c", "alive"), AbsentBroker(), SystemHost()
    broker.back.set()
    broker.gone = {"a", "b", "c"}
    await running(ownership(store, broker, host).run(), 1.5)
    assert sorted(store.left) == ["a", "b", "c"]
    host.close()


@pytest.mark.usefixtures("impatient")
async def test_nobody_is_taken_for_dead_because_the_broker_was_away() -> None:
    store, broker, host = LeaseStore("a"), AbsentBroker(), SystemHost()
    broker.back.set()
    broker.gone = {"a"}
    owner = ownership(store, broker, host)
    owner.reconnected()
    await running(owner.run(), 1.5)
    assert store.left == []
    host.close()


async def test_partitions_gained_while_the_broker_is_away_are_consumed_when_it_is_back() -> None:
    broker, host = AbsentBroker(), SystemHost()
    consumers = PartitionConsumers(cast("Any", broker), host, lambda _delivery, _source: None, prefetch=1)
    consumers.start(frozenset({0, 1, 2}))
    await asyncio.sleep(0.05)
    await consumers.stop(frozenset({2}))
    assert broker.consumed == []
    broker.back.set()
    await asyncio.sleep(0.5)
    assert sorted(broker.consumed) == ["0", "1"]
    await consumers.aclose()
    host.close()
