"""Who wants to hear when an instance ends. In memory only: watchers look for themselves now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from callboard.batching import Batcher
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.messages import InstanceEnded, Watch
from callboard.packs import Packer
from callboard.ports import Destination, Host, Store

#: Most instances that are watched at once; the oldest requests are forgotten beyond it.
MOST_WATCHED = 100_000


class Watchers:
    """Tells inboxes of the end of instances.

    Args:
        is_hot: Whether an instance runs here and has not ended: then its end will be announced, and no look at its record is needed.
    """

    def __init__(self, store: Store, host: Host, packer: Packer, is_hot: Callable[[str], bool]) -> None:
        self._packer = packer
        self._is_hot = is_hot
        self._watched: dict[str, set[str]] = {}
        self._looks: Batcher[str, InstanceRecord | None] = Batcher(self._look, host, name="look", parallel=2)
        self._store = store

    def watch(self, request: Watch) -> None:
        """Remembers a watcher; one of an instance that has ended is told at once."""
        self.expect(request.instance_id, request.reply_to)
        if not self._is_hot(request.instance_id):
            self._looks.submit(request.instance_id, self._looked)

    def expect(self, instance_id: str, reply_to: str) -> None:
        """Remembers a watcher of an instance that has not ended for sure."""
        self._watched.setdefault(instance_id, set()).add(reply_to)
        while len(self._watched) > MOST_WATCHED:
            del self._watched[next(iter(self._watched))]

    def ended(self, commit: Commit) -> None:
        """Tells all who watch the instance. Its record must show its end already."""
        self._tell(commit.instance_id, commit.execution_id)

    def ended_elsewhere(self, notice: InstanceEnded) -> None:
        """The same, of an instance that is owned here, but whose last turn another worker has run."""
        self._tell(notice.instance_id, notice.execution_id)

    async def aclose(self) -> None:
        await self._looks.aclose()

    async def _look(self, instance_ids: Sequence[str]) -> list[InstanceRecord | None]:
        records = await self._store.records(instance_ids)
        return [records.get(instance_id) for instance_id in instance_ids]

    def _looked(self, record: InstanceRecord | None, _error: BaseException | None) -> None:
        if record is not None and record.terminal:
            self._tell(record.instance_id, record.execution_id)

    def _tell(self, instance_id: str, execution_id: str) -> None:
        for reply_to in self._watched.pop(instance_id, ()):
            notice = InstanceEnded(instance_id=instance_id, execution_id=execution_id)
            self._packer.send(Destination.inbox(reply_to), notice, _ignore)


def _ignore(_error: BaseException | None) -> None:
    """A watcher that cannot be reached is gone, or looks for itself."""
