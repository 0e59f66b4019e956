"""The examples do what they say, on the embedded default."""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples import (
    aggregator,
    approval,
    async_http_api,
    cleanup,
    hello_sequence,
    monitor,
    order_processing,
    rollout,
    trip_booking,
    word_count,
)

from callboard import App, Client, EntityId, InstanceStatus, TaskHub, Worker
from tests.e2e.stage import DEADLINE, until

EXAMPLES = Path(__file__).parent.parent / "examples"


@contextlib.asynccontextmanager
async def playing(app: App, folder: Path) -> AsyncGenerator[Client]:
    url = f"sqlite:///{folder / 'hub.db'}"
    async with TaskHub.from_urls(app.hub, broker=url, store=url) as hub, Worker(app, hub), Client(hub, app) as client:
        yield client


async def test_hello_sequence(tmp_path: Path) -> None:
    async with playing(hello_sequence.app, tmp_path) as client:
        handle = await client.start(hello_sequence.hello_sequence, ["Tokyo", "London"])
        assert await handle.result(DEADLINE) == ["Hello Tokyo!", "Hello London!"]


async def test_word_count(tmp_path: Path) -> None:
    texts = tmp_path / "texts" / "deep"
    texts.mkdir(parents=True)
    for number, text in enumerate(["To be, or not to be", "be quick", "ÜBER über", ""]):
        (texts / f"{number}.txt").write_text(text, encoding="utf-8")
    (texts / "other.md").write_text("be be be", encoding="utf-8")
    async with playing(word_count.app, tmp_path) as client:
        handle = await client.start("count_words", {"folder": str(tmp_path / "texts"), "top": 3})
        counted: dict[str, int] = await handle.result(DEADLINE)
        assert list(counted.items())[:1] == [("be", 3)]
        assert counted == {"be": 3, "to": 2, "über": 2}
        assert (await handle.status()).custom_status == "4 of 4 files"


async def test_async_http_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CALLBOARD_BROKER", "CALLBOARD_STORE"):
        monkeypatch.setenv(variable, f"sqlite:///{tmp_path / 'reports.db'}")
    api = async_http_api.api
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://service") as caller,
    ):
        assert (await caller.post("/reports", json={"customer": "ACME", "months": 99})).status_code == 422
        accepted = await caller.post("/reports", json={"customer": "ACME", "months": 3})
        assert accepted.status_code == 202
        status = accepted.headers["Location"]
        assert status.startswith("http://service/durable/runtime/webhooks/durabletask/instances/")
        done = await until(lambda: caller.get(status), lambda answer: answer.status_code != 202)
        assert done.status_code == 200
        assert done.json()["output"] == {"month 1": 1004, "month 2": 2004, "month 3": 3004}
        assert done.json()["customStatus"] == "3 of 3 months"


class Site(http.server.BaseHTTPRequestHandler):
    """Is down for the first looks."""

    looks = 0

    def do_GET(self) -> None:
        type(self).looks += 1
        self.send_response(200 if self.looks > 3 else 503)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@contextlib.contextmanager
def site() -> Generator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_monitor(tmp_path: Path) -> None:
    with site() as url:
        async with playing(monitor.app, tmp_path) as client:
            handle = await client.start(monitor.wait_until_up, monitor.Watch(url, every=0.01))
            assert await handle.result(DEADLINE) == f"{url} is up"
            assert Site.looks == 4
    async with playing(monitor.app, tmp_path) as client:
        down = await client.start(monitor.wait_until_up, monitor.Watch(url, every=0.01, patience=0))
        assert await down.result(DEADLINE) == f"{url} is still down"
        wrong = await client.start(monitor.wait_until_up, monitor.Watch("file:///etc/passwd"))
        assert "is no address of a site" in str((await client.wait(wrong.instance_id, DEADLINE)).failure)


async def test_approval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def expense(patience: float) -> approval.Expense:
        return approval.Expense(120.5, "dinner", ["ann", "bob"], patience)

    async with playing(approval.app, tmp_path) as client:
        for name, decision, answer in (
            ("yes", {"approved": True, "by": "ann"}, "120.50 for dinner, approved by ann"),
            ("no", {"approved": False, "by": "ann", "comment": "too much"}, "refused by ann: too much"),
        ):
            handle = await client.start(approval.approve_expense, expense(3600), instance_id=name)
            await client.raise_event(name, "Decision", decision)
            assert await handle.result(DEADLINE) == answer
        escalated = await client.start(approval.approve_expense, expense(0.05), instance_id="escalated")
        assert await escalated.result(DEADLINE) == "refused: nobody answered in time"
    said = capsys.readouterr().out
    assert "Dear ann, may 120.50 be spent on dinner? Answer escalated." in said
    assert "Dear bob" in said


