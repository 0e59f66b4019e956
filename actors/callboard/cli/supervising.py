"""``callboard worker --processes N``: keeps N worker processes running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence

from callboard.cli.metrics import PROCESS
from callboard.cli.running import LIFELINE, Stopping

log = logging.getLogger("callboard.cli")

#: Shortest and longest pause before a worker that ended is started again, in seconds.
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
#: A worker that lived so long gets the shortest pause again, in seconds.
STABLE = 30.0
#: How long workers may take to stop, beyond their own drain deadline, before they are killed, in seconds.
GRACE = 15.0


class Supervisor:
    """Starts worker processes, starts those that end again, and stops them all in the end.

    Args:
        arguments: This command's own: with a lifeline in its environment it runs one worker.
        count: How many.
        drain: How long a worker may take to finish what it has in hand.
        on_ready: Is called once all are ready.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        count: int,
        drain: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._command = [sys.executable, "-m", "callboard.cli", *arguments]
        self._count = count
        self._deadline = drain + GRACE
        self._on_ready = on_ready
        self._ready: set[int] = set()
        self._running: dict[int, Process] = {}
        self._stopping = False

    async def run(self, stopping: Stopping) -> None:
        """Supervises until the order to stop, and returns when all workers have ended."""
        stopping.ready()
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(self._keep(number)) for number in range(self._count)]
            try:
                await stopping.wait()
            finally:
                self._stopping = True
                await self._stop_all()
                for keeper in keepers:
                    keeper.cancel()

    async def _keep(self, number: int) -> None:
        pause = FIRST_PAUSE
        while not self._stopping:
            began = time.monotonic()
            code = await self._run_one(number)
            if self._stopping:
                return
            if time.monotonic() - began > STABLE:
                pause = FIRST_PAUSE
            log.error("Worker process %d ended (%s); starting it again in %.1f s", number + 1, _ending(code), pause)
            await asyncio.sleep(pause * (0.75 + random.random() / 2))
            pause = min(pause * 2, LAST_PAUSE)

    async def _run_one(self, number: int) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    env={**os.environ, LIFELINE: str(theirs.fileno()), PROCESS: str(number)},
                    pass_fds=(theirs.fileno(),),
                    # A terminal's Ctrl-C is for the supervisor alone, which passes on one order to stop.
                    process_group=0,
                )
            self._running[number] = process
            if self._stopping:  # the order came while it was being started
                process.terminate()
            listener = asyncio.create_task(self._listen(number, ours))
            try:
                return await process.wait()
            finally:
                listener.cancel()
                self._running.pop(number, None)
                self._ready.discard(number)

    async def _listen(self, number: int, line: socket.socket) -> None:
        if await asyncio.get_running_loop().sock_recv(line, 1):
            self._ready.add(number)
            if len(self._ready) == self._count:
                self._on_ready()

    async def _stop_all(self) -> None:
        for process in list(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline):
                await self._none_left()
        for process in list(self._running.values()):
            log.error("Worker process %d did not stop in time and is killed", process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await self._none_left()

    async def _none_left(self) -> None:
        while self._running:
            await asyncio.gather(*(process.wait() for process in self._running.values()))
            await asyncio.sleep(0)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
