"""Runs turns in a thread of their own, under a watchdog.

A stuck orchestrator must not starve heartbeats, acks and other instances: the event loop only waits for the thread. A turn that
takes too long is interrupted; one that cannot be interrupted (it hangs in C code) costs the thread, which is given up for a new one.
A process that was stopped, or starved, as a whole is not the turn's fault: its turn's time begins anew, once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NoReturn

import msgspec

from callboard.core.codec import Content
from callboard.core.execution import TurnInterrupted
from callboard.core.messages import InstanceMessage
from callboard.core.turn import Decider, Turn
from callboard.ports import Host

log = logging.getLogger("callboard")

#: How long one turn may take before it is interrupted, in seconds.
TURN_LIMIT = 2.0
#: How long an interrupted turn may take to end before its thread is given up, in seconds.
GRACE = 2.0
#: How often the watchdog looks, in seconds.
LOOK = 0.25
#: How late the watchdog must come to its look to know that the whole process stood still, in seconds.
STANDSTILL = 1.0
#: How long a turn that could be several turns goes on, in seconds.
SLICE = 0.2


class TurnJob:
    """One turn to run: an activation, or how to make it, which may take a replay."""

    __slots__ = ("activation", "error", "instance_id", "make", "messages", "seconds", "turn")

    def __init__(
        self,
        instance_id: str,
        messages: Sequence[InstanceMessage],
        activation: Decider | None,
        make: Callable[[], Decider] | None = None,
    ) -> None:
        self.instance_id = instance_id
        self.messages = messages
        self.activation = activation
        self.make = make
        self.turn: Turn | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        """How long it took."""


class StuckOrchestration:
    """Stands in for code that could not even be interrupted: it parks the instance instead of hanging again."""

    codec = None

    def __init__(self, place: str) -> None:
        self._place = place

    def invoke(self, context: object, payload: Content | None) -> object:
        raise TurnInterrupted(self._place)

    def logger(self, logger: object, marks: dict[str, str], quiet: Callable[[], bool]) -> NoReturn:
        raise TurnInterrupted(self._place)


class Hung(msgspec.Struct, frozen=True):
    """A batch that did not come to its end."""

    position: int
    """The job that hangs; those behind it were not run. Negative: an activation that was being closed."""
    place: str
    """Where it hangs."""


class _Closing:
    """An activation that is thrown away: closing runs the user's ``finally`` blocks, so it is watched like a turn."""

    def __init__(self, activation: Decider) -> None:
        self.activation = activation
        self.instance_id = activation.state.instance_id


class _Batch:
    """What the thread works on, and where it is.

    The watchdog strikes only under the lock and only at the step it has seen, and `leave` takes what is on its way: an interrupt
    reaches the step that it is meant for, or none.
    """

    def __init__(
        self, closing: Sequence[Decider], jobs: Sequence[TurnJob], now: datetime, monotonic: Callable[[], float]
    ) -> None:
        self.steps: list[_Closing | TurnJob] = [*map(_Closing, closing), *jobs]
        self.closing = closing
        self.now = now
        self.position = 0
        self.began = 0.0
        self.since: float | None = None
        self.struck = -1
        self.excused = -1
        self.abandoned = False
        self.lock = threading.Lock()
        self._monotonic = monotonic

    def enter(self, position: int) -> None:
        now = self._monotonic()
        with self.lock:
            self.position, self.began, self.since = position, now, now

    def pace(self) -> bool:
        """Between two parts of a step: each has the whole time that a step may take, all of them together a slice."""
        self.leave()
        now = self._monotonic()
        with self.lock:
            self.since, self.struck = now, -1
        return now - self.began >= SLICE

    def excuse(self, now: float) -> None:
        """Begins the time of the present step anew, once."""
        with self.lock:
            if self.since is not None and self.excused != self.position:
                self.since, self.excused = now, self.position

    def leave(self) -> None:
        try:
            with self.lock:
                self.since = None
            if self.struck == self.position:
                for _ in range(1000):  # an interrupt that is on its way arrives here
                    pass
        except TurnInterrupted:
            self.since = None


