"""A host whose tasks end with their owner."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

from callboard.ports import BackgroundTask, Host, WorkerThread

T = TypeVar("T")


class Scope:
    """A `Host` that remembers what it spawned, so that nothing outlives the worker or client that asked for it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks: set[BackgroundTask] = set()
        self._limit = 64
        self.now: Callable[[], datetime] = host.now
        self.monotonic: Callable[[], float] = host.monotonic
        self.token: Callable[[], str] = host.token
        self.random: Callable[[], float] = host.random

    async def sleep(self, seconds: float) -> None:
        await self._host.sleep(seconds)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> BackgroundTask:
        task = self._host.spawn(work, name=name)
        self._tasks.add(task)
        if len(self._tasks) > self._limit:
            self._tasks = {task for task in self._tasks if not task.done()}
            self._limit = max(64, 2 * len(self._tasks))
        return task

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await self._host.in_thread(work)

    def worker_thread(self, name: str) -> WorkerThread:
        return self._host.worker_thread(name)

    async def aclose(self) -> None:
        """Cancels what still runs, and waits for it."""
        tasks, self._tasks = [task for task in self._tasks if not task.done()], set()
        for task in tasks:
            task.cancel()
        for task in tasks:
            await task.wait()
