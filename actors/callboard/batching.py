"""Group commit: what comes while a round trip is under way goes together in the next one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from callboard.errors import UnavailableError
from callboard.ports import BackgroundTask, Host

T = TypeVar("T")
R = TypeVar("R")

#: Called once, with the result, or with the error and no result.
Done: TypeAlias = "Callable[[R | None, BaseException | None], None]"

log = logging.getLogger("callboard")

#: Shortest and longest pause between attempts while a server is away, in seconds.
FIRST_RETRY, LAST_RETRY = 0.1, 5.0


class Batcher(Generic[T, R]):
    """Collects items and carries many at a time to one function, at most ``parallel`` calls under way at once.

    A call that finds its server unavailable is repeated, with growing pauses, until it succeeds or the batcher is closed: the functions
    are made so that repeating is safe. Any other error has the items carried out one by one, so that each gets its own.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R] | None]],
        host: Host,
        *,
        name: str,
        most: int = 500,
        parallel: int = 1,
        key: Callable[[T], object] | None = None,
        linger: float = 0.0,
    ) -> None:
        """Names the work.

        Args:
            work: Carries out a batch; its results, if it has any, are in the order of the items.
            host: Spawns the calls.
            name: What log lines and tasks are called by.
            most: Most items in one call.
            parallel: Most calls under way at once.
            key: Items of equal key never go in the same or an overlapping call; their order is kept.
            linger: How long to wait for company before each call, in seconds: for what nobody waits for.
        """
        self._work = work
        self._host = host
        self._name = name
        self._most = most
        self._parallel = parallel
        self._key = key
        self._linger = linger
        self._waiting: deque[tuple[T, Done[R]]] = deque()
        self._under_way = 0
        self._tasks: list[BackgroundTask] = []
        self._busy_keys: set[object] = set()
        self._closed = False

    def submit(self, item: T, done: Done[R]) -> None:
        """Queues an item; ``done`` is called when its batch has been carried out."""
        self._waiting.append((item, done))
        self._start()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._under_way

    async def aclose(self) -> None:
        """Stops; what was not carried out is forgotten."""
        self._closed = True
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
            await task.wait()

    def _start(self) -> None:
        if self._under_way >= self._parallel or self._closed:
            return
        self._under_way += 1
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(self._host.spawn(self._serve(), name=f"callboard {self._name}"))

    async def _serve(self) -> None:
        try:
            while self._waiting:
                if self._linger:
                    await self._host.sleep(self._linger)
                batch = self._take()
                if not batch:
                    return  # all that wait are held back by calls under way, which take them when they end
                await self._carry(batch)
        finally:
            self._under_way -= 1

    def _take(self) -> list[tuple[T, Done[R]]]:
        if self._key is None:
            return [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        batch: list[tuple[T, Done[R]]] = []
        held: list[tuple[T, Done[R]]] = []
        blocked: set[object] = set()
        while self._waiting and len(batch) < self._most:
            entry = self._waiting.popleft()
            key = self._key(entry[0])
            if key in self._busy_keys or key in blocked:
                held.append(entry)
                blocked.add(key)
            else:
                batch.append(entry)
                self._busy_keys.add(key)
        self._waiting.extendleft(reversed(held))
        return batch

    async def _carry(self, batch: list[tuple[T, Done[R]]]) -> None:
        items = [item for item, _ in batch]
        results: Sequence[R] | None = None
        error: Exception | None = None
        try:
            results = await retrying(lambda: self._work(items), self._host, self._name)
        except Exception as raised:  # noqa: BLE001 - goes to the owners of the items
            error = raised
        finally:
            if self._key is not None:
                self._busy_keys.difference_update(map(self._key, items))
        if error is not None and len(batch) > 1:
            log.warning("%s: %s; carrying %d items one by one", self._name, error, len(batch))
            for entry in batch:
                await self._carry([entry])
            return
        for position, (_, done) in enumerate(batch):
            done(results[position] if results is not None else None, error)


async def retrying(call: Callable[[], Awaitable[R]], host: Host, what: str) -> R:
    """Awaits a call, again and again while its server is unavailable."""
    pause = FIRST_RETRY
    while True:
        try:
            return await call()
        except UnavailableError as error:
            log.warning("%s: %s; trying again in %.1f s", what, error, pause)
        await host.sleep(pause * (0.5 + host.random()))
        pause = min(pause * 2, LAST_RETRY)
