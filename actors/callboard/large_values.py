"""Large values on their way: into the store before what refers to them, and back before code sees them.

In memory every value is whole; in history, records and messages a large one is a reference (`callboard.core.references`). The key of
its payload begins with the id of the instance that it belongs to, so that a purge takes it along, and nobody else's: a child's input is
the child's, the data of an event belong to its receiver, and of a child's output the parent gets a copy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from callboard.batching import retrying
from callboard.core.codec import Place
from callboard.core.events import (
    ContinuedAsNew,
    EntityOperationCalled,
    EntityOperationProcessed,
    EntityOperationSignaled,
    EventSent,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    MessageAnswered,
    MessageSent,
    NewOrchestrationStarted,
    Payload,
    StartedOrchestrationEnded,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
)
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.messages import Message
from callboard.core.places import Change, changed, message_value
from callboard.core.references import Reference, is_large, is_reference, read, written
from callboard.ports import Host, LoadedInstance, Store

M = TypeVar("M", bound=Message)

log = logging.getLogger("callboard")

#: How many instances may have their large values fetched at the same time: each may need much memory.
FETCHES: Final = 4
#: Events whose values code never sees again.
_SAID: Final = (
    TaskScheduled,
    SubOrchestrationInstanceCreated,
    EventSent,
    MessageSent,
    MessageAnswered,
    ExecutionCompleted,
    EntityOperationCalled,
    EntityOperationSignaled,
    EntityOperationProcessed,
    NewOrchestrationStarted,
    StartedOrchestrationEnded,
)


class LargeValues:
    """Keeps large values in the store, and fetches them."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = self.store = store
        self._host = host
        self._fetching = asyncio.Semaphore(FETCHES)

    # There

    async def kept(self, payload: Payload | None, owner: str, *, told: str | None = None) -> Payload | None:
        """The payload, or if it is large a reference to it.

        Args:
            payload: A value, sealed if it is to be.
            owner: The instance that it belongs to.
            told: Another instance, which gets a copy of its own.
        """
        if payload is None or not is_large(payload):
            return payload
        body = payload.encode()
        key = await self._put(owner, body)
        copy = await self._put(told, body) if told is not None and told != owner else None
        return written(Reference(ref=key, bytes=len(body), told=copy))

    async def _put(self, owner: str, body: bytes) -> str:
        return await retrying(lambda: self._store.put_payload(owner, body), self._host, "keep a large value")

    async def kept_apart(self, commit: Commit) -> Commit:
        """A commit with references in place of its large values, which are in the store then."""
        events = [
            await self._event_kept_apart(event, commit) if any(map(is_large, _payloads(event))) else event
            for event in commit.events
        ]
        entity = commit.entity
        if entity is not None and is_large(entity.state):
            entity = msgspec.structs.replace(entity, state=await self.kept(entity.state, commit.instance_id))
        return msgspec.structs.replace(commit, events=tuple(events), entity=entity)

    async def _event_kept_apart(self, event: HistoryEvent, commit: Commit) -> HistoryEvent:
        if isinstance(event, ExecutionCompleted):
            told = event.parent.instance_id if event.parent else None
            result = await self.kept(event.result, commit.instance_id, told=told)
            return msgspec.structs.replace(event, result=result)
        large: list[tuple[Payload, Place]] = []
        changed(event, commit.instance_id, commit.execution_id, _noting(large, is_large))
        references = {payload: await self.kept(payload, place.instance_id) or payload for payload, place in large}
        if not references:
            return event
        return changed(
            event, commit.instance_id, commit.execution_id, lambda payload, _: references.get(payload, payload)
        )

    # And back

    async def fetched(self, payload: Payload | None) -> Payload | None:
        """The value behind a reference, anything else as it is.

        A reference to what is not there stays one: whoever opens it says so (`callboard.core.codec.Codec.open`).
        """
        reference = read(payload)
        if reference is None:
            return payload
        try:
            body = await retrying(lambda: self._store.get_payload(reference.ref), self._host, "fetch a large value")
        except KeyError:
            log.warning("The large value %s is not there.", reference.ref)
            return payload
        return body.decode()

    async def whole_message(self, message: M) -> M:
        """A message with its value."""
        value = message_value(message)
        if value is None or not is_reference(value[1]):
            return message
        field, payload, _ = value
        async with self._fetching:
            whole = await self.fetched(payload)
        return msgspec.structs.replace(message, **{field: whole})

    async def whole_instance(self, loaded: LoadedInstance) -> LoadedInstance:
        """An instance with the values that its code is to see."""
        async with self._fetching:
            commits = [await self._whole_commit(commit, skip=_SAID) for commit in loaded.commits]
            return LoadedInstance(record=await self.whole_record(loaded.record), commits=tuple(commits))

    async def whole_commits(self, commits: Sequence[Commit]) -> list[Commit]:
        """Commits with all of their values."""
        return [await self._whole_commit(commit) for commit in commits]

    async def whole_record(self, record: InstanceRecord) -> InstanceRecord:
        """A record with its values."""
        if not is_reference(record.input) and not is_reference(record.output):
            return record
        return msgspec.structs.replace(
            record,
            input=await self.fetched(record.input),
            output=await self.fetched(record.output),
        )

    async def _whole_commit(self, commit: Commit, *, skip: tuple[type[HistoryEvent], ...] = ()) -> Commit:
        found: list[tuple[Payload, Place]] = []
        for event in commit.events:
            if not isinstance(event, skip):
                changed(event, commit.instance_id, commit.execution_id, _noting(found, is_reference))
        if commit.entity is not None and is_reference(commit.entity.state):
            entity = msgspec.structs.replace(commit.entity, state=await self.fetched(commit.entity.state))
            commit = msgspec.structs.replace(commit, entity=entity)
        if not found:
            return commit
        whole = {payload: await self.fetched(payload) or payload for payload, _ in found}
        events = [
            changed(event, commit.instance_id, commit.execution_id, lambda payload, _: whole.get(payload, payload))
            for event in commit.events
        ]
        return msgspec.structs.replace(commit, events=tuple(events))


def refers(loaded: LoadedInstance) -> bool:
    """Whether the code of an instance is to see values that are not at hand."""
    if is_reference(loaded.record.input):
        return True
    if any(commit.entity is not None and is_reference(commit.entity.state) for commit in loaded.commits):
        return True
    events = (event for commit in loaded.commits for event in commit.events if not isinstance(event, _SAID))
    return any(is_reference(payload) for event in events for payload in _payloads(event))


def _payloads(event: HistoryEvent) -> Iterator[Payload | None]:
    """The values in an event, without their places: that costs little."""
    if isinstance(event, ContinuedAsNew):
        yield from _payloads(event.next)
        yield from (raised.input for raised in event.carried)
    else:
        yield getattr(event, "input", None) or getattr(event, "result", None)
    if isinstance(event, ExecutionStarted):
        yield from (answer.result for answer in event.answers)


def _noting(found: list[tuple[Payload, Place]], wanted: Callable[[Payload], bool]) -> Change:
    """Changes nothing, and notes the values that are wanted."""

    def note(payload: Payload, place: Place) -> Payload:
        if wanted(payload):
            found.append((payload, place))
        return payload

    return note
