"""Commits whose events are too large for one document: the events are kept as a payload, put there before the commit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from callboard.core.entities import EntityMemory, EntityView, is_entity
from callboard.core.entity_state import ENTRY_SIZE, request_size
from callboard.core.events import (
    AnswerReceived,
    ContinuedAsNew,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityOperationProcessed,
    EntityOperationSignaled,
    EntityRequestReceived,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionStarted,
    ExecutionTerminated,
    HistoryEvent,
    MessageAnswered,
    MessagePublished,
    MessageReceived,
    MessageSent,
    NewOrchestrationStarted,
    StartedOrchestrationEnded,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
)
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit
from callboard.ports import LoadedInstance, Store

#: Size of a commit's events beyond which they are stored apart, in bytes (estimated; characters may take up to four).
MOST_INLINE = 786_432

_decoder: msgspec.json.Decoder[tuple[HistoryEvent, ...]] = msgspec.json.Decoder(tuple[HistoryEvent, ...])
_encode = msgspec.json.Encoder().encode


class _EntityBody(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored apart of an entity's commit."""

    events: tuple[HistoryEvent, ...]
    entity: EntityView | None
    memory: EntityMemory | None


_entity_decoder = msgspec.json.Decoder(_EntityBody)


async def stored_apart(store: Store, commit: Commit) -> Commit:
    """A commit as it is to be appended: itself, or without its events and with the key of the payload that has them."""
    if commit_size(commit) <= MOST_INLINE:
        return commit
    if commit.entity is not None:
        body = _encode(_EntityBody(events=commit.events, entity=commit.entity, memory=commit.memory))
        key = await store.put_payload(commit.instance_id, body)
        return msgspec.structs.replace(commit, events=(), entity=None, memory=None, body=key)
    key = await store.put_payload(commit.instance_id, _encode(commit.events))
    return msgspec.structs.replace(commit, events=_tail(commit), body=key)


def _tail(commit: Commit) -> tuple[HistoryEvent, ...]:
    """What ends an execution stays in the commit, because the store looks for it there; what makes it large does not."""
    match commit.events[-1]:
        case ExecutionCompleted() as end:
            return (msgspec.structs.replace(end, result=None, failure=None),)
        case ContinuedAsNew() as end:
            start = msgspec.structs.replace(end.next, input=None, seen=(), answers=())
            return (msgspec.structs.replace(end, next=start, carried=()),)
        case _:
            return ()


async def restored(store: Store, commit: Commit) -> Commit:
    """The commit as it was decided."""
    if commit.body is None:
        return commit
    body = await store.get_payload(commit.body)
    if is_entity(commit.instance_id):
        whole = _entity_decoder.decode(body)
        return msgspec.structs.replace(commit, events=whole.events, entity=whole.entity, memory=whole.memory, body=None)
    events = _decoder.decode(body)
    return msgspec.structs.replace(commit, events=events, body=None)


async def restored_all(store: Store, commits: Sequence[Commit]) -> list[Commit]:
    return [commit if commit.body is None else await restored(store, commit) for commit in commits]


async def load_instances(store: Store, instance_ids: Sequence[str]) -> dict[str, LoadedInstance]:
    """`Store.load`, with the events of large commits."""
    loaded = await store.load(instance_ids)
    for instance_id, instance in loaded.items():
        if any(commit.body is not None for commit in instance.commits):
            commits = tuple(await restored_all(store, instance.commits))
            loaded[instance_id] = msgspec.structs.replace(instance, commits=commits)
    return loaded


def commit_size(commit: Commit) -> int:
    """Estimate of a commit's encoded size, in bytes."""
    size = estimated_size(commit.events)
    if commit.entity is not None:
        size += len(commit.entity.state or "")
    if (memory := commit.memory) is not None:
        size += ENTRY_SIZE * (len(memory.heard) + len(memory.lines) + len(memory.started))
        size += 16 * sum(len(heard.ranges) for heard in memory.heard)
        size += sum(map(request_size, (*memory.queue, *memory.urgent, *memory.held)))
        size += sum(request_size(timed.request) for timed in memory.timed)
    return size


def estimated_size(events: Sequence[HistoryEvent]) -> int:
    """Estimate of the events' encoded size, in bytes."""
    size = 256 * len(events)
    for event in events:
        match event:  # in order of frequency
            case TaskCompleted() | SubOrchestrationInstanceCompleted() | EntityOperationCompleted():
                size += len(event.result or "")
            case TaskScheduled():
                size += len(event.input or "") + len(event.heartbeat_details or "")
            case ExecutionStarted():
                size += _start_size(event)
            case (
                EventRaised()
                | MessageReceived()
                | SubOrchestrationInstanceCreated()
                | EventSent()
                | MessagePublished()
                | MessageSent()
                | ExecutionTerminated()
                | EntityOperationCalled()
                | EntityOperationSignaled()
                | NewOrchestrationStarted()
            ):
                size += len(event.input or "")
            case ExecutionCompleted() | MessageAnswered() | AnswerReceived():
                size += len(event.result or "") + failure_size(event.failure)
            case TaskFailed():
                size += failure_size(event.failure) + len(event.heartbeat_details or "")
            case SubOrchestrationInstanceFailed() | EntityOperationFailed():
                size += failure_size(event.failure)
            case EntityRequestReceived():
                size += request_size(event.request)
            case EntityOperationProcessed() | StartedOrchestrationEnded():
                size += len(event.result or "") + failure_size(event.failure)
            case ContinuedAsNew():
                size += _start_size(event.next) + estimated_size(event.carried)
            case _:
                pass
    return size


def _start_size(event: ExecutionStarted) -> int:
    return len(event.input or "") + 128 * len(event.seen) + estimated_size(event.answers)


def failure_size(failure: FailureDetails | None) -> int:
    """Estimate of a failure's encoded size, in bytes."""
    size = 0
    while failure is not None:
        size += 128 + len(failure.error_message) + len(failure.stack_trace or "")
        failure = failure.inner_failure
    return size
