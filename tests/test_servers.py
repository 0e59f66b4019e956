"""The servers that tests run on: they come up, survive kill -9, and are gone when their owner is, however it went."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aio_pika
import pytest
from pymongo import AsyncMongoClient, MongoClient

from tests.servers import MongoDBServer, RabbitMQServer, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]


async def test_urls_lead_to_servers(amqp_url: str, mongodb_url: str, hub: str) -> None:
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(hub, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), queue.name)
        message = await queue.get(timeout=10)
        assert message.body == b"hello"
        await message.ack()
    async with AsyncMongoClient[dict[str, Any]](mongodb_url) as client:
        await client[hub].things.insert_one({"_id": 1})
        assert await client[hub].things.count_documents({}) == 1


def test_mongodb_restarts_in_place() -> None:
    with MongoDBServer(replica_set=None) as server:
        url = server.url
        server.restart()
        assert (server.url, server.running) == (url, True)


def test_a_server_that_does_not_come_up_says_why() -> None:
    with MongoDBServer() as first, contextlib.closing(MongoDBServer()) as second:
        second.port = first.port
        with pytest.raises(ServerError, match=r"(?s)MongoDB ended while starting.*[Aa]ddress already in use"):
            second.start()


def test_mongodb_keeps_data_and_port_over_kill() -> None:
    with MongoDBServer() as server:
        url, pid = server.url, server.pid
        with MongoClient[dict[str, Any]](url, journal=True) as client:
            client.test.things.insert_one({"_id": 1})
        server.kill()
        assert not server.running
        server.start()
        assert (server.url, server.pid != pid) == (url, True)
        with MongoClient[dict[str, Any]](url) as client:
            assert client.test.things.count_documents({}) == 1
    assert not server.directory.exists()


def test_rabbitmq_keeps_data_and_port_over_kill() -> None:
    with RabbitMQServer() as server:
        url = server.url
        server.control("add_user", "somebody", "secret")
        server.kill()
        server.start()
        assert server.url == url
        assert "somebody" in server.control("list_users")
    assert not server.directory.exists()


def descendants(pid: int) -> set[int]:
    """Return all processes below one."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {child} | descendants(child)
    return found


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_an_ended_wrapper(number: signal.Signals, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stubborn = f"trap '' INT TERM HUP; setsid sleep 1000 & touch {ready}; wait"
    environment = {name: value for name, value in os.environ.items() if name not in {"AMQP_URL", "MONGODB_URL"}}
    if number in {signal.SIGINT, signal.SIGHUP}:  # RabbitMQ takes its time to start: twice is enough
        environment["AMQP_URL"] = "amqp://elsewhere"
    wrapper = subprocess.Popen(
        [sys.executable, "-c", QUICK_TO_KILL, "sh", "-c", stubborn],
        cwd=ROOT,
        env=environment | {"TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    with wrapper:
        try:
            wait_for(lambda: ready.exists() or wrapper.poll() is not None, "the command runs")
            below = descendants(wrapper.pid)
            assert len(below) >= 4, "the command and the servers run, each under its guard"
            wrapper.send_signal(number)
            code = wrapper.wait(60)
        finally:
            wrapper.kill()
    assert code == (-number if number is signal.SIGKILL else 128 + number)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), f"all of {below} are gone")
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


#: The wrapper with less patience.
QUICK_TO_KILL = """
import sys
from tests.servers import __main__ as wrapper
wrapper.GRACE_SECONDS = 0.5
sys.exit(wrapper.main(["--", *sys.argv[1:]]))
"""
