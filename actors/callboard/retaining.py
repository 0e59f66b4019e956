"""Deletes instances that ended long enough ago. Done by the workers themselves, each for the partitions that it owns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta

from callboard.core.events import TERMINAL
from callboard.core.instances import InstanceRecord
from callboard.errors import ConfigurationError, UnavailableError
from callboard.ports import Host, InstanceFilter, Store

log = logging.getLogger("callboard")

#: How often a worker looks, in seconds.
EVERY = 60.0
#: How many records are read at once, and how long a worker rests between two pages, in seconds: deleting has time.
PAGE, PAUSE = 100, 0.2


def check_retention(retention: Mapping[str, timedelta]) -> None:
    """Raises ConfigurationError for what is no status in which an instance has ended, and for a negative time."""
    for status, age in retention.items():
        if status not in TERMINAL:
            raise ConfigurationError(
                f"Instances that are {status!r} cannot be deleted by age: name one of {', '.join(sorted(TERMINAL))}."
            )
        if age < timedelta():
            raise ConfigurationError(f"The retention of {status} instances is negative.")


class Retention:
    """Purges instances by age.

    A child goes only when its parent has ended or is gone: until then somebody may want to look at, or rewind, the whole tree.

    Args:
        retention: How long instances are kept after they have ended, by status; those of other statuses stay.
    """

    def __init__(self, store: Store, host: Host, retention: Mapping[str, timedelta]) -> None:
        self._store = store
        self._host = host
        self._retention = dict(retention)
        self._owned: frozenset[int] = frozenset()
        self.deleted = 0

    def own(self, partitions: frozenset[int]) -> None:
        """Sets the partitions whose instances are deleted here."""
        self._owned = partitions

    async def run(self) -> None:
        """Deletes until cancelled."""
        while True:
            await self._host.sleep(EVERY * (0.5 + self._host.random()))
            try:
                for status, age in self._retention.items():
                    await self._delete(status, age)
            except UnavailableError as error:
                log.warning("Retention: %s", error)

    async def _delete(self, status: str, age: timedelta) -> None:
        until = self._host.now() - age
        # What was created later has not ended by then: said for the sake of the index.
        which = InstanceFilter(statuses=(status,), updated_to=until, created_to=until)
        continuation: str | None = None
        while self._owned:
            page = await self._store.query(which, limit=PAGE, continuation=continuation)
            mine = [record for record in page.records if record.partition in self._owned]
            kept = await self._with_running_parents(mine)
            for record in mine:
                if record.instance_id not in kept and await self._store.purge(record.instance_id):
                    self.deleted += 1
            if page.continuation is None:
                return
            continuation = page.continuation
            await self._host.sleep(PAUSE)

    async def _with_running_parents(self, records: list[InstanceRecord]) -> set[str]:
        parents = {record.instance_id: record.parent.instance_id for record in records if record.parent is not None}
        found = await self._store.records(sorted(set(parents.values())))
        return {child for child, parent in parents.items() if parent in found and not found[parent].terminal}
