"""Opening, creating, projecting."""

from __future__ import annotations

import asyncio

import msgspec

from callboard.core.instances import Parked
from callboard.errors import ConfigurationError, HubMismatchError, HubNotFoundError
from callboard.ports import InstanceFilter
from callboard.testing.store_contract.values import (
    AWKWARD_IDS,
    COMMITTED,
    CREATED,
    START,
    StoreTests,
    commit,
    continued,
    failure,
    full_record,
    last_commit,
    projection,
    record,
    run_to_end,
    seconds,
    with_numbers,
)


class OpeningTests(StoreTests):
    """``open`` and ``aclose``."""

    async def test_a_new_hub_gets_the_partitions_asked_for(self) -> None:
        store = self.make_store()
        assert await store.open(self.hub, 5) == 5
        await store.aclose()

    async def test_a_new_hub_gets_32_partitions_by_default(self) -> None:
        store = self.make_store()
        assert await store.open(self.hub, None) == 32
        assert len((await store.view(ttl=10)).leases) == 32
        await store.aclose()

    async def test_an_existing_hub_keeps_its_partitions(self) -> None:
        async with self.opened():
            again = self.make_store()
            assert await again.open(self.hub, None) == self.partitions
            await again.aclose()

    async def test_another_number_of_partitions_is_refused(self) -> None:
        async with self.opened():
            again = self.make_store()
            try:
                await again.open(self.hub, self.partitions + 1)
            except HubMismatchError as error:
                refusal = error
            else:
                raise AssertionError("it was not refused")
            assert (refusal.existing, refusal.requested) == (self.partitions, self.partitions + 1)
            await again.aclose()

    async def test_a_hub_that_is_not_there_is_not_made_by_those_who_only_look(self) -> None:
        async with self.opened():
            again = self.make_store()
            assert await again.open(self.hub, None, create=False) == self.partitions
            await again.aclose()
            refusal: HubNotFoundError | None = None
            again = self.make_store()
            try:
                await again.open(f"{self.hub}x", None, create=False)
            except HubNotFoundError as error:
                refusal = error
            assert refusal is not None
            assert self.hub in str(refusal), "it says which hubs there are"
            await again.aclose()

    async def test_an_id_is_used_once_where_records_are_not_to_be_replaced(self) -> None:
        async with self.opened() as store:
            await store.create([record("a"), record("b")])
            await run_to_end(store, "c")
            await run_to_end(store, "purged")
            assert await store.purge("purged")
            news = [record(each, execution_id=f"new {each}") for each in ("a", "c", "new", "purged")]
            outcomes = await store.create(news, replace=False)
            assert [outcome.created for outcome in outcomes] == [False, False, True, True]
            existing = outcomes[1].existing
            assert existing is not None
            assert existing.runtime_status == "Completed"
            again = await store.create(news, replace=False)
            assert [outcome.created for outcome in again] == [False, False, True, True]
            assert [outcome.created for outcome in await store.create(news[1:2])] == [True]

    async def test_several_open_a_new_hub_at_once(self) -> None:
        stores = [self.make_store() for _ in range(4)]
        assert await asyncio.gather(*(store.open(self.hub, 3) for store in stores)) == [3] * 4
        for store in stores:
            assert [lease.partition for lease in (await store.view(ttl=10)).leases] == [0, 1, 2]
            await store.aclose()

    async def test_hub_names_that_cannot_be_are_refused(self) -> None:
        for name in ("", "1a", "a.b", "a b", "a$", "a/b", "é", "a" * 46, 'a"b', "a\n"):
            store = self.make_store()
            try:
                await store.open(name, 1)
            except ConfigurationError:
                await store.aclose()
                continue
            raise AssertionError(f"{name!r} was not refused")

    async def test_closing_twice_is_closing_once(self) -> None:
        unused = self.make_store()
        await unused.aclose()
        store = self.make_store()
        await store.open(self.hub, 1)
        await store.aclose()
        await store.aclose()

    async def test_hubs_do_not_see_each_other(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            await store.append([commit("a", 0)])
            other = self.make_store()
            await other.open(self.hub + "x", self.partitions)
            assert await other.records(["a"]) == {}
            assert (await other.query(InstanceFilter(), limit=10)).records == ()
            assert await other.append([commit("a", 0, "theirs")]) == [COMMITTED]
            await other.aclose()

    async def test_everything_is_there_after_reopening(self) -> None:
        async with self.opened() as store:
            await store.create([full_record("a")])
            await store.append([commit("a", 0), commit("a", 1)])
            payload = await store.put_payload("a", b"x" * 1000)
            lease = await store.acquire(1, "w", epoch=0, ttl=60)
        async with self.opened() as store:
            assert await store.records(["a"]) == {"a": full_record("a")}
            assert await store.history("a") == [commit("a", 0), commit("a", 1)]
            assert await store.get_payload(payload) == b"x" * 1000
            assert (await store.view(ttl=10)).leases[1] == lease


class CreatingTests(StoreTests):
    """``create`` and ``records``."""

    async def test_records_come_back_as_they_were(self) -> None:
        async with self.opened() as store:
            made = [record("plain"), full_record("full")]
            assert await store.create(made) == [CREATED, CREATED]
            assert await store.records(["full", "plain", "unknown"]) == {"plain": made[0], "full": made[1]}
            assert await store.records([]) == {}
            assert await store.create([]) == []

    async def test_creating_again_is_creating_once(self) -> None:
        async with self.opened() as store:
            assert await store.create([record("a")]) == [CREATED]
            assert await store.create([record("a"), record("b"), record("a")]) == [CREATED] * 3
            await store.project([projection(commit("a", 0))])
            assert await store.create([record("a")]) == [CREATED]
            assert (await store.records(["a"]))["a"].runtime_status == "Running"

    async def test_an_instance_that_is_not_finished_is_in_the_way(self) -> None:
        async with self.opened() as store:
            await store.create([record("a"), record("b")])
            await store.project([projection(commit("b", 0, custom_status='"s"'))])
            first, second, third = await store.create([record("a", "e2"), record("b", "e2"), record("c")])
            assert (first.created, first.existing) == (False, record("a"))
            assert second.existing is not None
            assert second.existing.runtime_status == "Running"
            assert third == CREATED
            assert (await store.records(["a"]))["a"] == record("a")

    async def test_an_instance_that_is_finished_is_replaced_and_goes_on_counting(self) -> None:
        async with self.opened() as store:
            for status in ("Completed", "Failed", "Terminated"):
                await store.create([record(status)])
                for n in range(3):
                    await store.append([commit(status, n)])
                end = last_commit(status, 3, status)
                await store.append([end])
                await store.project([projection(end, output='"old"', failure=failure())])
                new = record(status, "e2", input='"new"', head=77, first=99)
                assert await store.create([new]) == [CREATED]
                expected = with_numbers(new, head=3, first=4)
                assert await store.records([status]) == {status: expected}
                assert await store.create([new]) == [CREATED]
                assert await store.create([record(status, "e3")]) != [CREATED]

    async def test_a_repeated_create_does_not_start_a_finished_instance_again(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            end = continued("a", 0, "e1", "e2")
            last = last_commit("a", 1, execution="e2", first=1, generation=1)
            await store.append([end, last])
            await store.project([projection(end), projection(last)])
            assert await store.create([record("a")]) == [CREATED]
            assert (await store.records(["a"]))["a"].runtime_status == "Completed"

    async def test_a_child_that_ended_before_its_start_is_terminated_from_the_beginning(self) -> None:
        async with self.opened() as store:
            ended = record("a", runtime_status="Terminated", completed_time=START)
            assert await store.create([ended]) == [CREATED]
            assert await store.create([ended]) == [CREATED]
            assert await store.records(["a"]) == {"a": ended}
            later = START + seconds(9999)
            assert await store.pending_starts([0], before=later, limit=10) == []

    async def test_one_of_two_who_create_at_once_wins(self) -> None:
        async with self.opened() as store, self.opened() as other:
            names = [f"i{number}" for number in range(20)]
            ours, theirs = await asyncio.gather(
                store.create([record(name, "ours") for name in names]),
                other.create([record(name, "theirs") for name in reversed(names)]),
            )
            found = await store.records(names)
            for name, mine, yours in zip(names, ours, reversed(theirs), strict=True):
                assert mine.created != yours.created
                assert found[name] == record(name, "ours" if mine.created else "theirs")
                assert (yours if mine.created else mine).existing == found[name]

    async def test_one_of_two_who_replace_at_once_wins(self) -> None:
        async with self.opened() as store, self.opened() as other:
            for number in range(10):
                name = f"i{number}"
                await run_to_end(store, name)
                (mine,), (yours,) = await asyncio.gather(
                    store.create([record(name, "ours")]), other.create([record(name, "theirs")])
                )
                assert mine.created != yours.created
                winner = record(name, "ours" if mine.created else "theirs")
                assert await store.records([name]) == {name: with_numbers(winner, head=0, first=1)}

    async def test_ids_that_look_like_something_else_are_only_ids(self) -> None:
        async with self.opened() as store:
            await store.create([record(each, input=f'"{index}"') for index, each in enumerate(AWKWARD_IDS)])
            await store.append([commit(each, 0) for each in AWKWARD_IDS])
            for index, each in enumerate(AWKWARD_IDS):
                expected = record(each, input=f'"{index}"')
                assert await store.records([each]) == {each: expected}
                assert await store.history(each) == [commit(each, 0)]
                loaded = (await store.load([each]))[each]
                assert (loaded.record, loaded.commits) == (expected, (commit(each, 0),))

    async def test_an_id_with_a_slash_is_refused(self) -> None:
        async with self.opened() as store:
            try:
                await store.create([record("fine"), record("a/b")])
            except ValueError:
                assert await store.records(["fine", "a/b"]) == {}
            else:
                raise AssertionError("it was not refused")


class ProjectingTests(StoreTests):
    """``project``."""

    async def test_a_projection_changes_what_it_names(self) -> None:
        async with self.opened() as store:
            await store.create([record("a", input='"in"')])
            parked = Parked(reason="$gone", at=START)
            status = commit("a", 0, custom_status='"$half"', runtime_status="Suspended")
            await store.project([projection(status, parked=parked)])
            expected = msgspec.structs.replace(
                record("a", input='"in"'), custom_status='"$half"', runtime_status="Suspended", parked=parked, head=0
            )
            assert await store.records(["a"]) == {"a": expected}
            end = last_commit("a", 1, "Failed")
            await store.project([projection(end, output='"$out"', failure=failure(), input='"ignored"')])
            ended = msgspec.structs.replace(
                record("a", input='"in"'),
                runtime_status="Failed",
                output='"$out"',
                failure=failure(),
                completed_time=end.at,
                last_updated_time=end.at,
                head=1,
            )
            assert await store.records(["a"]) == {"a": ended}

    async def test_it_never_goes_backwards(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            await store.project([projection(commit("a", 3, custom_status='"3"'))])
            await store.project([projection(commit("a", n, custom_status=f'"{n}"')) for n in (3, 2, 1)])
            found = (await store.records(["a"]))["a"]
            assert (found.head, found.custom_status) == (3, '"3"')
            await store.project([projection(commit("a", 3, custom_status='"other"'))])
            assert (await store.records(["a"]))["a"] == found

    async def test_it_applies_in_order_within_one_call(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            chain = [
                commit("a", 0),
                continued("a", 1, "e1", "e2"),
                commit("a", 2, execution="e2", generation=1, first=2),
            ]
            await store.project([projection(each) for each in reversed(chain)])
            found = (await store.records(["a"]))["a"]
            assert (found.head, found.first, found.generation, found.execution_id) == (2, 2, 1, "e2 of a")
            assert found.input == '"next"'

    async def test_an_execution_that_begins_brings_its_version(self) -> None:
        async with self.opened() as store:
            await store.create([record("a", version="1.0"), record("b", version="1.0")])
            await store.project([projection(commit("a", 0), version="ignored")])
            assert (await store.records(["a"]))["a"].version == "1.0"
            await store.project(
                [projection(commit(each, 1), begins=True, version=new) for each, new in (("a", "2.0"), ("b", None))]
            )
            found = await store.records(["a", "b"])
            assert (found["a"].version, found["b"].version) == ("2.0", None)

    async def test_it_leaves_other_executions_alone(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            await store.project([projection(commit("a", 5, execution="e0"))])
            assert await store.records(["a"]) == {"a": record("a")}

    async def test_it_follows_a_record_that_lags_behind_continue_as_new(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            late = commit("a", 7, execution="e3", generation=2, first=6)
            await store.project([projection(late, begins=True, input='"e3\'s"')])
            found = (await store.records(["a"]))["a"]
            assert (found.execution_id, found.generation, found.head, found.first) == ("e3 of a", 2, 7, 6)
            assert found.input == '"e3\'s"'
            await store.project([projection(continued("a", 5, "e2", "e3", generation=1))])
            assert (await store.records(["a"]))["a"] == found

    async def test_it_never_makes_a_record(self) -> None:
        async with self.opened() as store:
            await store.project([projection(commit("a", 0))])
            await store.project([])
            assert await store.records(["a"]) == {}
            await run_to_end(store, "b")
            assert await store.purge("b")
            await store.project([projection(commit("b", 9)), projection(commit("b", 9, generation=9))])
            assert await store.records(["b"]) == {}
