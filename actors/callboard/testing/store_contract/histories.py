"""Appending, loading, confirming, sweeping."""

from __future__ import annotations

import asyncio

import msgspec

from callboard.core.instances import Commit
from callboard.errors import CallboardError, InvalidPayloadError
from callboard.ports import Store
from callboard.testing.store_contract.values import (
    COMMITTED,
    CREATED,
    LOST,
    START,
    StoreTests,
    commit,
    continued,
    eventually,
    ids,
    key,
    last_commit,
    projection,
    record,
    rich_commit,
    run_to_end,
    seconds,
)


class AppendingTests(StoreTests):
    """``append`` and ``history``."""

    async def test_commits_come_back_as_they_were(self) -> None:
        async with self.opened() as store:
            made = [commit("a", 0), rich_commit("a", 1), last_commit("a", 2), continued("a", 3, "e1", "e2")]
            assert await store.append([made[2], made[0], made[3], made[1]]) == [COMMITTED] * 4
            assert await store.history("a") == made
            assert await store.history("b") == []
            assert await store.append([]) == []

    async def test_appending_again_is_appending_once(self) -> None:
        async with self.opened() as store:
            assert await store.append([commit("a", 0)]) == [COMMITTED]
            assert await store.append([commit("a", 0), commit("a", 1), commit("a", 0)]) == [COMMITTED] * 3
            assert await store.history("a") == [commit("a", 0), commit("a", 1)]

    async def test_a_number_is_taken_once(self) -> None:
        async with self.opened() as store:
            await store.append([commit("a", 0), commit("b", 0)])
            outcomes = await store.append(
                [
                    commit("a", 0, "theirs"),
                    commit("a", 1, "theirs"),
                    commit("b", 0),
                    commit("c", 0),
                    commit("c", 0, "x"),
                ]
            )
            assert outcomes == [LOST, COMMITTED, COMMITTED, COMMITTED, LOST]
            assert await store.history("a") == [commit("a", 0), commit("a", 1, "theirs")]
            assert await store.history("c") == [commit("c", 0)]

    async def test_one_of_two_who_append_at_once_wins(self) -> None:
        async with self.opened() as store, self.opened() as other:
            names = [f"i{number}" for number in range(30)]
            ours, theirs = await asyncio.gather(
                store.append([commit(name, 0, "ours") for name in names]),
                other.append([commit(name, 0, "theirs") for name in reversed(names)]),
            )
            for name, mine, yours in zip(names, ours, reversed(theirs), strict=True):
                assert {mine, yours} == {COMMITTED, LOST}
                winner = "ours" if mine is COMMITTED else "theirs"
                assert await store.history(name) == [commit(name, 0, winner)]
                assert await other.append([commit(name, 0, winner)]) == [COMMITTED]

    async def test_many_commits_go_in_one_call(self) -> None:
        async with self.opened() as store:
            made = [commit(f"i{number}", 0) for number in range(1500)]
            assert await store.append(made) == [COMMITTED] * 1500
            names = ids(made)
            await store.create([record(name) for name in names])
            loaded = await store.load(names)
            assert [loaded[name].commits for name in names] == [(each,) for each in made]

    async def test_many_calls_at_once_are_each_answered(self) -> None:
        async with self.opened() as store:
            await store.append([commit("lost", 0, "theirs")])

            async def one(number: int) -> None:
                name = f"i{number % 40}"
                outcome = await store.append([commit(name, 0, f"token{number}")])
                kept = await store.history(name)
                assert (outcome == [COMMITTED]) == (kept == [commit(name, 0, f"token{number}")])
                assert await store.append([commit("lost", 0)]) == [LOST]

            await asyncio.gather(*map(one, range(120)))

    async def test_a_large_commit_fits(self) -> None:
        async with self.opened() as store:
            large = commit("a", 0, custom_status='"' + "é" * 1_900_000 + '"')
            assert await store.append([large]) == [COMMITTED]
            assert await store.history("a") == [large]

    async def test_text_that_is_none_is_refused(self) -> None:
        async with self.opened() as store:
            try:
                await store.append([commit("a", 0, custom_status="\ud800")])
            except InvalidPayloadError:
                assert await store.history("a") == []
            else:
                raise AssertionError("it was not refused")
            assert await store.append([commit("a", 0)]) == [COMMITTED]


