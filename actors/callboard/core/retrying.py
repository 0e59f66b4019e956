"""Calls that are tried again: each attempt is a call of its own, each delay a durable timer.

Rules of this file:

* What was decided is in history: a wait before the next attempt, or none, and then the call was over. So replay asks no strategy. It may
  draw or have been changed since; the past stays as it was, and only decisions that are still to be made are made anew.
* A strategy sees the orchestration's own times, never a clock.
* Nothing is said in history of *why* a call was over, so its end must follow from its last attempt alone: that one's failure, or its
  result, even one that the strategy would refuse again.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from callboard.core.events import Payload
from callboard.core.failure import FailureDetails
from callboard.errors import TaskFailedError

if TYPE_CHECKING:
    from callboard.core.context import DurableTask


class RetryContext(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an attempt, and what went before: all that a `RetryStrategy` decides by. Its times are the orchestration's."""

    name: str
    """What was called: ``activity 'pay'``."""
    attempt_number: int
    """1 for the first attempt."""
    failure: FailureDetails | None = None
    """Why the attempt failed, or why its result does not count as a success."""
    result: Any = None
    """What the attempt returned."""
    total_retry_time: timedelta
    """From the first attempt until now."""
    waited: timedelta
    """How much of that was delay between attempts."""


class RetryStrategy(Protocol):
    """Decides whether a call is tried again; `callboard.RetryPolicy` is one. Asked once for each attempt, never on replay."""

    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        """How long to wait before the next attempt; None to leave it at this one. Called after successes, too."""
        ...


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt knows of those before it."""

    number: int = 1
    first: int | None = None
    """The task that was the first attempt, where this is a later one."""
    heartbeat_details: Payload | None = None
    """The progress that the attempt before this one had reported."""


class Call(msgspec.Struct, frozen=True):
    """A call whose arguments have been checked and encoded: each attempt sends the same."""

    what: str
    schedule: Callable[[Attempt], DurableTask[Any]]
    refused: Callable[[Any], FailureDetails | None] = lambda _result: None
    """Why a result does not count as a success."""


class StrategyFailed(BaseException):
    """A retry strategy raised. Its code must be put right before the orchestration can go on, like any code that cannot run."""

    def __init__(self, what: str, error: Exception) -> None:
        place = "".join(traceback.format_tb(error.__traceback__)[-1:])
        super().__init__(
            f"The retry policy of {what} raised {type(error).__qualname__}: {error}. Put it right, deploy, and resume the instance: "
            f"the attempt is not lost.\n{place}"
        )


class RetryHost(Protocol):
    """The execution behind a call."""

    now: datetime

    def new_task(self, when_cancelled: Callable[[DurableTask[Any]], None]) -> DurableTask[Any]: ...

    def retry_timer(
        self, retry_of: int, attempt: int, decide: Callable[[], timedelta | None]
    ) -> tuple[DurableTask[None], timedelta] | None:
        """The timer before the next attempt and how long it takes: what history holds, or else what is decided now."""
        ...


def guarded(task: DurableTask[Any], step: Callable[[Any], None]) -> Callable[[Any], None]:
    """A callback whose error ends the task that it works for: nobody else would hear of it."""

    def run(ended: Any) -> None:
        try:
            step(ended)
        except Exception as error:  # noqa: BLE001 - it goes where the task is awaited
            if not task.done():
                task.set_exception(error)

    return run


class RetriedCall:
    """One call with its attempts. `task` is the whole of it; cancelling it cancels the attempt or the delay it is at."""

    def __init__(self, host: RetryHost, call: Call, strategy: RetryStrategy) -> None:
        if not callable(getattr(strategy, "delay_after", None)):
            raise TypeError(f"retry= takes a callboard.RetryPolicy, not {strategy!r}")
        self._host = host
        self._call = call
        self._strategy = strategy
        self._began = host.now
        self._attempts = 0
        self._waited = timedelta()
        self.task: DurableTask[Any] = host.new_task(self._cancelled)
        self._progress: Payload | None = None
        self._current: DurableTask[Any] = self._attempt(first=None)
        self.task.task_id = self._current.task_id

    def _attempt(self, *, first: int | None) -> DurableTask[Any]:
        self._attempts += 1
        attempt = Attempt(number=self._attempts, first=first, heartbeat_details=self._progress)
        self._current = self._call.schedule(attempt)
        self._current.add_done_callback(guarded(self.task, self._attempted))
        return self._current

    def _attempted(self, attempt: Any) -> None:
        if self.task.done():
            return
        error = attempt.exception()
        if error is not None and not isinstance(error, TaskFailedError):
            self.task.set_exception(error)  # no attempt failed: its result does not fit its type
            return
        result = attempt.result() if error is None else None
        self._progress = error.heartbeat_details if error is not None else None
        failure = error.failure if error is not None else self._call.refused(result)
        wait = self._host.retry_timer(self.task.task_id, self._attempts, lambda: self._decide(result, failure))
        if wait is not None:
            self._current, delay = wait
            self._waited += delay
            self._current.add_done_callback(guarded(self.task, self._waited_enough))
        elif error is not None:
            final = type(error)(error.name, error.task_id, error.failure, attempts=self._attempts)
            final.heartbeat_details = error.heartbeat_details
            self.task.set_exception(final)
        else:
            self.task.set_result(result)

    def _cancelled(self, _task: object) -> None:
        self._current.cancel()

    def _waited_enough(self, _timer: object) -> None:
        if not self.task.done():
            self._attempt(first=self.task.task_id)

    def _decide(self, result: Any, failure: FailureDetails | None) -> timedelta | None:
        context = RetryContext(
            name=self._call.what,
            attempt_number=self._attempts,
            failure=failure,
            result=result,
            total_retry_time=self._host.now - self._began,
            waited=self._waited,
        )
        try:
            delay: Any = self._strategy.delay_after(context)
            if delay is None or isinstance(delay, timedelta):
                return delay
            raise TypeError(f"delay_after must return a timedelta or None, not {delay!r}")
        except Exception as error:
            raise StrategyFailed(self._call.what, error) from error
