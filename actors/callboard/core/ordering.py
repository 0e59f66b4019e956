"""Order and identity between actors: senders number what they send to an entity; entities remember what they have consumed.

A request that overtook the one before it is held until that has come, so requests of one orchestration to one entity are carried out in
the order in which they were sent, and each once. Memory is bounded: what an entity consumed is forgotten after it has *worked* for
`MEMORY`. An entity whose workers were stopped for a weekend must still know on Monday what it took on Friday, because what was not
known to have arrived is sent again then; so its clock stands still while it does nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime, timedelta

from callboard.core.entities import Heard, Position, Request, SentLine

#: How long consumed requests are remembered, in milliseconds of the entity's own clock (Durable Functions' reorder window).
MEMORY = 30 * 60_000
#: How much the entity's clock advances at most from one commit to the next, in milliseconds.
MOST_STEP = 60_000
#: Most senders that are remembered; the least recently heard are forgotten beyond it.
MOST_SENDERS = 50_000
#: Most gaps that are remembered of one sender; the oldest count as consumed beyond it.
MOST_RANGES = 1_000
#: Most lines of one sender that are carried on, and how long after their last use.
MOST_LINES, LINE_AGE = 10_000, timedelta(hours=1)


class Lines:
    """What an actor has sent to entities: one line of numbers for each of them."""

    def __init__(self, lines: Iterable[SentLine] = ()) -> None:
        self._lines = OrderedDict((line.target, line) for line in lines)

    def next(self, target: str, new: str, at: datetime) -> Position:
        """The position of the next request to an entity; the line advances.

        Args:
            target: The entity's instance id.
            new: What the line is called if it is to begin here. It must never have been used for this entity before.
            at: When the request is sent.
        """
        line = self._lines.get(target)
        position = (
            Position(sender=new) if line is None else Position(sender=line.sender, number=line.next, after=line.sent)
        )
        self.note(target, position, at)
        return position

    def note(self, target: str, position: Position, at: datetime) -> None:
        """Takes a request into account that history holds."""
        self._lines[target] = SentLine(target=target, sender=position.sender, next=position.number + 1, sent=at)
        self._lines.move_to_end(target)

    def forget(self, before: datetime) -> None:
        """Ends lines that have not been used for long; what is sent to their entities next begins a new one."""
        while self._lines:
            target, line = next(iter(self._lines.items()))
            if line.sent >= before and len(self._lines) <= MOST_LINES:
                return
            del self._lines[target]

    def __len__(self) -> int:
        return len(self._lines)

    def values(self) -> tuple[SentLine, ...]:
        return tuple(self._lines.values())


class OrderBook:
    """What an entity has consumed, line by line, and what it holds because something before it is missing."""

    def __init__(
        self,
        heard: Iterable[Heard] = (),
        held: Iterable[Request] = (),
        *,
        clock: int = 0,
        horizon: datetime | None = None,
    ) -> None:
        self.clock = clock
        self.horizon = horizon
        self._heard = OrderedDict((each.sender, each) for each in heard)
        self._held: dict[str, dict[int, Request]] = {}
        for request in held:
            self._held.setdefault(request.line.sender, {})[request.line.number] = request

    def knows(self, position: Position) -> bool:
        """Whether the request of that position was consumed, or is held."""
        return self._consumed(position.sender, position.number) or position.number in self._held.get(
            position.sender, ()
        )

    def take(self, request: Request) -> list[Request]:
        """Takes a request that is not known yet; returns those that may be carried out now, in order."""
        position = request.line
        if self._must_wait(position):
            self._held.setdefault(position.sender, {})[position.number] = request
            self._note(request, consumed=False)
            return []
        ready = [request]
        self._note(request)
        waiting = self._held.get(position.sender, {})
        while (following := waiting.pop(ready[-1].line.number + 1, None)) is not None:
            self._note(following)
            ready.append(following)
        if not waiting:
            self._held.pop(position.sender, None)
        return ready

    def age(self, elapsed: timedelta) -> list[Request]:
        """Lets time pass, and forgets; returns requests that have waited in vain for the one before them."""
        self.clock += min(max(elapsed // timedelta(milliseconds=1), 0), MOST_STEP)
        released: list[Request] = []
        while self._heard:
            sender, heard = next(iter(self._heard.items()))
            if heard.stamp + MEMORY >= self.clock and len(self._heard) <= MOST_SENDERS:
                break
            del self._heard[sender]
            self.horizon = max(self.horizon or heard.sent, heard.sent)
            waiting = self._held.pop(sender, {})
            released.extend(waiting[number] for number in sorted(waiting))
        for request in released:
            self._note(request)
        return released

    @property
    def held(self) -> tuple[Request, ...]:
        return tuple(request for waiting in self._held.values() for request in waiting.values())

    @property
    def heard(self) -> tuple[Heard, ...]:
        return tuple(self._heard.values())

    def __len__(self) -> int:
        return len(self._heard)

    def _consumed(self, sender: str, number: int) -> bool:
        heard = self._heard.get(sender)
        return heard is not None and any(start <= number < end for start, end in reversed(heard.ranges))

    def _must_wait(self, position: Position) -> bool:
        if (
            position.number == 0
            or position.after is None
            or (self.horizon is not None and position.after <= self.horizon)
        ):
            return False
        return not self._consumed(position.sender, position.number - 1)

    def _note(self, request: Request, *, consumed: bool = True) -> None:
        sender, number = request.line.sender, request.line.number
        known = self._heard.pop(sender, None)
        ranges = known.ranges if known else ()
        if consumed:
            ranges = _with(ranges, number)
        sent = max(known.sent, request.sent) if known else request.sent
        self._heard[sender] = Heard(sender=sender, ranges=ranges, sent=sent, stamp=self.clock)


def _with(ranges: tuple[tuple[int, int], ...], number: int) -> tuple[tuple[int, int], ...]:
    """The ranges and one number more."""
    if not ranges:
        return ((number, number + 1),)
    if ranges[-1][1] == number:  # the usual case: the next one
        return (*ranges[:-1], (ranges[-1][0], number + 1))
    joined: list[tuple[int, int]] = []
    for start, end in sorted((*ranges, (number, number + 1))):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    if len(joined) > MOST_RANGES:
        joined[:2] = [(joined[0][0], joined[1][1])]
    return tuple(joined)
