"""Hub-wide limits of activities, by this machine's clock."""

from __future__ import annotations

from collections.abc import Sequence

from callboard.ports import Permits, Starts
from callboard_store.sqlite.database import Sql
from callboard_store.sqlite.instances import Topic


class Limits(Topic):
    """Adds permits that lapse, and evenly spaced starts."""

    async def hold_permits(self, worker_id: str, permits: Sequence[Permits], *, ttl: float) -> list[int]:
        now = self._clock()

        def work(sql: Sql) -> list[int]:
            return [_hold(sql, worker_id, each, now, ttl) for each in permits]

        return await self._write(work) if permits else []

    async def reserve_starts(self, name: str, *, count: int, every: float, ahead: float) -> Starts:
        now = self._clock()
        horizon = now + ahead

        def work(sql: Sql) -> Starts:
            row = sql.row("SELECT next FROM {starts} WHERE name = ?", name)
            # Never further away than a reservation at this rate can have put it: the rate may have been raised.
            first = min(max(row[0] if row else now, now), horizon + every)
            if first > horizon:
                return Starts(0, first - horizon)
            granted = min(count, int((horizon - first) / every) + 1)
            sql.run(
                "INSERT INTO {starts} VALUES (?, ?) ON CONFLICT DO UPDATE SET next = excluded.next",
                name,
                first + granted * every,
            )
            return Starts(granted, first - now)

        return await self._write(work)


def _hold(sql: Sql, worker_id: str, permits: Permits, now: float, ttl: float) -> int:
    sql.run("DELETE FROM {permits} WHERE name = ? AND (worker_id = ? OR expires <= ?)", permits.name, worker_id, now)
    (held,) = sql.column("SELECT COALESCE(SUM(permits), 0) FROM {permits} WHERE name = ?", permits.name)
    granted: int = max(0, min(permits.wanted, permits.limit - held))
    if granted:
        sql.run("INSERT INTO {permits} VALUES (?, ?, ?, ?)", permits.name, worker_id, granted, now + ttl)
    return granted
