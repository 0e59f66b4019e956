"""Who acts for which partition: balanced, taken over, fenced; and what a hand-over does to what is in hand."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import functools
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from callboard import App, OrchestrationContext, ownership, watchers
from callboard.core.instances import partition_of
from callboard.core.messages import RaiseEvent, Watch
from callboard.errors import StoreUnavailableError
from callboard.host import SystemHost
from callboard.ownership import Ownership, _share
from callboard.ports import Broker, Destination, HubView, Lease, Store, WorkerInfo
from callboard_broker.memory import MemoryBroker, MemoryServer
from callboard_store.sqlite import SQLiteStore
from tests.runtime.support import PARTITIONS, Failing, Gate, Player, Stage, a_while, eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def info(name: str, *, orchestrations: bool = True) -> WorkerInfo:
    return WorkerInfo(worker_id=name, host="h", pid=1, started=NOW, orchestrations=orchestrations, queues=())


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Crew:
    """Owners without workers behind them, stepped by hand: one step is one heartbeat."""

    def __init__(self, partitions: int) -> None:
        self.clock = Clock()
        self.store = SQLiteStore(None, clock=self.clock)
        self.partitions = partitions
        self.server = MemoryServer()
        self.owners: dict[str, Ownership] = {}
        self.acting: dict[str, set[int]] = {}
        self.host = SystemHost()

    async def open(self) -> None:
        await self.store.open("crew", self.partitions)
        self.broker = MemoryBroker(self.server)
        await self.broker.open("crew", self.partitions)

    def join(self, name: str, *, orchestrations: bool = True) -> Ownership:
        acting = self.acting[name] = set[int]()

        async def gain(partitions: frozenset[int]) -> None:
            assert not acting & partitions
            acting.update(partitions)

        async def lose(partitions: frozenset[int], *, orderly: bool) -> None:
            acting.difference_update(partitions)

        self.owners[name] = owner = Ownership(
            cast("Store", self.store),
            cast("Broker", self.broker),
            self.host,
            info(name, orchestrations=orchestrations),
            gain=gain,
            lose=lose,
            seen=lambda _view: None,
            lease=15.0,
        )
        return owner

    async def step(self, *names: str, rounds: int = 1) -> None:
        for _ in range(rounds):
            for name in names or list(self.owners):
                view = await self.store.heartbeat(self.owners[name]._worker, ttl=15.0)
                await self.owners[name]._balance(view)
                assert self.owners[name].owned == self.acting[name]
            self.clock.now += 4.0

    def counts(self) -> list[int]:
        return sorted(len(acting) for acting in self.acting.values())

    async def aclose(self) -> None:
        await self.broker.aclose()
        await self.store.aclose()
        self.host.close()


async def crew_of(partitions: int) -> Crew:
    crew = Crew(partitions)
    await crew.open()
    return crew


async def test_partitions_spread_evenly_as_workers_come_and_go() -> None:
    crew = await crew_of(32)
    for count in range(1, 7):
        crew.join(f"w{count}")
        await crew.step(rounds=4)
        fewest, most = 32 // count, -(-32 // count)
        assert sum(crew.counts()) == 32
        assert set(crew.counts()) <= {fewest, most}
    for name in ("w2", "w5", "w6"):
        await crew.owners.pop(name).leave()
        assert not crew.acting.pop(name)
    await crew.step(rounds=4)
    assert sum(crew.counts()) == 32
    assert set(crew.counts()) <= {10, 11}
    await crew.aclose()


async def test_nothing_moves_once_it_is_balanced() -> None:
    crew = await crew_of(10)
    for name in ("a", "b", "c"):
        crew.join(name)
    await crew.step(rounds=5)
    before = {name: set(acting) for name, acting in crew.acting.items()}
    await crew.step(rounds=10)
    assert crew.acting == before
    await crew.aclose()


async def test_more_workers_than_partitions_leave_some_without() -> None:
    crew = await crew_of(3)
    for name in ("a", "b", "c", "d", "e"):
        crew.join(name)
        await crew.step(rounds=2)
    assert crew.counts() == [0, 0, 1, 1, 1]
    await crew.aclose()


async def test_workers_of_activities_take_no_partition() -> None:
    crew = await crew_of(8)
    crew.join("a")
    crew.join("b", orchestrations=False)
    await crew.step(rounds=3)
    assert crew.acting["a"] == set(range(8))
    assert crew.acting["b"] == set()
    await crew.aclose()


async def test_a_newcomer_does_not_starve_although_the_others_hold_no_more_than_most() -> None:
    # Five partitions, two workers with 3 and 2; a third comes: 2, 2, 1 is fair, so the one with 3 gives up one.
    crew = await crew_of(5)
    crew.join("a")
    crew.join("b")
    await crew.step(rounds=3)
    assert crew.counts() == [2, 3]
    crew.join("c")
    await crew.step(rounds=4)
    assert crew.counts() == [1, 2, 2]
    await crew.aclose()


def view(partitions: dict[str, int], *, total: int, others: tuple[str, ...] = ()) -> HubView:
    owners = [owner for owner, count in partitions.items() for _ in range(count)]
    owners_or_none = [*owners, *[None] * (total - len(owners))]
    leases = tuple(Lease(partition=at, owner=owner, epoch=1, expired=False) for at, owner in enumerate(owners_or_none))
    return HubView(now=NOW, workers=tuple(info(name) for name in (*partitions, *others)), leases=leases)


@pytest.mark.parametrize(
    ("held", "total", "share"),
    [
        ({"me": 4}, 4, 4),
        ({"me": 0, "x": 4}, 4, 2),
        ({"me": 4, "x": 0}, 4, 2),
        ({"me": 2, "x": 2, "y": 0}, 4, 1),  # somebody starves: the fewest
        ({"me": 2, "x": 1, "y": 1}, 4, 2),  # nobody does: the most
        ({"me": 1, "x": 1, "y": 1, "z": 0}, 3, 1),
        ({"me": 0}, 32, 32),
    ],
)
def test_shares(held: dict[str, int], total: int, share: int) -> None:
    assert _share(view(held, total=total), "me") == share


async def test_a_worker_that_is_not_heard_of_loses_its_partitions_and_learns_of_it() -> None:
    crew = await crew_of(8)
    crew.join("a")
    await crew.step(rounds=2)
    crew.join("b")
    await crew.step("b")
    crew.clock.now += 20.0  # "a" sleeps
    await crew.step("b")
    assert crew.acting["b"] == set(range(8))
    assert crew.acting["a"] == set(range(8))  # a zombie: it does not know yet
    await crew.step("a")
    assert not crew.acting["a"] & crew.acting["b"]
    await crew.step(rounds=3)
    assert crew.counts() == [4, 4]
    await crew.aclose()


async def test_epochs_only_grow() -> None:
    crew = await crew_of(4)
    crew.join("a")
    await crew.step()
    first = [lease.epoch for lease in (await crew.store.view(ttl=15)).leases]
    await crew.owners.pop("a").leave()
    crew.acting.pop("a")
    crew.join("b")
    await crew.step()
    second = [lease.epoch for lease in (await crew.store.view(ttl=15)).leases]
    assert all(after > before for before, after in zip(first, second, strict=True))
    await crew.aclose()


# With workers behind them


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, fast: None) -> None:
    monkeypatch.setattr(ownership, "LEAST_PAUSE", 0.01)
    monkeypatch.setattr(ownership, "SECOND_LOOK", 0.1)
    monkeypatch.setattr(ownership, "SETTLE", 0.3)
    monkeypatch.setattr(ownership, "REACH", 0.1)


app = App("stage")


@app.activity
async def echo(value: Any) -> Any:
    return value


@app.orchestration
async def waits(context: OrchestrationContext) -> Any:
    first = await context.wait_for_external_event("go")
    return await context.call_activity(echo, first)


LEASED: dict[str, Any] = {"balance": True, "lease": 3.0, "heartbeat": 0.3}


def _beats_beyond(player: Player, beats: int) -> bool:
    return player.store.counts["heartbeat"] > beats


def owned(*players: Player) -> list[int]:
    return sorted(len(player.worker._owned) for player in players)


@pytest.mark.usefixtures("quick")
async def test_a_worker_that_dies_is_noticed_by_its_missing_inbox() -> None:
    async with Stage() as stage:
        first, second = await stage.worker(app, **LEASED | {"lease": 60.0}), await stage.worker(app, **LEASED)
        await eventually(lambda: owned(first, second) == [2, 2])
        first.kill()
        # Long before its lease of a minute has run out.
        await eventually(lambda: owned(second) == [PARTITIONS], within=5)


@pytest.mark.usefixtures("quick")
async def test_a_worker_that_reconnects_in_time_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "SECOND_LOOK", 1.0)
    async with Stage() as stage:
        first, second = await stage.worker(app, **LEASED), await stage.worker(app, **LEASED)
        await eventually(lambda: owned(first, second) == [2, 2])
        before = first.worker._owned
        first.broker.inner.drop_connection(outage_seconds=0.5)
        for _ in range(3):
            beats = second.store.counts["heartbeat"]
            second.worker.ownership.look_again()
            await eventually(functools.partial(_beats_beyond, second, beats), "another heartbeat")
        assert second.worker.ownership._suspects
        await eventually(lambda: not second.worker.ownership._suspects)
        assert first.worker._owned == before
        assert second.store.counts["leave"] == 0


@pytest.mark.usefixtures("quick")
async def test_without_the_store_a_worker_stops_acting_before_its_lease_is_over_and_comes_back() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app, balance=True, lease=1.0, heartbeat=0.1)
        await eventually(lambda: owned(worker) == [PARTITIONS])
        worker.store.before["heartbeat"] = Failing(StoreUnavailableError("away"), times=10_000)
        await eventually(lambda: owned(worker) == [0])
        worker.store.before.clear()
        await eventually(lambda: owned(worker) == [PARTITIONS])
        client = await stage.client(app)
        handle = await client.start(waits)
        await client.raise_event(handle.instance_id, "go", 1)
        assert await handle.result(5) == 1


@pytest.mark.usefixtures("quick")
async def test_heartbeats_go_on_while_the_broker_is_away() -> None:
    async with Stage() as stage:
        first, second = await stage.worker(app, **LEASED), await stage.worker(app, **LEASED)
        await eventually(lambda: owned(first, second) == [2, 2])
        first.broker.before["publish"] = second.broker.before["publish"] = away = Gate()
        beats = first.store.counts["heartbeat"]
        await eventually(lambda: first.store.counts["heartbeat"] > beats + 5)
        assert owned(first, second) == [2, 2]
        away.open()


@pytest.mark.usefixtures("quick")
async def test_work_goes_on_while_partitions_move() -> None:
    async with Stage() as stage:
        first = await stage.worker(app, **LEASED)
        client = await stage.client(app)
        handles = [await client.start(waits, instance_id=f"i{number}") for number in range(40)]
        second = await stage.worker(app, **LEASED)
        for number in range(20):
            await client.raise_event(f"i{number}", "go", number)
        await eventually(lambda: owned(first, second) == [2, 2])
        stopping = asyncio.ensure_future(first.worker.stop())
        for number in range(20, 40):
            await client.raise_event(f"i{number}", "go", number)
        await stopping
        assert [await handle.result(10) for handle in handles] == list(range(40))
        for number in range(40):
            await stage.exact(f"i{number}")


@pytest.mark.usefixtures("fast")
async def test_a_letter_that_came_by_another_queue_is_not_lost_when_its_partition_is() -> None:
    """All that goes to one owner goes through one of its queues; that queue may stay when the letter's partition goes."""
    async with Stage() as stage:
        worker = stage.enter(app)
        loading = Gate()
        await worker.start()
        client = await stage.client(app)
        instance_id = next(f"i{number}" for number in range(100) if partition_of(f"i{number}", PARTITIONS) == 3)
        handle = await client.start(waits, instance_id=instance_id)
        await eventually(lambda: worker.worker.turns.runs(instance_id))
        appending = worker.store.before["append"] = loading
        event = RaiseEvent(instance_id=instance_id, message_id="m1", name="other", at=NOW)
        await stage.publish(Destination.partition(0), event)  # keeps the instance busy
        await eventually(lambda: appending.waiting)
        await stage.publish(
            Destination.partition(0), RaiseEvent(instance_id=instance_id, message_id="m2", name="go", at=NOW, input="1")
        )
        await eventually(lambda: worker.broker.unacked(Destination.partition(0)) == 2)
        losing = asyncio.ensure_future(worker.worker._lose(frozenset({3}), orderly=False))
        await losing
        successor = await stage.worker(app)
        loading.open()
        assert await handle.result(5) == 1
        await eventually(lambda: worker.broker.unacked() + successor.broker.unacked() == 0)
        await stage.exact(instance_id)


