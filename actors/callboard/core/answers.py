"""What those who ask are told when there is no answer. Each says what happened and what to do."""

from __future__ import annotations

from callboard.core.failure import FailureDetails, type_name
from callboard.errors import (
    InstanceNotFoundError,
    InstanceNotRunningError,
    MessageFailedError,
    MessageRejectedError,
)

REJECTED = "MessageRejected"
UNANSWERED = "MessageUnanswered"
NOT_FOUND = "InstanceNotFound"
NOT_RUNNING = "InstanceNotRunning"
NOT_QUERIED = "QueryNotPossible"


def rejected(error: Exception) -> FailureDetails:
    """A message does not fit its handler, or was refused by its validator."""
    return FailureDetails(
        error_type=REJECTED,
        error_message=str(error) or type_name(type(error)),
        inner_failure=FailureDetails.from_exception(error),
        is_non_retriable=True,
    )


def not_found(instance_id: str) -> FailureDetails:
    return _failure(NOT_FOUND, str(InstanceNotFoundError(instance_id)))


def not_running(instance_id: str, status: str) -> FailureDetails:
    return _failure(NOT_RUNNING, str(InstanceNotRunningError(instance_id, status)))


def ended_before(instance_id: str, how: str) -> FailureDetails:
    """The orchestration is over, and no handler has answered."""
    return _failure(UNANSWERED, f"Instance {instance_id!r} {how} before a handler had answered.")


def forgotten(message_id: str) -> FailureDetails:
    """It was asked before, and the answer is not known any more."""
    return _failure(
        UNANSWERED,
        f"Message {message_id!r} was taken before, and its answer is not kept any more. Ask again under another message id, if "
        "it may be handled twice.",
    )


def not_queried(reason: str) -> FailureDetails:
    return _failure(NOT_QUERIED, reason)


def message_error(name: str, task_id: int, failure: FailureDetails) -> MessageFailedError:
    """What ``ask`` raises for a failure."""
    kind = MessageRejectedError if failure.error_type == REJECTED else MessageFailedError
    return kind(name, task_id, failure)


def _failure(error_type: str, message: str) -> FailureDetails:
    return FailureDetails(error_type=error_type, error_message=message, is_non_retriable=True)
