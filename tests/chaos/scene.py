"""One test's hub, seen from the test: starts instances, raises events, waits for the end, and has it judged."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from callboard.client import Client
from callboard.hub import TaskHub
from callboard.ports import InstanceFilter
from tests.chaos import checker
from tests.chaos.fleet import Fleet
from tests.chaos.programs import NAP, Errand, Ledger, errand_result, make_app, tally_result
from tests.chaos.waiting import describe
from tests.chaos.worker_process import Orders

#: When what is still going on is worth a look, in seconds.
SLOW = 12.0
UNFINISHED = InstanceFilter(statuses=("Pending", "Running", "Suspended"))


class Scene:
    """What a test does to a hub, and what it expects of it."""

    def __init__(self, hub: TaskHub, fleet: Fleet, ledger: Ledger, dice: random.Random) -> None:
        self.hub = hub
        self.fleet = fleet
        self.ledger = ledger
        self.dice = dice
        self.app = make_app(hub.name, ledger)
        self.client = Client(hub, self.app)
        self.began = time.monotonic()
        self.results: dict[str, object] = {}
        """What each instance must return."""
        self.raised: dict[str, list[int]] = defaultdict(list)

    # Things to do

    async def errands(self, numbers: Iterable[int], *, seconds: float = 0, nap: float = NAP) -> None:
        """Starts errands, evenly over some time, and raises each one's event a moment later."""
        chosen = list(numbers)
        async with asyncio.TaskGroup() as group:
            for place, number in enumerate(chosen):
                group.create_task(self._errand(number, seconds * place / len(chosen), nap))

    async def _errand(self, number: int, delay: float, nap: float) -> None:
        later = self.dice.uniform(0, 2.5)
        await asyncio.sleep(delay)
        instance_id = f"errand-{number:04d}"
        event = number * 3 + 1
        self.results[instance_id] = errand_result(number, event)
        await self.client.start("errand", Errand(seed=number, nap=nap), instance_id=instance_id)
        await asyncio.sleep(later)
        await self._raise(instance_id, "go", event)

    async def tallies(self, numbers: Iterable[int], *, rounds: int, each: int, pause: float) -> None:
        """Starts tallies, and raises their events while they go on from execution to execution."""
        async with asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(self._tally(f"tally-{number:03d}", rounds, each, pause))

    async def _tally(self, instance_id: str, rounds: int, each: int, pause: float) -> None:
        self.results[instance_id] = tally_result(rounds, each)
        await self.client.start("tally", {"rounds": rounds, "each": each}, instance_id=instance_id)
        numbers = list(range(rounds * each))
        self.dice.shuffle(numbers)
        for number in numbers:
            await asyncio.sleep(self.dice.uniform(0, 2 * pause))
            await self._raise(instance_id, "number", number)

    async def _raise(self, instance_id: str, name: str, data: int) -> None:
        self.raised[instance_id].append(data)
        await self.client.raise_event(instance_id, name, data)

    # The end

    async def over(self, timeout: float) -> float:
        """Waits until nothing is left to do; returns how long that was after the last kill or thaw, in seconds.

        Raises:
            AssertionError: something is still going on after ``timeout`` seconds; says what it waits for.
        """
        since, told = time.monotonic(), False
        while (what := await self._going_on()) is not None:
            waited = time.monotonic() - since
            if waited > timeout:
                raise AssertionError(f"{what} after {timeout:g} s\n{await self.describe()}")
            if waited > SLOW and not told:
                told = True
                print(f"\nchaos: {what} after {SLOW:g} s\n{await self.describe()}")
            await asyncio.sleep(0.1)
        return time.monotonic() - self.fleet.last_fault

    async def _going_on(self) -> str | None:
        if (await self.hub.store.query(UNFINISHED, limit=1)).records:
            return "instances are not over"
        numbers = list(range(self.hub.partitions))
        if await self.hub.store.unsent(numbers, before=checker.FOREVER, limit=1):
            return "commits are not sent"
        if await self.hub.store.due_timers(numbers, until=checker.FOREVER, limit=1):
            return "timers are pending"
        return None

    async def describe(self) -> str:
        return f"{await describe(self.hub)}\n{self.fleet.troubles()}"

    async def verify(self) -> checker.Snapshot:
        """Judges what is left.

        Raises:
            AssertionError: something is wrong; names all of it.
        """
        snapshot = await checker.read(self.hub.store, self.hub.partitions)
        wrong = await asyncio.to_thread(self._judged, snapshot)
        assert not wrong, "\n".join([f"{len(wrong)} things are wrong:", *wrong[:60], self.fleet.troubles()])
        assert not (crashes := self.fleet.crashes()), "\n".join(crashes[:30])
        return snapshot

    def _judged(self, snapshot: checker.Snapshot) -> list[str]:
        return [
            *checker.judge(snapshot, self.app.registry),
            *checker.check_runs(snapshot, self.ledger.runs()),
            *checker.check_raised(snapshot, self.raised),
            *checker.check_results(snapshot, self.results),
        ]

    def report(self, what: str, **numbers: object) -> None:
        """Prints what a person wants to know, whether the test passes or not."""
        told = {"seconds": round(time.monotonic() - self.began, 1), **numbers}
        print(
            f"\nchaos: {what}: "
            + ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in told.items())
        )


def _short(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


@asynccontextmanager
async def scene(orders: Orders, seed: int) -> AsyncGenerator[Scene, None]:
    """A hub with no worker yet. All that runs for it ends with it."""
    print(f"\nchaos: hub {orders.hub}, seed {seed}, logs in {orders.folder}")
    dice = random.Random(seed)
    hub = TaskHub.from_urls(orders.hub, broker=orders.broker, store=orders.store, partitions=orders.partitions)
    with Fleet(orders, dice) as fleet:
        async with hub:
            made = Scene(hub, fleet, Ledger(Path(orders.folder) / "ledger"), dice)
            async with made.client:
                yield made
