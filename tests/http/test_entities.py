"""Entities over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from callboard import App, Client, EntityContext, TaskHub, Worker
from callboard.http import create_http_app
from tests.http.scene import DEADLINE, Api, asking

app = App("counters", partitions=2)


@app.entity
class Counter:
    state: int

    def __init__(self) -> None:
        self.state = 0

    def add(self, amount: int) -> None:
        self.state += amount


@app.entity
def note(context: EntityContext) -> None:
    context.set_state([context.operation_name, context.get_input()])


async def until(scene: Api, path: str, status: int, expected: Any = None) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            answer = await scene.ask("GET", path)
            if answer.status_code == status and (status != 200 or answer.json() == expected):
                return
            await asyncio.sleep(0.01)


async def test_entities_over_http(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'counters.db'}"
    async with (
        TaskHub.from_urls(app.hub, broker=url, store=url, partitions=2) as hub,
        Worker(app, hub),
        Client(hub, app) as client,
        asking(create_http_app(client, body_limit=1000)) as http,
    ):
        scene = Api(http, client)
        await signals(scene)
        await lists(scene)
        await answers_errors(scene)


async def signals(scene: Api) -> None:
    assert (await scene.ask("GET", "entities/counter/a")).status_code == 404
    for amount in (1, 2):
        answer = await scene.ask("POST", "entities/Counter/a?op=add", json=amount)
        assert (answer.status_code, answer.content) == (202, b"")
    await until(scene, "entities/counter/a", 200, 3)
    assert (await scene.ask("DELETE", "entities/counter/a")).status_code == 202
    await until(scene, "entities/counter/a", 404)
    await scene.ask("POST", "entities/counter/$?op=add", json=5)
    await until(scene, "ENTITIES/counter/$", 200, 5)
    for content, kind, expected in (
        (b"plain text", "text/plain", ["", "plain text"]),
        (b'{"a": [1]}', "application/json", ["", {"a": [1]}]),
        (b"", "text/plain", ["", None]),
    ):
        await scene.ask("POST", "entities/note/n", content=content, headers={"content-type": kind})
        await until(scene, "entities/note/n", 200, expected)


async def lists(scene: Api) -> None:
    await scene.ask("POST", "entities/counter/b?op=add", json=7)
    keys = [{"name": "counter", "key": ""}, {"name": "counter", "key": "b"}, {"name": "note", "key": "n"}]

    async def listed(query: str, **options: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await scene.ask("GET", f"entities{query}", **options)).json()
        return found

    async with asyncio.timeout(DEADLINE):  # lists may be a moment old
        while [each["entityId"] for each in await listed("")] != keys:
            await asyncio.sleep(0.02)
    first, *_ = await listed("/counter")
    assert sorted(first) == ["entityId", "lastOperationTime"]
    assert [each["state"] for each in await listed("/counter?fetchState=true")] == [5, 7]
    assert await listed("?lastOperationTimeFrom=2100-01-01") == []
    assert len(await listed("/counter/?lastOperationTimeTo=2100-01-01T00:00:00Z")) == 2
    answer = await scene.ask("GET", "entities?top=2")
    token = answer.headers["x-ms-continuation-token"]
    rest = await listed("?top=2", headers={"x-ms-continuation-token": token})
    assert [each["entityId"] for each in [*answer.json(), *rest]] == keys


async def answers_errors(scene: Api) -> None:
    for method, path, body, status, says in (
        ("POST", "entities/nothing/a?op=add", b"1", 404, "No entity is registered as 'nothing'"),
        ("POST", "entities/counter", b"1", 404, "key is missing"),
        ("POST", "entities/counter/a%2Fb?op=add", b"1", 400, "'/'"),
        ("POST", "entities/counter/a?op=add", b"{", 400, "not valid JSON"),
        ("POST", "entities/counter/a?op=add", b"1" * 2000, 413, "larger"),
        ("GET", "entities/co unter/a", b"", 400, "whitespace"),
        ("GET", "entities?top=x", b"", 400, "whole number"),
        ("GET", "entities?fetchState=maybe", b"", 400, "true or false"),
    ):
        answer = await scene.ask(method, path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, says in answer.json()["Message"]) == (status, True), answer.text
    answer = await scene.ask("GET", "entities", headers={"x-ms-continuation-token": "x"})
    assert answer.status_code == 400
