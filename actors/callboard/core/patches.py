"""Changes in place: which of them an execution has taken, so that it takes the same ones again on every replay."""

from __future__ import annotations


class Patches:
    """The patches of one execution.

    A patch is taken by the first code that comes by it live, and recorded in history with that turn. Code that passes it in a replay,
    where history does not have it yet, goes the old way, and so does the rest of this activation: two places that ask for the same
    patch get the same answer.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._passed: set[str] = set()
        self._fresh: list[str] = []
        self.disagreement: str | None = None
        """What the code itself says against the history that it is given."""

    def recorded(self, patch: str) -> None:
        """Takes a patch that history has."""
        self._taken.add(patch)

    def take(self, patch: str, *, replaying: bool) -> bool:
        """Whether the code goes the new way."""
        if patch in self._taken or patch in self._passed:
            return patch in self._taken
        if replaying:
            self._passed.add(patch)
            return False
        self._taken.add(patch)
        self._fresh.append(patch)
        return True

    def taken(self, patch: str) -> bool:
        """Whether the code has gone the new way; changes nothing."""
        return patch in self._taken

    def to_record(self) -> tuple[str, ...]:
        """Patches that were taken since the last time."""
        fresh, self._fresh = tuple(self._fresh), []
        return fresh
