"""Which partitions are ours: leases, balanced over the live workers.

Leases are efficiency: they keep two workers from doing the same work. Safety is the commit's unique number alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from callboard.core.messages import Ping, WorkersChanged
from callboard.errors import CallboardError, UnavailableError, UnroutableError
from callboard.packs import encode_pack
from callboard.ports import Broker, Destination, Host, HubView, Lease, Store, WorkerInfo
from callboard.retelling import Colleagues

log = logging.getLogger("callboard")

#: How long a lease lasts without a heartbeat, in seconds.
LEASE = 15.0
#: How often a worker says that it lives, in seconds.
HEARTBEAT = 4.0
#: Least pause between two heartbeats that news of other workers bring about, in seconds.
LEAST_PAUSE = 0.2
#: How long the inbox of another worker must be gone before its partitions are taken over, in seconds: it may be reconnecting.
SECOND_LOOK = 1.0
#: How long notices and pings may take together, in seconds: while the broker is away, heartbeats go on.
REACH = 1.0
#: How long after a lost connection the inboxes of others prove nothing, in seconds: they may be reconnecting as we were.
SETTLE = 6.0
#: How long a partition that is given up may take to come to rest, in seconds.
DRAIN = 10.0


class Lose(Protocol):
    """Stops acting for partitions; ``orderly``: once what is under way has come to rest, or the deadline has passed."""

    async def __call__(self, partitions: frozenset[int], *, orderly: bool) -> None: ...


class Ownership:
    """Holds this worker's fair share of the partitions.

    Args:
        gain: Starts to act for partitions.
        lose: Stops acting for partitions: returns when nothing of theirs is under way here, or the deadline has passed.
        seen: Is shown every view of the hub.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        host: Host,
        worker: WorkerInfo,
        *,
        gain: Callable[[frozenset[int]], Awaitable[None]],
        lose: Lose,
        seen: Callable[[HubView], None],
        lease: float = LEASE,
        heartbeat: float = HEARTBEAT,
        colleagues: Colleagues | None = None,
    ) -> None:
        self.colleagues = colleagues or Colleagues(host, worker.worker_id)
        self._store = store
        self._broker = broker
        self._host = host
        self._worker = worker
        self._gain = gain
        self._lose = lose
        self._seen = seen
        self._lease = lease
        self._heartbeat = heartbeat
        self._wake = asyncio.Event()
        self._suspects: dict[str, float] = {}
        """Workers whose inbox was gone, and since when."""
        self._settled = host.monotonic()
        """From when on a missing inbox means something."""
        self._confirmed = host.monotonic()
        """When the last heartbeat that got through was sent."""
        self.owned: frozenset[int] = frozenset()

    def look_again(self) -> None:
        """Workers have come or gone: balance now, not at the next heartbeat."""
        self._wake.set()

    def reconnected(self) -> None:
        """The broker was away, with everybody's inbox."""
        self._suspects.clear()
        self._settled = self._host.monotonic() + SETTLE
        self._wake.set()

    async def run(self) -> None:
        """Keeps and balances leases until cancelled."""
        announced = False
        while True:
            asked = self._host.monotonic()
            try:
                view = await self._store.heartbeat(self._worker, ttl=self._lease)
                self._confirmed = asked
                self._seen(view)
                self.colleagues.see(view.workers)
                await self._balance(view)
                if not announced:
                    await self._announce(view)
                    announced = True
                await self._ping_some(view)
            except UnavailableError as error:
                log.warning("No heartbeat: %s", error)
                await self._fence()
            except Exception:  # whatever it was: without heartbeats this worker would go on as a zombie
                log.exception("Balancing failed; it is tried again")
                await self._fence()
            await self._pause()

    async def leave(self) -> None:
        """Gives everything up in order, and lets the others know at once."""
        if self.owned:
            await self._give_up(self.owned)
        view = await self._store.view(ttl=self._lease)
        await self._store.leave(self._worker.worker_id)
        await self._announce(view, leaving=True)

    async def _pause(self) -> None:
        await self._host.sleep(LEAST_PAUSE)
        try:
            pause = SECOND_LOOK if self._suspects else self._heartbeat * (0.9 + 0.2 * self._host.random())
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _fence(self) -> None:
        """Without a heartbeat for most of the lease, others may take over: stop acting."""
        if self.owned and self._host.monotonic() - self._confirmed > self._lease * 2 / 3:
            log.error("The store cannot be reached: this worker stops acting for its partitions")
            lost, self.owned = self.owned, frozenset()
            await self._lose(lost, orderly=False)

    async def _balance(self, view: HubView) -> None:
        me = self._worker.worker_id
        held = frozenset(lease.partition for lease in view.leases if lease.owner == me and not lease.expired)
        if stolen := self.owned - held:
            log.info("Lost partitions %s to other workers", sorted(stolen))
            self.owned -= stolen
            await self._lose(stolen, orderly=False)
        if not self._worker.orchestrations:
            return
        wanted = _share(view, me)
        mine = held - self.owned  # before anything is given up: the view would show that as ours still
        if len(held) > wanted:
            await self._give_up(frozenset(sorted(held & self.owned)[wanted - len(held) :]))
        await self._take(view, mine, wanted)

    async def _take(self, view: HubView, mine: frozenset[int], wanted: int) -> None:
        gained = set(mine)  # leases under our id that we do not act for yet
        free = [lease for lease in view.leases if lease.owner is None or lease.expired]
        offset = int(self._host.random() * len(free)) if free else 0
        for lease in free[offset:] + free[:offset]:
            if len(self.owned) + len(gained) >= wanted:
                break
            if await self._acquire(lease):
                gained.add(lease.partition)
        if gained:
            await self._begin(frozenset(gained))

    async def _begin(self, gained: frozenset[int]) -> None:
        self.owned |= gained
        try:
            await self._gain(gained)
        except UnavailableError:  # the leases stay ours: the next look begins anew
            self.owned -= gained
            await self._lose(gained, orderly=False)
            raise

    async def _acquire(self, lease: Lease) -> bool:
        me = self._worker.worker_id
        acquired = await self._store.acquire(lease.partition, me, epoch=lease.epoch, ttl=self._lease) is not None
        if acquired and lease.owner is not None:
            self.colleagues.note_gone([lease.owner])
        return acquired

    async def _give_up(self, partitions: frozenset[int]) -> None:
        self.owned -= partitions
        await self._lose(partitions, orderly=True)
        for partition in sorted(partitions):
            await self._store.release(partition, self._worker.worker_id)
        view = await self._store.view(ttl=self._lease)
        await self._announce(view)

    async def _announce(self, view: HubView, *, gone: Sequence[str] = (), leaving: bool = False) -> None:
        news = WorkersChanged(worker_id=self._worker.worker_id, gone=tuple(gone), leaving=leaving)
        body = encode_pack([news])
        await self._reach([worker.worker_id for worker in view.workers], body)

    async def _ping_some(self, view: HubView) -> None:
        """Pings the next worker in the ring, and suspects. One whose inbox is still gone at the second look has no connection."""
        others = [worker.worker_id for worker in _ring(view.workers, self._worker.worker_id)]
        suspects = [worker for worker in others if worker in self._suspects]
        self._suspects = {worker: self._suspects[worker] for worker in suspects}
        following = [worker for worker in others if worker not in self._suspects][:1]
        missed = await self._reach(following + suspects, encode_pack([Ping()]))
        long_ago = self._host.monotonic() - SECOND_LOOK
        gone = [worker for worker in missed if worker in suspects and self._suspects[worker] <= long_ago]
        if gone:
            await self._take_over(gone)

    async def _take_over(self, dead: Sequence[str]) -> None:
        for worker in dead:
            log.warning("Worker %s is gone: its partitions are taken over", worker)
            self._suspects.pop(worker, None)
            await self._store.leave(worker)
        self.colleagues.note_gone(dead)
        self._wake.set()
        await self._announce(await self._store.view(ttl=self._lease), gone=dead)

    async def _reach(self, workers: Sequence[str], body: bytes) -> list[str]:
        """Sends something to workers, as far as the broker lets us; returns those whose inbox is gone, which makes them suspects."""
        missed: list[str] = []
        try:
            async with asyncio.timeout(REACH):
                for worker in workers:
                    missed += await self._missing(worker, body)
        except TimeoutError:
            log.debug("The broker does not take pings at present")
        now = self._host.monotonic()
        if now < self._settled:
            return []
        for worker in missed:
            self._suspects.setdefault(worker, now)
        for worker in set(workers).difference(missed):
            self._suspects.pop(worker, None)
        return missed

    async def _missing(self, worker_id: str, body: bytes) -> list[str]:
        try:
            if worker_id != self._worker.worker_id:
                await self._broker.publish(Destination.inbox(worker_id), body)
        except UnroutableError:
            return [worker_id]
        except CallboardError as error:
            log.debug("No ping of %s: %s", worker_id, error)
        return []


def _ring(workers: Sequence[WorkerInfo], me: str) -> list[WorkerInfo]:
    """The other workers, beginning with the one behind this one in order of id."""
    ordered = sorted(workers, key=lambda worker: worker.worker_id)
    after = [worker for worker in ordered if worker.worker_id > me]
    return after + [worker for worker in ordered if worker.worker_id < me]


def _share(view: HubView, me: str) -> int:
    """How many partitions this worker should hold at most, so that everyone gets a fair share."""
    held: dict[str, int] = {worker.worker_id: 0 for worker in view.workers if worker.orchestrations} | {me: 0}
    for lease in view.leases:
        if lease.owner in held and not lease.expired:
            held[lease.owner] += 1
    fewest, most = len(view.leases) // len(held), -(-len(view.leases) // len(held))
    somebody_starves = any(count < fewest for worker, count in held.items() if worker != me)
    return fewest if somebody_starves and held[me] >= most and fewest else most
