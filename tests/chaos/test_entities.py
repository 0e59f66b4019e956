"""Kill -9 and entities: every signal is carried out once, in order, and no lock is left."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from callboard import EntityFilter, EntityId
from callboard.client import EntityMetadata
from tests.chaos.checker import FOREVER
from tests.chaos.scene import Scene, scene
from tests.chaos.signal_process import Signals
from tests.chaos.worker_process import Orders

WORKERS = 3
SEED = random.randrange(1_000_000)
#: Counters, the processes that signal them, and how often each of them does.
COUNTERS, PROCESSES, ROUNDS = 1_000, 4, 25
#: Accounts, what is in each, and how much is transferred how often.
ACCOUNTS, BALANCE, TRANSFERS, MOST = 16, 1_000, 100, 700
#: How often a worker is killed, in seconds.
PAUSE = 1.5


@pytest.mark.timeout(180)
async def test_every_signal_counts_once(orders: Orders) -> None:
    async with scene(orders, SEED) as on:
        on.fleet.launch(WORKERS)
        sending = [sender(on, COUNTERS, ROUNDS) for _ in range(PROCESSES)]
        await kill_workers(on, until=lambda: all(process.poll() is not None for process in sending))
        assert [process.returncode for process in sending] == [0] * PROCESSES
        found = await settled(
            on, lambda all_: sum(each.state["total"] for each in all_) >= COUNTERS * PROCESSES * ROUNDS
        )
        assert len(found) == COUNTERS
        assert {each.state["total"] for each in found} == {PROCESSES * ROUNDS}
        await quiet(on)
        found = await entities(on)  # and stay so
        assert {each.state["total"] for each in found} == {PROCESSES * ROUNDS}
        on.report("signals", entities=COUNTERS, signals=COUNTERS * PROCESSES * ROUNDS, kills=on.fleet.kills)


@pytest.mark.timeout(180)
async def test_money_is_conserved_and_no_lock_is_left(orders: Orders) -> None:
    async with scene(orders, SEED) as on:
        keys = [f"{number:02d}" for number in range(ACCOUNTS)]
        for key in keys:
            await on.client.signal_entity(EntityId("account", key), "deposit", BALANCE)
        on.fleet.launch(WORKERS)
        killing = asyncio.create_task(kill_workers(on, until=lambda: False))
        transfers = [await transfer(on, keys, number) for number in range(TRANSFERS)]
        for number in range(10):  # some lock accounts, and are killed while they hold them or wait for them
            held = on.dice.sample(keys, 2)
            await on.client.start("hold", held, instance_id=f"hold-{number}")
            await asyncio.sleep(on.dice.uniform(0, 0.5))
            await on.client.terminate(f"hold-{number}")
        for instance_id in transfers:
            await on.client.wait(instance_id, timeout=100)
        killing.cancel()
        await quiet(on)  # then the records show what is
        found = await settled(on, lambda all_: not any(each.locked_by or each.backlog_queue_size for each in all_))
        balances = {each.entity_id.key: each.state["balance"] for each in found}
        assert sum(balances.values()) == ACCOUNTS * BALANCE, balances
        assert balances == await expected(on, keys, transfers)
        await on.over(60)
        await on.verify()
        on.report("transfers", transfers=TRANSFERS, kills=on.fleet.kills)


@pytest.mark.timeout(180)
async def test_signals_of_orchestrations_and_entities_keep_their_order(orders: Orders) -> None:
    async with scene(orders, SEED) as on:
        on.fleet.launch(WORKERS)
        keys = [f"{number:02d}" for number in range(10)]
        for number in range(10):
            await on.client.start("send", {"keys": keys, "rounds": 30}, instance_id=f"send-{number}")
        for _ in range(20):
            await on.client.signal_entity(EntityId("counter", "x"), "pass_on", keys * 3)
        killing = asyncio.create_task(kill_workers(on, until=lambda: False))
        expected = dict.fromkeys(keys, 10 * 30 + 20 * 3) | {"x": 20}
        try:
            found = await settled(on, lambda all_: sum(each.state["total"] for each in all_) >= sum(expected.values()))
        finally:
            killing.cancel()
        assert {each.entity_id.key: each.state["total"] for each in found} == expected
        assert [each.state["wrong"] for each in found] == [0] * len(found)
        await on.over(60)
        on.report("order", kills=on.fleet.kills)


def sender(on: Scene, keys: int, rounds: int) -> subprocess.Popen[bytes]:
    signals = Signals(orders=on.fleet.orders, keys=keys, rounds=rounds)
    command = [sys.executable, "-m", "tests.chaos.signal_process", msgspec.json.encode(signals).decode()]
    return subprocess.Popen(command, env=on.fleet.environment)


async def kill_workers(on: Scene, until: Callable[[], bool]) -> None:
    while not until():
        await asyncio.sleep(PAUSE)
        await asyncio.to_thread(on.fleet.kill, on.fleet.awake())
        await asyncio.to_thread(on.fleet.launch)


async def transfer(on: Scene, keys: list[str], number: int) -> str:
    source, target = on.dice.sample(keys, 2)
    order = {"source": source, "target": target, "amount": on.dice.randrange(MOST)}
    await on.client.start("transfer", order, instance_id=f"transfer-{number}")
    return f"transfer-{number}"


async def expected(on: Scene, keys: list[str], transfers: list[str]) -> dict[str, int]:
    """What the transfers say that there must be in the accounts."""
    balances = dict.fromkeys(keys, BALANCE)
    for instance_id in transfers:
        status = await on.client.get_status(instance_id)
        assert status.runtime_status == "Completed", status
        balances[status.input["source"]] -= status.output
        balances[status.input["target"]] += status.output
    return balances


async def entities(on: Scene) -> list[EntityMetadata]:
    found: list[EntityMetadata] = []
    continuation: str | None = None
    while True:
        page = await on.client.list_entities(EntityFilter(), include_state=True, limit=1000, continuation=continuation)
        found += page.entities
        continuation = page.continuation
        if continuation is None:
            return found


async def settled(on: Scene, over: Callable[[list[EntityMetadata]], bool]) -> list[EntityMetadata]:
    """The entities once they are as they should be in the end."""
    try:
        async with asyncio.timeout(90):
            while not over(found := await entities(on)):
                await asyncio.sleep(0.2)
    except TimeoutError:
        seen = "\n".join(str(each) for each in (await entities(on))[:40])
        raise AssertionError(f"{seen}\n{await on.describe()}\n{on.fleet.troubles()}") from None
    return found


async def quiet(on: Scene) -> None:
    """Waits until every commit is sent, so that nothing more can come of them."""
    numbers = list(range(on.hub.partitions))
    async with asyncio.timeout(60):
        while await on.hub.store.unsent(numbers, before=FOREVER, limit=1):
            await asyncio.sleep(0.2)
