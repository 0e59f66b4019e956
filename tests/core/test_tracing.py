"""Trace contexts: what is believed of them, and what follows from them."""

from __future__ import annotations

import pytest

from callboard.core.tracing import (
    TraceContext,
    action_context,
    checked,
    derived_span_id,
    execution_context,
    of_headers,
    root_context,
)

TRACE, SPAN = "a" * 31 + "1", "b" * 15 + "2"


def context(flags: str = "01", **fields: str) -> TraceContext:
    return TraceContext(traceparent=f"00-{TRACE}-{SPAN}-{flags}", **fields)


def test_its_parts_are_those_of_the_traceparent() -> None:
    assert (context().trace_id, context().span_id) == (TRACE, SPAN)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_the_lowest_flag_says_whether_it_is_sampled(flags: str, *, sampled: bool) -> None:
    assert context(flags).sampled is sampled


def test_another_span_of_the_trace_keeps_all_but_the_span() -> None:
    other = context("03", tracestate="a=b", baggage="c=d").at("c" * 16)
    assert other == TraceContext(traceparent=f"00-{TRACE}-{'c' * 16}-03", tracestate="a=b", baggage="c=d")


@pytest.mark.parametrize("traceparent", [
    "", "00", f"01-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-01-", f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-01\n", f"00-{TRACE}-{SPAN}-0g", "é" * 55,
])  # fmt: skip
def test_what_is_no_traceparent_is_not_believed(traceparent: str) -> None:
    assert checked(TraceContext(traceparent=traceparent)) is None


def test_what_is_too_long_is_left_out() -> None:
    assert checked(context(tracestate="a" * 513, baggage="b" * 8_192)) == context(baggage="b" * 8_192)
    assert checked(context(tracestate="a" * 512, baggage="b" * 8_193)) == context(tracestate="a" * 512)
    assert checked(context(tracestate="a=b", baggage="c=d")) == context(tracestate="a=b", baggage="c=d")
    assert checked(None) is None


def test_derived_ids_are_the_same_again_and_never_of_another() -> None:
    ids = [derived_span_id(owner, what) for owner in ("e1", "e2") for what in ("", 0, 1, 10, "m")]
    assert ids == [derived_span_id(owner, what) for owner in ("e1", "e2") for what in ("", 0, 1, 10, "m")]
    assert len(set(ids)) == len(ids)
    assert all(len(each) == 16 and int(each, 16) for each in ids)


@pytest.mark.parametrize("sampled", [True, False])
def test_a_root_names_its_own_span(*, sampled: bool) -> None:
    root = root_context("e" * 32, sampled=sampled)
    assert checked(root) == root
    assert root.sampled is sampled
    assert execution_context(root, "e" * 32) == root
    assert root.trace_id != root_context("f" * 32, sampled=sampled).trace_id


def test_spans_of_a_sampled_trace_differ_and_those_of_another_are_not_even_named() -> None:
    execution = execution_context(context(), "e" * 32)
    assert execution is not None
    first, second = (action_context(execution, "e" * 32, number) for number in (0, 1))
    assert first is not None
    assert second is not None
    assert len({SPAN, execution.span_id, first.span_id, second.span_id}) == 4
    assert {each.trace_id for each in (execution, first, second)} == {TRACE}
    unsampled = context("00")
    assert execution_context(unsampled, "e" * 32) is unsampled
    assert action_context(unsampled, "e" * 32, 0) is unsampled
    assert execution_context(None, "e" * 32) is action_context(None, "e" * 32, 0) is None


def test_headers_are_taken_at_their_word_where_they_keep_to_it() -> None:
    full = context(tracestate="a=b", baggage="c=d")
    assert of_headers(f" {full.traceparent} ", "a=b", "c=d") == full
    assert of_headers(full.traceparent, "", None) == context()
    assert of_headers(f"cc{full.traceparent[2:]}-and-more", None, None) == context()
    for nonsense in (
        None,
        "",
        f"00{full.traceparent[2:]}-and-more",
        f"ff{full.traceparent[2:]}-and-more",
        "cc" + "-" * 60,
    ):
        assert of_headers(nonsense, "a=b", "c=d") is None
