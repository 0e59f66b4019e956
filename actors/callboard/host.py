"""The real machine behind `callboard.ports.Host`: the only place that reads clocks, makes randomness, threads and tasks."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import logging
import queue
import random
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("callboard")


class SystemHost:
    """Clock, randomness, threads and tasks of this process."""

    def __init__(self, *, threads: int = 32) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="callboard-activity")

    def now(self) -> datetime:
        """Whole milliseconds: what every store keeps exactly."""
        return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def token(self) -> str:
        return secrets.token_hex(16)

    def random(self) -> float:
        return random.random()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> SystemTask:
        return SystemTask(asyncio.get_running_loop().create_task(work, name=name))

    async def in_thread(self, work: Callable[[], T]) -> T:
        context = contextvars.copy_context()  # of tracing and logging, for example
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(work))

    def worker_thread(self, name: str) -> SystemThread:
        return SystemThread(name)

    def close(self) -> None:
        """Lets the pool's threads end; those that still run user code are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class SystemTask:
    """A task of the running event loop; a failure nobody waits for is logged."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self._waited = False
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._task.cancel()

    def done(self) -> bool:
        return self._task.done()

    async def wait(self) -> None:
        self._waited = True
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._waited:
            log.error("%s failed", task.get_name(), exc_info=error)


class SystemThread:
    """One daemon thread that runs functions in order, and can be interrupted."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._busy = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], T]) -> Awaitable[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - whatever it was belongs to the one who asked
                _tell(loop, future, error=error)
            else:
                _tell(loop, future, result=result)

        self._work.put(job)
        return future

    def interrupt(self, error: type[BaseException]) -> None:
        identity = self._thread.ident
        if self._busy and identity is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(identity), ctypes.py_object(error))

    def stack(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0) if self._busy else None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def abandon(self) -> None:
        self._work.put(None)

    def _serve(self) -> None:
        while (job := self._work.get()) is not None:
            self._busy = True
            try:
                job()
            except BaseException:  # noqa: BLE001 - an interrupt that came late; the thread must go on
                log.debug("a late interrupt reached %s", self._thread.name)
            finally:
                self._busy = False


def _tell(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[T],
    *,
    result: Any = None,
    error: BaseException | None = None,
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
