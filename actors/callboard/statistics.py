"""What is counted and timed while the runtime works: plain numbers, cheap enough to be always on. Whoever wants them reads them.

What each means to an operator is said where they are shown (`callboard.instruments`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from callboard.core.events import ExecutionStarted
from callboard.core.instances import Commit
from callboard.core.turn import Decider

#: Bounds of durations, in seconds: from a turn of code to an hour's wait.
DURATIONS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    3600.0,
)
#: Bounds of how many go together.
SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
#: Most names that are counted apart; the others are counted as "other".
MOST_NAMES = 200


class Histogram:
    """How often values fell between bounds."""

    __slots__ = ("bounds", "counts", "forward", "total")

    def __init__(self, bounds: Sequence[float] = DURATIONS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.forward: Callable[[float], None] | None = None
        """Is told of each value, too."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        if self.forward is not None:
            self.forward(value)


class NamedHistograms:
    """A histogram for each name."""

    def __init__(self, bounds: Sequence[float] = DURATIONS) -> None:
        self._bounds = bounds
        self.by_name: dict[str, Histogram] = {}
        self.forward: Callable[[str], Callable[[float], None]] | None = None
        """Makes what is told of each value of a name."""

    def observe(self, name: str, value: float) -> None:
        histogram = self.by_name.get(name)
        if histogram is None:
            histogram = self._new(name)
        histogram.observe(value)

    def _new(self, name: str) -> Histogram:
        name = name if len(self.by_name) < MOST_NAMES else "other"
        histogram = self.by_name.setdefault(name, Histogram(self._bounds))
        if self.forward is not None and histogram.forward is None:
            histogram.forward = self.forward(name)
        return histogram


class NamedCounts:
    """Counts by name and, where there is one, by what came of it."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}

    def add(self, name: str, outcome: str = "") -> None:
        key = (name, outcome)
        count = self.counts.get(key)
        if count is None and len(self.counts) >= MOST_NAMES:
            key = ("other", outcome)
            count = self.counts.get(key)
        self.counts[key] = (count or 0) + 1


class TurnStatistics:
    """Of a worker's turns, since it started."""

    def __init__(self) -> None:
        self.turns = 0
        self.commits = 0
        self.lost_races = 0
        self.loads = 0
        self.replays = 0
        self.hot = 0
        self.evictions = 0
        self.started = NamedCounts()
        self.ended = NamedCounts()
        self.turn_seconds = Histogram()
        self.turn_messages = Histogram(SIZES)
        self.commit_seconds = Histogram()
        self.commit_batch = Histogram(SIZES)

    def turned(self, seconds: float, messages: int, *, hot: bool) -> None:
        """A turn was run; ``hot``: it went on where the one before had stopped."""
        self.hot += hot
        self.turn_seconds.observe(seconds)
        self.turn_messages.observe(messages)

    def committed(self, commit: Commit, activation: Decider | None) -> None:
        """A commit became durable."""
        self.commits += 1
        if not commit.events:
            return
        first = commit.events[0]
        if isinstance(first, ExecutionStarted) and not commit.generation:
            self.started.add(first.name)
        if commit.terminal or commit.continued is not None:
            name = (
                first.name
                if isinstance(first, ExecutionStarted)
                else getattr(activation.state, "name", "")
                if activation
                else ""
            )
            self.ended.add(name, commit.runtime_status if commit.terminal else "ContinuedAsNew")


class ActivityStatistics:
    """Of the activities that a worker has run, since it started."""

    def __init__(self) -> None:
        self.seconds = NamedHistograms()
        self.wait = NamedHistograms()
        self.ended = NamedCounts()
        self.retries = NamedCounts()
