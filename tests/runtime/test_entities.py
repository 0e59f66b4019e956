"""Entities in whole workers: order, locks, slow operations, hangs, clean-up; also if workers die at any call."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from callboard import App, Client, EntityContext, EntityFilter, EntityId, OrchestrationContext, effects
from callboard.core import entity_turn
from callboard.core.entities import Caller, CleanUp, Lock, Operation, Position
from callboard.core.instances import InstanceRecord, partition_of
from callboard.core.messages import EntityRequest, Message, StartExecution, TimerDue, Wake
from callboard.core.references import is_reference
from callboard.errors import BrokerUnavailableError
from callboard.ports import DestinationKind
from tests.runtime.support import PARTITIONS, Failing, Gate, Stage, a_while, eventually, to

pytestmark = pytest.mark.usefixtures("fast")


class Counter:
    value: int = 0
    log: list[int] = []  # noqa: RUF012 - a default that is written on the class, as users do

    def add(self, amount: int) -> int:
        self.value += amount
        self.log.append(amount)
        return self.value

    async def add_slowly(self, amount: int, seconds: float = 0.0) -> int:
        await asyncio.sleep(seconds)
        return self.add(amount)

    def spin(self, seconds: float) -> None:
        self.value = -1
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    def hang(self) -> None:
        ctypes.CDLL(None).sleep(2)

    def forward(self, context: EntityContext, keys: list[str], at: float = 0) -> None:
        for key in keys:
            due = timedelta(seconds=at) if at else None
            context.signal_entity(EntityId("counter", key), "add", 1, at=due)

    def start(self, context: EntityContext, key: str) -> None:
        context.start_new_orchestration("double", 21, instance_id=key, on_completed="ended")

    def ended(self, instanceId: str, status: str, result: Any, error: str | None) -> None:  # noqa: N803
        self.value = result if status == "Completed" else -1

    def fail(self) -> None:
        self.value = -1
        raise ValueError("no")


def make_app() -> App:
    app = App("stage")
    app.entity(Counter)

    @app.orchestration
    async def double(context: OrchestrationContext, number: int) -> int:
        return 2 * number

    @app.orchestration
    async def in_order(context: OrchestrationContext, key: str) -> list[int]:
        for number in range(20):
            context.signal_entity(EntityId("counter", key), "add", number)
        return [await context.call_entity(EntityId("counter", key), "add", 100)]

    @app.orchestration
    async def holds(context: OrchestrationContext, keys: list[str]) -> None:
        async with context.lock_entities(EntityId("counter", key) for key in keys):
            for key in keys:
                await context.call_entity(EntityId("counter", key), "add", 1)
            await context.wait_for_external_event("go")

    return app


def entity(key: str) -> EntityId:
    return EntityId("counter", key)


async def value(client: Client, key: str) -> Any:
    found = await client.read_entity_state(entity(key))
    return found.entity_state["value"] if found.entity_exists else None


def comes_to(client: Client, key: str, expected: Any) -> Any:
    async def holds() -> bool:
        return bool(await value(client, key) == expected)

    return eventually(holds, f"{key} comes to {expected}")


async def locked_by(client: Client, key: str) -> str | None:
    found = await client.get_entity(entity(key))
    assert found is not None
    return found.locked_by


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def request(key: str, sender: str, number: int = 0, operation: str = "add", value: int = 1) -> EntityRequest:
    position = Position(sender=sender, number=number)
    made = Operation(line=position, sent=now(), request_id=f"{sender}/{number}", operation=operation, input=str(value))
    return EntityRequest(instance_id=f"@counter@{key}", request=made)


async def test_the_first_request_makes_the_entity() -> None:
    async with Stage() as stage:
        await stage.worker(make_app())
        client = await stage.client()
        assert await client.get_entity(entity("a")) is None
        await client.signal_entity(entity("a"), "add", 2)
        await comes_to(client, "a", 2)
        found = await client.get_entity(entity("a"))
        assert found is not None
        assert (found.exists, found.state, found.backlog_queue_size) == (True, {"value": 2, "log": [2]}, 0)
        assert found.last_operation_time is not None


async def test_a_request_that_comes_twice_is_carried_out_once() -> None:
    async with Stage() as stage:
        worker = await stage.worker(make_app())
        client = await stage.client()
        queue = stage.queue_of("@counter@a")
        for _ in range(3):
            await stage.publish(queue, request("a", "x"), request("a", "x"), request("a", "y"))
        await comes_to(client, "a", 2)
        await eventually(lambda: worker.worker.turns.quiet)
        assert await value(client, "a") == 2


async def test_two_owners_carry_out_each_request_once() -> None:
    async with Stage() as stage:
        app = make_app()
        await stage.worker(app)
        await stage.worker(app)
        client = await stage.client()
        await asyncio.gather(*(client.signal_entity(entity(str(n % 5)), "add", 1) for n in range(100)))
        for key in range(5):
            await comes_to(client, str(key), 20)


async def test_signals_and_calls_of_an_orchestration_keep_their_order() -> None:
    async with Stage() as stage:
        app = make_app()
        await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start("in_order", "a")
        assert await handle.result() == [sum(range(20)) + 100]
        assert (await client.read_entity_state(entity("a"))).entity_state["log"] == [*range(20), 100]


async def test_publishes_that_fail_do_not_break_the_order() -> None:
    async with Stage() as stage:
        app = make_app()
        first = stage.enter(app, balance=True)
        await first.start()
        second = stage.enter(app, balance=True)
        await second.start()
        await eventually(lambda: len(first.worker.ownership.owned) == len(second.worker.ownership.owned) == 2)
        for player in (first, second):
            player.broker.before["publish"] = Failing(BrokerUnavailableError("away"), 3, to(DestinationKind.PARTITION))
        client = await stage.client(app)
        handles = [await client.start("in_order", str(key)) for key in range(8)]
        for key, handle in enumerate(handles):
            assert await handle.result() == [sum(range(20)) + 100]
            assert (await client.read_entity_state(entity(str(key)))).entity_state["log"] == [*range(20), 100]


async def test_slow_operations_hold_up_nobody_else() -> None:
    async with Stage() as stage:
        worker = await stage.worker(make_app())
        client = await stage.client()
        await client.signal_entity(entity("slow"), "add_slowly", {"amount": 1, "seconds": 30})
        await eventually(lambda: worker.worker.turns.is_active("@counter@slow"))
        await client.signal_entity(entity("slow"), "add", 1)
        for number in range(10):
            await client.signal_entity(entity("fast"), "add_slowly", {"amount": number})
        await comes_to(client, "fast", 45)
        assert await value(client, "slow") is None


async def test_slow_operations_keep_the_order() -> None:
    async with Stage() as stage:
        await stage.worker(make_app())
        client = await stage.client()
        for number in range(6):
            operation, given = ("add_slowly", {"amount": number, "seconds": 0.01}) if number % 2 else ("add", number)
            await client.signal_entity(entity("a"), operation, given)
        await comes_to(client, "a", 15)
        assert (await client.read_entity_state(entity("a"))).entity_state["log"] == [0, 1, 2, 3, 4, 5]


async def test_an_operation_that_takes_too_long_fails_and_the_next_goes_on() -> None:
    async with Stage() as stage:
        await stage.worker(make_app(), turn_limit=0.2)
        client = await stage.client()
        await client.signal_entity(entity("a"), "add", 1)
        await client.signal_entity(entity("a"), "spin", 30)
        await client.signal_entity(entity("a"), "add", 1)
        await comes_to(client, "a", 2)
        found = await client.get_entity(entity("a"))
        assert found is not None
        assert found.last_failure is not None
        assert "interrupted" in found.last_failure.error_message


async def test_an_operation_that_cannot_be_interrupted_parks_its_entity_alone() -> None:
    async with Stage() as stage:
        await stage.worker(make_app(), turn_limit=0.2)
        client = await stage.client()
        await client.signal_entity(entity("a"), "add", 1)
        await client.signal_entity(entity("a"), "hang")
        await client.signal_entity(entity("b"), "add", 1)
        await comes_to(client, "b", 1)

        async def parked() -> bool:
            found = await client.get_entity(entity("a"))
            return found is not None and found.parked is not None

        await eventually(parked)


async def test_an_entity_that_no_worker_knows_keeps_what_comes_for_one_that_does() -> None:
    async with Stage() as stage:
        first = await stage.worker(App("stage"), balance=True)
        client = await stage.client()
        for number in range(5):
            await client.signal_entity(entity("a"), "add", number)

        async def waiting() -> bool:
            found = await client.get_entity(entity("a"))
            return found is not None and found.parked is not None and found.backlog_queue_size == 5

        await eventually(waiting)
        page = await client.list_entities(EntityFilter(include_transient=True))
        assert [each.entity_id for each in page.entities] == [entity("a")]
        await first.worker.stop()
        await stage.worker(make_app(), balance=True)
        await comes_to(client, "a", 10)


async def test_an_entity_signals_others_and_hears_of_orchestrations_that_it_started() -> None:
    async with Stage() as stage:
        app = make_app()
        await stage.worker(app)
        client = await stage.client(app)
        await client.signal_entity(entity("a"), "forward", {"keys": ["b", "c", "b"]})
        await comes_to(client, "b", 2)
        await comes_to(client, "c", 1)
        await client.signal_entity(entity("a"), "start", "mine")
        await comes_to(client, "a", 42)
        assert (await client.get_status("mine")).output == 42


async def test_an_entity_hears_that_an_id_was_in_use() -> None:
    async with Stage() as stage:
        app = make_app()
        await stage.worker(app)
        client = await stage.client(app)
        await client.start("holds", ["x"], instance_id="mine")
        await client.signal_entity(entity("a"), "start", "mine")
        await comes_to(client, "a", -1)


async def test_timed_signals_come_when_their_time_has_come() -> None:
    async with Stage() as stage:
        await stage.worker(make_app())
        client = await stage.client()
        await client.signal_entity(entity("a"), "add", 1, at=timedelta(seconds=0.3))
        await client.signal_entity(entity("a"), "forward", {"keys": ["b"], "at": 0.3})
        await a_while()
        assert (await value(client, "a"), await value(client, "b")) == (0, None)
        await comes_to(client, "a", 1)
        await comes_to(client, "b", 1)


async def test_a_timed_signal_survives_its_worker() -> None:
    async with Stage() as stage:
        first = await stage.worker(make_app())
        client = await stage.client()
        await client.signal_entity(entity("a"), "add", 1, at=timedelta(seconds=0.5))

        async def waits() -> bool:
            return await client.get_entity(entity("a")) is not None

        await eventually(waits)
        first.kill()
        await stage.worker(make_app())
        await comes_to(client, "a", 1)


async def test_a_critical_section_holds_its_entities_until_it_ends_whatever_way() -> None:
    async with Stage() as stage:
        app = make_app()
        await stage.worker(app)
        client = await stage.client(app)
        await client.start("holds", ["a", "b"], instance_id="one")
        await eventually(lambda: locked_by_or_none(client, "b"))
        await comes_to(client, "b", 1)
        other = await client.start("holds", ["b", "a"], instance_id="two")
        await client.signal_entity(entity("a"), "add", 10)
        await a_while()
        assert (await value(client, "a"), await locked_by(client, "a")) == (1, "one")
        await client.terminate("one")

        async def passed_on() -> bool:
            return await locked_by(client, "b") == "two"

        await eventually(passed_on)
        await client.raise_event("two", "go")
        await other.result()

        async def free() -> bool:
            return await locked_by(client, "a") is None and await locked_by(client, "b") is None

        await eventually(free)
        assert (await value(client, "a"), await value(client, "b")) == (12, 2)


async def test_a_large_state_is_kept_apart() -> None:
    app = App("stage")

    @app.entity
    def hoard(context: EntityContext) -> int:
        if context.operation_name == "put":
            context.set_state(context.get_input())
        return len(context.get_state())

    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        large = "x" * 900_000
        for each in (large + "!", large):
            await client.signal_entity(EntityId("hoard", "a"), "put", each)

        async def kept() -> bool:
            return bool((await client.read_entity_state(EntityId("hoard", "a"))).entity_state == large)

        await eventually(kept)
        *_, stored = (await stage.store.load(["@hoard@a"]))["@hoard@a"].commits
        assert stored.entity is not None
        assert is_reference(stored.entity.state)
        assert len(msgspec.json.encode(stored)) < 2_000
        await eventually(lambda: worker.worker.effects.idle)
        worker.kill()
        await stage.worker(app)
        await client.signal_entity(EntityId("hoard", "a"), "get")
        await eventually(kept)

        async def listed() -> bool:
            page = await client.list_entities(EntityFilter(name="hoard"), include_state=True)
            return any("$callboard" in each.state for each in page.entities)

        await eventually(listed)


async def test_old_commits_of_an_entity_are_trimmed() -> None:
    async with Stage() as stage:
        await stage.worker(make_app())
        client = await stage.client()
        for number in range(3 * effects.TRIM_EVERY):
            await client.signal_entity(entity("a"), "add", 1)
            await comes_to(client, "a", number + 1)

        async def trimmed() -> bool:
            return len(await stage.store.history("@counter@a")) <= effects.TRIM_EVERY + 2

        await eventually(trimmed)


# Cleaning up


async def test_empty_entities_are_cleaned_up_and_come_back() -> None:
    async with Stage() as stage:
        await stage.worker(make_app())
        client = await stage.client()
        for key in "ab":
            await client.signal_entity(entity(key), "add", 1)
            await comes_to(client, key, 1)
        await client.signal_entity(entity("a"), "delete")
        await comes_to(client, "a", None)
        nothing = await client.clean_entity_storage()
        assert nothing.empty_entities_removed == 0
        cleaned = await client.clean_entity_storage(idle=timedelta())
        assert (cleaned.empty_entities_removed, cleaned.orphaned_locks_released) == (1, 0)

        async def gone() -> bool:
            page = await client.list_entities(EntityFilter(include_transient=True))
            return [each.entity_id.key for each in page.entities] == ["b"]

        await eventually(gone)
        assert await client.get_entity(entity("a")) is None
        await client.signal_entity(entity("a"), "add", 5)
        await comes_to(client, "a", 5)


async def test_a_request_that_races_with_the_clean_up_is_not_lost() -> None:
    async with Stage() as stage:
        await stage.worker(make_app())
        client = await stage.client()
        for round_ in range(5):
            await client.signal_entity(entity("a"), "add", round_ + 1)
            await comes_to(client, "a", round_ + 1)
            await client.signal_entity(entity("a"), "delete")
            position = Position(sender=f"clean {round_}")
            sent = now()
            clean = EntityRequest(instance_id="@counter@a", request=CleanUp(line=position, sent=sent, idle=0))
            await stage.publish(stage.queue_of("@counter@a"), clean)
            await asyncio.sleep(0.005 * round_)
        await client.signal_entity(entity("a"), "add", 100)
        await comes_to(client, "a", 100)


async def test_a_lock_whose_owner_is_gone_is_released() -> None:
    async with Stage() as stage:
        app = make_app()
        await stage.worker(app)
        client = await stage.client(app)
        await client.start("holds", ["b"], instance_id="alive")
        await eventually(lambda: locked_by_or_none(client, "b"))
        lost = Caller(instance_id="gone", execution_id="e" * 32, task_scheduled_id=0)
        lock = Lock(line=Position(sender="lost"), sent=now(), caller=lost)
        await stage.publish(stage.queue_of("@counter@a"), EntityRequest(instance_id="@counter@a", request=lock))
        await eventually(lambda: locked_by_or_none(client, "a"))
        await client.signal_entity(entity("a"), "add", 1)

        async def released() -> bool:
            return (await client.clean_entity_storage()).orphaned_locks_released == 1

        await eventually(released)  # once the record shows the lock
        await comes_to(client, "a", 1)
        assert await locked_by(client, "b") == "alive"


async def locked_by_or_none(client: Client, key: str) -> str | None:
    found = await client.get_entity(entity(key))
    return found.locked_by if found is not None else None


# What is not meant for entities


async def test_messages_that_make_no_entity_are_dropped() -> None:
    async with Stage() as stage:
        worker = await stage.worker(make_app())
        due = TimerDue(instance_id="@counter@a", execution_id="e", timer_id=0, fire_at=now())
        await stage.publish(stage.queue_of("@counter@a"), due, Wake(instance_id="@counter@a"))
        await eventually(lambda: worker.broker.unacked() == 0)
        await eventually(lambda: worker.worker.turns.quiet)
        assert await stage.store.records(["@counter@a"]) == {}


async def test_requests_that_cannot_be_go_to_quarantine() -> None:
    async with Stage() as stage:
        await stage.worker(make_app())
        client = await stage.client()
        good = request("a", "x")
        operation = good.request
        assert isinstance(operation, Operation)
        bad: list[Message] = [
            msgspec.structs.replace(good, instance_id="counter"),
            msgspec.structs.replace(good, instance_id="@counter"),
            msgspec.structs.replace(good, instance_id="@counter@a/b"),
            StartExecution(instance_id="@counter@a", execution_id="e"),
        ]
        wrong = [
            msgspec.structs.replace(operation, input="{"),
            msgspec.structs.replace(operation, operation="x" * 2000),
            msgspec.structs.replace(operation, line=Position(sender="")),
            msgspec.structs.replace(operation, line=Position(sender="x", number=-1)),
            msgspec.structs.replace(operation, line=Position(sender="x", number=2**60)),
            msgspec.structs.replace(
                operation, caller=Caller(instance_id="@x@y", execution_id="e", task_scheduled_id=0)
            ),
        ]
        bad += [msgspec.structs.replace(good, request=each) for each in wrong]
        await stage.publish(stage.queue_of("@counter@a"), *bad, good)
        await comes_to(client, "a", 1)

        async def kept() -> bool:
            return len(await stage.store.quarantined(50)) == len(bad)

        await eventually(kept)


# Deaths


async def play(stage: Stage, app: App) -> Client:
    client = await stage.client(app)
    await client.start("in_order", "a", instance_id="orders")
    await client.signal_entity(entity("b"), "forward", {"keys": ["c", "d", "c"]})
    await client.signal_entity(entity("b"), "add_slowly", {"amount": 7})
    await client.signal_entity(entity("e"), "add", 1, at=timedelta(seconds=0.05))
    await client.start("holds", ["c", "d"], instance_id="holds")
    await client.raise_event("holds", "go")
    await eventually(lambda: ended(client, "orders"))
    for key, expected in (("a", 290), ("b", 7), ("c", 3), ("d", 2), ("e", 1)):
        await comes_to(client, key, expected)
    await eventually(lambda: ended(client, "holds"))
    await eventually(lambda: free_all(client))
    assert (await client.read_entity_state(entity("a"))).entity_state["log"] == [*range(20), 100]
    return client


async def ended(client: Client, instance_id: str) -> bool:
    """Looks for itself: a notice may die with its worker, and is not waited for here."""
    return (await client.get_status(instance_id)).is_terminal


async def free_all(client: Client) -> bool:
    return not any([await locked_by_or_none(client, key) for key in "cd"])


@functools.cache
def calls_of_a_life() -> int:
    async def count() -> int:
        async with Stage() as stage:
            worker = await stage.worker(make_app())
            await play(stage, make_app())
            await eventually(lambda: worker.worker.effects.idle)
            return len(worker.doom.calls)

    return asyncio.run(count())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("part", range(12))
async def test_a_worker_may_die_at_any_call(part: int, after: bool) -> None:
    """The second worker takes over from wherever the first one was."""
    calls = await asyncio.to_thread(calls_of_a_life)
    async with Stage() as stage:
        doomed = stage.enter(make_app())
        doomed.doom.at, doomed.doom.after = 3 + part * (calls - 3) // 12, after
        playing = asyncio.ensure_future(play(stage, make_app()))
        await doomed.start()
        await asyncio.wait([playing, asyncio.ensure_future(doomed.doom.dead.wait())], return_when="FIRST_COMPLETED")
        await stage.worker(make_app())
        await asyncio.wait_for(playing, 30)
        for key in "abcde":
            numbers = [commit.n for commit in await stage.commits(f"@counter@{key}")]
            assert numbers == list(range(len(numbers)))


async def test_a_record_made_by_a_worker_that_died_is_used() -> None:
    async with Stage() as stage:
        made = now()
        record = InstanceRecord(
            instance_id="@counter@a",
            partition=partition_of("@counter@a", PARTITIONS),
            execution_id="dead",
            name="counter",
            runtime_status="Running",
            created_time=made,
            last_updated_time=made,
        )
        await stage.store.create([record])
        await stage.worker(make_app())
        client = await stage.client()
        await client.signal_entity(entity("a"), "add", 1)
        await comes_to(client, "a", 1)


async def test_a_long_queue_does_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns are slices: many operations of one entity take several commits."""
    monkeypatch.setattr(entity_turn, "MOST_BYTES", 2_000)
    async with Stage() as stage:
        worker = await stage.worker(make_app())
        gate = Gate()
        worker.store.before["load"] = gate
        client = await stage.client()
        for _ in range(100):
            await client.signal_entity(entity("a"), "add", 1)
        await eventually(lambda: gate.waiting)
        gate.open()
        await comes_to(client, "a", 100)
        assert len(await stage.commits("@counter@a")) > 5
