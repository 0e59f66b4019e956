"""Entities: actors whose commits carry their state, and whose records begin as Running."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from callboard.core.entities import (
    Caller,
    CleanUp,
    EntityMemory,
    EntityView,
    Heard,
    Lock,
    Operation,
    Position,
    SentLine,
    Started,
    Timed,
    Unlock,
)
from callboard.core.events import (
    EntityLocked,
    EntityOperationProcessed,
    EntityRequestReceived,
    EntityYielded,
    NewOrchestrationStarted,
)
from callboard.core.instances import Commit, InstanceRecord
from callboard.ports import EntityFilter, InstanceFilter, LoadedInstance, Store
from callboard.testing.store_contract.values import (
    COMMITTED,
    CREATED,
    START,
    StoreTests,
    commit,
    failure,
    ids,
    key,
    last_commit,
    projection,
    record,
    seconds,
    trace,
)

CALLER = Caller(instance_id="$o", execution_id="a.b", task_scheduled_id=3)


def entity(instance_id: str, **fields: Any) -> InstanceRecord:
    """A new entity."""
    return record(
        instance_id, name=instance_id[1:].partition("@")[0], runtime_status="Running", entity=EntityView(), **fields
    )


def entity_commit(instance_id: str, n: int, **fields: Any) -> Commit:
    """A commit with the memory, which a load begins at."""
    view = EntityView(state=f"{n}", last_operation=START + seconds(n))
    defaults: dict[str, Any] = {"first": n, "events": (), "entity": view, "memory": EntityMemory()}
    return commit(instance_id, n, **(defaults | fields))


def rich_memory() -> EntityMemory:
    """A memory in which every field has a value."""
    position = Position(sender="$a.b", number=2**52, after=START + seconds(0.001))
    operation = Operation(
        line=position,
        sent=START,
        request_id="$r",
        operation="$add",
        input='{"$a.b": 1}',
        caller=CALLER,
        due=START,
        trace=trace(),
    )
    return EntityMemory(
        queue=(
            operation,
            Lock(line=position, sent=START, caller=CALLER),
            Unlock(line=position, sent=START, caller=CALLER),
        ),
        urgent=(operation,),
        timed=(Timed(timer_id=1, request=operation),),
        held=(CleanUp(line=position, sent=START, idle=1.5),),
        lock=CALLER,
        heard=(Heard(sender="$a.b", ranges=((0, 1), (5, 2**53)), sent=START + seconds(0.999), stamp=7),),
        lines=(SentLine(target="@x@$y.z", sender="$a.b", next=3, sent=START),),
        started=(Started(number=4, instance_id="i", operation="done"),),
        clock=2**40,
        horizon=START,
        numbers=5,
    )


class EntityTests(StoreTests):
    """What entities need beside what all instances do."""

    async def test_an_entity_begins_as_running_and_is_made_once(self) -> None:
        async with self.opened() as store:
            made = entity("@c@1")
            assert await store.create([made]) == [CREATED]
            assert await store.create([made]) == [CREATED]
            (refused,) = await store.create([entity("@c@1", execution_id="another")])
            assert (refused.created, refused.existing) == (False, made)
            assert await store.load(["@c@1"]) == {"@c@1": LoadedInstance(record=made, commits=())}
            assert await store.pending_starts(list(range(self.partitions)), before=START + seconds(99), limit=9) == []

    async def test_a_commit_of_an_entity_comes_back_whole(self) -> None:
        async with self.opened() as store:
            await store.create([entity("@c@1")])
            memory = rich_memory()
            events = (
                EntityRequestReceived(timestamp=START, request=memory.queue[0], timer_id=1),
                EntityOperationProcessed(
                    timestamp=START, request_id="$a/1", operation="$x", caller=CALLER, failure=failure(), trace=trace()
                ),
                EntityLocked(timestamp=START, caller=CALLER),
                NewOrchestrationStarted(
                    timestamp=START, number=1, name="$n", instance_id="i", execution_id="e", tags={"$a": "b.c"}
                ),
                EntityYielded(timestamp=START),
            )
            view = EntityView(
                state='{"$a.b": null}', locked_by="$o", backlog=2, last_operation=START, last_failure=failure()
            )
            first = entity_commit("@c@1", 0, events=events, memory=memory, entity=view)
            assert await store.append([first]) == [COMMITTED]
            assert (await store.load(["@c@1"]))["@c@1"].commits == (first,)
            await store.project([projection(first, entity=view)])
            assert (await store.records(["@c@1"]))["@c@1"].entity == view

    async def test_a_load_begins_at_the_last_commit_with_the_memory(self) -> None:
        async with self.opened() as store:
            await store.create([entity("@c@1")])
            commits = [entity_commit("@c@1", n) for n in range(3)]
            commits += [entity_commit("@c@1", n, first=2, memory=None) for n in (3, 4)]
            assert await store.append(commits) == [COMMITTED] * 5
            for projected in (None, 1, 3):
                if projected is not None:
                    await store.project([projection(commits[projected])])
                assert (await store.load(["@c@1"]))["@c@1"].commits == tuple(commits[2:])
            await store.mark_sent([key(each) for each in commits])
            assert await store.trim("@c@1", below=2) == 2
            assert (await store.load(["@c@1"]))["@c@1"].commits == tuple(commits[2:])

    async def test_an_entity_that_has_ended_is_made_anew_and_counts_on(self) -> None:
        async with self.opened() as store:
            await store.create([entity("@c@1")])
            end = last_commit("@c@1", 0, entity=EntityView(), memory=EntityMemory())
            await store.append([end])
            await store.project([projection(end)])
            await store.mark_sent([key(end)])
            await self._made_anew(store, "second", 0)
            again = msgspec.structs.replace(end, n=1, first=1, execution_id="second")
            await store.append([again])
            await store.project([projection(again)])
            await store.mark_sent([key(again)])
            assert await store.purge("@c@1")
            await self._made_anew(store, "third", 1)

    async def _made_anew(self, store: Store, execution: str, head: int) -> None:
        assert await store.create([entity("@c@1", execution_id=execution)]) == [CREATED]
        found = (await store.load(["@c@1"]))["@c@1"]
        assert (found.record.head, found.record.first, found.commits) == (head, head + 1, ())
        assert (found.record.runtime_status, found.record.execution_id) == ("Running", execution)

    async def test_instances_and_entities_are_listed_apart(self) -> None:
        async with self.opened() as store:
            await store.create([record(each) for each in ("a", "A", "?", "é")])
            await store.create([entity(each) for each in ("@c@1", "@d@")])
            everything = await store.query(InstanceFilter(), limit=50)
            assert sorted(ids(everything.records)) == sorted(["a", "A", "?", "é"])
            assert (await store.query(InstanceFilter(statuses=("Running",)), limit=50)).records == ()
            assert (await store.query(InstanceFilter(names=("c",)), limit=50)).records == ()
            assert (await store.query(InstanceFilter(id_prefix="@"), limit=50)).records == ()
            assert ids((await store.query_entities(EntityFilter(include_transient=True), limit=9)).records) == [
                "@c@1",
                "@d@",
            ]

    async def test_entities_are_found_in_pages_in_order_of_their_ids(self) -> None:
        async with self.opened() as store:
            names = [f"@c@{number:02}" for number in range(10)] + ["@cc@1", "@d@x"]
            await store.create([entity(each) for each in names])
            await store.project(
                [
                    projection(entity_commit(each, 0), entity=_view("1", number))
                    for number, each in enumerate(names)
                    if each != "@c@05"
                ]
            )
            existing = [each for each in names if each != "@c@05"]
            for limit in (1, 3, 20):
                assert await self._entities(store, EntityFilter(), limit) == existing
                assert await self._entities(store, EntityFilter(include_transient=True), limit) == names
                assert await self._entities(store, EntityFilter(name="c"), limit) == existing[:9]
            assert await self._entities(store, EntityFilter(name="c", key_prefix="0"), 4) == existing[:9]
            assert await self._entities(store, EntityFilter(name="c", key_prefix="08"), 4) == ["@c@08"]
            assert await self._entities(store, EntityFilter(name="none"), 4) == []
            some = EntityFilter(last_operation_from=START + seconds(2.5), last_operation_to=START + seconds(4.5))
            assert await self._entities(store, some, 4) == ["@c@02", "@c@03", "@c@04"]
            exact = EntityFilter(last_operation_from=_time(2), last_operation_to=_time(2))
            assert await self._entities(store, exact, 4) == ["@c@02"]

    async def test_a_foreign_continuation_of_entities_is_refused(self) -> None:
        async with self.opened() as store:
            await store.create([record(f"i{number}") for number in range(3)])
            token = (await store.query(InstanceFilter(), limit=1)).continuation
            for foreign in ("", "x", "ImEi", token or ""):
                try:
                    await store.query_entities(EntityFilter(), limit=1, continuation=foreign)
                except ValueError:
                    continue
                raise AssertionError(f"{foreign!r} was not refused")

    async def _entities(self, store: Store, which: EntityFilter, limit: int) -> list[str]:
        found: list[str] = []
        continuation: str | None = None
        while True:
            page = await store.query_entities(which, limit=limit, continuation=continuation)
            assert len(page.records) <= limit
            found += ids(page.records)
            continuation = page.continuation
            if continuation is None:
                return found


def _time(number: int) -> datetime:
    return START + seconds(number + 0.5)


def _view(state: str, number: int) -> EntityView:
    return EntityView(state=state, last_operation=_time(number))
