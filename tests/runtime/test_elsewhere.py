"""Two code versions in one hub: every instance gets to the code that can run it, whoever owns its partition."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from callboard import App, Client, EntityId, OrchestrationContext, elsewhere, parking, timers
from callboard.activities import runner
from callboard.core.events import ExecutionParked, TaskScheduled, TimerFired
from callboard.core.instances import partition_of
from callboard.core.messages import RunTurn, TurnRun, Wake
from callboard.errors import BrokerUnavailableError
from callboard.mailbox import Letter
from callboard.packs import decode_pack
from callboard.ports import Destination, DestinationKind
from tests.runtime.support import PARTITIONS, Gate, Player, Stage, a_while, eventually, to

pytestmark = pytest.mark.usefixtures("fast", "soon")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "EVERY", 0.1)
    monkeypatch.setattr(runner, "PASS_ON", 0.02)
    monkeypatch.setattr(timers, "OVERDUE", 0.1)


def versioned(version: str, **options: Any) -> App:
    """An app of one version, which runs instances of that version only."""
    app = App("stage", default_version=version, version_match_strategy="strict", **options)

    @app.activity
    async def echo(value: Any) -> Any:
        return value

    @app.orchestration
    async def program(context: OrchestrationContext, rounds: int) -> list[Any]:
        said: list[Any] = [context.version]
        for number in range(rounds):
            said.append(await context.call_activity(echo, number))
            await context.create_timer(timedelta(milliseconds=20))
            said.append(await context.wait_for_external_event("go"))
        return said

    @app.orchestration
    async def parent(context: OrchestrationContext) -> Any:
        return await asyncio.gather(*(context.call_sub_orchestration("program", 0, version=v) for v in ("1.0", "2.0")))

    @app.orchestration
    async def eternal(context: OrchestrationContext, generation: int) -> Any:
        if generation == 3:
            return context.version
        return context.continue_as_new(generation + 1, version="1.0" if generation % 2 else "2.0")

    return app


async def join(stage: Stage, app: App, **options: Any) -> Player:
    return await stage.worker(app, balance=True, lease=3.0, heartbeat=0.1, **options)


async def share(*players: Player) -> None:
    """Waits until the players share all partitions, and each knows of the others."""

    def shared() -> bool:
        owned = [number for player in players for number in player.worker._owned]
        known = all(len(player.worker.company._others) == len(players) - 1 for player in players)
        return known and sorted(owned) == list(range(PARTITIONS)) and all(each.worker._owned for each in players)

    await eventually(shared, "the players share the partitions")


def id_owned_by(player: Player) -> str:
    return next(each for number in count() if partition_of(each := f"i{number}", PARTITIONS) in player.worker._owned)


async def parked_kind(client: Client, instance_id: str) -> str | None:
    parked = (await client.get_status(instance_id)).parked
    return parked.kind if parked else None


async def raised(client: Client, instance_id: str, data: object) -> None:
    await client.raise_event(instance_id, "go", data)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_instances_of_either_version_run_whoever_owns_them(version: str) -> None:
    async with Stage() as stage:
        old, new = await join(stage, versioned("1.0")), await join(stage, versioned("2.0"))
        await share(old, new)
        client = await stage.client()
        for owner in (old, new):
            instance_id = id_owned_by(owner)
            handle = await client.start("program", 3, instance_id=instance_id, version=version)
            for number in range(3):
                await raised(client, instance_id, number)
            assert await handle.result(5) == [version, 0, 0, 1, 1, 2, 2]
            events = await stage.exact(instance_id)
            assert not any(isinstance(event, ExecutionParked) for event in events), "it was never parked on the way"
            fired = [event for event in events if isinstance(event, TimerFired)]
            assert all(event.timestamp - event.fire_at < timedelta(seconds=2) for event in fired), (
                "owners learn of timers"
            )
        await eventually(lambda: old.worker.effects.idle and new.worker.effects.idle)
        assert await stage.unsent() == []


async def test_children_and_generations_get_to_their_versions() -> None:
    async with Stage() as stage:
        old, new = await join(stage, versioned("1.0")), await join(stage, versioned("2.0"))
        await share(old, new)
        client = await stage.client()
        for owner in (old, new):
            instance_id = id_owned_by(owner)
            handle = await client.start("parent", instance_id=instance_id, version="2.0")
            assert await handle.result(5) == [["1.0"], ["2.0"]]
            handle = await client.start("eternal", 0, instance_id=instance_id, version="1.0")
            assert await handle.result(5) == "2.0"
            await stage.exact(instance_id)


async def test_an_instance_that_nobody_can_run_waits_visibly_for_a_worker_that_can() -> None:
    async with Stage() as stage:
        old = await join(stage, versioned("1.0"))
        await eventually(lambda: len(old.worker._owned) == PARTITIONS)
        client = await stage.client()
        ids = [f"i{number}" for number in range(8)]
        handles = [await client.start("program", 1, instance_id=each, version="2.0") for each in ids]
        for each in ids:
            await eventually(lambda each=each: _is(parked_kind(client, each), "unrunnable"))  # type: ignore[misc]
            await raised(client, each, 7)
        assert "runs version '2.0' of the orchestration 'program'" in str((await client.get_status(ids[0])).parked)
        new = await join(stage, versioned("2.0"))
        for handle in handles:
            assert await handle.result(5) == ["2.0", 0, 7]
        assert old.worker._owned, "the old one still owns some of them"
        for each in ids:
            await stage.exact(each)
            assert await parked_kind(client, each) is None
        assert new.worker.turns.statistics.commits > 0


async def _is(value: Any, expected: object) -> bool:
    return bool(await value == expected)


@pytest.mark.parametrize("strategy", ["fail", "reject"])
async def test_failing_for_want_of_a_version_waits_until_really_nobody_has_it(strategy: Any) -> None:
    async with Stage() as stage:
        old = await join(stage, versioned("1.0", version_failure_strategy=strategy))
        new = await join(stage, versioned("2.0"))
        await share(old, new)
        client = await stage.client()
        mine = id_owned_by(old)
        handle = await client.start("program", 1, instance_id=mine, version="2.0")
        await eventually(lambda: _scheduled(stage, mine))
        new.kill()
        await raised(client, mine, 1)
        if strategy == "fail":
            status = await client.wait(mine, 10)
            assert status.failure is not None
            assert status.failure.error_type == "VersionMismatch"
        else:
            await eventually(lambda: _is(parked_kind(client, mine), "unrunnable"), within=10)
            await join(stage, versioned("2.0"))
            assert await handle.result(10) == ["2.0", 0, 1]
        await stage.exact(mine)


async def _scheduled(stage: Stage, instance_id: str) -> bool:
    return any(isinstance(event, TaskScheduled) for event in await stage.events(instance_id))


async def test_a_guest_that_falls_silent_holds_nothing_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "PATIENCE", 0.3)
    async with Stage() as stage:
        old, new = await join(stage, versioned("1.0")), await join(stage, versioned("2.0"))
        await share(old, new)
        client = await stage.client()
        mine = id_owned_by(old)
        silence = new.store.before["append"] = Gate()
        handle = await client.start("program", 1, instance_id=mine, version="2.0")
        await eventually(lambda: silence.waiting)
        await eventually(lambda: _is(parked_kind(client, mine), "unrunnable"))
        del new.store.before["append"]
        silence.open()  # what it had decided comes too late, and loses
        await raised(client, mine, 1)
        assert await handle.result(5) == ["2.0", 0, 1]
        assert new.worker.turns.statistics.lost_races >= 1
        await stage.exact(mine)


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_lost_requests_and_answers_cost_time_only(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "PATIENCE", 0.2)
    async with Stage() as stage:
        old, new = await join(stage, versioned("1.0")), await join(stage, versioned("2.0"))
        await share(old, new)
        client = await stage.client()
        mine = id_owned_by(old)
        if lost == "request":
            monkeypatch.setattr(new.worker, "_run_turn", _dropping(new.worker._run_turn, 2))
        else:
            monkeypatch.setattr(old.worker.elsewhere, "on_answer", _dropping(old.worker.elsewhere.on_answer, 2))
        handle = await client.start("program", 2, instance_id=mine, version="2.0")
        await raised(client, mine, 1)
        await raised(client, mine, 2)
        assert await handle.result(10) == ["2.0", 0, 1, 1, 2]
        await stage.exact(mine)


def _dropping(handle: Callable[[Any], None], times: int) -> Callable[[Any], None]:
    left = [times]

    def dropping(message: Any) -> None:
        if left[0]:
            left[0] -= 1
        else:
            handle(message)

    return dropping


async def test_a_guest_that_cannot_be_reached_is_done_without() -> None:
    async with Stage() as stage:
        old, new = await join(stage, versioned("1.0")), await join(stage, versioned("2.0"))
        await share(old, new)
        client = await stage.client()
        mine = id_owned_by(old)

        def refuse(destination: Any, body: bytes, *_: object) -> None:
            if to(DestinationKind.INBOX)(destination) and b"RunTurn" in body:
                raise BrokerUnavailableError("away")

        old.broker.before["publish"] = refuse
        handle = await client.start("program", 0, instance_id=mine, version="2.0")
        await eventually(lambda: _is(parked_kind(client, mine), "unrunnable"))
        old.broker.before.clear()
        assert await handle.result(5) == ["2.0"]


async def test_a_guest_that_has_not_the_code_after_all_says_so_at_once() -> None:
    async with Stage() as stage:
        old, new = await join(stage, versioned("1.0")), await join(stage, versioned("2.0"))
        await share(old, new)
        mine = id_owned_by(old)
        client = await stage.client()
        await client.start("program", 0, instance_id=mine, version="3.0")
        await eventually(lambda: _is(parked_kind(client, mine), "unrunnable"))
        answers: list[TurnRun] = []
        account = new.worker.elsewhere.account(
            RunTurn(request_id="r", reply_to="nobody", instance_id=mine, messages=())
        )
        account._answer = answers.append
        account._open = 1
        new.worker.turns.post_guest(
            [Letter(Wake(instance_id=mine), account)], mine, partition_of(mine, PARTITIONS), None
        )
        await eventually(lambda: answers)
        assert not answers[0].done
        await eventually(lambda: new.worker.turns.quiet)
        assert mine not in new.worker.turns._actors


@pytest.mark.parametrize(
    "messages",
    [(), (Wake(instance_id="other"),), (Wake(instance_id="@x"),)],
    ids=["nothing", "another's", "an id that is not allowed"],
)
async def test_a_request_that_makes_no_sense_is_declined(messages: tuple[Wake, ...]) -> None:
    async with Stage() as stage:
        worker = await stage.worker(versioned("1.0"))
        answers = await stage.listen(Destination.inbox("asker"))
        request = RunTurn(request_id="r", reply_to="asker", instance_id="a", messages=messages)
        await stage.publish(Destination.inbox(worker.worker.worker_id), request)
        await eventually(lambda: answers)
        (answer,) = decode_pack(answers[0].body)
        assert answer == TurnRun(request_id="r", done=False)
        assert worker.worker.turns.quiet


async def test_a_waiting_client_hears_of_an_end_that_a_guest_has_brought_about() -> None:
    async with Stage() as stage:
        old, new = await join(stage, versioned("1.0")), await join(stage, versioned("2.0"))
        await share(old, new)
        client = await stage.client()
        mine = id_owned_by(old)
        handle = await client.start("program", 1, instance_id=mine, version="2.0")
        waiting = asyncio.ensure_future(handle.result(4))  # it would look for itself after 5 s
        await eventually(lambda: old.worker.watchers._watched)
        await raised(client, mine, 1)
        assert await waiting == ["2.0", 0, 1]


# The same version, other code


def changed(first: str, *, build: str | None = None) -> App:
    app = App("stage")

    @app.activity
    async def one(value: Any = None) -> Any:
        return value

    app.activity(name="two")(one)

    @app.orchestration
    async def program(context: OrchestrationContext) -> list[Any]:
        said = await context.call_activity(first, 1)
        return [said, await context.wait_for_external_event("go"), await context.wait_for_external_event("go")]

    return app


async def test_what_one_code_cannot_replay_goes_on_with_the_code_that_can() -> None:
    async with Stage() as stage:
        right = await join(stage, changed("one"))
        await eventually(lambda: len(right.worker._owned) == PARTITIONS)
        client = await stage.client()
        ids = [f"i{number}" for number in range(8)]
        handles = [await client.start("program", instance_id=each) for each in ids]
        for each in ids:
            await eventually(lambda each=each: _scheduled(stage, each))  # type: ignore[misc]
        right.kill()
        wrong = await join(stage, changed("two"))
        await eventually(lambda: len(wrong.worker._owned) == PARTITIONS, within=10)
        for each in ids:
            await raised(client, each, "a")
            await eventually(lambda each=each: _is(parked_kind(client, each), "nondeterminism"))  # type: ignore[misc]
        again = await join(stage, changed("one"))
        await eventually(lambda: all_running(client, ids))
        await share(wrong, again)
        mine = id_owned_by(wrong)
        for each in ids:
            await raised(client, each, "b")
        for handle in handles:
            assert await handle.result(5) == [1, "a", "b"]
        if mine in ids:
            parkings = sum(isinstance(event, ExecutionParked) for event in await stage.exact(mine))
            assert parkings == 1, "the owner remembers whose code fits"


async def all_running(client: Client, ids: list[str]) -> bool:
    return all([await parked_kind(client, each) is None for each in ids])


async def test_nothing_is_tried_again_without_new_code() -> None:
    async with Stage() as stage:
        first = await join(stage, changed("one"))
        client = await stage.client()
        await client.start("program", instance_id="a")
        await eventually(lambda: _scheduled(stage, "a"))
        first.kill()
        wrong, wronger = await join(stage, changed("two")), await join(stage, changed("three"))
        await share(wrong, wronger)
        await raised(client, "a", 1)
        await eventually(lambda: _is(parked_kind(client, "a"), "nondeterminism"))
        await eventually(lambda: wrong.worker.turns.quiet and wronger.worker.turns.quiet)
        await asyncio.sleep(0.5)  # both have had their chance by now
        before = len(await stage.commits("a"))
        turns = wrong.worker.turns.statistics.turns + wronger.worker.turns.statistics.turns
        await asyncio.sleep(0.5)
        assert wrong.worker.turns.statistics.turns + wronger.worker.turns.statistics.turns == turns
        assert len(await stage.commits("a")) == before
        await join(stage, changed("one"))
        await raised(client, "a", 2)
        await eventually(lambda: _is(_output(client, "a"), [1, 1, 2]))


async def _output(client: Client, instance_id: str) -> Any:
    return (await client.get_status(instance_id)).output


async def test_all_alike_nobody_looks_at_parked_instances() -> None:
    async with Stage() as stage:
        one, other = await join(stage, changed("one")), await join(stage, changed("one"))
        await share(one, other)
        await a_while()
        looks = one.store.counts["parked"] + other.store.counts["parked"]
        await asyncio.sleep(0.5)
        assert one.store.counts["parked"] + other.store.counts["parked"] == looks


# Entities


class Tally:
    total: int = 0

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    async def add_slowly(self, amount: int) -> int:
        await asyncio.sleep(0.001)
        return self.add(amount)


def with_entity(*, known: bool) -> App:
    app = App("stage")
    if known:
        app.entity(Tally)

    @app.orchestration
    async def adds(context: OrchestrationContext, key: str) -> list[int]:
        tally = EntityId("tally", key)
        for number in range(5):
            context.signal_entity(tally, "add", number)
        return [await context.call_entity(tally, "add_slowly", 1), await context.call_entity(tally, "add", 1)]

    return app


def entity_owned_by(player: Player) -> EntityId:
    ids = (EntityId("tally", f"k{number}") for number in count())
    return next(each for each in ids if partition_of(each.instance_id, PARTITIONS) in player.worker._owned)


async def test_entities_run_where_they_are_known() -> None:
    async with Stage() as stage:
        old, new = await join(stage, with_entity(known=False)), await join(stage, with_entity(known=True))
        await share(old, new)
        client = await stage.client()
        for owner in (old, new):
            entity = entity_owned_by(owner)
            started = await client.start("adds", entity.key)
            assert await started.result(5) == [11, 12]
            assert (await client.read_entity_state(entity)).entity_state == {"total": 12}


async def test_an_entity_that_nobody_knows_waits_for_a_worker_that_does() -> None:
    async with Stage() as stage:
        old = await join(stage, with_entity(known=False))
        await eventually(lambda: len(old.worker._owned) == PARTITIONS)
        client = await stage.client()
        entities = [EntityId("tally", f"k{number}") for number in range(8)]
        for entity in entities:
            await client.signal_entity(entity, "add", 5)
            await eventually(lambda entity=entity: _is_parked(stage, entity))  # type: ignore[misc]
        await join(stage, with_entity(known=True))
        for entity in entities:
            await client.signal_entity(entity, "add", 1)
            await eventually(lambda entity=entity: _has_total(client, entity, 6))  # type: ignore[misc]


async def _is_parked(stage: Stage, entity: EntityId) -> bool:
    record = (await stage.store.records([entity.instance_id])).get(entity.instance_id)
    return record is not None and record.parked is not None


async def _has_total(client: Client, entity: EntityId, total: int) -> bool:
    return bool((await client.read_entity_state(entity)).entity_state == {"total": total})


# Activities


async def test_a_call_of_a_new_activity_gets_to_a_worker_that_knows_it() -> None:
    old, new = App("stage"), App("stage")

    @old.activity
    async def known() -> None: ...

    @new.activity
    async def brand_new(number: int) -> int:
        return number

    @new.orchestration
    async def program(context: OrchestrationContext) -> list[int]:
        return await asyncio.gather(*(context.call_activity(brand_new, number) for number in range(20)))

    async with Stage() as stage:
        workers = [await join(stage, old), await join(stage, new)]
        await share(*workers)
        client = await stage.client(new)
        for owner in workers:
            handle = await client.start(program, instance_id=id_owned_by(owner))
            assert await handle.result(10) == list(range(20))


async def test_an_activity_that_nobody_knows_fails_as_ever() -> None:
    app = App("stage")

    @app.orchestration
    async def program(context: OrchestrationContext) -> Any:
        return await context.call_activity("unheard_of")

    app.activity(name="known")(lambda: None)
    async with Stage() as stage:
        workers = [await join(stage, app), await join(stage, app)]
        await share(*workers)
        await (await stage.client(app)).start(program, instance_id="a")
        client = await stage.client()
        status = await client.wait("a", 5)
        assert status.failure is not None
        assert "ActivityNotRegistered" in str(status.failure)
