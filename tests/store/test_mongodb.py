from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import BulkWriteError, NotPrimaryError, OperationFailure, WTimeoutError

from callboard.errors import ConfigurationError, InvalidPayloadError, PayloadTooLargeError, StoreUnavailableError
from callboard.testing.store_contract.values import (
    COMMITTED,
    CREATED,
    commit,
    key,
    last_commit,
    projection,
    record,
    run_to_end,
)
from callboard_store.mongodb import MongoDBStore
from callboard_store.mongodb.driver import duplicates, masked, translated


@pytest.fixture
def database(mongodb_url: str) -> Iterator[str]:
    name = f"store_{uuid.uuid4().hex[:8]}"
    yield name
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        client.drop_database(name)


@asynccontextmanager
async def opened(url: str, database: str, hub: str) -> AsyncGenerator[MongoDBStore, None]:
    store = MongoDBStore(url=url, database=database)
    await store.open(hub, 2)
    try:
        yield store
    finally:
        await store.aclose()


class TestConnecting:
    async def test_a_server_that_is_not_there_is_named(self, hub: str) -> None:
        store = MongoDBStore.from_url("mongodb://me:s3cret@127.0.0.1:9/db?serverSelectionTimeoutMS=200")
        with pytest.raises(
            StoreUnavailableError, match=r"127\.0\.0\.1:9 cannot be reached.*Check host and port"
        ) as caught:
            await store.open(hub, 1)
        assert "s3cret" not in str(caught.value)
        await store.aclose()

    async def test_wrong_credentials_are_told_from_a_missing_server(self, mongodb_url: str, hub: str) -> None:
        url = mongodb_url.replace("://", "://me:s3cret@")
        store = MongoDBStore.from_url(url)
        with pytest.raises(StoreUnavailableError, match=r"refuses the user name or password.*authSource") as caught:
            await store.open(hub, 1)
        assert "s3cret" not in str(caught.value)
        await store.aclose()

    @pytest.mark.parametrize(
        "url", ["mongodb://me:s3c/ret@h/db", "mongodb://me:s3c:ret@h", "http://me:s3cret@h", "mongodb://me:s3cret@h:x"]
    )
    def test_a_bad_url_is_refused_without_its_password(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            MongoDBStore.from_url(url)
        assert "s3c" not in f"{caught.value!r}{caught.value.__cause__!r}"
        assert caught.value.__suppress_context__

    def test_a_url_names_the_database(self) -> None:
        assert "database='trips'" in repr(MongoDBStore.from_url("mongodb://h/trips?replicaSet=x"))
        assert "database='callboard'" in repr(MongoDBStore.from_url("mongodb://h"))
        assert "database='trips'" in repr(MongoDBStore.from_url("mongodb+srv://h/trips"))

    def test_secrets_are_masked(self) -> None:
        assert masked("mongodb://me:s3cret@h,i/db?a=b") == "mongodb://me:***@h,i/db?a=b"
        assert masked("mongodb://h/db") == "mongodb://h/db"
        assert "s3cret" not in repr(MongoDBStore.from_url("mongodb://me:s3cret@h"))

    def test_a_client_or_a_url(self) -> None:
        with pytest.raises(ConfigurationError, match="either"):
            MongoDBStore()

    async def test_a_given_client_stays_open(self, mongodb_url: str, database: str, hub: str) -> None:
        client = AsyncMongoClient[dict[str, Any]](mongodb_url)
        store = MongoDBStore(client, database=database)
        await store.open(hub, 1)
        await store.aclose()
        await client.admin.command("ping")
        await client.close()

    async def test_nothing_works_before_open_or_after_aclose(self, mongodb_url: str, database: str, hub: str) -> None:
        store = MongoDBStore(url=mongodb_url, database=database)
        with pytest.raises(StoreUnavailableError, match="not open"):
            await store.append([commit("a", 0)])
        await store.open(hub, 1)
        with pytest.raises(StoreUnavailableError, match="open already"):
            await store.open(hub, 1)
        await store.aclose()
        with pytest.raises(StoreUnavailableError, match="not open"):
            await store.records(["a"])

    async def test_other_indexes_are_explained(self, mongodb_url: str, database: str, hub: str) -> None:
        with MongoClient[dict[str, Any]](mongodb_url) as client:
            client[database][f"{hub}.timers"].create_index([("partition", 1)], name="due")
        store = MongoDBStore(url=mongodb_url, database=database)
        with pytest.raises(ConfigurationError, match="Drop that index"):
            await store.open(hub, 1)
        await store.aclose()

    async def test_a_newer_schema_is_refused(self, mongodb_url: str, database: str, hub: str) -> None:
        with MongoClient[dict[str, Any]](mongodb_url) as client:
            client[database]["hubs"].insert_one({"_id": hub, "partitions": 2, "schema": 99})
        store = MongoDBStore(url=mongodb_url, database=database)
        with pytest.raises(ConfigurationError, match="Upgrade"):
            await store.open(hub, 2)
        await store.aclose()


class TestErrors:
    def test_duplicates_are_told_from_other_failures(self) -> None:
        clash = {"index": 3, "code": 11000, "errmsg": "E11000"}
        assert duplicates(BulkWriteError({"writeErrors": [clash]}), "h") == [3]
        with pytest.raises(StoreUnavailableError, match="disk full"):
            duplicates(BulkWriteError({"writeErrors": [clash, {"index": 4, "code": 1, "errmsg": "disk full"}]}), "h")
        unsure = {"writeErrors": [clash], "writeConcernErrors": [{"code": 64, "errmsg": "waiting timed out"}]}
        with pytest.raises(StoreUnavailableError, match="waiting timed out"):
            duplicates(BulkWriteError(unsure), "h")

    @pytest.mark.parametrize(
        "error", [NotPrimaryError("stepped down"), WTimeoutError("slow"), OperationFailure("x", 91)]
    )
    def test_whatever_may_pass_is_unavailable(self, error: Exception) -> None:
        assert isinstance(translated(error, "h"), StoreUnavailableError)

    async def test_a_commit_over_the_servers_limit(self, mongodb_url: str, database: str, hub: str) -> None:
        async with opened(mongodb_url, database, hub) as store:
            with pytest.raises(PayloadTooLargeError, match="Document 'a/0000000000' for MongoDB is 17,000,"):
                await store.append([commit("a", 0, custom_status="x" * 17_000_000)])
            await store.create([record("b")])
            await store.project([projection(commit("b", 0, custom_status="x" * 9_000_000))])
            with pytest.raises(PayloadTooLargeError):
                await store.project([projection(commit("b", 1, custom_status="x" * 9_000_000), output="x" * 9_000_000)])
            with pytest.raises(InvalidPayloadError):
                await store.create([record("a", tags={"a\x00": "b"})])

    async def test_a_standalone_server_is_mentioned(
        self,
        mongodb_url: str,
        database: str,
        hub: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with MongoClient[dict[str, Any]](mongodb_url) as client:
            standalone = "setName" not in client.admin.command("hello")
        with caplog.at_level(logging.WARNING, "callboard_store.mongodb"):
            async with opened(mongodb_url, database, hub):
                pass
        assert ("standalone" in caplog.text) == standalone


class TestCancelling:
    async def test_a_cancelled_append_leaves_the_connection_whole(
        self, mongodb_url: str, database: str, hub: str
    ) -> None:
        async with opened(mongodb_url, database, hub) as store:
            for n in range(20):
                waiting = asyncio.ensure_future(store.append([commit("a", n)]))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await store.append([commit("a", n)]) == [COMMITTED]
            assert [each.n for each in await store.history("a")] == list(range(20))

    async def test_closing_waits_for_what_was_cancelled(self, mongodb_url: str, database: str, hub: str) -> None:
        async with opened(mongodb_url, database, hub) as store:
            waiting = asyncio.ensure_future(store.append([commit("a", 0)]))
            await asyncio.sleep(0)
            waiting.cancel()
        async with opened(mongodb_url, database, hub) as store:
            assert await store.history("a") == [commit("a", 0)]


class Interrupted(MongoDBStore):
    """Crashes between the two halves of a purge."""

    async def _finish_purge(self, tombstone: dict[str, Any]) -> None:
        raise StoreUnavailableError("crashed")


class TestInterruptedPurge:
    @asynccontextmanager
    async def _half_purged(self, url: str, database: str, hub: str) -> AsyncGenerator[MongoDBStore, None]:
        store = Interrupted(url=url, database=database)
        await store.open(hub, 2)
        await run_to_end(store, "a")
        self.payload = await store.put_payload("a", b"x")
        with pytest.raises(StoreUnavailableError, match="crashed"):
            await store.purge("a")
        assert await store.records(["a"]) == {}
        await store.aclose()
        async with opened(url, database, hub) as whole:
            yield whole

    async def test_the_next_purge_finishes_it(self, mongodb_url: str, database: str, hub: str) -> None:
        async with self._half_purged(mongodb_url, database, hub) as store:
            assert await store.purge("a")
            assert await store.history("a") == []
            with pytest.raises(KeyError):
                await store.get_payload(self.payload)
            assert not await store.purge("a")

    async def test_the_next_create_finishes_it(self, mongodb_url: str, database: str, hub: str) -> None:
        async with self._half_purged(mongodb_url, database, hub) as store:
            assert await store.create([record("a", "e2")]) == [CREATED]
            assert (await store.records(["a"]))["a"].first == 1
            assert await store.history("a") == []
            with pytest.raises(KeyError):
                await store.get_payload(self.payload)

    async def test_a_late_purger_takes_nothing_of_the_new_instance(
        self, mongodb_url: str, database: str, hub: str
    ) -> None:
        async with self._half_purged(mongodb_url, database, hub) as store:
            with MongoClient[dict[str, Any]](mongodb_url, tz_aware=True) as client:
                late = client[database][f"{hub}.instances"].find_one({"_id": "a"})
            assert late is not None
            await store.create([record("a", "e2")])
            await asyncio.sleep(0.002)  # the clock that tells new payloads from old has milliseconds
            end = last_commit("a", 1, execution="e2", first=1)
            await store.append([end])
            payload = await store.put_payload("a", b"new")
            await store._finish_purge(late)  # pyright: ignore[reportPrivateUsage]
            assert await store.history("a") == [end]
            assert await store.get_payload(payload) == b"new"
            await store.project([projection(end)])
            assert (await store.records(["a"]))["a"].runtime_status == "Completed"


class Overtaken(MongoDBStore):
    """Between the two halves of a purge, another one uses the id again."""

    other: MongoDBStore

    async def _finish_purge(self, tombstone: dict[str, Any]) -> None:
        assert await self.other.create([record("a", "e2")]) == [CREATED]
        await super()._finish_purge(tombstone)


async def test_a_purge_that_is_overtaken_by_a_create_has_purged(mongodb_url: str, database: str, hub: str) -> None:
    async with opened(mongodb_url, database, hub) as other:
        store = Overtaken(url=mongodb_url, database=database)
        store.other = other
        await store.open(hub, 2)
        await run_to_end(store, "a")
        assert await store.purge("a")
        assert (await store.records(["a"]))["a"].execution_id == "e2 of a"
        assert await store.history("a") == []
        await store.aclose()


class TestTrim:
    async def test_old_payloads_that_nothing_refers_to_go(self, mongodb_url: str, database: str, hub: str) -> None:
        async with opened(mongodb_url, database, hub) as store:
            store.payload_grace_seconds = 0
            body = await store.put_payload("a", b'["/nothing"]')
            unused = await store.put_payload("a", b"unused")
            other = await store.put_payload("a0", b"other")
            inside = await store.put_payload("a", b"inside")
            moved = await store.put_payload("a", f'["{inside}"]'.encode())
            await store.create([record("a", input=f'"{body}"')])
            await store.append([commit("a", 0), commit("a", 1, events=(), body=moved)])
            await store.mark_sent([key(commit("a", 0))])
            await asyncio.sleep(0.002)
            assert await store.trim("a", below=1) == 1
            for kept in (body, other, inside, moved):
                await store.get_payload(kept)
            with pytest.raises(KeyError):
                await store.get_payload(unused)
