"""Tells workers of activities that nobody waits for any more.

A claim in the store is marked, and its holder told. Whatever has no claim may run, or wait, at any worker: all of them are told. One whose
inbox is gone may be reconnecting; it is tried again for as long as it says in the store that it lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from callboard.batching import Batcher
from callboard.core.messages import ActivitiesCancelled, TaskKey
from callboard.errors import UnroutableError
from callboard.packs import Packer
from callboard.ports import Destination, Host, HubView, Store

log = logging.getLogger("callboard")

#: How long cancellations wait for others to be looked up with them, in seconds.
LINGER = 0.05
#: How long to wait before a worker whose inbox is gone is tried again, in seconds.
AGAIN = 2.0


class _Notice(msgspec.Struct, frozen=True):
    """One cancellation on its way."""

    message: ActivitiesCancelled
    done: Callable[[BaseException | None], None]
    missed: frozenset[str] | None = None
    """The workers that could not be reached so far; None: nobody has been told yet."""


class Cancelling:
    """Carries cancellations to whoever may run the activities.

    Args:
        here: Is told of each at once: this worker's own activities.
        ttl: How long a worker counts as alive without being heard of.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        packer: Packer,
        worker_id: str,
        here: Callable[[ActivitiesCancelled], None],
        *,
        ttl: float,
    ) -> None:
        self._store = store
        self._host = host
        self._packer = packer
        self._worker_id = worker_id
        self._here = here
        self._ttl = ttl
        self._lookups: Batcher[_Notice, frozenset[str]] = Batcher(
            self._look_up, host, name="cancel activities", most=200, linger=LINGER
        )

    def send(self, message: ActivitiesCancelled, done: Callable[[BaseException | None], None]) -> None:
        """Tells all who may run them; ``done`` is called once they know, or with what went wrong."""
        self._here(message)
        self._submit(_Notice(message, done))

    async def aclose(self) -> None:
        await self._lookups.aclose()

    def _submit(self, notice: _Notice) -> None:
        def looked_up(workers: frozenset[str] | None, error: BaseException | None) -> None:
            if workers:
                _Round(self, notice, workers)
            else:
                notice.done(error)

        self._lookups.submit(notice, looked_up)

    async def _look_up(self, notices: Sequence[_Notice]) -> list[frozenset[str]]:
        """Whom to tell of each."""
        keys = [key for notice in notices if notice.missed is None for key in _keys(notice.message)]
        holders = await self._store.cancel_claims(keys)
        alive = _alive(await self._store.view(ttl=self._ttl))
        return [self._whom(notice, holders, alive) for notice in notices]

    def _whom(self, notice: _Notice, holders: dict[TaskKey, str], alive: frozenset[str]) -> frozenset[str]:
        if notice.missed is not None:
            return notice.missed & alive
        keys = _keys(notice.message)
        told = {holders[key] for key in keys if key in holders}
        if any(key not in holders for key in keys):
            told |= alive
        return frozenset(told) - {self._worker_id}

    def tell(self, worker_id: str, notice: _Notice, told: Callable[[BaseException | None], None]) -> None:
        self._packer.send(Destination.inbox(worker_id), notice.message, told)

    def ended(self, notice: _Notice, missed: frozenset[str], error: BaseException | None) -> None:
        """All who were to be told in one round have been tried."""
        if missed and error is None:
            later = msgspec.structs.replace(notice, missed=missed)
            self._host.spawn(self._try_again(later), name="callboard cancel activities")
        else:
            notice.done(error)

    async def _try_again(self, notice: _Notice) -> None:
        await self._host.sleep(AGAIN)
        self._submit(notice)


class _Round:
    """One try to reach some workers."""

    def __init__(self, cancelling: Cancelling, notice: _Notice, workers: frozenset[str]) -> None:
        self._cancelling = cancelling
        self._notice = notice
        self._waiting = len(workers)
        self._missed: set[str] = set()
        self._error: BaseException | None = None
        for worker_id in sorted(workers):
            cancelling.tell(worker_id, notice, self._told(worker_id))

    def _told(self, worker_id: str) -> Callable[[BaseException | None], None]:
        def told(error: BaseException | None) -> None:
            if isinstance(error, UnroutableError):
                self._missed.add(worker_id)
            elif error is not None:
                self._error = error
            self._waiting -= 1
            if not self._waiting:
                self._cancelling.ended(self._notice, frozenset(self._missed), self._error)

        return told


def _keys(message: ActivitiesCancelled) -> list[TaskKey]:
    return [TaskKey(message.instance_id, message.execution_id, task) for task in message.tasks]


def _alive(view: HubView) -> frozenset[str]:
    return frozenset(worker.worker_id for worker in view.workers if worker.queues)
