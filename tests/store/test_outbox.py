"""The notes of unsent commits in MongoDB: written once for each append, gone when all of it is sent."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import pytest
from pymongo import MongoClient

from callboard.testing.store_contract.values import START, commit, eventually, key, seconds
from callboard_store.mongodb import MongoDBStore, outbox
from tests.store.test_mongodb import database, opened

__all__ = ["database"]

THREE = [commit("a", 0), commit("b", 0), commit("c", 0)]
LATER = START + seconds(1000)


def notes(url: str, name: str, hub: str) -> list[list[str]]:
    with MongoClient[dict[str, Any]](url) as client:
        return [each["unsent"] for each in client[name][f"{hub}.history"].find({"unsent": {"$exists": True}})]


def names(keys: list[str]) -> list[str]:
    return sorted(each.partition("/")[0] for each in keys)


async def until_unsent(store: MongoDBStore, *expected: str) -> None:
    """Marks do not wait for the majority, sweeps read what it has."""

    async def so() -> bool:
        found = await store.unsent([0, 1], before=LATER, limit=10)
        return sorted(each.instance_id for each in found) == list(expected)

    await eventually(so, f"{expected} are unsent")


async def test_an_append_costs_one_note_that_goes_with_the_last_mark(mongodb_url: str, database: str, hub: str) -> None:
    async with opened(mongodb_url, database, hub) as store:
        await store.append(THREE)
        assert [names(each) for each in notes(mongodb_url, database, hub)] == [["a", "b", "c"]]
        await store.mark_sent([key(THREE[0]), key(THREE[2])])
        assert len(notes(mongodb_url, database, hub)) == 1
        await until_unsent(store, "b")
        await store.mark_sent([key(THREE[1])])
        assert notes(mongodb_url, database, hub) == []


async def test_marks_do_not_wait_for_ever_for_the_rest_of_their_note(
    mongodb_url: str, database: str, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(mongodb_url, database, hub) as store:
        await store.append(THREE)
        await store.mark_sent([key(THREE[0])])
        assert [names(each) for each in notes(mongodb_url, database, hub)] == [["a", "b", "c"]]
        monkeypatch.setattr(outbox, "_PATIENCE_SECONDS", -1.0)
        await store.mark_sent([])
        assert [names(each) for each in notes(mongodb_url, database, hub)] == [["b", "c"]]
        await store.mark_sent([key(THREE[1]), key(THREE[2])])
        assert notes(mongodb_url, database, hub) == []


async def test_a_store_that_closes_writes_the_marks_it_has(mongodb_url: str, database: str, hub: str) -> None:
    async with opened(mongodb_url, database, hub) as store:
        await store.append(THREE)
        await store.mark_sent([key(THREE[0])])
    assert [names(each) for each in notes(mongodb_url, database, hub)] == [["b", "c"]]


async def test_another_process_finds_and_marks_what_one_left_behind(mongodb_url: str, database: str, hub: str) -> None:
    async with opened(mongodb_url, database, hub) as one, opened(mongodb_url, database, hub) as other:
        await one.append(THREE)
        await until_unsent(other, "a", "b", "c")
        await other.mark_sent([key(THREE[0]), key(THREE[1])])
        await until_unsent(other, "c")
        await other.mark_sent([key(THREE[2])])
        assert notes(mongodb_url, database, hub) == []
        await one.mark_sent([key(each) for each in THREE])
        await until_unsent(one)


async def test_the_loser_of_a_race_does_not_keep_the_winners_commit_unsent(
    mongodb_url: str, database: str, hub: str
) -> None:
    async with opened(mongodb_url, database, hub) as winner, opened(mongodb_url, database, hub) as loser:
        await winner.append([commit("a", 0)])
        await loser.append([commit("a", 0, token="theirs"), commit("b", 0)])
        await loser.mark_sent([key(commit("b", 0))])
        await winner.mark_sent([key(commit("a", 0))])
        assert notes(mongodb_url, database, hub) == []


async def test_a_note_is_written_before_its_commits_where_shards_have_no_common_order(
    mongodb_url: str, database: str, hub: str
) -> None:
    async with opened(mongodb_url, database, hub) as store:
        store._sharded = True
        await store.append(THREE)
        assert [names(each) for each in notes(mongodb_url, database, hub)] == [["a", "b", "c"]]
        again = await store.append([commit("a", 0, token="theirs"), commit("d", 0)])
        assert [outcome.name for outcome in again] == ["LOST", "COMMITTED"]
        await store.mark_sent([key(each) for each in (*THREE, commit("d", 0))])
        await until_unsent(store)


async def test_entries_of_commits_that_never_came_are_struck_out_in_the_end(
    mongodb_url: str, database: str, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(mongodb_url, database, hub) as store:
        with MongoClient[dict[str, Any]](mongodb_url) as client:
            await store._in.history.insert_one(store._note([commit("never", 0)]))
            assert client[database][f"{hub}.history"].count_documents({}) == 1
        await until_unsent(store)
        assert len(notes(mongodb_url, database, hub)) == 1
        monkeypatch.setattr(outbox, "_ORPHANED", seconds(-1_000_000_000))
        await until_unsent(store)
        assert notes(mongodb_url, database, hub) == []
