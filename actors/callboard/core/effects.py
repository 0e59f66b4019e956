"""What must happen because of a commit. Derived from the commit alone, so that whoever sweeps it derives the same."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypeAlias

import msgspec

from callboard.core import entity_messages as entities
from callboard.core.events import (
    AskingClient,
    AskingTask,
    ContinuedAsNew,
    EntityLocked,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationProcessed,
    EntityOperationSignaled,
    EntityRequestReceived,
    EntityUnlockSent,
    EntityYielded,
    EventSent,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    MessageAnswered,
    MessagePublished,
    MessageSent,
    NewOrchestrationStarted,
    ParentInstance,
    Payload,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
    TerminationSent,
    TimerCreated,
)
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord, Projection, partition_of, sent_message_id
from callboard.core.messages import (
    ActivitiesCancelled,
    ActivityCall,
    Answer,
    ChildResult,
    ContinueExecution,
    DeliverMessage,
    InstanceMessage,
    RaiseEvent,
    Reply,
    Terminate,
    Wake,
)
from callboard.core.references import as_told
from callboard.core.state import terminated_failure
from callboard.core.tracing import action_context


class CallActivity(msgspec.Struct, frozen=True):
    call: ActivityCall


class StartChild(msgspec.Struct, frozen=True):
    record: InstanceRecord
    """Pending; its parent says where a clash of ids is reported."""


class Tell(msgspec.Struct, frozen=True):
    message: InstanceMessage


class Publish(msgspec.Struct, frozen=True):
    event: MessagePublished


class SendReply(msgspec.Struct, frozen=True):
    inbox: str
    reply: Reply


class CancelActivities(msgspec.Struct, frozen=True):
    """Activities that were called before, and that nobody waits for any more."""

    message: ActivitiesCancelled


class SetTimer(msgspec.Struct, frozen=True):
    timer_id: int
    due: TimerCreated


class LimitStart(msgspec.Struct, frozen=True):
    """By then the activity must have begun."""

    task_id: int
    by: datetime


class ClearTimer(msgspec.Struct, frozen=True):
    """A timer that was taken back, or a limit that was met."""

    timer_id: int


class ClearExecutionTimers(msgspec.Struct, frozen=True):
    """All timers of an execution that has ended."""


Effect: TypeAlias = (
    Publish
    | CallActivity
    | CancelActivities
    | StartChild
    | Tell
    | SendReply
    | SetTimer
    | LimitStart
    | ClearTimer
    | ClearExecutionTimers
)


def derive(commit: Commit, partitions: int) -> list[Effect]:
    """The effects of a commit, besides its projection. Each carries ids that are the same however often it is derived."""
    effects = [effect for event in commit.events for effect in _effects_of(event, commit, partitions)]
    created = {event.event_id for event in commit.events if isinstance(event, TimerCreated)}
    effects.extend(ClearTimer(timer) for timer in commit.timers_cancelled if timer not in created)
    effects.extend(ClearTimer(task) for task in commit.start_limits_over)
    called = {event.event_id for event in commit.events if isinstance(event, TaskScheduled)}
    tasks = tuple(task for task in commit.tasks_cancelled if task not in called)
    if tasks:
        effects.append(CancelActivities(_cancellation(commit, tasks)))
    return effects


def _effects_of(  # noqa: PLR0911 - one for each event
    event: HistoryEvent, commit: Commit, partitions: int
) -> tuple[Effect, ...]:
    match event:
        case TaskScheduled() if event.event_id not in commit.tasks_cancelled:
            limit = _start_by(event)
            limited = () if limit is None else (LimitStart(event.event_id, limit),)
            return (CallActivity(_activity_call(commit, event)), *limited)
        case SubOrchestrationInstanceCreated():
            return (StartChild(_child_record(commit, event, partitions)),)
        case TimerCreated() if event.event_id not in commit.timers_cancelled:
            return (SetTimer(event.event_id, event),)
        case EventSent():
            return (Tell(_event(commit, event)),)
        case MessagePublished():
            return (Publish(event),)
        case MessageSent():
            return (Tell(_message(commit, event)),)
        case MessageAnswered():
            return _answer(event)
        case TerminationSent():
            return (Tell(_termination(commit, event)),)
        case ExecutionCompleted():
            told = () if event.parent is None else (Tell(_child_result(commit, event, event.parent)),)
            return (ClearExecutionTimers(), *told)
        case ContinuedAsNew():
            follow = ContinueExecution(instance_id=commit.instance_id, execution_id=event.next.execution_id)
            return (ClearExecutionTimers(), Tell(follow))
        case _:
            return _of_entities(event, commit, partitions)


def _of_entities(event: HistoryEvent, commit: Commit, partitions: int) -> tuple[Effect, ...]:
    """What is asked of entities, and what they bring about themselves."""
    match event:
        case EntityOperationCalled() | EntityOperationSignaled() | EntityLockRequested() | EntityUnlockSent():
            return () if event.line is None else (Tell(entities.request(commit, event, event.line)),)
        case EntityOperationProcessed():
            return () if event.caller is None else (Tell(entities.result(event, event.caller)),)
        case EntityLocked():
            return (Tell(entities.grant(event)),)
        case EntityRequestReceived():
            timer = entities.timer(event)
            return () if timer is None else (SetTimer(timer.event_id, timer),)
        case NewOrchestrationStarted():
            return (StartChild(entities.started_record(commit, event, partitions)),)
        case EntityYielded():
            return (Tell(Wake(instance_id=commit.instance_id)),)
        case _:
            return ()


def projection(commit: Commit) -> Projection:
    """What a commit changes in the record of its instance."""
    completed, continued = commit.completed, commit.continued
    started = continued.next if continued else _started(commit)
    return Projection(
        instance_id=commit.instance_id,
        n=commit.n,
        execution_id=commit.execution_id,
        generation=commit.generation,
        next_execution_id=continued.next.execution_id if continued else commit.execution_id,
        next_generation=continued.next.generation if continued else commit.generation,
        first=commit.n + 1 if continued else commit.first,
        runtime_status=commit.runtime_status,
        custom_status=commit.custom_status,
        last_updated_time=commit.at,
        parked=commit.parked,
        begins=started is not None,
        input=started.input if started else None,
        version=started.version if started else None,
        output=_output(completed),
        failure=completed.failure if completed else None,
        completed_time=commit.at if completed else None,
        entity=commit.entity,
    )


def _started(commit: Commit) -> ExecutionStarted | None:
    first_two = commit.events[:2]  # an execution that begins suspended says that before
    return next((event for event in first_two if isinstance(event, ExecutionStarted)), None)


def child_failed(record: InstanceRecord, failure: FailureDetails) -> ChildResult | None:
    """What a parent is told when its child could not be started."""
    if record.parent is None:
        return None
    return ChildResult(
        instance_id=record.parent.instance_id,
        execution_id=record.parent.execution_id,
        task_scheduled_id=record.parent.task_scheduled_id,
        at=record.created_time,
        failure=failure,
    )


def _output(completed: ExecutionCompleted | None) -> Payload | None:
    if completed is None or completed.failure is None:
        return completed.result if completed else None
    text = f"{completed.failure.error_type}: {completed.failure.error_message}"
    return msgspec.json.encode(text).decode()


def _activity_call(commit: Commit, event: TaskScheduled) -> ActivityCall:
    return ActivityCall(
        instance_id=commit.instance_id,
        execution_id=commit.execution_id,
        task_scheduled_id=event.event_id,
        name=event.name,
        queue=event.queue,
        input=event.input,
        scheduled_at=event.timestamp,
        trace=action_context(commit.trace, commit.execution_id, event.event_id),
        attempt=event.attempt,
        first_attempt=event.first_attempt,
        heartbeat_details=event.heartbeat_details,
        start_to_close=event.start_to_close,
        heartbeat_timeout=event.heartbeat_timeout,
        start_by=_start_by(event),
    )


def _start_by(event: TaskScheduled) -> datetime | None:
    limit = event.schedule_to_start
    # Stores keep milliseconds: rounded up, so that nothing is too late that was in time.
    return None if limit is None else event.timestamp + timedelta(milliseconds=-(-limit * 1000 // 1))


def _cancellation(commit: Commit, tasks: tuple[int, ...]) -> ActivitiesCancelled:
    return ActivitiesCancelled(instance_id=commit.instance_id, execution_id=commit.execution_id, tasks=tasks)


def _child_record(commit: Commit, event: SubOrchestrationInstanceCreated, partitions: int) -> InstanceRecord:
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
        parent=None
        if event.fire_and_forget
        else ParentInstance(
            instance_id=commit.instance_id,
            execution_id=commit.execution_id,
            task_scheduled_id=event.event_id,
        ),
        trace=action_context(commit.trace, commit.execution_id, event.event_id),
    )


def _event(commit: Commit, event: EventSent) -> RaiseEvent:
    return RaiseEvent(
        instance_id=event.instance_id,
        message_id=sent_message_id(commit.execution_id, event.event_id),
        name=event.name,
        at=event.timestamp,
        input=event.input,
        trace=action_context(commit.trace, commit.execution_id, event.event_id),
    )


def _message(commit: Commit, event: MessageSent) -> DeliverMessage:
    asker = AskingTask(
        instance_id=commit.instance_id, execution_id=commit.execution_id, task_scheduled_id=event.event_id
    )
    return DeliverMessage(
        instance_id=event.instance_id,
        message_id=sent_message_id(commit.execution_id, event.event_id),
        name=event.name,
        at=event.timestamp,
        input=event.input,
        asker=asker if event.asks else None,
        trace=action_context(commit.trace, commit.execution_id, event.event_id),
    )


def _answer(event: MessageAnswered) -> tuple[Effect, ...]:
    match event.asker:
        case AskingClient(inbox=inbox):
            return (SendReply(inbox, Reply(reply_to=event.message_id, result=event.result, failure=event.failure)),)
        case AskingTask() as task:
            return (Tell(answer_to(task, event.timestamp, event.result, event.failure)),)
        case None:
            return ()


def answer_to(
    task: AskingTask, at: datetime, result: Payload | None = None, failure: FailureDetails | None = None
) -> Answer:
    """What an orchestration is told that asked."""
    return Answer(
        instance_id=task.instance_id,
        execution_id=task.execution_id,
        task_scheduled_id=task.task_scheduled_id,
        at=at,
        result=result,
        failure=failure,
    )


def _termination(commit: Commit, event: TerminationSent) -> Terminate:
    return Terminate(
        instance_id=event.instance_id,
        message_id=f"{commit.execution_id}/terminate/{event.execution_id}",
        at=event.timestamp,
        reason=event.reason,
        execution_id=event.execution_id,
        name=event.name,
    )


def _child_result(commit: Commit, event: ExecutionCompleted, parent: ParentInstance) -> ChildResult:
    failure = event.failure
    if event.orchestration_status == "Terminated":
        failure = terminated_failure(commit.instance_id, event.result)
    return ChildResult(
        instance_id=parent.instance_id,
        execution_id=parent.execution_id,
        task_scheduled_id=parent.task_scheduled_id,
        at=event.timestamp,
        result=as_told(event.result) if failure is None else None,
        failure=failure,
    )
