"""The time limits of an activity, and how going over one looks to the orchestration."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, TypeAlias

import msgspec

from callboard.core.failure import FailureDetails

#: How long something may take: a timedelta, or seconds.
Duration: TypeAlias = timedelta | float

#: What a time-out's ``FailureDetails.error_type`` is.
TIMED_OUT: Final = "ActivityTimedOut"
#: Longest time limit, in seconds (100 years): any sum with a date is a date still.
LONGEST: Final = 100 * 365 * 86_400.0


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits of one activity call, in seconds; None is no limit."""

    start_to_close: float | None = None
    """How long a run may take."""
    schedule_to_start: float | None = None
    """How long the call may wait until a worker begins it."""
    heartbeat: float | None = None
    """How long a run may be silent, from its beginning or its last heartbeat on."""

    @classmethod
    def of(
        cls,
        start_to_close: Duration | None = None,
        schedule_to_start: Duration | None = None,
        heartbeat: Duration | None = None,
    ) -> Timeouts:
        """Takes limits as people write them.

        Raises:
            ValueError: one is not longer than nothing, or longer than 100 years.
        """
        return cls(
            start_to_close=_seconds(start_to_close, "timeout"),
            schedule_to_start=_seconds(schedule_to_start, "schedule_to_start"),
            heartbeat=_seconds(heartbeat, "heartbeat_timeout"),
        )

    def over(self, defaults: Timeouts) -> Timeouts:
        """These limits, and the default where there is none."""
        if self == NONE:
            return defaults
        return Timeouts(
            start_to_close=_first(self.start_to_close, defaults.start_to_close),
            schedule_to_start=_first(self.schedule_to_start, defaults.schedule_to_start),
            heartbeat=_first(self.heartbeat, defaults.heartbeat),
        )


NONE: Final = Timeouts()


def interval(duration: Duration) -> timedelta:
    """A time to wait, from nothing on.

    Raises:
        ValueError: it is no number, or more than 100 years.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not seconds <= LONGEST:
        raise ValueError(f"{duration!r} is no time to wait: use a timedelta, or seconds, at most 100 years.")
    return timedelta(seconds=max(seconds, 0.0))


def ran_too_long(seconds: float) -> FailureDetails:
    """A run was over its start-to-close limit."""
    return _timed_out(f"A run of it took longer than its timeout (start-to-close) of {seconds:g} s.")


def fell_silent(seconds: float) -> FailureDetails:
    """A run has sent no heartbeat for too long."""
    return _timed_out(f"A run of it sent no heartbeat within its heartbeat_timeout of {seconds:g} s.")


def began_too_late() -> FailureDetails:
    """No worker began a call in time."""
    return _timed_out("No worker began it within its schedule_to_start limit: is one running that serves its queue?")


def _timed_out(message: str) -> FailureDetails:
    return FailureDetails(error_type=TIMED_OUT, error_message=message)


def _seconds(duration: Duration | None, what: str) -> float | None:
    if duration is None:
        return None
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 < seconds <= LONGEST:
        raise ValueError(
            f"{what}={duration!r} is no time limit: use a timedelta, or seconds, more than 0 and at most 100 years."
        )
    return seconds


def _first(value: float | None, default: float | None) -> float | None:
    return default if value is None else value
