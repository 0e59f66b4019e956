"""An exception as data: what crosses processes, and what stays in history."""

from __future__ import annotations

import traceback
from typing import cast

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
    recorded = _attribute(error, "failure")
    cause = _cause(error)
    inner: FailureDetails | None = None
    if isinstance(recorded, FailureDetails):
        inner = _within(recorded, depth - 1)
    elif cause is not None and cause is not error and depth > 0:
        inner = _describe(cause, depth - 1)
    return FailureDetails(
        error_type=type_name(type(error)),
        error_message=_message(error)[:MAX_MESSAGE],
        stack_trace=_encodable("".join(traceback.format_tb(error.__traceback__)))[-MAX_STACK_TRACE:] or None,
        inner_failure=inner,
        is_non_retriable=non_retriable or _attribute(error, "non_retriable") is True,
    )


def _cause(error: BaseException) -> BaseException | None:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is None and isinstance(error, BaseExceptionGroup):  # a TaskGroup's: it says nothing itself
        cause = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return cause


def _within(failure: FailureDetails, depth: int) -> FailureDetails | None:
    """A failure that already is data, without the causes that lie too deep: each level of children adds one."""
    if depth < 0:
        return None
    inner = failure.inner_failure
    return failure if inner is None else msgspec.structs.replace(failure, inner_failure=_within(inner, depth - 1))


def _message(error: BaseException) -> str:
    try:
        return _encodable(str(error))
    except Exception:  # noqa: BLE001 - a user's broken __str__ must not hide the failure itself
        return f"<{type(error).__qualname__} whose message could not be read>"


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001 - nor a user's broken property
        return None


def _encodable(text: str) -> str:
    """Text that UTF-8 can carry: half characters (of undecodable file names, say) would make the whole commit unstorable."""
    return text.encode(errors="backslashreplace").decode()
