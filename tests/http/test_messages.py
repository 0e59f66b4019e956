"""Sending, asking and querying over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

from callboard import App, Client, OrchestrationContext, TaskHub, Worker
from callboard.http import create_http_app
from tests.http.scene import Api, asking

app = App("counters", partitions=2)


@app.orchestration
async def counter(context: OrchestrationContext) -> int:
    total = 0
    closed = asyncio.Event()

    def positive(amount: int) -> None:
        if amount <= 0:
            raise ValueError("only more")

    @context.on_message(validator=positive)
    def add(amount: int) -> int:
        nonlocal total
        if amount > 100:
            raise OverflowError("too much")
        total += amount
        return total

    @context.on_query
    def above(limit: int) -> bool:
        return total > limit

    context.on_message("close", closed.set)
    context.on_query("total", lambda: total)
    await closed.wait()
    return total


async def test_messages_over_http(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'counters.db'}"
    async with (
        TaskHub.from_urls(app.hub, broker=url, store=url, partitions=2) as hub,
        Client(hub, app) as client,
        asking(create_http_app(client)) as http,
    ):
        scene = Api(http, client)
        async with Worker(app, hub):
            await scene.start("counter", instance_id="a")
            answer = await scene.ask("POST", "instances/a/ask/add", json=5)
            assert (answer.status_code, answer.json()) == (200, 5)
            for _ in range(2):
                answer = await scene.ask("POST", "instances/a/ask/add?messageId=once", json=1)
                assert answer.json() == 6
            assert (await scene.ask("POST", "instances/a/send/add?messageId=told", json=4)).status_code == 202
            assert (await scene.ask("GET", "instances/a/query/total")).json() == 10
            assert (await scene.ask("POST", "instances/a/query/above", json=7)).json() is True
            await answers_errors(scene)
            assert (await scene.ask("POST", "instances/a/send/close")).status_code == 202
            assert (await scene.until("a"))["output"] == 10
            assert (await scene.ask("POST", "instances/a/ask/add", json=1)).status_code == 410
            assert (await scene.ask("GET", "instances/a/query/total")).json() == 10
        await scene.start("counter", instance_id="b")
        answer = await scene.ask("POST", "instances/b/ask/add?timeout=0.05&messageId=later", json=1)
        assert (answer.status_code, answer.json()) == (202, {"messageId": "later"})
        again = answer.headers["location"]
        async with Worker(app, hub):
            answer = await scene.ask("POST", again, json=1)
            assert (answer.status_code, answer.json()) == (200, 1)


async def answers_errors(scene: Api) -> None:
    for method, path, body, status, says in (
        ("POST", "instances/a/ask/add", b"0", 422, "only more"),
        ("POST", "instances/a/ask/add", b'"x"', 422, "does not fit"),
        ("POST", "instances/a/ask/add", b"101", 424, "OverflowError: too much"),
        ("POST", "instances/a/ask/add", b"{", 400, "not valid JSON"),
        ("POST", "instances/a/ask/add?timeout=soon", b"1", 400, "number of seconds"),
        ("POST", "instances/nobody/ask/add", b"1", 404, "No instance 'nobody'"),
        ("POST", "instances/nobody/send/add", b"1", 404, "No instance 'nobody'"),
        ("POST", "instances/nobody/query/total", b"", 404, "No instance 'nobody'"),
        ("GET", "instances/a/query/nothing", b"", 424, "There are: above, total"),
        ("POST", f"instances/a/send/{'x' * 300}", b"1", 400, "1 to 256 characters"),
        ("POST", "instances/a/send/add?taskHub=other", b"1", 400, "serves task hub"),
    ):
        answer = await scene.ask(method, path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, (path, answer.text)
        assert says in answer.json()["Message"]
    answer = await scene.ask("POST", "instances/a/send/add", content=b"1", headers={"content-type": "text/plain"})
    assert answer.status_code == 400
