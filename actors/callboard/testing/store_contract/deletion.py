"""Trim, purge and payloads."""

from __future__ import annotations

import asyncio
import hashlib

from callboard.core.events import TaskCompleted
from callboard.ports import InstanceFilter, Store
from callboard.testing.store_contract.values import (
    AWKWARD_IDS,
    COMMITTED,
    CREATED,
    LOST,
    START,
    StoreTests,
    claim,
    commit,
    continued,
    eventually,
    key,
    last_commit,
    projection,
    record,
    run_to_end,
    seconds,
    timer,
    with_numbers,
)


class TrimmingTests(StoreTests):
    """``trim``."""

    async def _continued(self, store: Store, name: str = "a") -> None:
        chain = [
            commit(name, 0),
            continued(name, 1, "e1", "e2"),
            commit(name, 2, execution="e2", first=2, generation=1),
        ]
        assert await store.create([record(name)]) == [CREATED]
        assert await store.append(chain) == [COMMITTED] * 3
        await store.project([projection(each) for each in chain])
        await store.mark_sent([key(each) for each in chain])

    async def test_it_deletes_what_is_below(self) -> None:
        async with self.opened() as store:
            await self._continued(store)
            await self._continued(store, "a0")
            before = (await store.load(["a"]))["a"]
            assert await store.trim("a", below=2) == 2
            assert await store.trim("a", below=2) == 0
            assert [each.n for each in await store.history("a")] == [2]
            assert (await store.load(["a"]))["a"] == before
            assert len(await store.history("a0")) == 3
            assert await store.trim("unknown", below=9) == 0

    async def test_it_keeps_what_is_unsent(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            await store.append([commit("a", n) for n in range(4)])
            await store.mark_sent([key(commit("a", n)) for n in (0, 2)])
            assert await store.trim("a", below=3) == 2
            assert [each.n for each in await store.history("a")] == [1, 3]

    async def test_trimmed_numbers_stay_taken(self) -> None:
        async with self.opened() as store, self.opened() as asleep:
            await self._continued(store)
            await store.trim("a", below=2)
            assert await asleep.append([commit("a", 1, "theirs"), commit("a", 0)]) == [LOST, COMMITTED]
            assert [each.n for each in await store.history("a")] == [2]
            assert await store.unsent([0], before=START + seconds(999), limit=9) == []

    async def test_payloads_in_use_are_kept(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            used = await store.put_payload("a", b"used")
            fresh = await store.put_payload("a", b"fresh")
            result = TaskCompleted(timestamp=START, task_scheduled_id=0, result=f'{{"$payload":"{used}"}}')
            await store.append([commit("a", 0, events=(result,)), commit("a", 1, events=(result,)), commit("a", 2)])
            await store.mark_sent([key(commit("a", n)) for n in range(3)])
            assert await store.trim("a", below=1) == 1
            assert await store.get_payload(used) == b"used"
            assert await store.get_payload(fresh) == b"fresh"


class PurgingTests(StoreTests):
    """``purge`` and what it leaves."""

    async def test_it_deletes_all_that_belongs_to_the_instance(self) -> None:
        async with self.opened() as store:
            await run_to_end(store, "a")
            payload = await store.put_payload("a", b"x")
            await store.put_timers([timer("a", 0)])
            await store.claim(claim("a", 0, "w"), ttl=0)
            assert await store.purge("a")
            assert await store.records(["a"]) == {}
            assert await store.load(["a"]) == {}
            assert await store.history("a") == []
            assert (await store.query(InstanceFilter(), limit=9)).records == ()
            assert await store.due_timers([0], until=START + seconds(99), limit=9) == []
            assert await store.expired_claims([0], 9) == []
            assert await self._is_gone(store, payload)
            assert not await store.purge("a")

    async def _is_gone(self, store: Store, payload: str) -> bool:
        try:
            await store.get_payload(payload)
        except KeyError:
            return True
        return False

    async def test_it_refuses_what_is_unknown_or_not_finished(self) -> None:
        async with self.opened() as store:
            await store.create([record("pending"), record("runs")])
            await store.append([commit("runs", 0)])
            await store.project([projection(commit("runs", 0))])
            await store.mark_sent([key(commit("runs", 0))])
            for name in ("pending", "runs", "unknown"):
                assert not await store.purge(name)
            assert len(await store.records(["pending", "runs"])) == 2
            assert len(await store.history("runs")) == 1

    async def test_it_refuses_what_is_not_sent(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            end = last_commit("a", 1)
            await store.append([commit("a", 0), end])
            await store.project([projection(end)])
            await store.mark_sent([key(end)])
            assert not await store.purge("a")
            assert len(await store.history("a")) == 2
            await store.mark_sent([key(commit("a", 0))])
            assert await store.purge("a")

    async def test_it_refuses_what_goes_on_behind_a_lagging_record(self) -> None:
        async with self.opened() as store:
            await run_to_end(store, "a")
            going_on = commit("a", 1, execution="e2", first=1)
            await store.append([going_on])
            await store.mark_sent([key(going_on)])
            assert not await store.purge("a")

    async def test_it_takes_a_child_that_never_ran(self) -> None:
        async with self.opened() as store:
            await store.create([record("a", runtime_status="Terminated", completed_time=START)])
            assert await store.purge("a")
            assert await store.records(["a"]) == {}

    async def test_it_leaves_others_alone(self) -> None:
        async with self.opened() as store:
            payloads: dict[str, str] = {}
            for each in AWKWARD_IDS:
                await run_to_end(store, each)
                payloads[each] = await store.put_payload(each, b"same")
            await store.put_timers([timer(each, 0) for each in AWKWARD_IDS])
            left = set(AWKWARD_IDS)
            for each in ("a", "a.", "%", "_", "$ne", "日本", "é", "*", "^a"):
                assert await store.purge(each)
                left.discard(each)
            assert set(await store.records(AWKWARD_IDS)) == left
            timers = await store.due_timers([0], until=START + seconds(9), limit=99)
            assert {row.instance_id for row in timers} == left
            for each in AWKWARD_IDS:
                assert await self._is_gone(store, payloads[each]) == (each not in left)
                assert len(await store.history(each)) == (each in left)

    async def test_an_id_used_again_goes_on_counting(self) -> None:
        async with self.opened() as store:
            await run_to_end(store, "a")
            assert await store.purge("a")
            new = record("a", "e2")
            assert await store.create([new]) == [CREATED]
            assert await store.records(["a"]) == {"a": with_numbers(new, head=0, first=1)}
            assert await store.create([new]) == [CREATED]
            assert await store.create([record("a", "e3")]) != [CREATED]
            assert (await store.load(["a"]))["a"].commits == ()
            first = commit("a", 1, execution="e2", first=1)
            assert await store.append([first]) == [COMMITTED]
            assert (await store.load(["a"]))["a"].commits == (first,)
            end = last_commit("a", 2, execution="e2", first=1)
            await store.append([end])
            await store.project([projection(end)])
            await store.mark_sent([key(first), key(end)])
            assert await store.purge("a")
            assert await store.create([record("a", "e4")]) == [CREATED]
            assert (await store.records(["a"]))["a"].first == 3

    async def test_a_late_create_does_not_bring_a_purged_instance_back(self) -> None:
        async with self.opened() as store:
            await run_to_end(store, "a")
            assert await store.purge("a")
            assert await store.create([record("a")]) == [CREATED]
            assert await store.records(["a"]) == {}
            assert await store.confirm("a", -1, None)

    async def test_purged_numbers_stay_taken(self) -> None:
        async with self.opened() as store, self.opened() as asleep:
            await store.create([record("a")])
            end = last_commit("a", 2)
            await store.append([commit("a", 0), commit("a", 1), end])
            await store.project([projection(end)])
            await store.mark_sent([key(commit("a", n)) for n in range(3)])
            assert await store.purge("a")
            assert await asleep.append([commit("a", 1, "theirs")]) == [LOST]
            assert not await asleep.confirm("a", 0, "e1 of a")
            assert await store.history("a") == []

    async def test_two_may_purge_at_once(self) -> None:
        async with self.opened() as store, self.opened() as other:
            for number in range(5):
                name = f"i{number}"
                await run_to_end(store, name)
                assert any(await asyncio.gather(store.purge(name), other.purge(name)))
                assert await store.records([name]) == {}
                assert await store.history(name) == []

    async def test_creating_while_purging(self) -> None:
        async with self.opened() as store, self.opened() as other:
            for number in range(10):
                name = f"i{number}"
                await run_to_end(store, name)
                purged, (outcome,) = await asyncio.gather(store.purge(name), other.create([record(name, "e2")]))
                assert outcome == CREATED
                assert await store.records([name]) == {name: with_numbers(record(name, "e2"), head=0, first=1)}
                assert len(await store.history(name)) == (0 if purged else 1)

    async def test_a_tombstone_does_not_stay_for_ever(self) -> None:
        async with self.opened() as store:
            await run_to_end(store, "a")
            assert await store.purge("a", tombstone_seconds=0)
            assert await store.records(["a"]) == {}
            assert await store.create([record("a", "e2")]) == [CREATED]


class PayloadTests(StoreTests):
    """``put_payload`` and ``get_payload``."""

    async def test_payloads_come_back(self) -> None:
        async with self.opened() as store:
            for body in (b"", b"x", bytes(range(256)) * 1024):
                stored = await store.put_payload("a", body)
                assert stored == await store.put_payload("a", body)
                assert await store.get_payload(stored) == body
                assert "a" in stored
                assert hashlib.sha256(body).hexdigest() in stored

    async def test_a_large_payload_comes_back(self) -> None:
        async with self.opened() as store:
            body = b"0123456789abcdef" * (9 * 1024 * 1024 // 16) + b"end"
            assert await store.get_payload(await store.put_payload("a", body)) == body

    async def test_the_same_body_of_two_instances_is_two(self) -> None:
        async with self.opened() as store:
            await run_to_end(store, "a")
            first, second = await store.put_payload("a", b"x"), await store.put_payload("a0", b"x")
            assert first != second
            assert await store.purge("a")
            assert await store.get_payload(second) == b"x"

    async def test_an_unknown_key(self) -> None:
        async with self.opened() as store:
            stored = await store.put_payload("a", b"x")
            for unknown in ("", "a", "a/", stored[:-1], stored + "0", f"b/{stored[2:]}", "$ne", "a/.*"):
                try:
                    await store.get_payload(unknown)
                except KeyError:
                    continue
                raise AssertionError(f"{unknown!r} was found")

    async def test_several_put_the_same_at_once(self) -> None:
        async with self.opened() as store, self.opened() as other:
            body = b"x" * 5_000_000
            keys = await asyncio.gather(*(each.put_payload("a", body) for each in (store, other, store, other)))
            assert len(set(keys)) == 1

            async def is_there() -> bool:
                return await store.get_payload(keys[0]) == body

            await eventually(is_there, "the payload is whole")
