"""When to try again: Durable Functions' retry parameters, and tenacity's strategies as they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from datetime import timedelta
from inspect import iscoroutinefunction
from math import inf, isnan
from typing import TYPE_CHECKING, Any

import msgspec

from callboard.core.failure import FailureDetails, type_name
from callboard.core.retrying import RetryContext
from callboard.core.timeouts import Duration
from callboard.errors import ConfigurationError, SubOrchestrationFailedError, TaskFailedError

if TYPE_CHECKING:
    from tenacity import RetryCallState

_PASSED_ON = frozenset({type_name(TaskFailedError), type_name(SubOrchestrationFailedError)})


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a call that has failed is tried again, and when it is not.

    Each of the three questions is answered in Durable Functions' way or in tenacity's: how long to wait (``first_retry_interval`` … or
    ``wait``), when to give up (``max_number_of_attempts``, ``retry_timeout`` or ``stop``), and what to try again (``handle`` or
    ``retry``; by default every failure). Intervals are timedeltas or seconds. Every delay is a durable timer in history, so a random
    one is drawn once: replay takes it from there and asks no strategy. A policy can be changed while instances run; what it decided
    before stands.

    tenacity's strategies get a real ``RetryCallState`` whose times are the orchestration's. An exception in its ``outcome`` is a
    `TaskFailedError` whose message is the failure's, and which is also an instance of the class that was raised, if that class is
    loaded here: ``retry_if_exception_type(ConnectionError)`` works. Strategies must decide by what they are given alone, and quickly.

    Raises:
        ConfigurationError: it never gives up and does not say so, or says something twice, or is not possible.
    """

    first_retry_interval: Duration | None = None
    """The delay after the first attempt; over 0."""
    max_number_of_attempts: int | None = None
    """How many attempts are made in all, the first included."""
    backoff_coefficient: float = 1.0
    """What the delay is multiplied by after each further attempt; at least 1."""
    max_retry_interval: Duration | None = None
    """The longest delay."""
    retry_timeout: Duration | None = None
    """No attempt is *decided on* once so much time has passed since the first; in the orchestration's time."""
    handle: Callable[[FailureDetails], bool] | None = None
    """Whether a failure is tried again. One that says it is not retriable never is."""
    non_retriable: Collection[str | type[BaseException]] = ()
    """Classes of exceptions that are not tried again: by name (full, or the last part), or themselves (with their subclasses)."""
    stop: Callable[[RetryCallState], bool] | None = None
    """A stop strategy of tenacity's."""
    wait: Callable[[RetryCallState], float] | None = None
    """A wait strategy of tenacity's; without any, the next attempt is made at once."""
    retry: Callable[[RetryCallState], bool] | None = None
    """A retry strategy of tenacity's; it may refuse results, too. The last result is returned even if it would be refused again."""

    def __post_init__(self) -> None:
        if isinstance(self.non_retriable, (str, type)):
            raise ConfigurationError("non_retriable must be a collection of exception classes or of their names.")
        self._check_tenacity()
        if self.wait is None and self.stop is None and self.first_retry_interval is None:
            raise ConfigurationError(
                "A retry policy must say how long to wait: first_retry_interval=timedelta(seconds=5), or wait=tenacity.wait_…"
            )
        if self.stop is None and self.max_number_of_attempts is None and self.retry_timeout is None:
            raise ConfigurationError(
                "A retry policy must say when to give up: max_number_of_attempts=5, retry_timeout=timedelta(hours=1), or "
                "stop=tenacity.stop_… (tenacity.stop_never if it never should)."
            )
        for name in ("first_retry_interval", "max_retry_interval", "retry_timeout"):
            value = getattr(self, name)
            if value is not None and not _seconds(value) > 0:
                raise ConfigurationError(f"{name} must be over 0, not {value!r}.")
        if self.max_number_of_attempts is not None and self.max_number_of_attempts < 1:
            raise ConfigurationError("max_number_of_attempts counts the first attempt, too: use 1 or more.")
        if not self.backoff_coefficient >= 1:
            raise ConfigurationError(f"backoff_coefficient must be at least 1, not {self.backoff_coefficient!r}.")

    def _check_tenacity(self) -> None:
        intervals = (self.first_retry_interval, self.max_retry_interval)
        if self.wait is not None and (intervals != (None, None) or self.backoff_coefficient != 1):
            raise ConfigurationError("Say how long to wait with wait= or with first_retry_interval= …, not with both.")
        if self.stop is not None and (self.max_number_of_attempts, self.retry_timeout) != (None, None):
            raise ConfigurationError(
                "Say when to give up with stop= or with max_number_of_attempts=, retry_timeout=, not with both."
            )
        if self.retry is not None and self.handle is not None:
            raise ConfigurationError("Say what to try again with retry= or with handle=, not with both.")
        for name in ("stop", "wait", "retry"):
            strategy: object = getattr(self, name)
            if strategy is None:
                continue
            if not callable(strategy):
                raise ConfigurationError(f"{name} must be a strategy of tenacity's, not {strategy!r}.")
            if iscoroutinefunction(strategy) or iscoroutinefunction(getattr(strategy, "__call__", None)):  # noqa: B004
                raise ConfigurationError(f"{name} must be a plain function: an orchestration cannot await a strategy.")

    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        """How long to wait before the next attempt; None if there is none."""
        failure = attempt.failure
        if failure is None and self.retry is None:
            return None
        if failure is not None and self._is_final(failure):
            return None
        state = self._state(attempt)
        if not self._refuses(attempt, state):
            return None
        seconds = self._delay(attempt, state)
        if self._gives_up(attempt, state, seconds):
            return None
        return timedelta(seconds=seconds) if seconds < timedelta.max.total_seconds() else timedelta.max

    def _is_final(self, failure: FailureDetails) -> bool:
        origin = failure
        while origin.error_type in _PASSED_ON and origin.inner_failure is not None:
            origin = origin.inner_failure  # a child that fails with its activity's failure only passes it on
        final = failure.is_non_retriable or origin.is_non_retriable
        return final or any(_is_a(origin.error_type, wanted) for wanted in self.non_retriable)

    def _state(self, attempt: RetryContext) -> RetryCallState | None:
        if self.stop is None and self.wait is None and self.retry is None:
            return None
        from callboard.strategies import call_state  # noqa: PLC0415 - who has no such strategy need not wait for tenacity

        return call_state(attempt)

    def _refuses(self, attempt: RetryContext, state: RetryCallState | None) -> bool:
        if self.retry is not None and state is not None:
            again = attempt.failure is not None and attempt.failure.error_type == "tenacity.TryAgain"
            return again or bool(self.retry(state))
        return self.handle is None or attempt.failure is None or bool(self.handle(attempt.failure))

    def _delay(self, attempt: RetryContext, state: RetryCallState | None) -> float:
        if self.wait is not None and state is not None:
            seconds = max(float(self.wait(state) or 0), 0.0)
            if isnan(seconds):
                raise ValueError("wait must return a number of seconds, not NaN")
            state.upcoming_sleep = seconds
            return seconds
        if self.first_retry_interval is None:
            return 0.0
        try:
            seconds = _seconds(self.first_retry_interval) * self.backoff_coefficient ** (attempt.attempt_number - 1)
        except OverflowError:
            seconds = inf
        return seconds if self.max_retry_interval is None else min(seconds, _seconds(self.max_retry_interval))

    def _gives_up(self, attempt: RetryContext, state: RetryCallState | None, delay: float) -> bool:
        if self.stop is not None and state is not None:
            state.upcoming_sleep = delay
            return bool(self.stop(state))
        if self.max_number_of_attempts is not None and attempt.attempt_number >= self.max_number_of_attempts:
            return True
        return self.retry_timeout is not None and attempt.total_retry_time.total_seconds() >= _seconds(
            self.retry_timeout
        )


def loaded_class(error_type: str) -> type[BaseException] | None:
    """The exception class of a recorded name, if it is loaded in this process; nothing is imported."""
    parts = error_type.split(".")
    for end in range(len(parts) - 1, -1, -1):
        found: Any = sys.modules.get(".".join(parts[:end]) or "builtins")
        for name in parts[end:]:
            found = getattr(found, name, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
    return None


def _is_a(error_type: str, wanted: str | type[BaseException]) -> bool:
    if isinstance(wanted, str):
        return error_type == wanted or error_type.rpartition(".")[2] == wanted
    if error_type == type_name(wanted):
        return True
    raised = loaded_class(error_type)
    return raised is not None and issubclass(raised, wanted)


def _seconds(interval: Duration) -> float:
    return interval.total_seconds() if isinstance(interval, timedelta) else float(interval)
