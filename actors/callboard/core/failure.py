"""An exception as data: what crosses processes, and what stays in history."""

from __future__ import annotations

import traceback

import msgspec

#: Longest stack trace that is kept, in characters; the innermost frames are the ones worth keeping.
MAX_STACK_TRACE = 8_192
#: Longest message that is kept, in characters.
MAX_MESSAGE = 16_384
#: How deep a chain of causes is followed.
MAX_DEPTH = 16


class FailureDetails(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Why something failed (Durable Task's ``FailureDetails``)."""

    error_type: str
    """Name of the exception's class; builtins without their module (``ValueError``)."""
    error_message: str
    stack_trace: str | None = None
    inner_failure: FailureDetails | None = None
    is_non_retriable: bool = False

    @classmethod
    def from_exception(cls, error: BaseException, *, non_retriable: bool = False) -> FailureDetails:
        """Describes an exception with its causes; a failure that already is data keeps its own details."""
        return _describe(error, MAX_DEPTH, non_retriable=non_retriable)

    def is_caused_by(self, error_type: type[BaseException] | str) -> bool:
        """Tells whether this failure or one of its causes is of that class (by full or by last name)."""
        wanted = error_type if isinstance(error_type, str) else type_name(error_type)
        failure: FailureDetails | None = self
        while failure is not None:
            if failure.error_type == wanted or failure.error_type.rpartition(".")[2] == wanted:
                return True
            failure = failure.inner_failure
        return False


def type_name(error_type: type[BaseException]) -> str:
    """The name under which an exception class is recorded."""
    if error_type.__module__ == "builtins":
        return error_type.__qualname__
    return f"{error_type.__module__}.{error_type.__qualname__}"


def _describe(error: BaseException, depth: int, *, non_retriable: bool = False) -> FailureDetails:
    recorded = getattr(error, "failure", None)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    inner: FailureDetails | None = None
    if isinstance(recorded, FailureDetails):
        inner = recorded
    elif cause is not None and cause is not error and depth > 0:
        inner = _describe(cause, depth - 1)
    return FailureDetails(
        error_type=type_name(type(error)),
        error_message=_message(error)[:MAX_MESSAGE],
        stack_trace="".join(traceback.format_tb(error.__traceback__))[-MAX_STACK_TRACE:] or None,
        inner_failure=inner,
        is_non_retriable=non_retriable or bool(getattr(error, "non_retriable", False)),
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's broken __str__ must not hide the failure itself
        return f"<{type(error).__qualname__} whose message could not be read>"
