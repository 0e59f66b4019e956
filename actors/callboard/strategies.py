"""Attempts as tenacity's strategies see them. The only importer of tenacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tenacity

from callboard.core.failure import FailureDetails
from callboard.core.retrying import RetryContext
from callboard.errors import TaskFailedError
from callboard.retries import loaded_class

if TYPE_CHECKING:
    from typing import Self


class AttemptFailedError(TaskFailedError):
    """A failure that passes for an instance of the class that was raised, where that class is known.

    Only data cross processes, so what the class keeps beside its message is not there; ``failure`` has what is known.
    """

    def __init__(self, name: str, failure: FailureDetails) -> None:
        super().__init__(name, -1, failure)
        self.args = (failure.error_message,)
        self._raised = loaded_class(failure.error_type) or AttemptFailedError
        if failure.inner_failure is not None:
            self.__cause__ = AttemptFailedError(name, failure.inner_failure)

    @property  # type: ignore[misc] # what isinstance asks besides the type, as it does with mocks
    def __class__(self) -> type[Self]:  # pyright: ignore[reportIncompatibleMethodOverride] # read only
        return self._raised  # type: ignore[return-value] # pyright: ignore[reportReturnType] # the point of it


def call_state(attempt: RetryContext) -> tenacity.RetryCallState:
    """The state of tenacity's for an attempt. Its clock begins at 0 with the first attempt, and is the orchestration's."""
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.start_time = 0.0
    state.attempt_number = attempt.attempt_number
    state.idle_for = attempt.waited.total_seconds()
    state.outcome_timestamp = attempt.total_retry_time.total_seconds()
    state.outcome = _outcome(attempt)
    return state


def _outcome(attempt: RetryContext) -> tenacity.Future:
    value: Any = attempt.result
    failed = attempt.failure is not None and value is None
    if attempt.failure is not None and failed:
        value = AttemptFailedError(attempt.name, attempt.failure)
    return tenacity.Future.construct(attempt.attempt_number, value, has_exception=failed)
