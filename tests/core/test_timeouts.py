"""Time limits as people write them."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from callboard.core.timeouts import LONGEST, NONE, TIMED_OUT, Timeouts, began_too_late, fell_silent, ran_too_long


def test_limits_are_timedeltas_or_seconds() -> None:
    limits = Timeouts.of(timedelta(minutes=1), 2, 0.5)
    assert limits == Timeouts(start_to_close=60, schedule_to_start=2, heartbeat=0.5)
    assert Timeouts.of() == NONE
    assert Timeouts.of(LONGEST).start_to_close == LONGEST


@pytest.mark.parametrize("limit", [0, -1, timedelta(0), math.nan, math.inf, LONGEST + 1])
def test_what_limits_nothing_is_refused_by_name(limit: timedelta | float) -> None:
    with pytest.raises(ValueError, match=r"^timeout=.*more than 0"):
        Timeouts.of(limit)
    with pytest.raises(ValueError, match=r"^schedule_to_start=.*more than 0"):
        Timeouts.of(1, limit)
    with pytest.raises(ValueError, match=r"^heartbeat_timeout=.*more than 0"):
        Timeouts.of(1, 1, limit)


def test_a_limit_goes_over_a_default() -> None:
    default = Timeouts(start_to_close=1, schedule_to_start=2, heartbeat=3)
    assert NONE.over(default) == default
    assert Timeouts(schedule_to_start=9).over(default) == Timeouts(start_to_close=1, schedule_to_start=9, heartbeat=3)
    assert default.over(Timeouts(heartbeat=9)) == default


def test_time_outs_may_be_tried_again() -> None:
    for failure in (ran_too_long(1.5), fell_silent(3), began_too_late()):
        assert failure.error_type == TIMED_OUT
        assert not failure.is_non_retriable
    assert "1.5 s" in ran_too_long(1.5).error_message
