from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from callboard.core.events import ParentInstance
from callboard.errors import ConfigurationError, InvalidPayloadError, StoreUnavailableError
from callboard.ports import Destination, InstanceFilter
from callboard.testing.store_contract.values import COMMITTED, CREATED, LOST, START, commit, key, record, run_to_end
from callboard_broker.sqlite import SQLiteBroker
from callboard_store.sqlite import SQLiteStore

HUB = "trips"


class Clock:
    def __init__(self) -> None:
        self.now = START.timestamp()

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    path: Path | None, clock: Callable[[], float] = time.time, *, busy_seconds: float = 30
) -> AsyncGenerator[SQLiteStore, None]:
    store = SQLiteStore(path, clock=clock, busy_seconds=busy_seconds)
    await store.open(HUB, 2)
    try:
        yield store
    finally:
        await store.aclose()


class TestFile:
    @pytest.mark.parametrize(
        ("url", "path"),
        [
            ("sqlite:///a/b.db", "a/b.db"),
            ("sqlite:////a/b.db", "/a/b.db"),
            ("sqlite:///with%20space.db", "with space.db"),
            ("sqlite://", None),
            ("sqlite:///:memory:", None),
        ],
    )
    def test_a_url_names_the_file(self, url: str, path: str | None) -> None:
        assert repr(SQLiteStore.from_url(url)) == f"SQLiteStore({path!r})"

    @pytest.mark.parametrize("url", ["sqlite://host/a.db", "mongodb://h", "sqlite:///a.db?mode=ro"])
    def test_a_url_that_names_none(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="three slashes"):
            SQLiteStore.from_url(url)

    async def test_memory(self) -> None:
        async with opened(None) as store:
            assert await store.append([commit("a", 0)]) == [COMMITTED]
            assert await store.history("a") == [commit("a", 0)]

    async def test_what_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_bytes(b"dear diary " * 1000)
        with pytest.raises(ConfigurationError, match="no SQLite database"):
            await SQLiteStore(path).open(HUB, 2)
        assert path.read_bytes() == b"dear diary " * 1000

    async def test_another_programs_database(self, tmp_path: Path) -> None:
        path = tmp_path / "other.db"
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE customers (name)")
        with pytest.raises(ConfigurationError, match=r"another program.*customers"):
            await SQLiteStore(path).open(HUB, 2)

    async def test_a_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreUnavailableError, match="Check that the folder"):
            await SQLiteStore(tmp_path / "file" / "a.db").open(HUB, 2)
        with pytest.raises(StoreUnavailableError, match="Check that the folder"):
            await SQLiteStore(tmp_path).open(HUB, 2)

    async def test_a_file_that_is_locked_for_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        async with opened(path, busy_seconds=0.2) as store:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreUnavailableError, match="locked by another"):
                    await store.append([commit("a", 0)])
                assert await store.history("a") == []
                other.execute("ROLLBACK")
            assert await store.append([commit("a", 0)]) == [COMMITTED]

    async def test_a_lock_that_ends_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        async with opened(path) as store:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                waiting = asyncio.ensure_future(store.append([commit("a", 0)]))
                await asyncio.wait([waiting], timeout=0.1)
                assert not waiting.done()
                other.execute("ROLLBACK")
                assert await waiting == [COMMITTED]

    async def test_hubs_that_differ_in_case(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a.db"):
            with pytest.raises(ConfigurationError, match="differs only in case"):
                await SQLiteStore(tmp_path / "a.db").open(HUB.upper(), 2)

    async def test_nothing_works_before_open_or_after_aclose(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "a.db")
        with pytest.raises(StoreUnavailableError, match="not open"):
            await store.history("a")
        await store.open(HUB, 2)
        with pytest.raises(StoreUnavailableError, match="open already"):
            await store.open(HUB, 2)
        await store.aclose()
        with pytest.raises(StoreUnavailableError, match="not open"):
            await store.history("a")

    async def test_a_person_can_read_it(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a.db") as store:
            await store.create([record("a")])
            await store.append([commit("a", 0)])
        with closing(sqlite3.connect(tmp_path / "a.db")) as shell:
            (content,) = shell.execute('SELECT content FROM "trips.history"').fetchone()
            assert '"eventType":"TaskScheduled"' in content
            assert shell.execute('SELECT name, runtime_status FROM "trips.instances"').fetchone() == (
                "hello",
                "Pending",
            )
            assert shell.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    async def test_the_broker_lives_in_the_same_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        store, broker = SQLiteStore(path), SQLiteBroker(path)
        await asyncio.gather(store.open(HUB, 2), broker.open(HUB, 2))

        async def append() -> None:
            for n in range(100):
                assert await store.append([commit("a", n)]) == [COMMITTED]

        async def publish() -> None:
            for _ in range(100):
                await broker.publish(Destination.partition(0), b"x")

        await asyncio.gather(append(), publish())
        assert await broker.depth(Destination.partition(0)) == 100
        await asyncio.gather(store.aclose(), broker.aclose())


class TestTransactions:
    async def test_a_call_that_fails_undoes_only_itself(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a.db") as store:
            bad = [commit("bad", 0), commit("bad", 1, custom_status="\ud800")]
            calls = [store.append([commit("good", n)]) for n in range(10)]
            calls.insert(5, store.append(bad))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(outcomes.pop(5), InvalidPayloadError)
            assert outcomes == [[COMMITTED]] * 10
            assert await store.history("bad") == []
            assert len(await store.history("good")) == 10

    async def test_a_cancelled_call_does_not_stop_the_others(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a.db") as store:
            calls = [asyncio.ensure_future(store.append([commit("a", n)])) for n in range(20)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            assert await asyncio.gather(*calls[1::2]) == [[COMMITTED]] * 10

    async def test_closing_finishes_what_was_called(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a.db") as store:
            calls = [asyncio.ensure_future(store.append([commit("a", n)])) for n in range(300)]
            await asyncio.sleep(0)
        assert await asyncio.gather(*calls) == [[COMMITTED]] * 300

    def test_what_was_confirmed_survives_a_kill(self, tmp_path: Path) -> None:
        program = f"""
import asyncio
from callboard.testing.store_contract.values import commit
from callboard_store.sqlite import SQLiteStore

async def main():
    store = SQLiteStore({str(tmp_path / "a.db")!r})
    await store.open("trips", 2)
    for n in range(10**6):
        await store.append([commit("a", n)])
        print(n, flush=True)

asyncio.run(main())
"""
        paths = os.pathsep.join(entry for entry in sys.path if entry)
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        ) as process:
            assert process.stdout is not None
            confirmed = -1
            for line in process.stdout:
                confirmed = int(line)
                if confirmed == 50:
                    process.send_signal(signal.SIGKILL)
        assert confirmed >= 50

        async def read() -> int:
            async with opened(tmp_path / "a.db") as store:
                return len(await store.history("a"))

        assert asyncio.run(read()) in {confirmed + 1, confirmed + 2}


class TestTime:
    async def test_taken_numbers_and_tombstones_end(self, tmp_path: Path) -> None:
        clock = Clock()
        async with opened(tmp_path / "a.db", clock) as store:
            await run_to_end(store, "a")
            assert await store.purge("a", tombstone_seconds=7200)
            assert await store.append([commit("a", 0, "late")]) == [LOST]
            clock.now += 3601
            assert not await store.purge("unknown")
            assert await store.append([commit("a", 0, "very late")]) == [COMMITTED]
            assert await store.create([record("a")]) == [CREATED]
            assert await store.records(["a"]) == {}
            clock.now += 3600
            assert not await store.purge("unknown")
            assert await store.create([record("a")]) == [CREATED]
            assert await store.records(["a"]) == {"a": record("a")}

    async def test_scheduled_starts_come_when_their_time_has_come(self, tmp_path: Path) -> None:
        clock = Clock()
        async with opened(tmp_path / "a.db", clock) as store:
            await store.create([record("a", scheduled_start_time=START.replace(microsecond=5000))])
            assert await store.pending_starts([0], before=START, limit=9) == []
            clock.now += 0.005
            assert len(await store.pending_starts([0], before=START, limit=9)) == 1

    async def test_old_payloads_that_nothing_refers_to_go(self, tmp_path: Path) -> None:
        clock = Clock()
        async with opened(tmp_path / "a.db", clock) as store:
            body = await store.put_payload("a", b'["/nothing"]')
            unused = await store.put_payload("a", b"unused")
            other = await store.put_payload("a0", b"other")
            inside = await store.put_payload("a", b"inside")
            moved = await store.put_payload("a", f'["{inside}"]'.encode())
            await store.create([record("a", input=f'"{body}"')])
            await store.append([commit("a", 0), commit("a", 1, events=(), body=moved)])
            await store.mark_sent([key(commit("a", 0))])
            clock.now += 3601
            fresh = await store.put_payload("a", b"fresh")
            assert await store.trim("a", below=1) == 1
            for kept in (body, other, inside, moved, fresh):
                await store.get_payload(kept)
            with pytest.raises(KeyError):
                await store.get_payload(unused)


async def test_a_file_without_the_column_of_parents_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    parent = ParentInstance(instance_id="mother", execution_id="pe", task_scheduled_id=3)
    async with opened(path) as store:
        await store.create([record("child", parent=parent), record("mother")])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('DROP INDEX "trips.instances_parent"')
        connection.execute('ALTER TABLE "trips.instances" DROP COLUMN parent')
        connection.commit()
    async with opened(path) as store:
        page = await store.query(InstanceFilter(parent_id="mother"), limit=9)
        assert [each.instance_id for each in page.records] == ["child"]
