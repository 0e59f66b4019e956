"""Calls that no worker has begun in time (``schedule_to_start``): their owner looks, and fails them.

A worker that begins such a call claims it first, and refuses to begin when it is too late; so a claim, even a lapsed one, says that the
call was begun in time, and no claim that it was not, or that its result is on the way. For that there is a second look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from callboard.batching import Batcher
from callboard.core.messages import TaskKey, TaskResult
from callboard.core.timeouts import began_too_late
from callboard.mailbox import Account, Letter
from callboard.ports import Host, Store, TimerRow

#: How long after the first look the second one is, in seconds.
SECOND_LOOK = 1.0


class StartLimits:
    """Decides what has become of a limit that has come due.

    Args:
        post: Puts a failure into a mailbox of this worker; False if its partition is not owned here.
    """

    def __init__(self, store: Store, host: Host, post: Callable[[Letter], bool]) -> None:
        self._store = store
        self._host = host
        self._post = post
        self._looks: Batcher[TaskKey, bool] = Batcher(self._look, host, name="look for claims", most=200, linger=0.01)

    def due(self, row: TimerRow, account: Account) -> None:
        """A limit has come due; its row goes when the account is settled."""
        key = TaskKey(row.instance_id, row.execution_id, row.timer_id)
        self._looks.submit(key, partial(self._looked, key, account, again=True))

    async def aclose(self) -> None:
        await self._looks.aclose()

    async def _look(self, keys: Sequence[TaskKey]) -> list[bool]:
        begun: set[TaskKey] = set()
        for instance_id in dict.fromkeys(key.instance_id for key in keys):
            begun.update(claim.call.key for claim in await self._store.claims(instance_id))
        return [key in begun for key in keys]

    def _looked(
        self,
        key: TaskKey,
        account: Account,
        begun: bool | None,  # noqa: FBT001 - a Batcher hands it over
        error: BaseException | None,
        *,
        again: bool,
    ) -> None:
        if error is not None:
            account.abandon()  # the row stays, and comes due again
        elif begun:
            account.settle()
        elif again:
            self._host.spawn(self._look_again(key, account), name="callboard look for claims")
        elif not self._post(Letter(self._failed(key), account)):
            account.abandon()

    async def _look_again(self, key: TaskKey, account: Account) -> None:
        await self._host.sleep(SECOND_LOOK)
        self._looks.submit(key, partial(self._looked, key, account, again=False))

    def _failed(self, key: TaskKey) -> TaskResult:
        return TaskResult(
            instance_id=key.instance_id,
            execution_id=key.execution_id,
            task_scheduled_id=key.task_scheduled_id,
            at=self._host.now(),
            failure=began_too_late(),
        )
