"""Keeps the records of instances up to date with their commits.

An end is written at once, and its effects wait for it: whoever is told and looks must see it. Every other change is only looked at by
people, so it may be a moment late: the latest one of an instance is written, those before it never are. A crash in between leaves a
record behind its commits until the instance is next loaded.
"""

from __future__ import annotations

import msgspec

from callboard.batching import Batcher, Done
from callboard.core.effects import projection
from callboard.core.instances import Commit, Projection
from callboard.ports import BackgroundTask, Host, Store

#: How late a record may be while its instance goes on, in seconds.
DELAY = 0.5


class Projector:
    """Writes projections."""

    def __init__(self, store: Store, host: Host) -> None:
        self._host = host
        self._late: dict[str, _Late] = {}
        self._flushing: BackgroundTask | None = None
        self._writes: Batcher[Projection, None] = Batcher(
            store.project, host, name="project", parallel=2, key=lambda each: each.instance_id
        )

    def write(self, commit: Commit, done: Done[None]) -> None:
        """Writes a commit's projection now; what was waiting for the same instance is part of it."""
        late = self._late.pop(commit.instance_id, None)
        if late is None:
            self._writes.submit(_projected(None, commit), done)
        else:
            late.waiting.append(done)
            self._writes.submit(_projected(late.begun, commit), late.written)

    def write_late(self, commit: Commit, done: Done[None] | None = None) -> None:
        """Writes a commit's projection soon, or that of a later one.

        Args:
            commit: Durable.
            done: Is told when it, or the later one, is written. Without it, a crash before that leaves the record as it was.
        """
        late = self._late.get(commit.instance_id)
        if late is None:
            late = self._late[commit.instance_id] = _Late(commit)
        if done is not None:
            late.waiting.append(done)
        if commit.n < late.latest.n:
            return
        late.latest = commit
        if commit.n == commit.first or commit.continued is not None:
            late.begun = commit
        if self._flushing is None or self._flushing.done():
            self._flushing = self._host.spawn(self._flush_later(), name="callboard project")

    @property
    def idle(self) -> bool:
        return not self._late and self._writes.idle

    async def aclose(self) -> None:
        await self._writes.aclose()

    def flush(self) -> None:
        """Writes what waits."""
        late, self._late = self._late, {}
        for each in late.values():
            self._writes.submit(_projected(each.begun, each.latest), each.written)

    async def _flush_later(self) -> None:
        await self._host.sleep(DELAY)
        self.flush()


class _Late:
    """What waits for one instance."""

    __slots__ = ("begun", "latest", "waiting")

    def __init__(self, commit: Commit) -> None:
        self.latest = commit
        self.begun: Commit | None = None
        """The last commit that began or announced an execution: it has the input."""
        self.waiting: list[Done[None]] = []

    def written(self, result: None, error: BaseException | None) -> None:
        """A late projection that failed is made good by the instance's next commit, or when it is next loaded."""
        for done in self.waiting:
            done(result, error)


def _projected(begun: Commit | None, latest: Commit) -> Projection:
    """The latest commit's projection; if an earlier one began its execution, with that one's input and version."""
    projected = projection(latest)
    if begun is None or projected.begins:
        return projected
    beginning = projection(begun)
    if beginning.next_execution_id != latest.execution_id:
        return projected
    return msgspec.structs.replace(projected, begins=True, input=beginning.input, version=beginning.version)
