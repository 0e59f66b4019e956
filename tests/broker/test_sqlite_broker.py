"""What only the SQLite broker does: it survives kill -9, shares its file between processes, and explains what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from callboard.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    PayloadTooLargeError,
    UnroutableError,
)
from callboard.ports import Broker, Delivery, Destination
from callboard_broker.sqlite import SQLiteBroker
from callboard_broker.sqlite.journal import explain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

ROOT = Path(__file__).parents[2]
PARTITION = Destination.partition(0)
CALLS = Destination.activities("default")


@contextlib.asynccontextmanager
async def opened(file: Path, hub: str = "hub", **options: float) -> AsyncGenerator[SQLiteBroker]:
    broker = SQLiteBroker(file, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await broker.open(hub, 4)
    try:
        yield broker
    finally:
        await broker.aclose()


@contextlib.contextmanager
def child(mode: str, file: Path) -> Generator[subprocess.Popen[str]]:
    """Another process on the file, killed at the end."""
    roots = os.pathsep.join(str(ROOT / name) for name in ("actors", "broker", "store"))
    with subprocess.Popen(
        [sys.executable, "-W", "error", ROOT / "tests/broker/sqlite_child.py", mode, file],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": roots},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)


async def next_of(deliveries: asyncio.Queue[Delivery]) -> Delivery:
    return await asyncio.wait_for(deliveries.get(), 5)


def test_it_is_a_broker() -> None:
    broker: Broker = SQLiteBroker.from_url("sqlite://")
    assert isinstance(broker, SQLiteBroker)


# URLs and errors


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///callboard.db", "callboard.db"),
        ("sqlite:////var/lib/callboard.db", "/var/lib/callboard.db"),
        ("sqlite:///with%20space/a.db", "with space/a.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_urls(url: str, path: str | None) -> None:
    assert repr(SQLiteBroker.from_url(url)) == f"SQLiteBroker({path!r})"


@pytest.mark.parametrize("url", ["sqlite://callboard.db", "sqlite:///a.db?mode=ro", "amqp://localhost"])
def test_urls_that_name_no_file(url: str) -> None:
    with pytest.raises(ConfigurationError, match="three slashes"):
        SQLiteBroker.from_url(url)


async def test_folders_are_made(tmp_path: Path) -> None:
    async with opened(tmp_path / "a" / "b" / "c.db") as broker:
        await broker.publish(PARTITION, b"x")
        assert await broker.depth(PARTITION) == 1


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("these are notes, and rather long ones at that " * 100)
    with pytest.raises(ConfigurationError, match="no SQLite database"):
        await SQLiteBroker(tmp_path / "notes.txt").open("hub", 4)


@pytest.mark.parametrize("below", ["", "file/x.db"])
async def test_a_path_that_cannot_be_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be opened for writing"):
        await SQLiteBroker(tmp_path / below).open("hub", 4)


async def test_a_locked_file_is_unavailable_until_it_is_free(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    taken: asyncio.Queue[Delivery] = asyncio.Queue()
    async with opened(file, busy_seconds=0.05) as broker:
        held = await broker.consume(PARTITION, taken.put_nowait)
        await broker.publish(PARTITION, b"acked while locked")
        await broker.publish(PARTITION, b"held while locked")
        first, second = await next_of(taken), await next_of(taken)
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BrokerUnavailableError, match="locked by another program"):
                await broker.publish(PARTITION, b"never")
            with pytest.raises(BrokerUnavailableError, match="locked by another program"):
                await SQLiteBroker(file, busy_seconds=0.05).open("hub", 4)
            with pytest.raises(BrokerUnavailableError):
                await broker.consume(PARTITION, taken.put_nowait)
            first.ack()
            await held.aclose()
            other.execute("ROLLBACK")
        assert (first.body, second.body) == (b"acked while locked", b"held while locked")
        await broker.publish(PARTITION, b"afterwards")
        await broker.consume(PARTITION, taken.put_nowait)
        assert [(await next_of(taken)).body for _ in range(2)][-1] == b"afterwards"
        assert taken.empty()


def test_sqlite_errors_say_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as full:
            connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    with (
        contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection,
        pytest.raises(sqlite3.OperationalError) as read_only,
    ):
        connection.execute("INSERT INTO t VALUES (1)")
    told = explain(full.value, file, opening=False)
    assert isinstance(told, BrokerUnavailableError)
    assert "Free some space" in str(told)
    assert isinstance(explain(read_only.value, file, opening=True), ConfigurationError)
    assert isinstance(explain(read_only.value, file, opening=False), BrokerUnavailableError)


async def test_what_cannot_be_sent_fails_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "x.db", max_message_bytes=1000) as broker:
        outcomes = await asyncio.gather(
            broker.publish(PARTITION, b"fine"),
            broker.publish(PARTITION, b"x" * 1001),
            broker.publish(PARTITION, b"x", {"bad": "\ud800"}),
            broker.publish(Destination.activities("a/b"), b"x"),
            broker.publish(Destination.partition(4), b"x"),
            broker.publish(Destination.inbox("nobody"), b"x"),
            broker.publish(PARTITION, b"fine, too"),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [
            type(None),
            PayloadTooLargeError,
            UnicodeEncodeError,
            ConfigurationError,
            ConfigurationError,
            UnroutableError,
            type(None),
        ]
        assert await broker.depth(PARTITION) == 2


# Opening and closing


async def test_closing_twice_and_using_afterwards(tmp_path: Path) -> None:
    never = SQLiteBroker(tmp_path / "x.db")
    await never.aclose()
    async with opened(tmp_path / "x.db") as broker:
        subscription = await broker.consume(PARTITION, lambda _: None)
        await broker.open("hub", 4)
        with pytest.raises(ConfigurationError, match="for hub 'hub' already"):
            await broker.open("other", 4)
        await asyncio.gather(broker.aclose(), broker.aclose())
        await broker.aclose()
        await subscription.aclose()
        for use in (broker.publish(PARTITION, b"x"), broker.depth(PARTITION), broker.consume(PARTITION, print)):
            with pytest.raises(BrokerUnavailableError, match="not open"):
                await use
        await broker.open("hub", 4)
        await broker.publish(PARTITION, b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]
    assert "callboard-sqlite-broker" not in {thread.name for thread in threading.enumerate()}


async def test_closing_returns_what_is_unacked(tmp_path: Path) -> None:
    taken: asyncio.Queue[Delivery] = asyncio.Queue()
    async with opened(tmp_path / "x.db") as broker:
        await broker.consume(PARTITION, taken.put_nowait)
        await broker.publish(PARTITION, b"one")
        await broker.publish(PARTITION, b"two")
        (await next_of(taken)).ack()
        left = await next_of(taken)
    left.ack()  # too late, and nobody minds
    async with opened(tmp_path / "x.db") as broker:
        assert await broker.depth(PARTITION) == 1
        await broker.consume(PARTITION, taken.put_nowait)
        again = await next_of(taken)
        assert (again.body, again.redelivered) == (b"two", True)


def test_a_loop_that_ends_without_closing_leaves_no_thread(tmp_path: Path) -> None:
    async def careless() -> None:
        await SQLiteBroker(tmp_path / "x.db").open("hub", 4)

    asyncio.run(careless())
    asyncio.run(eventually(lambda: "callboard-sqlite-broker" not in {each.name for each in threading.enumerate()}))
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]


async def test_a_program_that_ends_without_closing_does_not_hang(tmp_path: Path) -> None:
    with child("forget", tmp_path / "x.db") as process:
        assert line(process) == "bye"
        assert await asyncio.to_thread(process.wait, 10) == 0
    async with opened(tmp_path / "x.db") as broker:
        assert await broker.depth(PARTITION) == 1


async def test_a_cancelled_publish_makes_no_noise(tmp_path: Path) -> None:
    async with opened(tmp_path / "x.db") as broker:
        tasks = [asyncio.ensure_future(broker.publish(PARTITION, b"x")) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await broker.depth(PARTITION) >= 25


async def test_hubs_in_one_file_do_not_meet(tmp_path: Path) -> None:
    async with opened(tmp_path / "x.db", "one") as one, opened(tmp_path / "x.db", "two") as two:
        await one.publish(PARTITION, b"x")
        assert (await one.depth(PARTITION), await two.depth(PARTITION)) == (1, 0)


# Delivery


async def test_order_and_prefetch(tmp_path: Path) -> None:
    taken: list[Delivery] = []
    async with opened(tmp_path / "x.db") as broker:
        for number in range(5):
            await broker.publish(PARTITION, b"%d" % number)
        await broker.consume(PARTITION, taken.append, prefetch=3)
        await asyncio.gather(*(broker.publish(PARTITION, b"%d" % number) for number in range(5, 200)))
        assert [delivery.body for delivery in taken] == [b"0", b"1", b"2"]
        for acked in range(200):
            await eventually(lambda so_far=acked: len(taken) > so_far)  # type: ignore[misc]
            assert len(taken) <= acked + 3
            taken[acked].ack()
        assert [int(delivery.body) for delivery in taken] == list(range(200))


async def test_a_slow_consumer_leaves_the_rest_to_its_sibling(tmp_path: Path) -> None:
    slow: list[Delivery] = []
    quick: list[Delivery] = []

    def take(delivery: Delivery) -> None:
        quick.append(delivery)
        delivery.ack()

    async with opened(tmp_path / "x.db") as broker:
        await broker.consume(CALLS, slow.append, prefetch=2)
        await broker.consume(CALLS, take, prefetch=2)
        await asyncio.gather(*(broker.publish(CALLS, b"%d" % number) for number in range(100)))
        await eventually(lambda: len(quick) == 98)
        assert len(slow) == 2


async def test_calls_delivered_too_often_become_dead_letters(tmp_path: Path) -> None:
    dead: asyncio.Queue[Delivery] = asyncio.Queue()
    times = {CALLS: 0, PARTITION: 0}

    async with opened(tmp_path / "x.db") as broker:
        await broker.consume(Destination.dead_letters(), dead.put_nowait)

        def refuse(destination: Destination, delivery: Delivery) -> None:
            times[destination] += 1
            assert delivery.redelivered is (times[destination] > 1)
            if times[PARTITION] <= 50:
                delivery.reject()

        for destination in times:
            await broker.publish(destination, b"poison", {"trace": "1"})
            await broker.consume(destination, lambda delivery, to=destination: refuse(to, delivery))  # type: ignore[misc]
        letter = await next_of(dead)
        assert letter.body == b"poison"
        assert letter.headers == {
            "trace": "1",
            "x-first-death-reason": "delivery_limit",
            "x-first-death-queue": "default",
        }
        await eventually(lambda: times[PARTITION] > 50)
        assert times[CALLS] == 11


async def test_an_inbox_takes_all_with_it(tmp_path: Path) -> None:
    taken: asyncio.Queue[Delivery] = asyncio.Queue()
    inbox = Destination.inbox("me")
    async with opened(tmp_path / "x.db") as broker:
        subscription = await broker.consume(inbox, taken.put_nowait, prefetch=1)
        await broker.publish(inbox, b"one", {"a": "b"})
        await broker.publish(inbox, b"two")
        first = await next_of(taken)
        assert dict(first.headers) == {"a": "b"}
        first.reject()
        assert sorted([(await next_of(taken)).body, b"two"]) in ([b"one", b"two"], [b"two", b"two"])
        await subscription.aclose()
        with pytest.raises(UnroutableError):
            await broker.publish(inbox, b"three")
        await broker.consume(inbox, taken.put_nowait)
        assert await broker.depth(inbox) == 0
        assert taken.empty()


# Several processes


async def test_all_that_was_confirmed_outlives_kill_9(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with child("hold", file) as process:
        assert process.stdout is not None
        said = [line(process) for _ in range(2000)]
        process.kill()
        said += process.stdout.read().splitlines()
    told = [each.split() for each in said if len(each.split()) == 2]
    confirmed = {name for word, name in told if word == "confirmed"}
    acked = {name for word, name in told if word == "acked"}
    taken: dict[str, bool] = {}

    def take(delivery: Delivery) -> None:
        taken[delivery.body.decode()] = delivery.redelivered
        delivery.ack()

    async with opened(file) as broker:
        await broker.consume(PARTITION, take, prefetch=1000)
        await eventually(lambda: confirmed - acked <= taken.keys(), 30)
    assert len(confirmed) > 100
    assert sum(taken.values()) >= 48, "those it held are marked"
    assert not all(taken.values()), "those it never got are not"


@pytest.mark.parametrize("mode", ["keep", "orphan"])
async def test_a_death_is_noticed_at_once(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "x.db"
    taken: asyncio.Queue[Delivery] = asyncio.Queue()
    orphan = 0
    async with opened(file) as broker:
        with child(mode, file) as process:
            if mode == "orphan":
                orphan = int(line(process).split()[1])
            assert line(process) == "ready"
            try:
                for number in range(3):
                    await broker.publish(PARTITION, b"%d" % number)
                assert [await asyncio.to_thread(line, process) for _ in range(3)] == ["took 0", "took 1", "took 2"]
                await broker.publish(Destination.inbox("child"), b"hello")
                assert await asyncio.to_thread(line, process) == "took hello"
                await broker.consume(PARTITION, taken.put_nowait)
                await asyncio.sleep(0.3)
                assert taken.empty(), "what a live process holds is its own"
                process.kill()
                process.wait()
                with pytest.raises(UnroutableError):
                    await broker.publish(Destination.inbox("child"), b"anybody there?")
                again = [await asyncio.wait_for(taken.get(), 1) for _ in range(3)]
                assert [(each.body, each.redelivered) for each in again] == [(b"%d" % n, True) for n in range(3)]
            finally:
                if orphan:
                    os.kill(orphan, signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"], "its lock file is gone, too"


async def test_a_stopped_process_keeps_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    taken: asyncio.Queue[Delivery] = asyncio.Queue()
    async with opened(file) as broker:
        with child("keep", file) as process:
            assert line(process) == "ready"
            await broker.publish(PARTITION, b"x")
            assert await asyncio.to_thread(line, process) == "took x"
            process.send_signal(signal.SIGSTOP)
            await broker.consume(PARTITION, taken.put_nowait)
            await asyncio.sleep(0.3)
            assert taken.empty()


async def test_two_processes_talk(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    answers: asyncio.Queue[Delivery] = asyncio.Queue()
    with child("echo", file) as process:
        assert line(process) == "ready"
        async with opened(file) as broker:
            await broker.consume(Destination.inbox("me"), answers.put_nowait)
            for number in range(20):
                await broker.publish(PARTITION, b"%d" % number, {"reply-to": "me"})
                answer = await next_of(answers)
                answer.ack()
                assert answer.body == b"%d" % number


async def test_two_brokers_share_the_work_and_take_nothing_twice(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    taken: list[bytes] = []

    def take(delivery: Delivery) -> None:
        taken.append(delivery.body)
        delivery.ack()

    async with opened(file) as one, opened(file) as two:
        await one.consume(CALLS, take, prefetch=10)
        await two.consume(CALLS, take, prefetch=10)
        bodies = [b"%d" % number for number in range(1000)]
        await asyncio.gather(*((one, two)[n % 2].publish(CALLS, body) for n, body in enumerate(bodies)))
        await eventually(lambda: len(taken) >= 1000)
    assert sorted(taken) == sorted(bodies)


async def test_stores_and_brokers_open_a_new_file_at_once(tmp_path: Path) -> None:
    brokers = [SQLiteBroker(tmp_path / "x.db") for _ in range(10)]
    await asyncio.gather(*(broker.open("hub", 4) for broker in brokers))
    await asyncio.gather(*(broker.publish(PARTITION, b"x") for broker in brokers))
    assert await brokers[0].depth(PARTITION) == 10
    await asyncio.gather(*(broker.aclose() for broker in brokers))


async def test_the_lock_file_of_a_process_that_died_while_opening_is_removed(tmp_path: Path) -> None:
    (tmp_path / "x.db-live-123-abc").write_text("")
    async with opened(tmp_path / "x.db"):
        assert not (tmp_path / "x.db-live-123-abc").exists()
