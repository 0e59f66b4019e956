"""`callboard worker` and `callboard serve` on RabbitMQ and MongoDB."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from callboard import TaskHub
from callboard.ports import Destination

from .processes import ask, call, running, serving, shop, until_true

INSTANCES = "runtime/webhooks/durabletask/instances"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shop(tmp_path)


@pytest.fixture
def servers(amqp_url: str, mongodb_url: str, hub: str) -> dict[str, str]:
    """The environment that names the servers and a hub of the test's own."""
    return {"CALLBOARD_BROKER": amqp_url, "CALLBOARD_STORE": mongodb_url, "CALLBOARD_HUB": hub}


def with_credentials(url: str, credentials: str) -> str:
    """The URL, with another user and password."""
    return re.sub(r"://([^@/]*@)?", f"://{credentials}@", url, count=1)


def with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def test_a_worker_and_the_api_in_processes_of_their_own(folder: Path, servers: dict[str, str]) -> None:
    with running(folder, "worker", "shop:app", **servers) as worker:
        ready = worker.until_says(r"Worker (\w+) is ready: hub '(\w+)', (.*)\.")
        assert ready.group(2) == servers["CALLBOARD_HUB"]
        assert ready.group(3) == "orchestrations and activities of queue builtin, default, trucks"
        with serving(folder, "serve", "shop:app", **servers) as (server, url):
            assert ask("POST", f"{url}/api/orchestrators/order/one?timeout=30", "tea")[0] == 200
            assert ask("POST", f"{url}/api/orchestrators/unknown")[0] == 400
            assert server.stop(signal.SIGINT) == 0
        with serving(folder, "serve", **servers) as (server, url):  # by the hub's name alone
            assert ask("GET", f"{url}/{INSTANCES}/one")[1]["output"] == ["packed tea", "shipped tea"]
            assert server.stop() == 0
        shown = call(folder, "status", "one", **servers)
        assert "Completed" in shown.stdout, shown.stderr
        assert worker.stop() == 0


def test_work_divides_by_kind_and_by_queue(folder: Path, servers: dict[str, str]) -> None:
    with (
        running(folder, "worker", "shop:app", "--only", "orchestrations", **servers) as orchestrating,
        running(folder, "worker", "shop:app", "--only", "activities", "--queue", "default", **servers) as packing,
        serving(folder, "serve", "shop:app", **servers) as (_, url),
    ):
        assert orchestrating.until_says("is ready: hub '.*', orchestrations and no activities")
        assert packing.until_says("is ready: hub '.*', activities of queue default")
        assert ask("POST", f"{url}/api/orchestrators/order/one", "tea")[0] == 202

        def packed() -> bool:
            status = ask("GET", f"{url}/{INSTANCES}/one?showHistory=true")[1]
            return [event["EventType"] for event in status.get("historyEvents", [])][1:] == [
                "TaskCompleted",
                "TaskScheduled",
            ]

        until_true(packed)  # and no further: nobody drives the trucks
        with running(folder, "worker", "shop:app", "--only", "activities", "--queue", "trucks", **servers):
            until_true(lambda: ask("GET", f"{url}/{INSTANCES}/one")[0] == 200)


def test_processes_are_kept_running_and_stopped_together(folder: Path, servers: dict[str, str]) -> None:
    with (
        running(folder, "worker", "shop:app", "--processes", "2", **servers) as command,
        serving(folder, "serve", "shop:app", **servers) as (_, url),
    ):
        command.until_says("2 workers are ready")
        first = command.children()
        assert len(first) == 2
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        command.until_says(r"Worker process \d ended \(killed by SIGKILL\)")
        command.until_says("2 workers are ready")
        second = command.children()
        assert len(second) == 2
        assert victim not in second
        assert ask("POST", f"{url}/api/orchestrators/order?timeout=30", "tea")[0] == 200
        assert command.stop() == 0
        assert not any(alive(child) for child in second)


def test_processes_end_with_a_supervisor_that_is_killed(folder: Path, servers: dict[str, str]) -> None:
    with running(folder, "worker", "shop:app", "--processes", "2", **servers) as command:
        command.until_says("2 workers are ready")
        children = command.children()
        command.process.kill()
        until_true(lambda: not any(alive(child) for child in children))


