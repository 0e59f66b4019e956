"""What the tests store, and how they open stores and wait."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import msgspec

from callboard.core.events import (
    ContinuedAsNew,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    ParentInstance,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
)
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, CommitKey, InstanceRecord, Parked, Projection
from callboard.core.messages import ActivityCall, TaskKey
from callboard.core.tracing import TraceContext
from callboard.ports import (
    AppendOutcome,
    Claim,
    CreateOutcome,
    OrchestrationVersions,
    Store,
    TimerRow,
    WorkerCode,
    WorkerInfo,
)

#: The tests' time: whole milliseconds, like all times of the runtime, and a while ago.
START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)

CREATED = CreateOutcome(created=True)
COMMITTED, LOST = AppendOutcome.COMMITTED, AppendOutcome.LOST

#: Ids that begin like one another, or mean something to a pattern, a path, a query or a collation.
AWKWARD_IDS = (
    "a", "a.", "a.*", "aa", "a0", "a-", "A", "%", "a%", "_", "a_", "$where", "$ne", "{}", "[a]", "^a", "a$", "a|b", "(a)", "*", "'", '"',
    "a'b", "é", "e\u0301", "ß", "日本", "日本語", "\U0001f3ad", "\uffff", "a b", " ", "~", "a~", "null", "0", "x" * 256,
)  # fmt: skip


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def record(instance_id: str, execution: str = "e1", **fields: Any) -> InstanceRecord:
    """A Pending record."""
    defaults: dict[str, Any] = {
        "instance_id": instance_id,
        "execution_id": f"{execution} of {instance_id}",
        "partition": 0,
        "name": "hello",
        "created_time": START,
        "last_updated_time": START,
    }
    return InstanceRecord(**(defaults | fields))


def full_record(instance_id: str) -> InstanceRecord:
    """A record in which every field has a value."""
    return record(
        instance_id,
        version="1.2",
        tags={"team": "fêtes", "a.b": "$c", "$d": ""},
        input='{"$where": 1}',
        output='"$output"',
        failure=failure(),
        custom_status='"half"',
        completed_time=START + seconds(2.001),
        scheduled_start_time=START + seconds(0.5),
        parent=ParentInstance(instance_id="p", execution_id="pe", task_scheduled_id=3),
        trace=trace(),
        generation=2,
        head=-1,
        parked=Parked(reason="gone", at=START),
    )


def trace() -> TraceContext:
    return TraceContext(
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="$a=b.c", baggage="$where=%C3%A9,a.b=1"
    )


def failure() -> FailureDetails:
    return FailureDetails(
        error_type="ValueError",
        error_message="$nope \x00",
        stack_trace="…",
        inner_failure=FailureDetails(error_type="E", error_message="x", is_non_retriable=True),
    )


def commit(instance_id: str, n: int, token: str = "ours", execution: str = "e1", **fields: Any) -> Commit:
    """A commit of a running instance."""
    defaults: dict[str, Any] = {
        "instance_id": instance_id,
        "n": n,
        "token": token,
        "execution_id": f"{execution} of {instance_id}",
        "first": 0,
        "partition": 0,
        "at": START + seconds(n),
        "runtime_status": "Running",
        "events": (TaskScheduled(timestamp=START + seconds(n), event_id=n, name="say", input=f'"{n}"'),),
    }
    return Commit(**(defaults | fields))


def last_commit(instance_id: str, n: int, status: Any = "Completed", **fields: Any) -> Commit:
    """The commit that ends an instance."""
    ended = ExecutionCompleted(timestamp=START, orchestration_status=status, result='"done"')
    return commit(instance_id, n, runtime_status=status, events=(ended,), **fields)


def continued(instance_id: str, n: int, execution: str, following: str, **fields: Any) -> Commit:
    """The commit that ends an execution and announces the next."""
    start = ExecutionStarted(
        timestamp=START, name="hello", execution_id=f"{following} of {instance_id}", input='"next"'
    )
    event = ContinuedAsNew(timestamp=START, event_id=0, next=start)
    return commit(instance_id, n, execution=execution, events=(event,), **fields)


def rich_commit(instance_id: str, n: int) -> Commit:
    """A commit in which every field has a value, with events of many shapes."""
    events: tuple[HistoryEvent, ...] = (
        ExecutionStarted(
            timestamp=START, name="hello", execution_id="e", input='"é\\u0000"', tags={"$a": "b.c"}, trace=trace()
        ),
        TaskCompleted(timestamp=START + seconds(0.001), task_scheduled_id=0, result="[1,2.5,null]"),
        TaskFailed(timestamp=START + seconds(0.999), task_scheduled_id=1, failure=failure()),
        EventRaised(timestamp=START, message_id="m", name="go", input=None, trace=trace()),
        TimerCreated(timestamp=START, event_id=5, fire_at=START + seconds(1234.567)),
        TimerCreated(timestamp=START, event_id=6, fire_at=datetime(9999, 12, 31, tzinfo=UTC)),
    )
    return commit(
        instance_id,
        n,
        ran=False,
        custom_status='{"a.b": "$x"}',
        events=events,
        timers_cancelled=(5, 6),
        tasks_cancelled=(7, 8),
        start_limits_over=(9,),
        generation=3,
        body="where/it/is",
        parked=Parked(reason="gone", at=START + seconds(0.123)),
        trace=trace(),
    )


def projection(of: Commit, **fields: Any) -> Projection:
    """What a commit changes in its record."""
    following = of.continued.next if of.continued else None
    defaults: dict[str, Any] = {
        "instance_id": of.instance_id,
        "n": of.n,
        "execution_id": of.execution_id,
        "generation": of.generation,
        "next_execution_id": following.execution_id if following else of.execution_id,
        "next_generation": of.generation + 1 if following else of.generation,
        "first": of.n + 1 if following else of.first,
        "runtime_status": of.runtime_status,
        "custom_status": of.custom_status,
        "last_updated_time": of.at,
        "begins": following is not None,
        "input": following.input if following else None,
        "version": following.version if following else None,
        "completed_time": of.at if of.terminal else None,
    }
    return Projection(**(defaults | fields))


def key(of: Commit) -> CommitKey:
    return CommitKey(of.instance_id, of.n)


def timer(
    instance_id: str,
    timer_id: int,
    execution: str = "e1",
    *,
    at: float = 0,
    partition: int = 0,
    of_task: bool = False,
) -> TimerRow:
    return TimerRow(
        instance_id=instance_id,
        execution_id=f"{execution} of {instance_id}",
        timer_id=timer_id,
        partition=partition,
        fire_at=START + seconds(at),
        of_task=of_task,
    )


def call(instance_id: str, task: int, execution: str = "e1") -> ActivityCall:
    return ActivityCall(
        instance_id=instance_id,
        execution_id=f"{execution} of {instance_id}",
        task_scheduled_id=task,
        name="$name",
        queue="slow",
        input='"$x"',
        trace=trace(),
    )


def task(instance_id: str, number: int, execution: str = "e1") -> TaskKey:
    return call(instance_id, number, execution).key


def claim(
    instance_id: str, task: int, worker: str, *, partition: int = 0, execution: str = "e1", **fields: Any
) -> Claim:
    return Claim(call=call(instance_id, task, execution), partition=partition, worker_id=worker, **fields)


def lapsed(of: Claim) -> Claim:
    return msgspec.structs.replace(of, expired=True)


def worker(worker_id: str) -> WorkerInfo:
    code = WorkerCode(
        build="$b",
        version="2.0",
        match="strict",
        orchestrations=(OrchestrationVersions(name="$a.b", versions=(None, "$1.0")),),
        entities=("counter",),
        activities=("$pay",),
    )
    return WorkerInfo(
        worker_id=worker_id,
        host="$host",
        pid=7,
        started=START,
        orchestrations=True,
        queues=("default", "$slow"),
        code=code,
    )


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits until something is so, for up to 15 s."""
    deadline = time.monotonic() + 15
    while not await condition():
        assert time.monotonic() < deadline, f"it never came that {what}"
        await asyncio.sleep(0.01)


class StoreTests:
    """What the topics of the contract share."""

    partitions = 4

    def make_store(self) -> Store:
        """Makes a store that is not open, on the same file or database each time it is called in one test."""
        raise NotImplementedError

    @cached_property
    def hub(self) -> str:
        """A hub that no other test has."""
        return f"t{uuid.uuid4().hex[:8]}"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Store, None]:
        """A store, open on this test's hub."""
        store = self.make_store()
        await store.open(self.hub, self.partitions)
        try:
            yield store
        finally:
            await store.aclose()


async def run_to_end(store: Store, instance_id: str, execution: str = "e1", *, first: int = 0, **fields: Any) -> Commit:
    """Creates an instance and brings it to its end, everything sent."""
    (outcome,) = await store.create([record(instance_id, execution, **fields)])
    assert outcome == CREATED
    end = last_commit(instance_id, first, execution=execution, first=first)
    assert await store.append([end]) == [COMMITTED]
    await store.project([projection(end)])
    await store.mark_sent([key(end)])
    return end


def ids(records: Any) -> list[str]:
    return [each.instance_id for each in records]


def with_numbers(of: InstanceRecord, *, head: int, first: int) -> InstanceRecord:
    return msgspec.structs.replace(of, head=head, first=first)
