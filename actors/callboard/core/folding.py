"""History for people: commits → the folded ``historyEvents`` of Durable Functions' HTTP API, or every event as it is.

Folding leaves out what only replay needs: a task is one entry, its end, which carries the name and the time of its scheduling; episodes,
event numbers and timer numbers go. Values named ``Input`` stay JSON text, as there; ``Result`` is the value itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec

from callboard.core.events import (
    AnswerReceived,
    EntityLocked,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityOperationProcessed,
    EntityOperationSignaled,
    EntityRequestReceived,
    EntityUnlockSent,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionParked,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    HistoryEvent,
    MessageAnswered,
    MessagePublished,
    MessageReceived,
    MessageSent,
    NewOrchestrationStarted,
    PatchApplied,
    Payload,
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
from callboard.core.instances import Commit

#: An event as JSON, with Durable Functions' own field names.
EventJson: TypeAlias = dict[str, Any]

_Scheduled: TypeAlias = TaskScheduled | SubOrchestrationInstanceCreated | EntityOperationCalled
_Ended: TypeAlias = (
    TaskCompleted
    | TaskFailed
    | SubOrchestrationInstanceCompleted
    | SubOrchestrationInstanceFailed
    | EntityOperationCompleted
    | EntityOperationFailed
)

#: Our names that Durable Task has another one for.
_NAMES: Final = {"ContinuedAsNew": "ContinueAsNew"}


def current_execution(commits: Sequence[Commit]) -> list[HistoryEvent]:
    """The events of the execution that runs now, or ran last."""
    if not commits:
        return []
    last = commits[-1]
    if (continued := last.continued) is not None:  # the next execution's first turn is still to come
        return [continued.next, *continued.carried]
    return [event for commit in commits if commit.execution_id == last.execution_id for event in commit.events]


def folded(commits: Sequence[Commit], *, inputs: bool = True, outputs: bool = False) -> list[EventJson]:
    """The current execution as Durable Functions' ``historyEvents``.

    Args:
        commits: All commits of the instance, in order.
        inputs: Whether to show ``Input``.
        outputs: Whether to show ``Result``.
    """
    events = current_execution(commits)
    ended = {event.task_scheduled_id for event in events if isinstance(event, _ENDED)}
    scheduled: dict[int, _Scheduled] = {}
    entries: list[EventJson] = []
    for event in events:
        if isinstance(event, (TaskScheduled, SubOrchestrationInstanceCreated, EntityOperationCalled)):
            scheduled[event.event_id] = event
            if event.event_id in ended:
                continue
        entry = _entry(event, scheduled)
        if not inputs:
            entry.pop("Input", None)
        if not outputs:
            entry.pop("Result", None)
        entries.append(entry)
    return entries


def unfolded(commits: Iterable[Commit]) -> list[EventJson]:
    """Every event of every execution that is kept, framed turn by turn, as Durable Task records it."""
    entries: list[EventJson] = []
    for commit in commits:
        at = timestamp(commit.at)
        entries.append({"EventType": "OrchestratorStarted", "EventId": -1, "Timestamp": at})
        entries.extend(_raw(event) for event in commit.events)
        entries.append({"EventType": "OrchestratorCompleted", "EventId": -1, "Timestamp": at})
    return entries


def timestamp(moment: datetime) -> str:
    """A time with the fraction of its second, and ``Z``."""
    precision = "microseconds" if moment.microsecond % 1000 else "milliseconds"
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _entry(event: HistoryEvent, scheduled: dict[int, _Scheduled]) -> EventJson:
    head: EventJson = {"EventType": event_type(event)}
    fields = _ended(event, scheduled.get(event.task_scheduled_id)) if isinstance(event, _ENDED) else _fields(event)
    return head | fields | {"Timestamp": timestamp(event.timestamp)}


def _fields(event: HistoryEvent) -> EventJson:  # noqa: C901, PLR0911, PLR0912 - one line for each event
    match event:
        case ExecutionStarted():
            return {"FunctionName": event.name, **_input(event.input)}
        case TaskScheduled():
            return {"Name": event.name, **_input(event.input)}
        case SubOrchestrationInstanceCreated():
            return {"Name": event.name, "InstanceId": event.instance_id, **_input(event.input)}
        case TimerCreated() | TimerFired():
            return {"FireAt": timestamp(event.fire_at)}
        case EventRaised() | MessageReceived():
            return {"Name": event.name, **_input(event.input)}
        case MessagePublished():
            return {"Exchange": event.exchange, "Key": event.key, **_input(event.input)}
        case MessageAnswered():
            return {"MessageId": event.message_id, **_answer(event)}
        case AnswerReceived():
            return _answer(event)
        case EventSent() | MessageSent():
            return {"InstanceId": event.instance_id, "Name": event.name, **_input(event.input)}
        case ExecutionCompleted():
            return {"OrchestrationStatus": event.orchestration_status, "Result": _outcome(event)}
        case ExecutionTerminated():
            return {"Input": _value(event.input)}
        case ExecutionSuspended() | ExecutionResumed():
            return {"Reason": event.reason}
        case ExecutionParked():  # further lines say where the code was: that is for those who may look into the store
            return {"Reason": event.reason.partition("\n")[0]}
        case PatchApplied():
            return {"Name": event.patch}
        case TerminationSent():
            return {"InstanceId": event.instance_id, "Name": event.name}
        case _:
            return _entity_fields(event)


def _entity_fields(event: HistoryEvent) -> EventJson:
    """What is asked of entities, and what entities' own commits hold."""
    match event:
        case EntityOperationCalled():
            return {"InstanceId": event.instance_id, "Operation": event.operation, **_input(event.input)}
        case EntityOperationSignaled():
            due = {} if event.scheduled_time is None else {"ScheduledTime": timestamp(event.scheduled_time)}
            return {"InstanceId": event.instance_id, "Operation": event.operation, **due, **_input(event.input)}
        case EntityLockRequested() | EntityUnlockSent():
            return {"InstanceId": event.instance_id}
        case EntityRequestReceived():
            return {"Request": type(event.request).__name__}
        case EntityLocked():
            return {"InstanceId": event.caller.instance_id}
        case NewOrchestrationStarted():
            return {"Name": event.name, "InstanceId": event.instance_id, **_input(event.input)}
        case EntityOperationProcessed():
            failed = {} if event.failure is None else {"Details": _details(event.failure)}
            return {"Operation": event.operation, "Result": _value(event.result), **failed}
        case _:
            return {}