class TurnThread:
    """Runs batches of turns, one batch at a time."""

    def __init__(self, host: Host, *, limit: float = TURN_LIMIT, author: str = "") -> None:
        self._host = host
        self._author = author
        self._limit = limit
        self._thread = host.worker_thread("callboard-turns")
        self._to_close: list[Decider] = []
        self._under_way: tuple[_Batch, asyncio.Future[None]] | None = None

    def discard(self, activation: Decider) -> None:
        """Has an activation closed in the thread: closing runs the user's ``finally`` blocks."""
        self._to_close.append(activation)

    async def run(self, jobs: Sequence[TurnJob], now: datetime) -> Hung | None:
        """Runs the turns; each job holds its turn or its error afterwards. Returns where it hung, if it did."""
        await self._watch()  # a batch whose caller was cancelled: it still needs watching
        closing, self._to_close = self._to_close, []
        batch = _Batch(closing, jobs, now, self._host.monotonic)
        finished = asyncio.ensure_future(self._thread.run(lambda: self._work(batch)))  # noqa: TID251 - it is a future already
        self._under_way = batch, finished
        return await self._watch()

    def close(self) -> None:
        """Lets the thread end when it has nothing more to do."""
        self._thread.abandon()

    async def _watch(self) -> Hung | None:
        """Waits for the batch that is under way to come to its end, or to hang."""
        hung: Hung | None = None
        while self._under_way is not None and hung is None:
            batch, finished = self._under_way
            looked = self._host.monotonic()
            if (await asyncio.wait((finished,), timeout=LOOK))[0]:
                self._under_way = None
                finished.result()
            else:
                if (now := self._host.monotonic()) - looked > LOOK + STANDSTILL:
                    batch.excuse(now)
                hung = self._look(batch)
        return hung

    def _work(self, batch: _Batch) -> None:
        for position, step in enumerate(batch.steps):
            try:
                batch.enter(position)
                self._step(step, batch)
                batch.leave()
            except TurnInterrupted:  # it came when the step was over
                batch.leave()
            if batch.abandoned:
                if step.activation is not None:
                    step.activation.close()
                return

    def _step(self, step: _Closing | TurnJob, batch: _Batch) -> None:
        if isinstance(step, _Closing):
            step.activation.close()
            return
        try:
            step.turn = self._turn(step, batch)
        except (Exception, TurnInterrupted) as error:  # noqa: BLE001 - the turn loop decides what it means for the instance
            step.error = error

    def _turn(self, job: TurnJob, batch: _Batch) -> Turn:
        if job.activation is None:
            assert job.make is not None
            job.activation = job.make()
        token = self._author + self._host.token()[len(self._author) :]
        turn = job.activation.turn(job.messages, now=batch.now, token=token, pace=batch.pace)
        job.seconds = self._host.monotonic() - batch.began
        return turn

    def _look(self, batch: _Batch) -> Hung | None:
        with batch.lock:
            since, position = batch.since, batch.position
            if since is None or self._host.monotonic() - since < self._limit:
                return None
            instance_id = batch.steps[position].instance_id
            if batch.struck != position:
                batch.struck = position
                log.warning(
                    "The turn of %s takes longer than %.1f s and is interrupted. It is at:\n%s",
                    instance_id,
                    self._limit,
                    self._thread.stack(),
                )
                self._thread.interrupt(TurnInterrupted)
                return None
            if self._host.monotonic() - since < self._limit + GRACE:
                return None
            batch.abandoned = True
        return self._give_up(batch, position, instance_id)

    def _give_up(self, batch: _Batch, position: int, instance_id: str) -> Hung:
        place = self._thread.stack()
        self._thread.abandon()
        self._thread = self._host.worker_thread("callboard-turns")
        self._under_way = None
        self._to_close.extend(batch.closing[position + 1 :])
        log.error("The turn of %s cannot be interrupted; its thread is given up.", instance_id)
        return Hung(position - len(batch.closing), place)