async def test_trip_booking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with playing(trip_booking.app, tmp_path) as client:
        oslo = await client.start(trip_booking.book_trip, trip_booking.Trip("Ann", "Oslo"))
        assert [each.split("-")[0] for each in (await oslo.result(DEADLINE))["booked"]] == ["flight", "hotel", "car"]
        atlantis = await client.start(trip_booking.book_trip, trip_booking.Trip("Bob", "Atlantis"))
        cancelled = (await atlantis.result(DEADLINE))["cancelled"]
        assert [each.split("-")[0] for each in cancelled] == ["hotel", "flight"]
        assert (await atlantis.status()).custom_status == "cancelling: there is no car in Atlantis"
    assert all(f"{reference} is cancelled" in capsys.readouterr().out for reference in cancelled[:1])


async def test_aggregator(tmp_path: Path) -> None:
    sent = [aggregator.Reading(*each) for each in (("oslo", -3.5), ("rome", 18.0), ("oslo", -1.0))]
    async with playing(aggregator.app, tmp_path) as client:
        for reading in sent:
            await client.start(aggregator.take_readings, [reading])

        async def taken() -> int:
            states = [
                await client.read_entity_state(EntityId("station", name), dict[str, float]) for name in ("oslo", "rome")
            ]
            return sum(int(state.entity_state["readings"]) for state in states if state.entity_exists)

        await until(taken, lambda readings: readings == len(sent))
        handle = await client.start(aggregator.report, ["oslo", "rome"])
        assert await handle.result(DEADLINE) == {
            "oslo": aggregator.Summary(2, -2.25, -3.5, -1.0),
            "rome": aggregator.Summary(1, 18.0, 18.0, 18.0),
        }


async def test_order_processing(tmp_path: Path) -> None:
    lines = [("tea", "north"), ("cup", "south"), ("pot", "north")]
    order = order_processing.Order("Ann", [order_processing.Line(*line) for line in lines])
    async with playing(order_processing.app, tmp_path) as client:
        handle = await client.start(order_processing.process_order, order, instance_id="order-7")
        assert await handle.result(DEADLINE) == ["order-7-north: tea and pot", "order-7-south: cup"]
        assert (await handle.status()).custom_status == "3 of 3 items are picked"
        assert (await client.get_status("order-7-south")).parent_instance_id == "order-7"


def has_removed(files: int) -> Callable[[InstanceStatus], bool]:
    def holds(status: InstanceStatus) -> bool:
        return status.custom_status is not None and status.custom_status["removed"] == files

    return holds


async def test_cleanup(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()

    def put(name: str, age: float) -> None:
        (folder / name).touch()
        then = time.time() - age
        os.utime(folder / name, (then, then))

    put("old", 7200)
    put("new", 0)
    async with playing(cleanup.app, tmp_path) as client:
        job = cleanup.Job(str(folder), older_than=3600, every=0.05)
        handle = await client.start(cleanup.clean_up, job, instance_id="scratch")
        await until(handle.status, has_removed(1))
        put("older", 9000)
        await until(handle.status, has_removed(2))
        await client.raise_event("scratch", "stop", True)
        assert await handle.result(DEADLINE) == 2
        assert [path.name for path in folder.iterdir()] == ["new"]


async def test_rollout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    async def lines() -> list[str]:
        said.extend(capsys.readouterr().out.splitlines())
        return said

    async with playing(rollout.app, tmp_path) as client:
        await client.start("subscription", "Ann", instance_id="ann", version="1.0")  # before the rollout
        await client.start("subscription", "Bob", instance_id="bob")
        bob = await until(lambda: client.get_status("bob"), lambda status: status.custom_status)
        assert (bob.version, bob.custom_status) == ("2.0", "Bob, a month is 12 now")
        assert (await client.get_status("ann")).version == "1.0"
        await client.raise_event("ann", "month-over")
        ann = await until(lambda: client.get_status("ann"), lambda status: status.custom_status)
        assert (ann.version, ann.custom_status) == ("2.0", "Ann, a month is 12 now")
        assert await lines() == ["Ann pays 10"]
        await client.raise_event("ann", "month-over")
        await client.raise_event("bob", "month-over")
        await until(lines, lambda lines: sorted(lines) == ["Ann pays 10", "Ann pays 12", "Bob pays 12"])


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_says_how_to_run_it_and_is_listed(file: Path) -> None:
    if file.stem in ("__init__", "demo"):
        return
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 85, file
    assert text.lstrip("r").startswith('"""')
    if file.stem != "hello_sequence":  # the README tells that
        assert f"examples.{file.stem}:" in text
    assert f"[`{file.name}`]({file.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"test_{file.stem}(" in Path(__file__).read_text(encoding="utf-8")
