"""Long runs: a claim in the store instead of a message at the broker, renewed and told of progress in one call for all.

Rules of this file:

* A delivery is let go only once a claim is known to be ours. Whatever makes that doubtful (a lost answer, the call sent again, a
  renewal that does not find it) has the claim made again; if it is somebody else's then, the run stops.
* What the store has under our name and we do not run is released.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import msgspec

from callboard.activities.runs import ClaimState, Run, Stop
from callboard.batching import retrying
from callboard.core.messages import TaskKey
from callboard.packs import Sent
from callboard.ports import Claim, Host, Store
from callboard.routes import Sender

log = logging.getLogger("callboard")

#: How long an activity runs before it claims its task in the store and lets its message go, in seconds. Its first heartbeat does, too.
CLAIM_AFTER = 60.0
#: How long a claim lasts without being renewed, in seconds.
CLAIM = 30.0
#: How long a worker that stops waits until its claimed calls are sent again, in seconds.
HAND_OVER = 2.0
#: Least time between two writes of heartbeats, in seconds.
FLUSH_EVERY = 2.0


class Claims:
    """The claims of this worker.

    Args:
        stop: Tells a run to stop.
    """

    def __init__(
        self, store: Store, host: Host, sender: Sender, worker_id: str, stop: Callable[[Run, Stop], None]
    ) -> None:
        self._store = store
        self._host = host
        self._sender = sender
        self._worker_id = worker_id
        self._stop = stop
        self._renewed = self._flushed = host.monotonic()
        self._any = False
        """Whether the store may have claims of ours."""
        self.after = CLAIM_AFTER
        self.ttl = CLAIM

    async def held_elsewhere(self, run: Run) -> bool:
        """Whether somebody runs it and says so."""
        return await retrying(lambda: self._store.claimed(run.key), self._host, "look for a claim")

    async def take(self, run: Run) -> bool:
        """Claims a run, however long it takes; False if it is another's, or was cancelled."""
        return await retrying(lambda: self._claim(run), self._host, "claim")

    async def look_after(self, running: Collection[Run]) -> None:
        """Claims what has become long, renews what is claimed, and writes down heartbeats."""
        now = self._host.monotonic()
        for run in [run for run in running if self._is_due(run, now)]:
            await self._claim_or_stop(run)
        due = now - self._renewed > self.ttl / 4
        if self._any and (due or (now - self._flushed >= FLUSH_EVERY and _unsaid(running))):
            self._renewed = self._flushed = now
            await self._renew(running)

    def _is_due(self, run: Run, now: float) -> bool:
        if run.started is None or run.ended or run.stop is not None or run.claim is ClaimState.HELD:
            return False
        return run.claim is ClaimState.UNSURE or run.beaten is not None or now - run.started > self.after

    async def _claim_or_stop(self, run: Run) -> None:
        if not await self._claim(run):
            self._stop(run, Stop.SUPERSEDED)

    async def _claim(self, run: Run) -> bool:
        beats, deliveries = run.beats, len(run.accounts)
        claim = Claim(
            call=run.call,
            partition=self._sender.partition_of(run.call.instance_id),
            worker_id=self._worker_id,
            started=run.started_at or self._host.now(),
            heartbeat=run.beaten,
            details=run.details,
        )
        run.claim, self._any = ClaimState.UNSURE, True
        taken = await self._store.claim(claim, ttl=self.ttl)
        if not taken:
            run.claim = ClaimState.NONE
        elif run.settled:
            self.release(run)
        elif len(run.accounts) == deliveries:
            run.claim, run.flushed = ClaimState.HELD, beats
            run.let_go()
        return taken

    async def _renew(self, running: Collection[Run]) -> None:
        claimed = {run.key: run for run in running if run.claim is ClaimState.HELD}
        beats = [(run, run.beats, run.last_word()) for run in claimed.values() if run.unsaid]
        held = await self._store.renew_claims(self._worker_id, [beat for _, _, beat in beats], ttl=self.ttl)
        for run, count, _ in beats:
            run.flushed = count
        self._any = bool(held) or bool(claimed)
        for key, run in claimed.items():
            if run.ended or run.settled or run.claim is not ClaimState.HELD:
                continue
            if key not in held:
                log.warning("The claim on %s of %s was lost; claiming it again", run.call.name, key.instance_id)
                await self._claim_or_stop(run)
            elif held[key]:
                self._stop(run, Stop.CANCELLED)
        known = {run.key for run in running if not run.settled}
        for key in held.keys() - known - claimed.keys():
            await self._release(key)

    def release(self, run: Run) -> None:
        """Lets go of a claim whose run is over."""
        if run.claim is not ClaimState.NONE:
            run.claim = ClaimState.NONE
            self._host.spawn(self._release_for_sure(run.key), name="callboard release claim")

    async def _release_for_sure(self, key: TaskKey) -> None:
        await retrying(lambda: self._release(key), self._host, "release a claim")

    async def _release(self, key: TaskKey) -> None:
        await self._store.release_claim(key, self._worker_id)

    async def hand_over(self, runs: Collection[Run]) -> None:
        """Lets the claims of a worker that stops lapse at once, with the last word on their progress, and sends the calls again."""
        if not self._any:
            return
        await self._store.renew_claims(self._worker_id, [run.last_word() for run in runs if run.unsaid], ttl=0)
        # One whose start was limited is left to its owner's sweep, which lifts the limit.
        claimed = [run for run in runs if run.claim is not ClaimState.NONE and run.call.start_by is None]
        for run in claimed:
            call = msgspec.structs.replace(run.call, resent=True, start_by=None, heartbeat_details=run.details)
            self._sender.call(call, self._handed_over(run))
        until = self._host.monotonic() + HAND_OVER
        while any(run.claim is not ClaimState.NONE for run in claimed) and self._host.monotonic() < until:
            await self._host.sleep(0.01)

    def _handed_over(self, run: Run) -> Sent:
        def sent(error: BaseException | None) -> None:
            if error is None:
                self.release(run)
            else:
                log.warning("%s could not be handed over; it is sent again soon: %s", run.call.name, error)

        return sent


def _unsaid(running: Collection[Run]) -> bool:
    return any(run.unsaid for run in running if run.claim is ClaimState.HELD)
