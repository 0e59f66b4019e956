"""Finding records: for people, and for sweeps."""

from __future__ import annotations

from callboard.core.events import ParentInstance
from callboard.core.instances import InstanceRecord, Parked
from callboard.ports import InstanceFilter, ParkedInstance, Store
from callboard.testing.store_contract.values import (
    AWKWARD_IDS,
    START,
    StoreTests,
    commit,
    ids,
    last_commit,
    projection,
    record,
    run_to_end,
    seconds,
)


class ListingTests(StoreTests):
    """``query``, ``pending_starts`` and ``parked``."""

    async def _pages(self, store: Store, which: InstanceFilter, limit: int) -> list[InstanceRecord]:
        found: list[InstanceRecord] = []
        continuation: str | None = None
        while True:
            page = await store.query(which, limit=limit, continuation=continuation)
            assert len(page.records) <= limit
            found.extend(page.records)
            continuation = page.continuation
            if continuation is None:
                return found

    async def test_a_query_gives_the_newest_first_in_pages(self) -> None:
        async with self.opened() as store:
            made = [record(f"i{number}", created_time=START + seconds(number // 3)) for number in range(20)]
            await store.create(made)
            expected = sorted(made, key=lambda each: (each.created_time, each.instance_id), reverse=True)
            for limit in (1, 3, 19, 20, 21):
                assert await self._pages(store, InstanceFilter(), limit) == expected
            assert (await store.query(InstanceFilter(), limit=20)).continuation is None

    async def test_pages_do_not_shift_when_instances_come(self) -> None:
        async with self.opened() as store:
            await store.create([record(f"i{number}") for number in range(10)])
            page = await store.query(InstanceFilter(), limit=5)
            await store.create([record(f"new{number}", created_time=START + seconds(60)) for number in range(10)])
            rest = await store.query(InstanceFilter(), limit=50, continuation=page.continuation)
            assert sorted(ids(page.records) + ids(rest.records)) == [f"i{number}" for number in range(10)]

    async def test_a_query_filters(self) -> None:
        async with self.opened() as store:
            await store.create(
                [
                    record(f"{name}-{number}", name=name, created_time=START + seconds(number))
                    for name in ("hello", "bye")
                    for number in range(4)
                ]
            )
            await store.project([projection(last_commit("hello-1", 0)), projection(last_commit("bye-1", 0, "Failed"))])

            async def found(**which: object) -> list[str]:
                return sorted(ids((await store.query(InstanceFilter(**which), limit=50)).records))  # type: ignore[arg-type]

            assert await found(names=("bye",)) == [f"bye-{number}" for number in range(4)]
            assert await found(statuses=("Completed", "Failed")) == ["bye-1", "hello-1"]
            assert await found(statuses=("Completed",), names=("bye",)) == []
            assert await found(created_from=START + seconds(2), names=("bye",)) == ["bye-2", "bye-3"]
            assert await found(created_to=START + seconds(1), names=("bye",)) == ["bye-0", "bye-1"]
            assert await found(created_from=START + seconds(1), created_to=START + seconds(1)) == ["bye-1", "hello-1"]
            assert await found(id_prefix="hello-", statuses=("Pending",)) == ["hello-0", "hello-2", "hello-3"]
            assert await found(names=("bye",), created_to=START) == ["bye-0"]
            assert len(await found()) == 8

    async def test_a_query_finds_the_children_of_an_instance(self) -> None:
        async with self.opened() as store:
            mothers = {"child-1": "$mother", "child-2": "$mother", "child-3": "mother"}
            parents = {
                child: ParentInstance(instance_id=mother, execution_id="pe", task_scheduled_id=3)
                for child, mother in mothers.items()
            }
            await store.create([record("$mother"), *(record(child, parent=parents[child]) for child in mothers)])

            async def children(parent_id: str) -> list[str]:
                return sorted(ids((await store.query(InstanceFilter(parent_id=parent_id), limit=50)).records))

            assert await children("$mother") == ["child-1", "child-2"]
            assert await children("mother") == ["child-3"]
            assert await children("child-1") == []
            await run_to_end(store, "grown", parent=parents["child-1"])
            assert await store.purge("grown")
            await store.project([projection(last_commit("child-1", 0))])
            assert await children("$mother") == ["child-1", "child-2"]

    async def test_a_query_filters_by_the_last_update(self) -> None:
        async with self.opened() as store:
            await store.create([record("a"), record("b")])
            await store.project([projection(last_commit("b", 0, at=START + seconds(10.5)))])

            async def found(**which: object) -> list[str]:
                return sorted(ids((await store.query(InstanceFilter(**which), limit=50)).records))  # type: ignore[arg-type]

            assert await found(updated_from=START + seconds(10.5)) == ["b"]
            assert await found(updated_from=START + seconds(10.501)) == []
            assert await found(updated_to=START + seconds(10)) == ["a"]
            assert await found(updated_from=START, updated_to=START + seconds(11)) == ["a", "b"]

    async def test_a_query_filters_by_tags(self) -> None:
        async with self.opened() as store:
            odd = {"a.b": "$c", "$ne": "x'y", "": "empty", "é": "ü"}
            await store.create(
                [record("a", tags={"team": "red", **odd}), record("b", tags={"team": "red"}), record("c")]
            )

            async def found(**tags: str) -> list[str]:
                return sorted(ids((await store.query(InstanceFilter(tags=tags), limit=50)).records))

            assert await found(team="red") == ["a", "b"]
            assert await found(team="blue") == []
            assert await found(team="red", **odd) == ["a"]
            assert await found(**{"a.b": "c"}) == []
            assert await found() == ["a", "b", "c"]

    async def test_a_query_filters_by_fields_of_the_custom_status(self) -> None:
        async with self.opened() as store:
            statuses = {
                "a": '{"stage":"packing","count":3,"done":false,"of":{"stage":"x"},"who":null}',
                "b": '{"stage":"packing","count":3.0,"a.b":"$c","done":true}',
                "c": '"packing"',
                "d": '["stage"]',
            }
            await store.create([record(each) for each in statuses])
            commits = [commit(each, 0, custom_status=value) for each, value in statuses.items()]
            await store.project([projection(each) for each in commits])

            async def found(**fields: str | float | bool | None) -> list[str]:
                return sorted(ids((await store.query(InstanceFilter(custom_status=fields), limit=50)).records))

            assert await found(stage="packing") == ["a", "b"]
            assert await found(stage="packing", done=True) == ["b"]
            assert await found(count=3) == ["a", "b"]
            assert await found(who=None) == ["a"]
            assert await found(**{"a.b": "$c"}) == ["b"]
            assert await found(stage="x") == await found(count="3") == []
            await store.project([projection(commit("a", 1))])
            assert await found(stage="packing") == ["b"]

    async def test_counts_are_by_status(self) -> None:
        async with self.opened() as store:
            await store.create([record(f"i{number}", name="even" if number % 2 == 0 else "odd") for number in range(5)])
            await store.project([projection(last_commit("i0", 0)), projection(commit("i1", 0))])
            assert await store.count(InstanceFilter()) == {"Pending": 3, "Completed": 1, "Running": 1}
            assert await store.count(InstanceFilter(names=("even",))) == {"Pending": 2, "Completed": 1}
            assert await store.count(InstanceFilter(names=("none",))) == {}

    async def test_what_people_filter_by_is_never_an_operator(self) -> None:
        async with self.opened() as store:
            await store.create([record(each) for each in AWKWARD_IDS])
            for prefix in (*AWKWARD_IDS, "$", "a.", "\U0010ffff", ".*", "x" * 255):
                expected = {each for each in AWKWARD_IDS if each.startswith(prefix)}
                assert set(ids(await self._pages(store, InstanceFilter(id_prefix=prefix), 7))) == expected
            for odd in ("$ne", ".*", "' OR 1=1 --", '"', "%", "Purged"):
                assert (await store.query(InstanceFilter(names=(odd,)), limit=9)).records == ()
                assert (await store.query(InstanceFilter(statuses=(odd,)), limit=9)).records == ()

    async def test_a_page_under_a_filter_goes_on_where_it_ended(self) -> None:
        async with self.opened() as store:
            await store.create([record(f"i{number:02}", name="odd" if number % 2 else "even") for number in range(20)])
            which = InstanceFilter(names=("odd",), created_to=START, statuses=("Pending",), id_prefix="i")
            assert ids(await self._pages(store, which, 3)) == [f"i{number:02}" for number in range(19, 0, -2)]

    async def test_a_foreign_continuation_is_refused(self) -> None:
        async with self.opened() as store:
            for token in ("", "x", "e30=", "WzEsMl0=", "é", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwiYSJd"):
                try:
                    await store.query(InstanceFilter(), limit=1, continuation=token)
                except ValueError:
                    continue
                raise AssertionError(f"{token!r} was not refused")

    async def test_pending_starts_are_those_that_are_due_oldest_first(self) -> None:
        async with self.opened() as store:
            made = [
                record("second", created_time=START + seconds(2)),
                record("first", created_time=START + seconds(1)),
                record("elsewhere", created_time=START, partition=1),
                record("too new", created_time=START + seconds(50)),
                record("came", created_time=START, scheduled_start_time=START + seconds(3)),
                record("to come", created_time=START, scheduled_start_time=START + seconds(86_400)),
                record("runs", created_time=START),
            ]
            await store.create(made)
            await store.project([projection(commit("runs", 0))])
            before = START + seconds(10)
            assert ids(await store.pending_starts([0], before=before, limit=10)) == ["first", "second", "came"]
            assert ids(await store.pending_starts([0], before=before, limit=2)) == ["first", "second"]
            both = await store.pending_starts([0, 1, 3], before=before, limit=10)
            assert ids(both) == ["elsewhere", "first", "second", "came"]
            assert both[0] == made[2]
            day = await store.pending_starts([0], before=before, limit=10, ahead=400 * 86_400)
            assert ids(day) == ["first", "second", "came", "to come"]
            assert await store.pending_starts([2], before=before, limit=10) == []
            assert await store.pending_starts([], before=before, limit=10) == []

    async def test_parked_instances_are_found(self) -> None:
        async with self.opened() as store:
            await store.create([record("a"), record("b"), record("c", partition=1)])
            parked = Parked(reason="gone", at=START, kind="stuck")
            await store.project([projection(commit(each, 0), parked=parked) for each in ("b", "c")])
            assert [each.instance_id for each in await store.parked([0], 10)] == ["b"]
            assert [each.instance_id for each in await store.parked([0, 1], 10)] == ["b", "c"]
            for which, expected in ((True, ["b", "c"]), (False, ["a"])):
                found = (await store.query(InstanceFilter(parked=which), limit=9)).records
                assert sorted(ids(found)) == expected
            await store.project([projection(commit("b", 1))])
            assert await store.parked([0], 10) == []

    async def test_parked_instances_come_in_pages_and_say_what_they_need(self) -> None:
        async with self.opened() as store:
            made = [record(each, name=f"name of {each}", version=f"v.{each}") for each in AWKWARD_IDS]
            await store.create([*made, record("􏿿 last")])
            parked = Parked(reason="gone", at=START)
            each_id = [*AWKWARD_IDS, "􏿿 last"]
            await store.project([projection(commit(each, 0), parked=parked) for each in each_id])
            found: list[ParkedInstance] = []
            while page := await store.parked([0], 2, after=found[-1].instance_id if found else None):
                found += page
            assert [each.instance_id for each in found] == sorted(each_id)
            versions = {each.instance_id: each.version for each in made} | {"􏿿 last": None}
            names = {each.instance_id: each.name for each in (*made, record("􏿿 last"))}
            for each in found:
                assert (each.name, each.version) == (names[each.instance_id], versions[each.instance_id])
                assert each.kind == "unrunnable"