def _ended(event: _Ended, scheduled: _Scheduled | None) -> EventJson:
    fields: EventJson = {}
    name = "unknown"
    if scheduled is not None:
        name = scheduled.operation if isinstance(scheduled, EntityOperationCalled) else scheduled.name
        at = {"InstanceId": scheduled.instance_id} if isinstance(scheduled, EntityOperationCalled) else {}
        time = {"ScheduledTime": timestamp(scheduled.timestamp)}
        fields = {"FunctionName": name, **at, **_input(scheduled.input), **time}
    match event:
        case TaskCompleted() | SubOrchestrationInstanceCompleted() | EntityOperationCompleted():
            fields["Result"] = _value(event.result)
        case TaskFailed():
            fields |= _failed(f"Activity function '{name}'", event.failure)
        case SubOrchestrationInstanceFailed():
            fields |= _failed(f"Orchestrator function '{name}'", event.failure)
        case EntityOperationFailed():
            fields |= _failed(f"Entity operation '{name}'", event.failure)
    return fields


def _failed(what: str, failure: FailureDetails) -> EventJson:
    return {"Reason": f"{what} failed: {failure.error_message}", "Details": _details(failure)}


def _raw(event: HistoryEvent) -> EventJson:
    fields: EventJson = {_pascal(name): value for name, value in msgspec.to_builtins(event).items()}
    number = fields.pop("EventId", -1)
    head = {"EventType": event_type(event), "EventId": number, "Timestamp": timestamp(event.timestamp)}
    return head | {name: value for name, value in fields.items() if name not in head}


def event_type(event: HistoryEvent) -> str:
    """The event's name in Durable Task."""
    name = type(event).__name__
    return _NAMES.get(name, name)


def _input(payload: Payload | None) -> EventJson:
    return {} if payload is None else {"Input": payload}


def _answer(event: MessageAnswered | AnswerReceived) -> EventJson:
    return {"Result": _value(event.result)} if event.failure is None else {"Details": _details(event.failure)}


def _outcome(event: ExecutionCompleted) -> Any:
    if event.failure is not None:
        return f"{event.failure.error_type}: {event.failure.error_message}"
    return _value(event.result)


def _details(failure: FailureDetails | None) -> str:
    """The failure and its causes, without stack traces: this goes to whoever may look at the instance."""
    parts: list[str] = []
    while failure is not None:
        parts.append(f"{failure.error_type}: {failure.error_message}")
        failure = failure.inner_failure
    return " <- ".join(parts)


def _value(payload: Payload | None) -> Any:
    return None if payload is None else msgspec.json.decode(payload)


def _pascal(name: str) -> str:
    return name[:1].upper() + name[1:]


_ENDED: Final = (
    TaskCompleted,
    TaskFailed,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    EntityOperationCompleted,
    EntityOperationFailed,
)