class LoadingTests(StoreTests):
    """``load`` and ``confirm``."""

    async def _stored(self, store: Store, commits: list[Commit], *, projected: int = 0) -> None:
        assert await store.create([record(commits[0].instance_id)]) == [CREATED]
        assert await store.append(commits) == [COMMITTED] * len(commits)
        await store.project([projection(each) for each in commits[:projected]])

    async def test_a_record_without_commits(self) -> None:
        async with self.opened() as store:
            await store.create([record("a")])
            loaded = await store.load(["a", "unknown"])
            assert list(loaded) == ["a"]
            assert (loaded["a"].record, loaded["a"].commits) == (record("a"), ())
            assert await store.load([]) == {}

    async def test_commits_come_in_order_and_the_record_may_lag(self) -> None:
        async with self.opened() as store:
            commits = [commit("a", n) for n in range(25)]
            await self._stored(store, commits, projected=3)
            loaded = (await store.load(["a"]))["a"]
            assert loaded.commits == tuple(commits)
            assert loaded.record.head == 2

    async def test_only_the_current_execution_is_loaded(self) -> None:
        chain = [
            commit("a", 0),
            continued("a", 1, "e1", "e2"),
            commit("a", 2, execution="e2", first=2, generation=1),
            continued("a", 3, "e2", "e3", first=2, generation=1),
            commit("a", 4, execution="e3", first=4, generation=2),
            commit("a", 5, execution="e3", first=4, generation=2),
        ]
        async with self.opened() as store:
            for projected in range(len(chain) + 1):
                name = f"i{projected}"
                commits = [msgspec.structs.replace(each, instance_id=name) for each in chain]
                commits[0] = msgspec.structs.replace(commits[0], execution_id=f"e1 of {name}")
                await self._stored(store, commits, projected=projected)
                assert (await store.load([name]))[name].commits == tuple(commits[4:]), projected

    async def test_an_execution_that_was_announced_but_has_not_begun(self) -> None:
        async with self.opened() as store:
            for projected in range(3):
                name = f"i{projected}"
                chain = [commit(name, 0), continued(name, 1, "e1", "e2")]
                await self._stored(store, chain, projected=projected)
                assert (await store.load([name]))[name].commits == (chain[1],), projected

    async def test_an_id_used_again_starts_empty(self) -> None:
        async with self.opened() as store:
            await run_to_end(store, "a")
            await store.create([record("a", "e2")])
            assert (await store.load(["a"]))["a"].commits == ()
            new = commit("a", 1, execution="e2", first=1)
            assert await store.append([new]) == [COMMITTED]
            assert (await store.load(["a"]))["a"].commits == (new,)
            assert [each.n for each in await store.history("a")] == [0, 1]

    async def test_several_at_once(self) -> None:
        async with self.opened() as store:
            for name in ("a", "a0", "b"):
                await self._stored(store, [commit(name, 0), commit(name, 1)])
            loaded = await store.load(["b", "a", "x", "a0"])
            assert {name: each.commits for name, each in loaded.items()} == {
                name: (commit(name, 0), commit(name, 1)) for name in ("a", "a0", "b")
            }

    async def test_a_missing_commit_is_an_error(self) -> None:
        async with self.opened() as store:
            await self._stored(store, [commit("a", 0), commit("a", 2)])
            try:
                await store.load(["a"])
            except CallboardError as error:
                complaint = str(error)
            else:
                raise AssertionError("nobody noticed")
            assert "'a'" in complaint
            assert "commit 1" in complaint

    async def test_confirm_sees_every_commit(self) -> None:
        async with self.opened() as store, self.opened() as other:
            await store.create([record("a"), record("a.")])
            assert await other.confirm("a", -1, "e1 of a")
            for n in range(3):
                await store.append([commit("a", n)])
                assert not await other.confirm("a", n - 1, "e1 of a")
                assert await other.confirm("a", n, "e1 of a")
            assert not await other.confirm("a", 0, "e1 of a")
            assert await store.confirm("a.", -1, "e1 of a.")

    async def test_confirm_sees_whether_there_is_a_record(self) -> None:
        async with self.opened() as store, self.opened() as other:
            assert await store.confirm("a", -1, None)
            assert not await store.confirm("a", -1, "e1 of a")
            await other.create([record("a")])
            assert not await store.confirm("a", -1, None)
            assert await store.confirm("a", -1, "e1 of a")
            await other.append([commit("b", 0)])
            assert not await store.confirm("b", -1, None)

    async def test_confirm_sees_a_new_start_under_the_same_id(self) -> None:
        async with self.opened() as store, self.opened() as other:
            await run_to_end(other, "a")
            assert await store.confirm("a", 0, "e1 of a")
            await other.create([record("a", "e2")])
            assert not await store.confirm("a", 0, "e1 of a")
            assert await store.confirm("a", 0, "e2 of a")
            await other.append([commit("a", 1, execution="e2", first=1)])
            assert not await store.confirm("a", 0, "e2 of a")

    async def test_confirm_after_a_purge(self) -> None:
        async with self.opened() as store, self.opened() as other:
            await run_to_end(other, "a")
            assert await other.purge("a")
            assert not await store.confirm("a", 0, "e1 of a")
            assert await store.confirm("a", -1, None)
            await other.create([record("a", "e2")])
            assert not await store.confirm("a", -1, None)
            assert await store.confirm("a", 0, "e2 of a")

    async def test_confirm_knows_of_commits_whose_neighbours_were_trimmed(self) -> None:
        async with self.opened() as store:
            chain = [commit("a", 0), continued("a", 1, "e1", "e2"), commit("a", 2, execution="e2", first=2)]
            await self._stored(store, chain, projected=3)
            await store.mark_sent([key(each) for each in chain])
            await store.trim("a", below=2)
            assert not await store.confirm("a", 0, "e1 of a")
            assert not await store.confirm("a", 1, "e2 of a")
            assert await store.confirm("a", 2, "e2 of a")


