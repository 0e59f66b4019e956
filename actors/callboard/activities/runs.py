"""One call that waits or runs here.

It is over in two ways, which come in either order: its *function* has ended, and it is *settled*: its result has arrived, or nobody waits
for one. Until both are so it counts as running, because a thread cannot be stopped and takes its place until it ends.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import datetime

from callboard.activities.intake import CallAccount
from callboard.core.events import Payload
from callboard.core.messages import ActivityCall, TaskKey
from callboard.ports import BackgroundTask, Heartbeat


class Stop(enum.Enum):
    """Why a run should stop."""

    CANCELLED = "nobody waits for its result any more"
    TIMED_OUT = "it is over a time limit"
    SUPERSEDED = "another worker runs it now"
    WORKER_STOPS = "its worker stops"


class ClaimState(enum.Enum):
    """What this worker knows of its claim on a run."""

    NONE = "none"
    UNSURE = "unsure"
    """There may be one: the store's answer was lost, or somebody has sent the call again."""
    HELD = "held"


class Run:
    """One call that waits or runs here. `callboard.activity.CurrentRun` is what its function sees of it."""

    __slots__ = (
        "_monotonic", "_now", "accounts", "beat_at", "beaten", "beats", "call", "claim", "details", "ended", "flushed", "interrupt",
        "key", "redelivered", "settled", "since", "started", "started_at", "stop", "task", "told", "watch", "worker_id",
    )  # fmt: skip

    def __init__(
        self,
        call: ActivityCall,
        account: CallAccount,
        worker_id: str,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        redelivered: bool = False,
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self.call = call
        self.key: TaskKey = call.key
        self.worker_id = worker_id
        self.redelivered = redelivered
        self.accounts = [account]
        self.since = monotonic()
        """From when on it waits."""
        self.started: float | None = None
        self.started_at: datetime | None = None
        self.beaten: datetime | None = None
        """When its function last sent a heartbeat; ``beat_at`` is the same by the monotonic clock."""
        self.beat_at: float | None = None
        self.details = call.heartbeat_details
        self.beats = self.flushed = 0
        """How many heartbeats there were, and how many when the store last heard of them."""
        self.claim = ClaimState.NONE
        self.stop: Stop | None = None
        self.told = False
        """Its result is on its way; what its function does now does not matter."""
        self.ended = False
        self.settled = False
        self.task: BackgroundTask | None = None
        self.watch: BackgroundTask | None = None
        self.interrupt: Callable[[], None] = _nothing
        """Asks its function to stop."""

    @property
    def cancelled(self) -> str | None:
        return None if self.stop is None else self.stop.value

    def begin(self) -> None:
        """Its function is called now."""
        self.started, self.started_at = self._monotonic(), self._now()

    def beat(self, details: Payload | None) -> None:
        """Takes a heartbeat. From any thread; one without details leaves those that there are."""
        if details is not None:
            self.details = details
        self.beat_at, self.beaten = self._monotonic(), self._now()
        self.beats += 1

    @property
    def unsaid(self) -> bool:
        """Whether the store does not know of the last heartbeat."""
        return self.beats != self.flushed

    def last_word(self) -> Heartbeat:
        return Heartbeat(self.key, self.beaten or self._now(), self.details)

    def attach(self, account: CallAccount) -> None:
        """The same call has come again while this run goes on: what is true of one delivery is true of all."""
        if self.claim is not ClaimState.NONE:
            # Whoever sent it again may have taken our claim for lapsed. The delivery stays until we know that it is ours.
            self.claim = ClaimState.UNSURE
        self.accounts.append(account)

    def let_go(self) -> None:
        """Its deliveries are not needed any more."""
        for account in self.accounts:
            account.settle()
        self.accounts.clear()


def _nothing() -> None:
    """There is nothing to interrupt."""
