"""The trace that a request belongs to, handed on to what it starts and sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from callboard.core.events import EventRaised
from callboard.core.tracing import TraceContext

from .scene import api

TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
HEADERS = [("traceparent", TRACEPARENT), ("tracestate", "a=1"), ("tracestate", "b=2"), ("baggage", "who=me")]
CONTEXT = TraceContext(traceparent=TRACEPARENT, tracestate="a=1,b=2", baggage="who=me")


async def test_a_start_and_an_event_carry_the_trace_of_their_requests(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("POST", "/api/orchestrators/approve/one", headers=HEADERS)
        assert answer.status_code == 202
        answer = await scene.ask("POST", "instances/one/raiseEvent/approval", json="yes", headers=HEADERS)
        assert answer.status_code == 202
        await scene.until("one")
        history = await scene.client.history("one")
        assert {commit.trace.trace_id for commit in history if commit.trace} == {CONTEXT.trace_id}
        record = (await scene.client.hub.store.records(["one"]))["one"]
        assert record.trace == CONTEXT
        (raised,) = (event for commit in history for event in commit.events if isinstance(event, EventRaised))
        assert raised.trace == CONTEXT


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", TRACEPARENT + "-", "é" * 55])
async def test_a_request_without_a_trace_or_with_nonsense_is_served_all_the_same(
    tmp_path: Path, traceparent: str | None
) -> None:
    async with api(tmp_path) as scene:
        headers = {} if traceparent is None else {"traceparent": traceparent.encode(), "baggage": b"who=me"}
        answer = await scene.ask("POST", "/api/orchestrators/echo/one", json=1, headers=headers)
        assert answer.status_code == 202
        await scene.until("one")
        assert (await scene.client.hub.store.records(["one"]))["one"].trace is None
