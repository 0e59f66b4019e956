"""Finds what should have happened and did not: level-triggered, for ever, by partition. Recovery is nothing but this."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from callboard.activities.lapses import after_lapse
from callboard.bodies import restored
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.messages import ActivityCall, StartExecution, TaskResult, Wake
from callboard.effects import Effects
from callboard.errors import UnavailableError
from callboard.mailbox import Letter
from callboard.packs import Packer
from callboard.ports import Claim, Destination, Host, Store

log = logging.getLogger("callboard")

#: How often, in seconds.
EVERY = 5.0
#: What is younger is left to those who are just doing it, in seconds.
AGE = 5.0
#: How much is read at once.
PAGE = 500


class Sweeper:
    """Sweeps the partitions that this worker owns.

    Args:
        post: Puts a letter into a mailbox of this worker; False if its partition is not owned here.
        is_active: Whether something is under way for an instance here.
        begun: Is told of each lapsed claim before its call is sent again.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        packer: Packer,
        effects: Effects,
        *,
        post: Callable[[Letter], bool],
        is_active: Callable[[str], bool],
        begun: Callable[[Claim], None],
        again: Callable[[Commit], None] = lambda _commit: None,
    ) -> None:
        self._store = store
        self._host = host
        self._packer = packer
        self._effects = effects
        self._post = post
        self._is_active = is_active
        self._begun = begun
        self._again = again
        self._owned: frozenset[int] = frozenset()
        self._gained: frozenset[int] = frozenset()
        self._wake = asyncio.Event()
        self._scheduled: set[str] = set()
        """Executions that begin within moments."""
        self.swept = 0

    def own(self, partitions: frozenset[int]) -> None:
        """Sets the partitions; new ones are swept at once, whatever the age of what they hold."""
        self._gained |= partitions - self._owned
        self._gained &= partitions
        self._owned = partitions
        if self._gained:
            self._wake.set()

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            gained, self._gained = self._gained, frozenset()
            try:
                if gained:
                    await self._sweep(gained, age=0.0)
                    await self._wake_parked(gained)
                if self._owned:
                    await self._sweep(self._owned, age=AGE)
            except UnavailableError as error:
                log.warning("Sweep: %s", error)
                self._gained |= gained & self._owned
            except Exception:  # whatever it was, the next sweep must come: recovery is nothing but this
                log.exception("Sweep failed; it is tried again")
                self._gained |= gained & self._owned
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(EVERY * (0.8 + 0.4 * self._host.random())):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _sweep(self, partitions: frozenset[int], *, age: float) -> None:
        before = self._host.now() - timedelta(seconds=age)
        numbers = sorted(partitions)
        unsent = await self._store.unsent(numbers, before=before, limit=PAGE)
        forgotten = [commit for commit in unsent if not self._effects.in_flight(commit)]
        carried_out = [await self._carry_out_again(commit) for commit in forgotten].count(True)
        for record in await self._store.pending_starts(numbers, before=before, limit=PAGE, ahead=EVERY):
            self._start(record)
        for claim in await self._store.expired_claims(numbers, PAGE):
            self.swept += 1
            self._resend(claim)
        if carried_out and len(unsent) == PAGE:  # there is more behind; but do not run in circles around what is stuck
            self._wake.set()

    def _start(self, record: InstanceRecord) -> None:
        due = record.scheduled_start_time
        if due is not None and due > self._host.now():
            if record.execution_id not in self._scheduled:
                self._scheduled.add(record.execution_id)
                self._host.spawn(self._start_when_due(record, due), name="callboard scheduled start")
        elif not self._is_active(record.instance_id):
            self.swept += 1
            self._post(Letter(StartExecution(instance_id=record.instance_id, execution_id=record.execution_id)))

    async def _start_when_due(self, record: InstanceRecord, due: datetime) -> None:
        await self._host.sleep(max((due - self._host.now()).total_seconds(), 0.0))
        self._scheduled.discard(record.execution_id)
        self._post(Letter(StartExecution(instance_id=record.instance_id, execution_id=record.execution_id)))

    async def _carry_out_again(self, commit: Commit) -> bool:
        try:
            commit = await restored(self._store, commit)
        except KeyError:
            log.error(  # noqa: TRY400 - where it was raised says nothing
                "Commit %d of %s cannot be read: payload %s is missing. Restore it from a backup.",
                commit.n,
                commit.instance_id,
                commit.body,
            )
            return False
        if commit.partition not in self._owned:
            return False
        self.swept += 1
        self._again(commit)
        self._effects.dispatch(commit, again=True)
        return True

    def _resend(self, claim: Claim) -> None:
        """Sends a long activity again whose worker is gone. The claim is let go after that: until then it is swept again."""
        self._begun(claim)
        again = after_lapse(claim, self._host.now())

        def sent(error: BaseException | None) -> None:
            if error is None:
                self._host.spawn(self._let_go(claim), name="callboard release claim")
            else:
                log.warning("A long activity whose worker is gone could not be sent again yet: %s", error)

        match again:
            case None:
                sent(None)
            case ActivityCall():
                self._packer.send(Destination.activities(again.queue), again, sent)
            case TaskResult():
                log.error("Activity %s of %s has lost worker after worker", claim.call.name, claim.call.instance_id)
                self._post(Letter(again, _Told(sent)))

    async def _let_go(self, claim: Claim) -> None:
        await self._store.release_claim(claim.call.key, claim.worker_id, if_expired=True)

    async def _wake_parked(self, partitions: frozenset[int]) -> None:
        """A new owner may run other code than the last one: parked instances try again."""
        last: str | None = None
        while page := await self._store.parked(sorted(partitions & self._owned), PAGE, after=last):
            for parked in page:
                self._post(Letter(Wake(instance_id=parked.instance_id)))
            last = page[-1].instance_id


class _Told:
    """The failure of a call whose workers die: its claim is let go when the failure is in history."""

    def __init__(self, sent: Callable[[BaseException | None], None]) -> None:
        self._sent = sent

    def settle(self) -> None:
        self._sent(None)

    def abandon(self) -> None:
        """The partition's next owner sweeps the claim."""
