"""The time limits of a run."""

from __future__ import annotations

from callboard.activities.runs import Run
from callboard.core.failure import FailureDetails
from callboard.core.timeouts import Timeouts, fell_silent, ran_too_long


def overdue(run: Run, limits: Timeouts, now: float) -> float | FailureDetails | None:
    """How a run stands: how many seconds it may be left alone, or which limit it is over; None if nothing limits it."""
    assert run.started is not None
    waits: list[float] = []
    if limits.start_to_close is not None:
        waits.append(run.started + limits.start_to_close - now)
        if waits[-1] <= 0:
            return ran_too_long(limits.start_to_close)
    if limits.heartbeat is not None:
        waits.append((run.beat_at or run.started) + limits.heartbeat - now)
        if waits[-1] <= 0:
            return fell_silent(limits.heartbeat)
    return min(waits, default=None)
