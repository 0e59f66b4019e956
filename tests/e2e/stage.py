"""A hub on one of the two backends, with as many workers and clients as a test asks for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import msgspec

from callboard import App, Client, InstanceStatus, TaskHub, Worker, WorkerOptions

T = TypeVar("T")

#: How long anything may take here before the test fails, in seconds: machines that test are busy.
DEADLINE = 60.0


class Stage(msgspec.Struct, frozen=True):
    """Where a test plays: a hub's name and its servers."""

    hub: str
    broker: str
    store: str

    @property
    def embedded(self) -> bool:
        return self.store.startswith("sqlite")

    @contextlib.asynccontextmanager
    async def connected(self, app: App | None = None) -> AsyncGenerator[TaskHub]:
        """A connection of one's own, as another process would have."""
        partitions = (app.partitions if app is not None else None) or 4
        async with TaskHub.from_urls(self.hub, broker=self.broker, store=self.store, partitions=partitions) as hub:
            yield hub

    @contextlib.asynccontextmanager
    async def worker(self, app: App, options: WorkerOptions | None = None) -> AsyncGenerator[Worker]:
        async with self.connected(app) as hub, Worker(app, hub, options) as worker:
            yield worker

    @contextlib.asynccontextmanager
    async def client(self, app: App | None = None) -> AsyncGenerator[Client]:
        async with self.connected(app) as hub, Client(hub, app) as client:
            yield client

    @contextlib.asynccontextmanager
    async def playing(self, app: App, options: WorkerOptions | None = None) -> AsyncGenerator[Client]:
        """A client, with a worker running beside it."""
        async with self.worker(app, options), self.client(app) as client:
            yield client


async def until(look: Callable[[], Awaitable[T]], holds: Callable[[T], object]) -> T:
    """What `look` sees once that holds."""
    async with asyncio.timeout(DEADLINE):
        while not holds(seen := await look()):
            await asyncio.sleep(0.02)
        return seen


async def ended(client: Client, instance_id: str) -> InstanceStatus:
    return await client.wait(instance_id, timeout=DEADLINE)