@pytest.mark.usefixtures("fast")
async def test_a_request_to_watch_that_came_to_the_wrong_worker_reaches_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchers, "MOST_WATCHED", 1000)
    async with Stage() as stage:
        wrong, right = await stage.worker(app), await stage.worker(app)
        await wrong.worker._lose(frozenset({3}), orderly=True)
        await right.worker._lose(frozenset({0, 1, 2}), orderly=True)
        instance_id = next(f"i{number}" for number in range(100) if partition_of(f"i{number}", PARTITIONS) == 3)
        await stage.publish(Destination.partition(0), Watch(instance_id=instance_id, reply_to="somebody"))
        await eventually(lambda: right.worker.watchers._watched)
        assert not wrong.worker.watchers._watched


@pytest.mark.usefixtures("quick")
async def test_a_worker_stops_although_the_store_is_away() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app, **LEASED)
        await eventually(lambda: owned(worker) == [PARTITIONS])
        for name in ("release", "view", "leave"):
            worker.store.before[name] = Failing(StoreUnavailableError("away"), times=1000)
        running = asyncio.ensure_future(worker.worker._stopped.wait())
        await asyncio.wait_for(worker.worker.stop(), 5)
        assert await running
        await a_while()
        assert all(task.done() for task in worker.host.tasks)


@pytest.mark.usefixtures("fast")
async def test_a_part_that_fails_unforeseen_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.worker.AFTER_ERROR", 0.05)
    async with Stage() as stage:
        worker = await stage.worker(app, **LEASED)
        await eventually(lambda: owned(worker) == [PARTITIONS])
        broken = {
            name: worker.store.before.setdefault(name, Failing(RuntimeError("a bug"), times=2))
            for name in ("unsent", "due_timers", "heartbeat")
        }
        worker.worker.timers._stale = True
        worker.worker.timers._wake.set()
        await eventually(lambda: all(cast("Failing", hook).left < 2 for hook in broken.values()))
        client = await stage.client(app)
        handle = await client.start(waits)
        await client.raise_event(handle.instance_id, "go", 1)
        assert await handle.result(5) == 1
        counts = worker.store.counts.copy()
        await eventually(lambda: worker.store.counts["heartbeat"] > counts["heartbeat"] + 2)
        await eventually(lambda: worker.store.counts["unsent"] > counts["unsent"] + 2)
        worker.worker.timers._stale = True
        worker.worker.timers._wake.set()
        await eventually(lambda: worker.store.counts["due_timers"] > counts["due_timers"])
