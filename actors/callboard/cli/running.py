"""Runs a service until it is told to stop: event loop, signals, and the supervisor's lifeline."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Names the file descriptor over which a worker says that it is ready, and learns of its supervisor's end.
LIFELINE = "CALLBOARD_LIFELINE"
#: How long a worker whose supervisor is gone may take to stop, in seconds.
ORPHAN_DEADLINE = 45.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, on uvloop where it is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not there on every system
    except ImportError:
        return None
    return uvloop.new_event_loop


class Stopping:
    """The order to stop: Ctrl-C, SIGTERM, or the end of the supervisor.

    The first one before the service is ready cancels its start; later the service stops by itself, in order. The second one ends the
    process at once, which loses nothing that was promised.
    """

    def __init__(self) -> None:
        self._ordered = asyncio.Event()
        self._ready = False
        self._main = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def ready(self) -> None:
        """Says that from now on the service watches `wait`."""
        self._ready = True

    async def wait(self) -> None:
        await self._ordered.wait()

    @property
    def ordered(self) -> bool:
        return self._ordered.is_set()

    def _on_signal(self) -> None:
        if self._ordered.is_set():
            sys.stderr.write("Stopped at once. What was under way will be done again by whoever comes next.\n")
            sys.stderr.flush()
            os._exit(1)
        self._ordered.set()
        if not self._ready and self._main is not None:
            self._main.cancel()


async def until_stopped(service: Callable[[Stopping], Awaitable[None]]) -> None:
    """Runs a service; returns when it has stopped because it was told to, even if that was before it was ready."""
    stopping = Stopping()
    try:
        await service(stopping)
    except asyncio.CancelledError:
        if not stopping.ordered:
            raise


class Lifeline:
    """A supervised worker's line to its supervisor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def from_environment(cls) -> Lifeline | None:
        """The line, if this process has a supervisor."""
        text = os.environ.pop(LIFELINE, "")
        return cls(int(text)) if text.isdecimal() else None

    def report_ready(self) -> None:
        os.write(self._descriptor, b"+")

    def hold(self) -> None:
        """Makes the supervisor's end, kill -9 included, an order to stop."""
        threading.Thread(target=self._watch, name="callboard lifeline", daemon=True).start()

    def _watch(self) -> None:
        while os.read(self._descriptor, 64):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_DEADLINE)
        os._exit(1)
