"""How many runs of an activity may go on at a time, and how fast they may begin: in this worker, and in the whole hub.

Limits of the hub are kept in the store: permits that this worker holds for as long as it renews them, and starts that it reserves. It
asks for what its waiting calls need, hands a permit from one call to the next, and gives back what it does not need. Activities without
limits cost nothing here, and wait for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from callboard.activity import ActivityOptions
from callboard.errors import UnavailableError
from callboard.ports import Host, Permits, Starts, Store

log = logging.getLogger("callboard")

#: How long permits last without being renewed, in seconds.
LEASE = 30.0
#: How long to wait before asking again for permits that others hold, in seconds.
ASK_AGAIN = 1.0
#: How long a permit that nobody needs is kept for the next call, in seconds.
KEEP = 0.1
#: How far ahead starts are reserved, in seconds.
AHEAD = 1.0


class Limited:
    """One activity with limits. Times are of the monotonic clock."""

    def __init__(self, name: str, options: ActivityOptions) -> None:
        self.name = name
        self.options = options
        self.running = 0
        self.permits = 0
        """How many runs of it the hub lets go on here."""
        self.next_start = 0.0
        self.starts: deque[float] = deque()
        """When the starts may take place that were reserved in the hub."""
        self.renewed = 0.0
        self.ask_permits = 0.0
        """Before this time it is of no use to ask for more."""
        self.ask_starts = 0.0
        self.idle_since: float | None = None
        """Since when it holds permits that nobody needs."""

    def wait(self, now: float) -> float | None:
        """Seconds until the next run may begin, as far as is known; None: another must end first, or the hub must be asked."""
        options = self.options
        if options.concurrency is not None and self.running >= options.concurrency:
            return None
        if options.hub_concurrency is not None and self.running >= self.permits:
            return None
        waits = [0.0]
        if options.every is not None:
            waits.append(self.next_start - now)
        if options.hub_every is not None:
            while self.starts and self.starts[0] < now - AHEAD:
                self.starts.popleft()  # not used in time: those that come later must not go all at once
            if not self.starts:
                return None
            waits.append(self.starts[0] - now)
        return max(waits)

    def begin(self, now: float) -> None:
        self.running += 1
        if self.options.every is not None:
            self.next_start = max(self.next_start, now) + self.options.every
        if self.options.hub_every is not None:
            self.starts.popleft()

    def end(self) -> None:
        self.running -= 1

    def wanted(self, waiting: int) -> int:
        """How many permits it needs for what runs and waits."""
        most = self.running + waiting
        return most if self.options.concurrency is None else max(self.running, min(most, self.options.concurrency))

    def granted(self, permits: int, wanted: int, now: float, again: float) -> None:
        self.permits, self.renewed, self.idle_since = permits, now, None
        self.ask_permits = now + again if permits < wanted else 0.0

    def reserved(self, starts: Starts, now: float) -> None:
        """Takes starts that were reserved just now, and remembers when to ask for more."""
        every = self.options.hub_every or 0.0
        self.starts.extend(now + starts.wait + number * every for number in range(starts.count))
        self.ask_starts = self.starts[-1] if starts.count else now + max(starts.wait, 0.001)


class Limits:
    """The limits of the activities that this worker runs.

    Args:
        options_of: What an activity is registered with, if it is.
        waiting: How many calls of an activity could begin here but for its limits.
        more: Called when calls that were held back may begin.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        worker_id: str,
        options_of: Callable[[str], ActivityOptions | None],
        *,
        waiting: Callable[[str], int],
        more: Callable[[], None],
    ) -> None:
        self._store = store
        self._host = host
        self._worker_id = worker_id
        self._options_of = options_of
        self._waiting = waiting
        self._more = more
        self._limited: dict[str, Limited | None] = {}
        self._wake = asyncio.Event()
        self._sleeps_until: float | None = 0.0
        """Up to when the loop sleeps unless it is woken; None: for ever."""

    def may_begin(self, name: str) -> bool:
        limited = self._limits_of(name)
        if limited is None:
            return True
        now = self._host.monotonic()
        wait = limited.wait(now)
        if wait is not None and wait <= 0:
            return True
        self._wake_for(limited, now)
        return False

    def began(self, name: str) -> None:
        if (limited := self._limits_of(name)) is not None:
            limited.begin(self._host.monotonic())

    def ended(self, name: str) -> None:
        if (limited := self._limits_of(name)) is not None:
            limited.end()
            self._wake_for(limited, self._host.monotonic())

    async def run(self) -> None:
        """Asks the hub for what is needed, until cancelled."""
        while True:
            await self._pause()
            try:
                await self._hold_permits()
                await self._reserve_starts()
            except UnavailableError as error:
                log.warning("Limits of activities: %s", error)
                self._lose_stale()
                await self._host.sleep(ASK_AGAIN)
            self._more()

    async def aclose(self) -> None:
        """Gives all permits back."""
        held = [each for each in self._all() if each.permits]
        if held:
            permits = [_permits(each, 0) for each in held]
            await self._store.hold_permits(self._worker_id, permits, ttl=LEASE)

    def _limits_of(self, name: str) -> Limited | None:
        try:
            return self._limited[name]
        except KeyError:
            options = self._options_of(name)
            limited = Limited(name, options) if options is not None and options.limited else None
            if options is not None:
                self._limited[name] = limited
            return limited

    def _all(self) -> list[Limited]:
        return [limited for limited in self._limited.values() if limited is not None]

    # When to ask

    def _wake_for(self, limited: Limited, now: float) -> None:
        """Has the loop look sooner if there is something to do for this one before it would look by itself."""
        until = self._sleeps_until
        if any(until is None or time < until for time in self._times(limited, now)):
            self._wake.set()

    async def _pause(self) -> None:
        now = self._host.monotonic()
        times = [time for limited in self._all() for time in self._times(limited, now)]
        self._sleeps_until = min(times, default=None)
        try:
            async with asyncio.timeout(None if self._sleeps_until is None else max(0.0, self._sleeps_until - now)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._sleeps_until = 0.0  # awake: whatever changes now is seen before the next sleep
        self._wake.clear()

    def _times(self, limited: Limited, now: float) -> list[float]:
        """When something can be done: renew, give back, begin, ask."""
        waiting = self._waiting(limited.name)
        wanted = limited.wanted(waiting)
        times: list[float] = []
        if limited.permits:
            times.append(limited.renewed + LEASE / 4)
        if wanted < limited.permits:
            times.append((now if limited.idle_since is None else limited.idle_since) + KEEP)
        if not waiting:
            return times
        wait = limited.wait(now)
        if wait is not None:
            times.append(now + wait)
        if limited.options.hub_concurrency is not None and wanted > limited.permits:
            times.append(max(now, limited.ask_permits))
        if limited.options.hub_every is not None and waiting > len(limited.starts):
            times.append(max(now, limited.ask_starts))
        return times

    # Permits

    async def _hold_permits(self) -> None:
        now = self._host.monotonic()
        asked = [
            (limited, wanted)
            for limited in self._all()
            if limited.options.hub_concurrency is not None and (wanted := self._to_ask(limited, now)) is not None
        ]
        if asked:
            permits = [_permits(limited, wanted) for limited, wanted in asked]
            held = await self._store.hold_permits(self._worker_id, permits, ttl=LEASE)
            for (limited, wanted), granted in zip(asked, held, strict=True):
                limited.granted(granted, wanted, now, ASK_AGAIN * (0.8 + 0.4 * self._host.random()))

    def _to_ask(self, limited: Limited, now: float) -> int | None:
        """How many permits to ask for; None: there is no need to."""
        wanted = limited.wanted(self._waiting(limited.name))
        if wanted > limited.permits and now >= limited.ask_permits:
            return wanted
        if wanted >= limited.permits:
            limited.idle_since = None
        elif limited.idle_since is None:
            limited.idle_since = now
        elif now - limited.idle_since >= KEEP:
            return wanted
        return limited.permits if limited.permits and now - limited.renewed >= LEASE / 4 else None

    def _lose_stale(self) -> None:
        """Permits that could not be renewed in time may be others' by now: nothing more begins with them."""
        now = self._host.monotonic()
        for limited in self._all():
            if now - limited.renewed > LEASE:
                limited.permits = 0

    # Starts

    async def _reserve_starts(self) -> None:
        for limited in self._all():
            every = limited.options.hub_every
            missing = self._waiting(limited.name) - len(limited.starts)
            if every is not None and missing > 0 and self._host.monotonic() >= limited.ask_starts:
                starts = await self._store.reserve_starts(limited.name, count=missing, every=every, ahead=AHEAD)
                limited.reserved(starts, self._host.monotonic())


def _permits(limited: Limited, wanted: int) -> Permits:
    return Permits(name=limited.name, wanted=wanted, limit=limited.options.hub_concurrency or 0)
