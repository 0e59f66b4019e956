"""What was consumed is known, what comes early waits, and memory stays bounded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations

import pytest
from hypothesis import given, strategies as st

from callboard.core import ordering
from callboard.core.entities import Operation, Position, Request
from callboard.core.ordering import MEMORY, MOST_STEP, Lines, OrderBook
from tests.core.support import at

LONG = timedelta(milliseconds=MOST_STEP)


def request(sender: str, number: int, *, sent: float | None = None, ordered: bool = True) -> Operation:
    moment = at(number if sent is None else sent)
    after = moment - timedelta(seconds=1) if ordered and number else None
    line = Position(sender=sender, number=number, after=after)
    return Operation(line=line, sent=moment, request_id=str(line), operation="op")


def numbers(requests: Sequence[Request]) -> list[int]:
    return [each.line.number for each in requests]


def again(book: OrderBook) -> OrderBook:
    return OrderBook(book.heard, book.held, clock=book.clock, horizon=book.horizon)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_line_comes_out_in_its_order_whatever_the_order_of_arrival(order: tuple[int, ...]) -> None:
    book = OrderBook()
    out: list[int] = []
    for number in order:
        assert not book.knows(request("a", number).line)
        out += numbers(book.take(request("a", number)))
        assert book.knows(request("a", number).line)
        book = again(book)
    assert out == [0, 1, 2, 3]
    assert book.held == ()


def test_lines_do_not_wait_for_each_other() -> None:
    book = OrderBook()
    assert numbers(book.take(request("a", 1))) == []
    assert numbers(book.take(request("b", 0))) == [0]
    assert numbers(book.take(request("a", 0))) == [0, 1]


def test_what_waits_for_none_is_taken_at_once() -> None:
    book = OrderBook()
    for number in (5, 3, 4, 9):
        assert numbers(book.take(request("client", number, ordered=False))) == [number]
    (heard,) = book.heard
    assert heard.ranges == ((3, 6), (9, 10))
    assert [book.knows(Position(sender="client", number=number)) for number in (2, 3, 5, 6, 9, 10)] == [
        False, True, True, False, True, False,
    ]  # fmt: skip


@given(st.lists(st.integers(0, 40)))
def test_ranges_hold_just_the_numbers(given: list[int]) -> None:
    book = OrderBook()
    for number in given:
        place = Position(sender="client", number=number)
        if not book.knows(place):
            book.take(request("client", number, ordered=False))
    assert {n for n in range(42) if book.knows(Position(sender="client", number=n))} == set(given)
    for heard in book.heard:
        flat = [bound for bounds in heard.ranges for bound in bounds]
        assert flat == sorted(set(flat))


def test_the_oldest_gaps_are_given_up_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MOST_RANGES", 3)
    book = OrderBook()
    for number in (0, 2, 4, 6):
        book.take(request("client", number, ordered=False))
    assert book.heard[0].ranges == ((0, 3), (4, 5), (6, 7))


def test_what_was_consumed_long_ago_is_forgotten() -> None:
    book = OrderBook()
    book.take(request("a", 0))
    for _ in range(MEMORY // MOST_STEP):
        assert book.age(LONG) == []
    assert book.knows(Position(sender="a"))
    book.age(LONG)
    assert not book.knows(Position(sender="a"))
    assert book.horizon == at(0)


def test_time_in_which_nothing_happens_is_not_forgotten_through() -> None:
    book = OrderBook()
    book.take(request("a", 0))
    book.age(timedelta(days=3))
    assert book.clock == MOST_STEP
    assert book.knows(Position(sender="a"))


def test_a_line_whose_beginning_was_forgotten_goes_on() -> None:
    book = OrderBook()
    book.take(request("a", 0, sent=0))
    for _ in range(MEMORY // MOST_STEP + 1):
        book.age(LONG)
    assert numbers(book.take(request("a", 1, sent=1))) == [1]


def test_a_line_that_is_new_waits_for_its_beginning_even_if_others_were_forgotten() -> None:
    book = OrderBook()
    book.take(request("a", 0, sent=0))
    for _ in range(MEMORY // MOST_STEP + 1):
        book.age(LONG)
    assert numbers(book.take(request("b", 1, sent=5000))) == []


def test_the_least_recently_heard_are_forgotten_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MOST_SENDERS", 3)
    book = OrderBook()
    for sender in ("a", "b", "c", "d"):
        book.take(request(sender, 0))
    book.take(request("b", 1))
    book.age(timedelta())
    assert [heard.sender for heard in book.heard] == ["c", "d", "b"]


def test_what_waited_in_vain_is_released_in_order_in_the_end() -> None:
    book = OrderBook()
    for number in (3, 2):
        assert book.take(request("a", number)) == []
    released: list[int] = []
    for _ in range(MEMORY // MOST_STEP + 2):
        book = again(book)
        released += numbers(book.age(LONG))
    assert released == [2, 3]
    assert book.held == ()
    assert book.knows(Position(sender="a", number=3))


def test_the_lines_of_a_sender_count_for_each_target() -> None:
    lines = Lines()
    assert lines.next("@x@1", "me", at(0)) == Position(sender="me")
    assert lines.next("@x@1", "me too", at(1)) == Position(sender="me", number=1, after=at(0))
    assert lines.next("@x@2", "me", at(2)) == Position(sender="me")
    lines = Lines(lines.values())
    assert lines.next("@x@1", "me", at(3)) == Position(sender="me", number=2, after=at(1))
    lines.forget(at(3))
    assert [line.target for line in lines.values()] == ["@x@1"]
    assert lines.next("@x@2", "new", at(4)) == Position(sender="new")


def test_the_least_recently_used_lines_end_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MOST_LINES", 2)
    lines = Lines()
    for number in range(4):
        lines.next(f"@x@{number}", "me", at(number))
    lines.next("@x@2", "me", at(9))
    lines.forget(at(0))
    assert [line.target for line in lines.values()] == ["@x@3", "@x@2"]
