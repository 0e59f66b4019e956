"""Runs turns in a thread of their own, under a watchdog.

A stuck orchestrator must not starve heartbeats, acks and other instances: the event loop only waits for the thread. A turn that
takes too long is interrupted; one that cannot be interrupted (it hangs in C code) costs the thread, which is given up for a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime

import msgspec

from callboard.core.events import Payload
from callboard.core.execution import CallTargets, Orchestration, TurnInterrupted
from callboard.core.messages import InstanceMessage
from callboard.core.turn import Activation, Turn
from callboard.ports import Host, LoadedInstance

log = logging.getLogger("callboard")

#: How long one turn may take before it is interrupted, in seconds.
TURN_LIMIT = 2.0
#: How long an interrupted turn may take to end before its thread is given up, in seconds.
GRACE = 2.0
#: How often the watchdog looks, in seconds.
LOOK = 0.25


class TurnJob:
    """One turn to run: an activation, or what to make it from."""

    __slots__ = ("activation", "error", "instance_id", "loaded", "messages", "orchestration", "turn")

    def __init__(
        self,
        instance_id: str,
        messages: Sequence[InstanceMessage],
        activation: Activation | None,
        loaded: LoadedInstance | None,
        orchestration: Orchestration | None,
    ) -> None:
        self.instance_id = instance_id
        self.messages = messages
        self.activation = activation
        self.loaded = loaded
        self.orchestration = orchestration
        self.turn: Turn | None = None
        self.error: BaseException | None = None


class StuckOrchestration:
    """Stands in for code that could not even be interrupted: it parks the instance instead of hanging again."""

    def __init__(self, place: str) -> None:
        self._place = place

    def invoke(self, context: object, payload: Payload | None) -> object:
        raise TurnInterrupted(self._place)


class Hung(msgspec.Struct, frozen=True):
    """A batch that did not come to its end."""

    position: int
    """The job that hangs; those behind it were not run."""
    place: str
    """Where it hangs."""


class _Batch:
    """What the thread works on, and where it is."""

    def __init__(self, jobs: Sequence[TurnJob], now: datetime) -> None:
        self.jobs = jobs
        self.now = now
        self.position = 0
        self.since: float | None = None
        self.interrupted = -1
        self.abandoned = False


class TurnThread:
    """Runs batches of turns, one batch at a time."""

    def __init__(self, host: Host, targets: CallTargets, *, limit: float = TURN_LIMIT) -> None:
        self._host = host
        self._targets = targets
        self._limit = limit
        self._thread = host.worker_thread("callboard-turns")
        self._to_close: list[Activation] = []

    def discard(self, activation: Activation) -> None:
        """Has an activation closed in the thread: closing runs the user's ``finally`` blocks."""
        self._to_close.append(activation)

    async def run(self, jobs: Sequence[TurnJob], now: datetime) -> Hung | None:
        """Runs the turns; each job holds its turn or its error afterwards. Returns where it hung, if it did."""
        closing, self._to_close = self._to_close, []
        batch = _Batch(jobs, now)
        finished = asyncio.ensure_future(self._thread.run(lambda: self._work(batch, closing)))  # noqa: TID251 - it is a future already
        while not (await asyncio.wait((finished,), timeout=LOOK))[0]:
            hung = self._look(batch)
            if hung is not None:
                return hung
        finished.result()
        return None

    def close(self) -> None:
        """Lets the thread end when it has nothing more to do."""
        self._thread.abandon()

    def _work(self, batch: _Batch, closing: Sequence[Activation]) -> None:
        for activation in closing:
            activation.close()
        for position, job in enumerate(batch.jobs):
            if batch.abandoned:
                return
            batch.position, batch.since = position, self._host.monotonic()
            try:
                job.turn = self._turn(job, batch.now)
            except (Exception, TurnInterrupted) as error:  # noqa: BLE001 - the turn loop decides what it means for the instance
                job.error = error
        batch.since = None

    def _turn(self, job: TurnJob, now: datetime) -> Turn:
        if job.activation is None:
            assert job.loaded is not None
            job.activation = Activation(job.loaded.record, job.loaded.commits, job.orchestration, self._targets)
        return job.activation.turn(job.messages, now=now, token=self._host.token())

    def _look(self, batch: _Batch) -> Hung | None:
        since, position = batch.since, batch.position
        if since is None or self._host.monotonic() - since < self._limit:
            return None
        if batch.interrupted != position:
            batch.interrupted = position
            log.warning(
                "The turn of %s takes longer than %.1f s and is interrupted. It is at:\n%s",
                batch.jobs[position].instance_id,
                self._limit,
                self._thread.stack(),
            )
            self._thread.interrupt(TurnInterrupted)
            return None
        if self._host.monotonic() - since < self._limit + GRACE:
            return None
        place = self._thread.stack()
        batch.abandoned = True
        self._thread.abandon()
        self._thread = self._host.worker_thread("callboard-turns")
        log.error("The turn of %s cannot be interrupted; its thread is given up.", batch.jobs[position].instance_id)
        return Hung(position, place)
