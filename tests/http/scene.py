"""An app with all sorts of orchestrations, and its HTTP API over a real worker on a file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from callboard import App, Client, OrchestrationContext, TaskHub, Worker
from callboard.http import create_http_app

PREFIX = "/runtime/webhooks/durabletask"
BASE = "http://localhost:7071"
DEADLINE = 20.0


def make_app() -> App:
    app = App("theatre", partitions=2)

    @app.activity
    async def say_hello(city: str) -> str:
        return f"Hello {city}!"

    @app.activity
    async def pay(amount: int) -> None:
        raise ValueError(f"card declined for {amount}")

    @app.orchestration
    async def hello_sequence(context: OrchestrationContext, cities: list[str]) -> list[str]:
        return [await context.call_activity(say_hello, city) for city in cities]

    @app.orchestration
    async def echo(context: OrchestrationContext, value: Any = "no input") -> Any:
        return value

    @app.orchestration
    async def approve(context: OrchestrationContext) -> Any:
        context.set_custom_status({"stage": 1})
        return await context.wait_for_external_event("approval")

    @app.orchestration
    async def family(context: OrchestrationContext, depth: int) -> int:
        """Has two children, and they have two, and so on; returns how many instances it was."""
        if not depth:
            return 1
        children: list[int] = [await context.call_sub_orchestration("family", depth - 1) for _ in range(2)]
        return 1 + sum(children)

    @app.orchestration
    async def broke(context: OrchestrationContext) -> None:
        await context.call_activity(pay, 5)

    return app


class Api:
    """Asks the API, and waits for what it says to come true."""

    def __init__(self, http: httpx.AsyncClient, client: Client) -> None:
        self.http, self.client = http, client

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, path if path.startswith("/") else f"{PREFIX}/{path}", **options)

    async def start(self, name: str, value: Any = None, instance_id: str = "") -> str:
        path = f"/api/orchestrators/{name}" + (f"/{instance_id}" if instance_id else "")
        answer = await self.ask("POST", path, json=value)
        assert answer.status_code == 202, answer.text
        started: str = answer.json()["id"]
        return started

    async def until(self, instance_id: str, *statuses: str) -> dict[str, Any]:
        """Follows the instance until it has one of these statuses; by default until it has ended."""
        async with asyncio.timeout(DEADLINE):
            while True:
                payload: dict[str, Any] = (await self.ask("GET", f"instances/{instance_id}")).json()
                if payload["runtimeStatus"] in (statuses or ("Completed", "Failed", "Terminated")):
                    return payload
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def api(folder: Path, **options: Any) -> AsyncGenerator[Api]:
    """The API of a fresh hub with a worker."""
    app, url = make_app(), f"sqlite:///{folder / 'theatre.db'}"
    async with (
        TaskHub.from_urls(app.hub, broker=url, store=url, partitions=app.partitions) as hub,
        Worker(app, hub),
        Client(hub, app) as client,
        asking(create_http_app(client, **options)) as http,
    ):
        yield Api(http, client)


def asking(app: FastAPI) -> httpx.AsyncClient:
    """A client of an app in this process; errors that leave the app become 500, as in a server."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=BASE)