def test_ctrl_c_while_processes_are_starting_stops_them(folder: Path, servers: dict[str, str]) -> None:
    with running(folder, "worker", "shop:app", "--processes", "3", **servers) as command:
        until_true(lambda: len(command.children()) == 3)
        assert command.stop(signal.SIGINT) == 0
        assert command.children() == set()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# What goes wrong


@pytest.mark.parametrize("command", [("worker", "shop:app"), ("worker", "shop:app", "--processes", "3"), ("serve",)])
@pytest.mark.parametrize("away", ["CALLBOARD_BROKER", "CALLBOARD_STORE"])
@pytest.mark.parametrize("trouble", ["wrong credentials", "missing"])
def test_a_server_that_cannot_be_used_is_explained_once(
    folder: Path, servers: dict[str, str], command: tuple[str, ...], away: str, trouble: str
) -> None:
    if command == ("serve",):
        command = ("serve", "--port", "0")
    url = with_credentials(servers[away], "eve:s3cret")
    if trouble == "missing":
        url = re.sub(r":\d+/", ":1/", url)
    patience = "connect_timeout=1" if away == "CALLBOARD_BROKER" else "serverSelectionTimeoutMS=500"
    done = call(folder, *command, "--log-level", "error", **{**servers, away: with_option(url, patience)})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    server = "RabbitMQ" if away == "CALLBOARD_BROKER" else "MongoDB"
    assert done.stderr.startswith("callboard: ")
    assert server in done.stderr
    assert "Check" in done.stderr
    assert "s3cret" not in done.stderr
    assert ("reach" in done.stderr) == (trouble == "missing")


def test_another_number_of_partitions_is_explained(folder: Path, servers: dict[str, str]) -> None:
    with running(folder, "worker", "shop:app", **servers) as worker:
        worker.until_says("is ready")
        for processes in ("1", "2"):
            arguments = ("worker", "shop:app", "--partitions", "8", "--processes", processes, "--log-level", "error")
            done = call(folder, *arguments, **servers)
            assert done.returncode == 1
            assert "was created with 4 partitions, but 8 were asked for" in done.stderr
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("worker", "shop:app"), 2, "--broker"),
        (("worker", "shop:app", "--broker", "amqp://localhost"), 2, "--store"),
        (("worker", "shop:app", "--broker", "kafka://u:s3cret@x", "--store", "sqlite:///x.db"), 1, "amqp://"),
        (("worker", "shop:app", "--broker", "localhost", "--store", "sqlite:///x.db"), 1, "without a scheme"),
        (("worker", "shop:app", "--broker", "amqp://u:s3cret@x:y/", "--store", "sqlite:///x.db"), 1, "cannot be read"),
        (("worker", "shop:app", "--broker", "amqp://x", "--store", "mongodb://u:s3/cret@x"), 1, "no MongoDB URL"),
        (("worker", "shop:app", "--broker", "amqp://x", "--store", "sqlite:///x.db", "--queue", "a b"), 1, "queue"),
        (
            (
                "worker",
                "shop:app",
                "--broker",
                "sqlite:///x",
                "--store",
                "sqlite:///x",
                "--only",
                "orchestrations",
                "--queue",
                "a",
            ),
            2,
            "--queue is about activities",
        ),
        (("serve", "--broker", "amqp://x", "--store", "sqlite:///x.db"), 2, "--hub NAME"),
        (("serve", "--broker", "amqp://x", "--store", "sqlite:///x.db", "--hub", "../x"), 1, "cannot name a task hub"),
    ],
)
def test_a_wrong_command_is_explained(folder: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = call(folder, *arguments, COLUMNS="200")
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    for secret in ("s3cret", "s3/cret"):
        assert secret not in done.stderr


def test_malformed_messages_can_be_listed(folder: Path, servers: dict[str, str]) -> None:
    async def publish() -> None:
        hub = TaskHub.from_urls(
            servers["CALLBOARD_HUB"], broker=servers["CALLBOARD_BROKER"], store=servers["CALLBOARD_STORE"]
        )
        async with hub:
            await hub.broker.publish(Destination.partition(0), b"\xff\xfe not JSON")
            await hub.broker.publish(Destination.partition(0), b'{"v": 99, "messages": []}')

    with running(folder, "worker", "shop:app", **servers) as worker:
        worker.until_says("is ready")
        asyncio.run(publish())
        until_true(lambda: call(folder, "quarantine", "--json", **servers).stdout.count('"reason"') == 2)
        table = call(folder, "quarantine", **servers).stdout
        assert "wire version 99" in table
        assert "partition 0" in table
