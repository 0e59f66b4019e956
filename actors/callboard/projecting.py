"""Keeps the records of instances up to date with their commits.

An end is written at once, and its effects wait for it: whoever is told and looks must see it. Every other change is only looked at by
people, so it may be a moment late: the latest one of an instance is written, those before it never are. A crash in between leaves a
record behind its commits until the instance is next loaded.
"""

from __future__ import annotations

import msgspec

from callboard.batching import Batcher, Done
from callboard.core.instances import Projection
from callboard.ports import BackgroundTask, Host, Store

#: How late a record may be while its instance goes on, in seconds.
DELAY = 0.5


class Projector:
    """Writes projections."""

    def __init__(self, store: Store, host: Host) -> None:
        self._host = host
        self._late: dict[str, Projection] = {}
        self._flushing: BackgroundTask | None = None
        self._writes: Batcher[Projection, None] = Batcher(
            store.project, host, name="project", parallel=2, key=lambda projection: projection.instance_id
        )

    def write(self, projection: Projection, done: Done[None]) -> None:
        """Writes a projection now; what was waiting for the same instance is part of it."""
        self._writes.submit(_merged(self._late.pop(projection.instance_id, None), projection), done)

    def write_late(self, projection: Projection) -> None:
        """Writes a projection soon, unless a later one comes before."""
        earlier = self._late.get(projection.instance_id)
        self._late[projection.instance_id] = _merged(earlier, projection)
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
        for projection in late.values():
            self._writes.submit(projection, _nobody_waits)

    async def _flush_later(self) -> None:
        await self._host.sleep(DELAY)
        self.flush()


def _merged(earlier: Projection | None, later: Projection) -> Projection:
    """The later one; if the earlier began the execution that the later is in, with that one's input."""
    if earlier is None or later.begins or not earlier.begins or earlier.next_execution_id != later.execution_id:
        return later
    return msgspec.structs.replace(later, begins=True, input=earlier.input)


def _nobody_waits(_result: None, _error: BaseException | None) -> None:
    """A late projection that failed is made good by the instance's next commit, or when it is next loaded."""
