"""External events: those that came and were not taken yet, and those who wait for one.

Rules of this file:

* An event is taken when somebody looks: awaits a waiter, or asks it whether it is done. A waiter that was cancelled or has timed out, and
  one that was dropped or forgotten, takes nothing; that must not depend on when a garbage collector comes by.
* Names are compared without case. Of the waiters that are awaited, the first to be made gets the first event.
* What nobody took stays, in order of arrival, and is carried over ``continue_as_new``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Generator
from itertools import count
from typing import Any, TypeAlias, TypeVar, cast

from callboard.core import payloads
from callboard.core.codec import Content, load
from callboard.core.context import NO_DEFAULT, DurableTask
from callboard.core.events import EventRaised
from callboard.core.loop import DeterministicLoop
from callboard.errors import CallboardError

T = TypeVar("T")

#: An event, and what its data are.
Arrived: TypeAlias = tuple[EventRaised, Content | None]


class EventInbox:
    """The events of one execution, by name, and who waits in line for them."""

    def __init__(self, loop: DeterministicLoop) -> None:
        self._loop = loop
        self._arrivals = count()
        self._waiters = count()
        self._waiting: dict[int, Arrived] = {}
        self._waiting_by_name: dict[str, deque[int]] = {}
        self._lines: dict[str, list[EventWaiter[Any]]] = {}
        self.still = False
        """Whether code looks that must not change anything: then looking takes no event."""

    def arrive(self, event: EventRaised, content: Content | None) -> None:
        """Gives an event to the first in line, or keeps it.

        Args:
            event: As it is in history.
            content: What its data are, opened.
        """
        key = event.name.casefold()
        line = self._lines.get(key)
        if line:
            line[0].give(event, content)
            return
        number = next(self._arrivals)
        self._waiting[number] = event, content
        self._waiting_by_name.setdefault(key, deque()).append(number)

    def untaken(self) -> dict[int, EventRaised]:
        """Events that nobody took, by number of arrival."""
        return {number: event for number, (event, _) in self._waiting.items()}

    def awaited(self) -> tuple[str, ...]:
        """The names that somebody waits for now, as the code wrote them."""
        return tuple(line[0].name for line in self._lines.values())

    def waiter(self, name: str, expected: Any) -> EventWaiter[Any]:
        """One who may wait for the next event of a name."""
        return EventWaiter(self, self._loop, next(self._waiters), name, payloads.decodable(expected))

    def close(self) -> None:
        self._lines.clear()

    # For waiters

    def arrived_so_far(self) -> int:
        """A mark between the events that came before now and those that come later."""
        return next(self._arrivals)

    def take(self, key: str, before: int | None) -> Arrived | None:
        """The oldest event of a name, if there is one and it came before a mark."""
        numbers = self._waiting_by_name.get(key)
        if not numbers or (before is not None and numbers[0] > before):
            return None
        number = numbers.popleft()
        if not numbers:
            del self._waiting_by_name[key]
        return self._waiting.pop(number)

    def enter(self, waiter: EventWaiter[Any]) -> None:
        insort(self._lines.setdefault(waiter.key, []), waiter, key=_number)

    def leave(self, waiter: EventWaiter[Any]) -> None:
        line = self._lines.get(waiter.key, [])
        place = bisect_left(line, waiter.number, key=_number)
        if place < len(line) and line[place] is waiter:
            del line[place]
            if not line:
                del self._lines[waiter.key]


class EventWaiter(DurableTask[T]):
    """Waits for one event, from the moment on that it is awaited."""

    __slots__ = ("_callbacks_left", "_default", "_expected", "_expired", "_inbox", "_timer", "key", "name", "number")

    def __init__(self, inbox: EventInbox, loop: DeterministicLoop, number: int, name: str, expected: Any) -> None:
        super().__init__(loop=loop)
        self.number = number
        self.key = name.casefold()
        self._inbox = inbox
        self.name = name
        self._expected = expected
        self._callbacks_left = 0
        self._timer: DurableTask[None] | None = None
        self._default: object = NO_DEFAULT
        self._expired: int | None = None
        """What came after this mark is too late."""

    def limit(self, timer: DurableTask[None], default: object) -> EventWaiter[T]:
        """Sets until when it waits, and what it gets when nothing has come."""
        self._timer, self._default = timer, default
        timer.add_done_callback(self._on_timer)
        return self

    def give(self, event: EventRaised, content: Content | None) -> None:
        """Ends the waiting with an event."""
        self._end()
        try:
            value = load(content, self._expected, f"The data of event {event.name!r}")
        except CallboardError as error:
            super().set_exception(error)
        else:
            super().set_result(value)

    def _on_timer(self, timer: Any) -> None:
        if not timer.cancelled():
            self._timer = None
            self._expired = self._inbox.arrived_so_far()
            if self._callbacks_left:  # else it has the event that came in time, should anybody look
                self._look()

    def _look(self) -> None:
        if super().done() or self._inbox.still:
            return
        arrived = self._inbox.take(self.key, self._expired)
        if arrived is not None:
            self.give(*arrived)
        elif self._expired is not None:
            self._end()
            if self._default is NO_DEFAULT:
                super().set_exception(TimeoutError(f"No event {self.name!r} came in time."))
            else:
                super().set_result(cast("T", self._default))

    def _end(self) -> None:
        self._inbox.leave(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What looks

    def done(self) -> bool:
        self._look()
        return super().done()

    def result(self) -> T:
        self._look()
        return super().result()

    def exception(self) -> BaseException | None:
        self._look()
        return super().exception()

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Any = None) -> None:
        self._look()
        super().add_done_callback(fn, context=context)
        if not super().done():
            self._callbacks_left += 1
            if self._callbacks_left == 1:
                self._inbox.enter(self)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        removed = super().remove_done_callback(fn)
        if removed and not super().done():
            self._callbacks_left -= removed
            if not self._callbacks_left:
                self._inbox.leave(self)
        return removed

    def __await__(self) -> Generator[Any, None, T]:
        self._look()
        return super().__await__()

    __iter__ = __await__

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self._end()
        return True


def _number(waiter: EventWaiter[Any]) -> int:
    return waiter.number
