"""Durable timers: rows in the store, of which the owner keeps the next ones in a heap.

Never early, by this machine's clock; never skipped: a row lives until a commit has taken its firing, and every owner reads the rows
again and again. What a crash leaves behind is read by the next owner; what fires twice is a duplicate. A row that a former owner wrote
late, after the next one had read, is found by the look for what is overdue.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from callboard.batching import retrying
from callboard.core.messages import TimerDue
from callboard.mailbox import Account, Letter
from callboard.ports import Host, Store, TimerRow
from callboard.statistics import Histogram

log = logging.getLogger("callboard")

#: How far ahead rows are kept in memory.
LOOK_AHEAD = timedelta(seconds=90)
#: How often rows are read again, in seconds.
REFRESH = 45.0
#: How often rows are looked for that are due and not known here, in seconds.
OVERDUE = 5.0
#: Most rows that are read at once; while there are more, the horizon is where the last one was.
MOST_ROWS = 5_000
#: Most overdue rows that are read at once.
MOST_OVERDUE = 500
#: Most timers that fire at once, so that a flood after an outage leaves room for other work.
MOST_FIRED = 500

Key = tuple[str, str, int]


class TimerAccount:
    """Deletes a timer's row once its firing was committed, or judged to be a duplicate."""

    __slots__ = ("_row", "_timers")

    def __init__(self, timers: Timers, row: TimerRow) -> None:
        self._timers = timers
        self._row = row

    def settle(self) -> None:
        self._timers.settled(self._row)

    def abandon(self) -> None:
        self._timers.forget(self._row)


class Timers:
    """The pending timers of the partitions that this worker owns.

    Args:
        post: Puts a firing into a mailbox of this worker; False if its partition is not owned here.
        limit_due: Takes what is no timer of the code's, but the limit of a task, when it comes due.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        post: Callable[[Letter], bool],
        limit_due: Callable[[TimerRow, Account], None],
    ) -> None:
        self._store = store
        self._host = host
        self._post = post
        self._limit_due = limit_due
        self._heap: list[tuple[datetime, Key]] = []
        self._rows: dict[Key, TimerRow] = {}
        self._fired: set[Key] = set()
        self.lateness = Histogram()
        self._horizon = host.now()
        self._owned: frozenset[int] = frozenset()
        self._wake = asyncio.Event()
        self._stale = True
        self._more = False
        self.on_settled: Callable[[TimerRow], None] = lambda _row: None

    def own(self, partitions: frozenset[int]) -> None:
        """Sets the partitions; rows of new ones are read at once, those of others forgotten."""
        gained = partitions - self._owned
        self._owned = partitions
        for key, row in list(self._rows.items()):
            if row.partition not in partitions:
                del self._rows[key]
        if gained:
            self._stale = True
            self._wake.set()

    def schedule(self, row: TimerRow) -> None:
        """Takes a timer that was just set; one beyond the horizon is left to its row."""
        key = _key(row)
        if (
            row.partition in self._owned
            and row.fire_at <= self._horizon
            and key not in self._rows
            and key not in self._fired
        ):
            self._rows[key] = row
            heapq.heappush(self._heap, (row.fire_at, key))
            if self._heap[0][1] == key:
                self._wake.set()

    def cancel(self, row: TimerRow) -> None:
        self._rows.pop(_key(row), None)

    def lift(self, row: TimerRow) -> None:
        """What this one was for has happened already: it need not come due, and its row goes."""
        self.cancel(row)
        self.settled(row)

    def settled(self, row: TimerRow) -> None:
        self._fired.discard(_key(row))
        self.on_settled(row)

    def forget(self, row: TimerRow) -> None:
        self._fired.discard(_key(row))

    async def run(self) -> None:
        """Fires timers until cancelled."""
        read_at = looked_at = self._host.monotonic()
        while True:
            now = self._host.monotonic()
            if self._stale or now - read_at >= REFRESH:
                read_at = looked_at = now
                await self._read()
            elif now - looked_at >= OVERDUE:
                looked_at = now
                await self._look_for_overdue()
            pause = self._fire()
            if pause is None and self._more:
                self._stale = True
                pause = 0.0
            if pause is None:
                pause = REFRESH
            elif pause <= 0:
                await self._host.sleep(0.01)  # a flood: let turns take what has fired
                continue
            next_look = min(read_at + REFRESH, looked_at + OVERDUE)
            await self._wait(min(pause, max(0.0, next_look - self._host.monotonic())))

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _read(self) -> None:
        self._stale = False
        if not self._owned:
            return
        # The horizon moves before the rows are read: what is set meanwhile may be missing among them.
        self._horizon = until = self._host.now() + LOOK_AHEAD
        rows = await self._due(until, MOST_ROWS)
        for row in rows:
            self.schedule(row)
        self._more = len(rows) == MOST_ROWS
        if self._more:
            self._horizon = rows[-1].fire_at

    async def _look_for_overdue(self) -> None:
        if self._owned:
            for row in await self._due(self._host.now(), MOST_OVERDUE):
                self.schedule(row)

    async def _due(self, until: datetime, limit: int) -> list[TimerRow]:
        return await retrying(
            lambda: self._store.due_timers(sorted(self._owned), until=until, limit=limit), self._host, "read timers"
        )

    def _fire(self) -> float | None:
        """Fires what is due. Returns when the next timer is, in seconds; None if there is none."""
        now = self._host.now()
        for _ in range(MOST_FIRED):
            if not self._heap:
                return None
            due, key = self._heap[0]
            if due > now:
                return max((due - now).total_seconds(), 0.001)
            heapq.heappop(self._heap)
            row = self._rows.pop(key, None)
            if row is not None:
                self.lateness.observe((now - due).total_seconds())
                self._post_due(key, row)
        return 0.0

    def _post_due(self, key: Key, row: TimerRow) -> None:
        self._fired.add(key)
        if row.of_task:
            self._limit_due(row, TimerAccount(self, row))
            return
        message = TimerDue(
            instance_id=row.instance_id, execution_id=row.execution_id, timer_id=row.timer_id, fire_at=row.fire_at
        )
        if not self._post(Letter(message, TimerAccount(self, row))):
            self._fired.discard(key)


def _key(row: TimerRow) -> Key:
    return (row.instance_id, row.execution_id, row.timer_id)
