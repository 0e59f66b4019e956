"""Long runs: a claim in the store instead of a message at the broker."""

from __future__ import annotations

from collections.abc import Iterable

from callboard.activities.runs import Run
from callboard.batching import retrying
from callboard.core.messages import ActivityCall
from callboard.ports import Claim, Host, Store
from callboard.routes import Sender

#: How long an activity runs before it claims its task in the store and lets its message go, in seconds.
CLAIM_AFTER = 60.0
#: How long a claim lasts without being renewed, in seconds.
CLAIM = 30.0


class Claims:
    """The claims of this worker."""

    def __init__(self, store: Store, host: Host, sender: Sender, worker_id: str) -> None:
        self._store = store
        self._host = host
        self._sender = sender
        self._worker_id = worker_id
        self._renewed = 0.0
        self.after = CLAIM_AFTER
        self.ttl = CLAIM

    async def held_elsewhere(self, call: ActivityCall) -> bool:
        """Whether somebody runs it and says so."""
        return await retrying(lambda: self._store.claimed(call), self._host, "look for a claim")

    async def look_after(self, runs: Iterable[Run]) -> None:
        """Claims what has become long, and renews what is claimed."""
        now = self._host.monotonic()
        running = list(runs)
        for run in [run for run in running if not run.claimed and now - run.since > self.after]:
            await self._claim(run)
        if any(run.claimed for run in running) and now - self._renewed > self.ttl / 4:
            self._renewed = now
            await self._store.renew_claims(self._worker_id, ttl=self.ttl)

    async def _claim(self, run: Run) -> None:
        partition = self._sender.partition_of(run.call.instance_id)
        claim = Claim(call=run.call, partition=partition, worker_id=self._worker_id)
        if await self._store.claim(claim, ttl=self.ttl):
            run.claimed = True
            over = run.account.settled  # it ended meanwhile
            run.account.settle()
            if over:
                self.release(run)

    def release(self, run: Run) -> None:
        """Lets go of a claim whose run is over."""
        self._host.spawn(self._release(run), name="callboard release claim")

    async def _release(self, run: Run) -> None:
        await retrying(lambda: self._store.release_claim(run.call, self._worker_id), self._host, "release a claim")
