"""What commits say to entities, and what entities' commits say to others: events as messages."""

from __future__ import annotations

from callboard.core.entities import Caller, Lock, Operation, Position, Request, Unlock
from callboard.core.events import (
    EntityLocked,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationProcessed,
    EntityOperationSignaled,
    EntityRequestReceived,
    EntityUnlockSent,
    NewOrchestrationStarted,
    ParentInstance,
    TimerCreated,
    ToEntityEvent,
)
from callboard.core.instances import Commit, InstanceRecord, partition_of, sent_message_id
from callboard.core.messages import EntityRequest, LockGranted, OperationResult
from callboard.core.tracing import action_context


def request(commit: Commit, event: ToEntityEvent, position: Position) -> EntityRequest:
    """What is asked of an entity."""
    return EntityRequest(instance_id=event.instance_id, request=_request(commit, event, position))


def _request(commit: Commit, event: ToEntityEvent, position: Position) -> Request:
    match event:
        case EntityOperationCalled():
            return Operation(
                line=position,
                sent=commit.at,
                request_id=sent_message_id(commit.execution_id, event.event_id),
                operation=event.operation,
                input=event.input,
                caller=_caller(commit, event.event_id),
                trace=action_context(commit.trace, commit.execution_id, event.event_id),
            )
        case EntityOperationSignaled():
            return Operation(
                line=position,
                sent=commit.at,
                request_id=sent_message_id(commit.execution_id, event.event_id),
                operation=event.operation,
                input=event.input,
                due=event.scheduled_time,
                trace=event.trace or action_context(commit.trace, commit.execution_id, event.event_id),
            )
        case EntityLockRequested():
            return Lock(line=position, sent=commit.at, caller=_caller(commit, event.event_id))
        case EntityUnlockSent():
            return Unlock(line=position, sent=commit.at, caller=_caller(commit, event.task_scheduled_id))


def _caller(commit: Commit, task_id: int) -> Caller:
    return Caller(instance_id=commit.instance_id, execution_id=commit.execution_id, task_scheduled_id=task_id)


def timer(event: EntityRequestReceived) -> TimerCreated | None:
    """The timer of a signal whose time has not come."""
    due = event.request.due if isinstance(event.request, Operation) else None
    if event.timer_id is None or due is None:
        return None
    return TimerCreated(timestamp=event.timestamp, event_id=event.timer_id, fire_at=due)


def result(event: EntityOperationProcessed, caller: Caller) -> OperationResult:
    """The answer to a call."""
    return OperationResult(
        instance_id=caller.instance_id,
        execution_id=caller.execution_id,
        task_scheduled_id=caller.task_scheduled_id,
        at=event.timestamp,
        result=event.result,
        failure=event.failure,
    )


def grant(event: EntityLocked) -> LockGranted:
    """Tells a critical section that it has the entity."""
    caller = event.caller
    return LockGranted(
        instance_id=caller.instance_id,
        execution_id=caller.execution_id,
        task_scheduled_id=caller.task_scheduled_id,
        at=event.timestamp,
    )


def started_record(commit: Commit, event: NewOrchestrationStarted, partitions: int) -> InstanceRecord:
    """The orchestration that an operation started. The entity is its parent only if it wants to be told of its end."""
    told = event.operation is not None
    parent = ParentInstance(
        instance_id=commit.instance_id, execution_id=commit.execution_id, task_scheduled_id=event.number
    )
    return InstanceRecord(
        instance_id=event.instance_id,
        partition=partition_of(event.instance_id, partitions),
        execution_id=event.execution_id,
        name=event.name,
        version=event.version,
        tags=event.tags,
        input=event.input,
        created_time=commit.at,
        last_updated_time=commit.at,
        parent=parent if told else None,
        trace=event.trace,
    )
