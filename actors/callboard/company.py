"""The live workers and what each can run."""

from __future__ import annotations

from collections.abc import Callable, Collection

from callboard.core.instances import partition_of
from callboard.ports import HubView, WorkerInfo


class Company:
    """The live workers beside this one, as last seen."""

    def __init__(self, me: WorkerInfo) -> None:
        self._me = me
        self._others: tuple[WorkerInfo, ...] = ()
        self.on_change: Callable[[], None] = lambda: None

    def seen(self, view: HubView) -> None:
        """Takes a view of the hub."""
        before = self.builds
        mine = self._me.worker_id
        self._others = tuple(worker for worker in view.workers if worker.worker_id != mine and worker.code is not None)
        if self.builds != before:
            self.on_change()

    @property
    def builds(self) -> frozenset[str]:
        """The code that is alive, other than this worker's."""
        mine = self._me.code.build if self._me.code else ""
        return frozenset(other.code.build for other in self._others if other.code and other.code.build != mine)

    def alive(self, worker_id: str) -> bool:
        return any(other.worker_id == worker_id for other in self._others)

    def who_runs(
        self, instance_id: str, name: str, version: str | None, *, but: Collection[str] = ()
    ) -> WorkerInfo | None:
        """Another worker that has the code for an instance: the same one each time, so that it can keep the instance hot.

        Args:
            instance_id: Chooses among several.
            name: The orchestration or entity.
            version: The instance's.
            but: Builds that need not be asked.
        """
        able = [
            other
            for other in self._others
            if other.code is not None and other.code.build not in but and other.code.runs(instance_id, name, version)
        ]
        return able[partition_of(instance_id, len(able))] if able else None

    def has_activity(self, queue: str, name: str) -> bool:
        """Whether another worker serves that queue and knows that activity."""
        return any(
            queue in other.queues and other.code is not None and name in other.code.activities for other in self._others
        )
