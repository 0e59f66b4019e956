"""Exceptions as data."""

from __future__ import annotations

import msgspec
import pytest

from callboard.core.failure import MAX_DEPTH, MAX_MESSAGE, MAX_STACK_TRACE, FailureDetails
from callboard.errors import ActivityNotRegisteredError, SubOrchestrationFailedError, TaskFailedError
from tests.core.support import DECLINED


class DeclinedError(Exception):
    pass


def caught(error: BaseException) -> FailureDetails:
    try:
        raise error
    except BaseException as raised:
        return FailureDetails.from_exception(raised)


def depth(failure: FailureDetails | None) -> int:
    return 0 if failure is None else 1 + depth(failure.inner_failure)


def test_a_failure_says_what_where_and_why() -> None:
    try:
        try:
            raise KeyError("tea")
        except KeyError as missing:
            raise DeclinedError("no tea") from missing
    except DeclinedError as error:
        failure = FailureDetails.from_exception(error)
    assert failure.error_type == f"{__name__}.DeclinedError"
    assert failure.error_message == "no tea"
    assert "test_a_failure_says_what_where_and_why" in (failure.stack_trace or "")
    assert failure.inner_failure is not None
    assert failure.inner_failure.error_type == "KeyError"
    assert not failure.is_non_retriable


@pytest.mark.parametrize(("wanted", "answer"), [
    (DeclinedError, True), ("DeclinedError", True), (f"{__name__}.DeclinedError", True), (KeyError, True), ("KeyError", True),
    (ValueError, False), ("Declined", False),
])  # fmt: skip
def test_causes_are_found_by_class_and_by_name(wanted: type[BaseException] | str, answer: bool) -> None:
    error = DeclinedError()
    error.__cause__ = KeyError()
    assert caught(error).is_caused_by(wanted) is answer


def test_implicit_causes_count_unless_they_are_suppressed() -> None:
    error = ValueError()
    error.__context__ = KeyError()
    assert caught(error).is_caused_by(KeyError)
    error.__suppress_context__ = True
    assert not caught(error).is_caused_by(KeyError)


def test_a_failure_that_is_data_already_keeps_its_details() -> None:
    failure = caught(TaskFailedError("pay", 3, DECLINED))
    assert failure.inner_failure == DECLINED
    assert failure.is_caused_by("shop.DeclinedError")


def test_a_group_has_its_first_member_as_cause() -> None:
    assert caught(ExceptionGroup("group", [KeyError("a"), ValueError("b")])).is_caused_by(KeyError)


def test_the_chain_of_causes_is_cut_at_a_depth() -> None:
    error = ValueError("0")
    for number in range(100):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    assert depth(caught(error)) == MAX_DEPTH + 1


def test_failures_nested_by_child_after_child_stay_bounded() -> None:
    failure = DECLINED
    for _ in range(100):
        failure = caught(SubOrchestrationFailedError("child", 0, failure))
    assert depth(failure) == MAX_DEPTH + 1
    assert len(msgspec.json.encode(failure)) < (MAX_DEPTH + 1) * (MAX_MESSAGE + MAX_STACK_TRACE)


def test_a_cause_that_goes_in_a_circle_ends() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert depth(FailureDetails.from_exception(one)) <= MAX_DEPTH + 1


def test_long_messages_and_traces_are_cut() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            raise ValueError("x" * 100_000)

    for levels in (3, 200):
        with pytest.raises(ValueError) as error:
            deep(levels)
        failure = FailureDetails.from_exception(error.value)
        assert len(failure.error_message) == MAX_MESSAGE
        assert len(failure.stack_trace or "") <= MAX_STACK_TRACE
        assert "raise ValueError" in (failure.stack_trace or "")  # the innermost frames stay


@pytest.mark.parametrize("message", ["half \ud800 a character", "file \udcff name"])
def test_what_utf8_cannot_carry_is_escaped(message: str) -> None:
    failure = caught(ValueError(message))
    assert msgspec.json.decode(msgspec.json.encode(failure), type=FailureDetails) == failure
    assert "\\ud" in failure.error_message


def test_exceptions_that_misbehave_are_recorded_all_the_same() -> None:
    class RudeError(Exception):
        def __str__(self) -> str:
            raise ValueError

        @property
        def failure(self) -> object:
            raise ValueError

        @property
        def non_retriable(self) -> bool:
            raise ValueError

    failure = caught(RudeError())
    assert "RudeError" in failure.error_type
    assert "could not be read" in failure.error_message


def test_what_cannot_get_better_is_marked() -> None:
    assert caught(ActivityNotRegisteredError("pay", [])).is_non_retriable
    assert FailureDetails.from_exception(ValueError(), non_retriable=True).is_non_retriable
