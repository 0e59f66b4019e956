"""One call that waits or runs here."""

from __future__ import annotations

from callboard.activities.intake import CallAccount
from callboard.core.messages import ActivityCall
from callboard.ports import BackgroundTask


class Run:
    """One call that waits or runs here."""

    __slots__ = ("account", "call", "claimed", "since", "task")

    def __init__(self, call: ActivityCall, account: CallAccount, since: float) -> None:
        self.call = call
        self.account = account
        self.since = since
        self.claimed = False
        self.task: BackgroundTask | None = None
