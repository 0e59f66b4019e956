"""Spans that a worker may have taken to its grave are told again by those who follow it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from callboard import App, OrchestrationContext
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.spans import Span
from callboard.core.tracing import root_context
from callboard.host import SystemHost
from callboard.ports import WorkerInfo
from callboard.retelling import RECENT, Colleagues
from callboard.telemetry import Telemetry
from callboard.tracing import Untraced
from tests.runtime.support import Stage, a_while, eventually

app = App("stage")


@app.activity
async def work(n: int) -> int:
    return n


@app.orchestration
async def twice(context: OrchestrationContext) -> int:
    first = await context.call_activity(work, 1)
    await context.wait_for_external_event("go")
    return first + await context.call_activity(work, 2)


class Listener(Untraced):
    """Hears what is told; its flush waits until it may return."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.may_flush = threading.Event()
        self.may_flush.set()

    def begin(self, record: InstanceRecord) -> InstanceRecord:
        if record.trace is not None or record.runtime_status != "Pending":
            return record
        return msgspec.structs.replace(record, trace=root_context(record.execution_id, sampled=True))

    def ended(self, spans: Sequence[Span]) -> None:
        self.spans += spans

    def flush(self) -> None:
        self.may_flush.wait(10)


@pytest.fixture
def listeners(monkeypatch: pytest.MonkeyPatch) -> list[Listener]:
    """Those of the workers and clients that are made, in that order; a worker makes its own first, then one of a client inside it."""
    made: list[Listener] = []

    def tracing(_: Telemetry) -> Listener:
        made.append(Listener())
        return made[-1]

    monkeypatch.setattr(Telemetry, "tracing", tracing)
    return made


async def test_an_end_is_not_called_done_before_its_spans_are_sent(listeners: list[Listener]) -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        listeners[0].may_flush.clear()
        started = await client.start(twice)
        await eventually(lambda: len(listeners[0].spans) == 1)
        await eventually(lambda: _none(stage))  # what is not an end does not wait
        await client.raise_event(started.instance_id, "go")
        await client.wait(started.instance_id)
        await a_while()
        (unsent,) = await stage.unsent()
        assert unsent.terminal
        listeners[0].may_flush.set()
        await eventually(lambda: _none(stage))


async def test_whoever_follows_a_worker_that_died_tells_again_what_it_told_last(listeners: list[Listener]) -> None:
    async with Stage() as stage:
        first = await stage.worker(app)
        client = await stage.client(app)
        started = await client.start(twice)
        await eventually(lambda: len(listeners[0].spans) == 1)
        first.kill()
        following = len(listeners)
        await stage.worker(app)
        await client.raise_event(started.instance_id, "go")
        await client.wait(started.instance_id)
        told = listeners[following].spans
        assert listeners[0].spans[0] in told
        assert len({span.context.span_id for span in told}) == 4
        assert len(told) == 4


async def test_an_end_that_nobody_saw_sent_is_told_again(listeners: list[Listener]) -> None:
    async with Stage() as stage:
        first = await stage.worker(app)
        client = await stage.client(app)
        listeners[0].may_flush.clear()
        started = await client.start(twice)
        await client.raise_event(started.instance_id, "go")
        await client.wait(started.instance_id)
        first.kill()
        listeners[0].may_flush.set()
        following = len(listeners)
        await stage.worker(app)
        await eventually(lambda: _none(stage))
        await a_while()
        assert sorted(map(_key, listeners[following].spans)) == sorted(map(_key, listeners[0].spans))


async def test_whoever_left_in_order_has_sent_its_spans(listeners: list[Listener]) -> None:
    async with Stage() as stage:
        first = await stage.worker(app, balance=True)
        client = await stage.client(app)
        second = await stage.worker(app, balance=True)
        started = await client.start(twice)
        await eventually(lambda: sum(len(each.spans) for each in listeners) == 1)
        await first.stop()
        await eventually(lambda: len(second.worker.ownership.owned) == 4)
        await client.raise_event(started.instance_id, "go")
        await client.wait(started.instance_id)
        spans = [_key(span) for listener in listeners for span in listener.spans]
        assert len(spans) == len(set(spans)) == 4


def test_who_may_have_failed() -> None:
    host = SystemHost()
    now = host.now()
    colleagues = Colleagues(host, "me".ljust(16))
    colleagues.see([_info("here")])
    colleagues.note_left("left".ljust(16))
    colleagues.note_gone(["gone".ljust(16)])

    def may(author: str, age: timedelta = timedelta(0)) -> bool:
        return colleagues.may_have_failed(_commit(author, now - age))

    assert [may(each) for each in ("me", "here", "left", "gone", "unknown")] == [False, False, False, True, True]
    assert may("gone", timedelta(days=1))
    assert not may("unknown", RECENT * 2)
    for n in range(2_000):
        colleagues.note_left(str(n))
    assert not may("gone", timedelta(days=1))  # forgotten: no longer known to be gone
    host.close()


def _info(name: str) -> WorkerInfo:
    now = SystemHost().now()
    return WorkerInfo(worker_id=name.ljust(16), host="h", pid=1, started=now, orchestrations=True, queues=())


def _commit(author: str, at: Any) -> Commit:
    return Commit(
        instance_id="i",
        n=0,
        execution_id="e",
        first=0,
        partition=0,
        token=author.ljust(16) + "x" * 16,
        at=at,
        runtime_status="Running",
    )


def _key(span: Span) -> tuple[str, str]:
    return span.context.span_id, span.name


async def _none(stage: Stage) -> bool:
    return not await stage.unsent()
