"""Deleting instances that have ended, with their children."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence

import msgspec

from callboard.client.connection import Connection
from callboard.core.events import TERMINAL
from callboard.errors import InstanceNotFinishedError, InstanceNotFoundError
from callboard.ports import InstanceFilter

#: How often, and how long, a purge is tried while an instance that has ended still has effects under way, in seconds.
PURGE_PAUSE, PURGE_PATIENCE = 0.05, 3.0
#: How many records are read at once.
PAGE = 200


class PurgeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a purge by filter."""

    deleted: int
    """How many instances were deleted, children included."""
    complete: bool
    """False: time ran out, or some that have ended had effects under way. Call it again."""


class Purges:
    """Purges instances for one client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._store = connection.hub.store
        self._host = connection.host

    async def purge(self, instance_id: str, *, recursive: bool) -> int:
        """Deletes an instance; returns how many it were, with its children.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceNotFinishedError: it has not ended, or what it brought about is still under way after a few seconds.
        """
        record = await self._connection.record(instance_id)
        if not record.terminal:
            raise InstanceNotFinishedError(instance_id, record.runtime_status)
        tree = await self._tree(instance_id) if recursive else [instance_id]
        deleted, left = await self._purge_each(tree, self._host.monotonic() + PURGE_PATIENCE)
        if left is not None:
            status = (await self._connection.record(left)).runtime_status
            raise InstanceNotFinishedError(left, f"{status}, with effects under way" if status in TERMINAL else status)
        if not deleted:
            raise InstanceNotFoundError(instance_id)
        return deleted

    async def purge_all(self, which: InstanceFilter, *, recursive: bool, timeout: float | None) -> PurgeResult:
        """Deletes all instances that have ended, of those that a filter names."""
        stop = math.inf if timeout is None else self._host.monotonic() + timeout
        deleted, complete = 0, True
        async for instance_id in self._ended(which):
            if (now := self._host.monotonic()) >= stop:
                return PurgeResult(deleted=deleted, complete=False)
            tree = await self._tree(instance_id) if recursive else [instance_id]
            gone, left = await self._purge_each(tree, min(now + PURGE_PATIENCE, stop))
            deleted += gone
            complete = complete and left is None
        return PurgeResult(deleted=deleted, complete=complete)

    async def _purge_each(self, instance_ids: Sequence[str], until: float) -> tuple[int, str | None]:
        """Purges instances in this order; returns how many it were, and the first that could not be purged, at which it stops."""
        deleted = 0
        for instance_id in instance_ids:
            while not (gone := await self._store.purge(instance_id)):
                record = (await self._store.records([instance_id])).get(instance_id)
                if record is None:  # by someone else
                    break
                # One that has just ended is still telling others so: that takes a moment, not the caller's second try.
                if not record.terminal or self._host.monotonic() >= until:
                    return deleted, instance_id
                await self._host.sleep(PURGE_PAUSE)
            deleted += gone
        return deleted, None

    async def _tree(self, instance_id: str) -> list[str]:
        """An instance and its descendants, from the leaves on: an interrupted purge finds the rest again.

        Those that have not ended stay, and their children with them.
        """
        found = [instance_id]
        ahead = [instance_id]
        while ahead:
            children = [child async for child in self._ended(InstanceFilter(parent_id=ahead.pop()))]
            found.extend(children)
            ahead.extend(children)
        return found[::-1]

    async def _ended(self, which: InstanceFilter) -> AsyncGenerator[str]:
        """The ids of those that have ended, page by page."""
        ended = tuple(status for status in which.statuses or sorted(TERMINAL) if status in TERMINAL)
        which = msgspec.structs.replace(which, statuses=ended)
        continuation, more = None, bool(ended)
        while more:
            page = await self._store.query(which, limit=PAGE, continuation=continuation)
            for record in page.records:
                yield record.instance_id
            continuation, more = page.continuation, page.continuation is not None
