"""The worked example of Durable Functions' HTTP API, event by event, and the events as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from callboard.core.events import (
    ContinuedAsNew,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionParked,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    HistoryEvent,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TerminationSent,
    TimerCreated,
    TimerFired,
)
from callboard.core.failure import FailureDetails
from callboard.core.folding import folded, unfolded
from callboard.core.instances import Commit

START = datetime(2026, 1, 1, 10, tzinfo=UTC)
FAILURE = FailureDetails(
    error_type="shop.PaymentError",
    error_message="card declined",
    stack_trace='  File "shop.py", line 3, in pay',
    inner_failure=FailureDetails(error_type="OSError", error_message="no answer", stack_trace="secret"),
)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def commits_of(*turns: Sequence[HistoryEvent], execution: str = "e1", first: int = 0) -> list[Commit]:
    return [
        Commit(
            instance_id="abc",
            n=first + n,
            execution_id=execution,
            first=first,
            partition=0,
            token="t",
            at=events[0].timestamp,
            runtime_status="Running",
            events=tuple(events),
        )
        for n, events in enumerate(turns)
    ]


def started(execution: str = "e1", **more: Any) -> ExecutionStarted:
    return ExecutionStarted(timestamp=at(0.1), name="Approve", execution_id=execution, **more)


APPROVE = commits_of(
    [started(input='{"amount":5}'), TaskScheduled(timestamp=at(0.2), event_id=0, name="SendMail", input='"ann"')],
    [
        TaskCompleted(timestamp=at(1), task_scheduled_id=0, result='"sent"'),
        TimerCreated(timestamp=at(1.05), event_id=1, fire_at=at(86_401)),
    ],
    [
        EventRaised(timestamp=at(300), message_id="m1", name="approval", input="true"),
        TaskScheduled(timestamp=at(300.1), event_id=2, name="Pay"),
    ],
    [
        TaskFailed(timestamp=at(302), task_scheduled_id=2, failure=FAILURE),
        ExecutionCompleted(timestamp=at(302.1), event_id=3, orchestration_status="Failed", failure=FAILURE),
    ],
)


def test_the_worked_example() -> None:
    assert folded(APPROVE, outputs=True) == [
        {
            "EventType": "ExecutionStarted",
            "FunctionName": "Approve",
            "Input": '{"amount":5}',
            "Timestamp": "2026-01-01T10:00:00.100Z",
        },
        {
            "EventType": "TaskCompleted",
            "FunctionName": "SendMail",
            "Input": '"ann"',
            "ScheduledTime": "2026-01-01T10:00:00.200Z",
            "Result": "sent",
            "Timestamp": "2026-01-01T10:00:01.000Z",
        },
        {
            "EventType": "TimerCreated",
            "FireAt": "2026-01-02T10:00:01.000Z",
            "Timestamp": "2026-01-01T10:00:01.050Z",
        },
        {"EventType": "EventRaised", "Name": "approval", "Input": "true", "Timestamp": "2026-01-01T10:05:00.000Z"},
        {
            "EventType": "TaskFailed",
            "FunctionName": "Pay",
            "ScheduledTime": "2026-01-01T10:05:00.100Z",
            "Reason": "Activity function 'Pay' failed: card declined",
            "Details": "shop.PaymentError: card declined <- OSError: no answer",
            "Timestamp": "2026-01-01T10:05:02.000Z",
        },
        {
            "EventType": "ExecutionCompleted",
            "OrchestrationStatus": "Failed",
            "Result": "shop.PaymentError: card declined",
            "Timestamp": "2026-01-01T10:05:02.100Z",
        },
    ]


def test_inputs_and_outputs_are_shown_on_request_only() -> None:
    assert not any("Result" in event for event in folded(APPROVE))
    bare = folded(APPROVE, inputs=False)
    assert not any({"Input", "Result"} & event.keys() for event in bare)
    assert [event["EventType"] for event in bare] == [event["EventType"] for event in folded(APPROVE)]


def test_no_stack_trace_is_shown() -> None:
    assert "shop.py" not in json.dumps(folded(APPROVE, outputs=True))
    assert "secret" not in json.dumps(folded(APPROVE, outputs=True))


def test_what_is_still_open_stays_visible() -> None:
    commits = commits_of(
        [
            started(),
            TaskScheduled(timestamp=at(1), event_id=0, name="Pay", input="5"),
            SubOrchestrationInstanceCreated(
                timestamp=at(1), event_id=1, name="Ship", instance_id="abc:1", execution_id="e2", input="7"
            ),
        ]
    )
    _, task, child = folded(commits)
    time = "2026-01-01T10:00:01.000Z"
    assert task == {"EventType": "TaskScheduled", "Name": "Pay", "Input": "5", "Timestamp": time}
    assert child == {
        "EventType": "SubOrchestrationInstanceCreated",
        "Name": "Ship",
        "InstanceId": "abc:1",
        "Input": "7",
        "Timestamp": time,
    }


def test_children_fold_as_tasks_do() -> None:
    def created(number: int) -> SubOrchestrationInstanceCreated:
        name = f"Ship{number}"
        return SubOrchestrationInstanceCreated(
            timestamp=at(1), event_id=number, name=name, instance_id=name, execution_id=name
        )

    commits = commits_of(
        [started(), created(0), created(1)],
        [
            SubOrchestrationInstanceFailed(timestamp=at(2), task_scheduled_id=1, failure=FAILURE),
            SubOrchestrationInstanceCompleted(timestamp=at(2), task_scheduled_id=0, result="[1]"),
        ],
    )
    _, failed, completed = folded(commits, outputs=True)
    assert (failed["EventType"], failed["FunctionName"]) == ("SubOrchestrationInstanceFailed", "Ship1")
    assert failed["Reason"] == "Orchestrator function 'Ship1' failed: card declined"
    assert (completed["FunctionName"], completed["Result"]) == ("Ship0", [1])
    assert completed["ScheduledTime"] == "2026-01-01T10:00:01.000Z"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (TimerFired(timestamp=START, timer_id=3, fire_at=at(1)), {"FireAt": "2026-01-01T10:00:01.000Z"}),
        (ExecutionSuspended(timestamp=START, message_id="m", reason="lunch"), {"Reason": "lunch"}),
        (ExecutionResumed(timestamp=START, message_id="m"), {"Reason": None}),
        (ExecutionTerminated(timestamp=START, message_id="m", input='"enough"'), {"Input": "enough"}),
        (ExecutionParked(timestamp=START, reason="It hangs at:\n  shop.py, line 3"), {"Reason": "It hangs at:"}),
        (
            EventSent(timestamp=START, event_id=1, instance_id="x", name="go", input="1"),
            {"InstanceId": "x", "Name": "go", "Input": "1"},
        ),
        (
            TerminationSent(timestamp=START, instance_id="x", execution_id="e", name="Ship"),
            {"InstanceId": "x", "Name": "Ship"},
        ),
        (
            ExecutionCompleted(timestamp=START, orchestration_status="Completed", result='{"a":1}'),
            {"OrchestrationStatus": "Completed", "Result": {"a": 1}},
        ),
    ],
)
def test_other_events(event: HistoryEvent, expected: dict[str, Any]) -> None:
    (entry,) = folded(commits_of([event]), outputs=True)
    assert entry == {"EventType": type(event).__name__, **expected, "Timestamp": "2026-01-01T10:00:00.000Z"}


def test_only_the_current_execution_is_shown() -> None:
    carried = EventRaised(timestamp=at(2), message_id="m", name="later", input="1")
    onward = ContinuedAsNew(timestamp=at(3), event_id=0, next=started("e2", input="2"), carried=(carried,))
    first = commits_of([started(input="1")], [onward])
    assert [event["EventType"] for event in folded(first)] == ["ExecutionStarted", "EventRaised"]
    assert folded(first)[0]["Input"] == "2"
    second = commits_of([started("e2", input="2"), carried], execution="e2", first=2)
    assert folded([*first, *second]) == folded(second)


def test_nothing_yet() -> None:
    assert folded([]) == []
    assert unfolded([]) == []


def test_unfolded_keeps_every_event_in_its_frame() -> None:
    events = unfolded(APPROVE)
    assert [event["EventType"] for event in events[:4]] == [
        "OrchestratorStarted",
        "ExecutionStarted",
        "TaskScheduled",
        "OrchestratorCompleted",
    ]
    assert events[5] == {
        "EventType": "TaskCompleted",
        "EventId": -1,
        "Timestamp": "2026-01-01T10:00:01.000Z",
        "TaskScheduledId": 0,
        "Result": '"sent"',
    }
    assert [event["EventId"] for event in events if event["EventType"] == "TaskScheduled"] == [0, 2]
    json.dumps(events)


def test_unfolded_shows_how_an_execution_continues() -> None:
    onward = ContinuedAsNew(timestamp=at(3), event_id=0, next=started("e2", input="2"))
    event = unfolded(commits_of([onward]))[1]
    assert (event["EventType"], event["EventId"], event["Next"]["input"]) == ("ContinueAsNew", 0, "2")
    json.dumps(event)


def test_sub_millisecond_times_keep_their_digits() -> None:
    timer = TimerCreated(timestamp=START, event_id=0, fire_at=START + timedelta(microseconds=1))
    assert folded(commits_of([timer]))[0]["FireAt"] == "2026-01-01T10:00:00.000001Z"
