"""Calls that wait for their turn: in order, but none behind one of another activity that may not begin yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count

from callboard.activities.runs import Run


class Waiting:
    """A line for each activity. Those who come first go first, among those that may begin."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[tuple[int, Run]]] = {}
        self._numbers = count()

    def add(self, run: Run) -> None:
        self._lines.setdefault(run.call.name, deque()).append((next(self._numbers), run))

    def next(self, may_begin: Callable[[str], bool]) -> Run | None:
        """Takes out whoever has waited longest of those whose activity may begin."""
        best: deque[tuple[int, Run]] | None = None
        for name, line in self._lines.items():
            if (best is None or line[0][0] < best[0][0]) and may_begin(name):
                best = line
        if best is None:
            return None
        _, run = best.popleft()
        if not best:
            del self._lines[run.call.name]
        return run

    def count(self, name: str) -> int:
        """How many wait for an activity."""
        return len(self._lines.get(name, ()))

    def names(self) -> list[str]:
        """The activities that are waited for."""
        return list(self._lines)

    def since_before(self, time: float) -> list[Run]:
        """Takes out those that have waited since before a time."""
        taken: list[Run] = []
        for name, line in list(self._lines.items()):
            while line and line[0][1].since < time:
                taken.append(line.popleft()[1])
            if not line:
                del self._lines[name]
        return taken

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))
