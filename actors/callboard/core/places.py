"""The values in a history and in messages, and the place of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import msgspec

from callboard.core.codec import (
    Codec,
    Place,
    answer_place,
    event_place,
    input_place,
    message_place,
    moved,
    operation_place,
    output_place,
    published_place,
    result_place,
    task_input_place,
)
from callboard.core.events import (
    AnswerReceived,
    ContinuedAsNew,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationProcessed,
    EntityOperationSignaled,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    MessageAnswered,
    MessagePublished,
    MessageReceived,
    MessageSent,
    NewOrchestrationStarted,
    Payload,
    StartedOrchestrationEnded,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    TaskCompleted,
    TaskScheduled,
)
from callboard.core.instances import sent_message_id
from callboard.core.messages import (
    ActivityCall,
    Answer,
    ChildResult,
    DeliverMessage,
    Message,
    OperationResult,
    Query,
    RaiseEvent,
    TaskResult,
)

E = TypeVar("E", bound=HistoryEvent)

#: What to make of a payload at its place.
Change = Callable[[Payload, Place], Payload]


def event_value(event: HistoryEvent, instance_id: str, execution_id: str) -> tuple[str, Payload, Place] | None:
    """The field of an event that holds a value, the value, and its place; None if it holds none.

    Args:
        event: Of this instance and execution. `ContinuedAsNew` holds other events: see `changed`.
        instance_id: Whose history it is in.
        execution_id: Which execution's.
    """
    match event:
        case ExecutionStarted():
            found = "input", event.input, input_place(instance_id, event.execution_id)
        case TaskScheduled():
            found = "input", event.input, task_input_place(instance_id, execution_id, event.event_id)
        case SubOrchestrationInstanceCreated():
            found = "input", event.input, input_place(event.instance_id, event.execution_id)
        case EventSent():
            message_id = sent_message_id(execution_id, event.event_id)
            found = "input", event.input, event_place(event.instance_id, message_id, event.name)
        case EventRaised():
            found = "input", event.input, event_place(instance_id, event.message_id, event.name)
        case MessageSent():
            message_id = sent_message_id(execution_id, event.event_id)
            found = "input", event.input, message_place(event.instance_id, message_id, event.name)
        case MessagePublished():
            found = "input", event.input, published_place(instance_id, execution_id, event.event_id)
        case MessageReceived():
            found = "input", event.input, message_place(instance_id, event.message_id, event.name)
        case MessageAnswered():
            found = "result", event.result, answer_place(instance_id, event.message_id, event.asker)
        case TaskCompleted() | SubOrchestrationInstanceCompleted() | AnswerReceived() | EntityOperationCompleted():
            found = "result", event.result, result_place(instance_id, execution_id, event.task_scheduled_id)
        case ExecutionCompleted(orchestration_status="Completed"):
            found = "result", event.result, output_place(instance_id, execution_id, event.parent)
        case _:
            return _entity_value(event, instance_id, execution_id)
    field, payload, place = found
    return None if payload is None else (field, payload, place)


def _entity_value(event: HistoryEvent, instance_id: str, execution_id: str) -> tuple[str, Payload, Place] | None:
    """The same for what is sent to entities, and what they send."""
    match event:
        case EntityOperationCalled() | EntityOperationSignaled():
            request_id = sent_message_id(execution_id, event.event_id)
            found = "input", event.input, operation_place(event.instance_id, request_id, event.operation)
        case EntityOperationProcessed(caller=caller) if caller is not None:
            place = result_place(caller.instance_id, caller.execution_id, caller.task_scheduled_id)
            found = "result", event.result, place
        case NewOrchestrationStarted():
            found = "input", event.input, input_place(event.instance_id, event.execution_id)
        case StartedOrchestrationEnded():
            found = "result", event.result, result_place(instance_id, execution_id, event.number)
        case _:  # a reason is plain JSON, for everybody to read
            return None
    field, payload, place = found
    return None if payload is None else (field, payload, place)


def payload_of(message: Message) -> Payload | None:
    """The value of a message, without its place: that costs nothing."""
    payload: Payload | None = getattr(message, "result", None) or getattr(message, "input", None)
    return payload


def message_value(message: Message) -> tuple[str, Payload, Place] | None:
    """The same for a message that is on its way."""
    match message:
        case TaskResult() | ChildResult() | Answer() | OperationResult():
            place = result_place(message.instance_id, message.execution_id, message.task_scheduled_id)
            found = "result", message.result, place
        case RaiseEvent():
            found = "input", message.input, event_place(message.instance_id, message.message_id, message.name)
        case DeliverMessage():
            found = "input", message.input, message_place(message.instance_id, message.message_id, message.name)
        case Query():
            found = "input", message.input, message_place(message.instance_id, message.query_id, message.name)
        case ActivityCall():
            place = task_input_place(message.instance_id, message.execution_id, message.task_scheduled_id)
            found = "input", message.input, place
        case _:
            return None
    field, payload, place = found
    return None if payload is None else (field, payload, place)


def changed(event: E, instance_id: str, execution_id: str, change: Change) -> E:
    """An event with its values changed; the event itself if none is."""
    if isinstance(event, ContinuedAsNew):
        start = changed(event.next, instance_id, event.next.execution_id, change)
        carried = tuple(changed(raised, instance_id, execution_id, change) for raised in event.carried)
        return cast("E", msgspec.structs.replace(event, next=start, carried=carried))
    if isinstance(event, ExecutionStarted) and event.answers:
        answers = tuple(changed(answer, instance_id, execution_id, change) for answer in event.answers)
        event = cast("E", msgspec.structs.replace(event, answers=answers))
    found = event_value(event, instance_id, execution_id)
    if found is None:
        return event
    field, payload, place = found
    new = change(payload, place)
    return event if new is payload else msgspec.structs.replace(event, **{field: new})


def resealed(
    event: E, codec: Codec, instance_id: str, execution_id: str, copy: E, new_id: str, new_execution: str
) -> E:
    """A copy of an event for another instance or execution, with its value sealed for its new place.

    Args:
        event: As it is in the history that is copied.
        codec: Opens and seals.
        instance_id: Of that history.
        execution_id: Of that history.
        copy: The event as it is to be in the new history, its ids changed; its value still the old one.
        new_id: The instance of the new history.
        new_execution: Its execution.

    Raises:
        PayloadRejectedError: the value cannot be opened.
    """
    old, new = event_value(event, instance_id, execution_id), event_value(copy, new_id, new_execution)
    if old is None or new is None:
        return copy
    field, payload, place = old
    return msgspec.structs.replace(copy, **{field: moved(codec, payload, place, new[2])})