class SweepingTests(StoreTests):
    """``mark_sent`` and ``unsent``."""

    async def test_commits_are_unsent_until_they_are_marked(self) -> None:
        async with self.opened() as store:
            made = [rich_commit("a", 0), commit("a", 1), commit("b", 0)]
            await store.append(made)
            later = START + seconds(60)
            assert await store.unsent([0], before=later, limit=10) == [made[0], made[2], made[1]]
            await store.mark_sent([key(made[0]), key(made[2])])
            await store.mark_sent([key(made[0]), key(commit("unknown", 4))])
            await store.mark_sent([])

            async def only_one_is_left() -> bool:
                return await store.unsent([0], before=later, limit=10) == [made[1]]

            await eventually(only_one_is_left, "marked commits are not unsent")
            assert await store.history("a") == made[:2]

    async def test_a_commit_found_again_stays_sent(self) -> None:
        async with self.opened() as store:
            await store.append([commit("a", 0)])
            await store.mark_sent([key(commit("a", 0))])
            await store.append([commit("a", 0)])

            async def none_is_left() -> bool:
                return await store.unsent([0], before=START + seconds(60), limit=10) == []

            await eventually(none_is_left, "the commit is not unsent")

    async def test_unsent_gives_the_oldest_of_some_partitions(self) -> None:
        async with self.opened() as store:
            made = [
                commit(f"i{number}", 0, partition=number % 3, at=START + seconds(100 - number)) for number in range(30)
            ]
            await store.append(made)
            end = START + seconds(1000)
            oldest = list(reversed([each for each in made if each.partition in {0, 2}]))
            assert await store.unsent([0, 2], before=end, limit=7) == oldest[:7]
            assert await store.unsent([0, 2], before=oldest[4].at, limit=100) == oldest[:5]
            assert await store.unsent([3], before=end, limit=7) == []
            assert await store.unsent([], before=end, limit=7) == []
            await store.mark_sent([key(each) for each in oldest[:7]])

            async def the_next_come() -> bool:
                return await store.unsent([0, 2], before=end, limit=7) == oldest[7:14]

            await eventually(the_next_come, "the next page comes after the first is sent")
