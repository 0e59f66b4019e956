"""What a client asks of entities, and how it looks at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from callboard.batching import Batcher
from callboard.bodies import load_instances
from callboard.client.connection import Connection
from callboard.codecs.showing import shown
from callboard.core import payloads
from callboard.core.codec import Codec, Content, load, operation_place, state_place
from callboard.core.entities import Caller, CleanUp, EntityId, EntityView, Operation, Position, Unlock
from callboard.core.entity_calls import Due, OperationName, due_time, named
from callboard.core.entity_state import EntityState
from callboard.core.failure import FailureDetails
from callboard.core.instances import InstanceRecord, Parked
from callboard.core.messages import EntityRequest
from callboard.large_values import LargeValues
from callboard.ports import EntityFilter, LoadedInstance

#: Most entities whose signals a client counts; then it begins anew, under another name.
MOST_COUNTED = 100_000
#: How long an entity must have done nothing before it is cleaned up, by default (Durable Functions' reorder window).
IDLE = timedelta(minutes=30)
#: How many entities are looked at at once while they are cleaned up.
PAGE = 500


class EntityStateResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An entity's last committed state (Durable Functions' name)."""

    entity_exists: bool
    entity_state: Any


class EntityMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """An entity, as it was a moment ago."""

    entity_id: EntityId
    exists: bool
    """Whether it has a state."""
    state: Any
    """None if it has none, or was not asked for."""
    last_operation_time: datetime | None
    backlog_queue_size: int
    """How many operations wait: while it is locked, while its code is missing, or for their turn."""
    locked_by: str | None
    """The orchestration whose critical section holds it."""
    last_failure: FailureDetails | None
    """Why the latest operation that failed did."""
    parked: Parked | None
    """Why its code cannot run, if it cannot."""


class EntitiesPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some entities in order of their ids, and where the next page begins (None on the last)."""

    entities: tuple[EntityMetadata, ...]
    continuation: str | None


class CleanEntityStorageResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was cleaned up."""

    empty_entities_removed: int
    orphaned_locks_released: int


class Entities:
    """The entities' side of a client."""

    def __init__(self, connection: Connection, codec: Codec, large: LargeValues) -> None:
        self._connection = connection
        self._codec = codec
        self._large = large
        self._counts: dict[str, int] = {}
        self._line = ""
        self._loads: Batcher[str, LoadedInstance | None] = Batcher(
            self._load, connection.host, name="load", most=PAGE, parallel=2
        )

    async def aclose(self) -> None:
        await self._loads.aclose()

    # Asking

    async def signal(self, entity: EntityId, operation: OperationName, value: object, at: Due | None) -> None:
        name, _ = named(operation)
        await self.signal_content(entity, name, self._codec.encode(value, f"The input of operation {name!r}"), at)

    async def signal_content(
        self, entity: EntityId, operation: str, content: Content | None, at: Due | None = None
    ) -> None:
        now = self._connection.host.now()
        position = self._next_position(entity.instance_id)
        request_id = str(position)
        payload = self._codec.seal(content, operation_place(entity.instance_id, request_id, operation))
        request = Operation(
            line=position,
            sent=now,
            request_id=request_id,
            operation=operation,
            input=await self._large.kept(payload, entity.instance_id),
            due=None if at is None else due_time(at, now),
        )
        await self._connection.send(EntityRequest(instance_id=entity.instance_id, request=request))

    def _next_position(self, instance_id: str) -> Position:
        """Numbers are what an entity knows repeated requests by. They keep no order: a client that dies leaves gaps."""
        if not self._line or len(self._counts) >= MOST_COUNTED:
            self._counts.clear()
            self._line = f"client-{self._connection.host.token()}"
        number = self._counts.get(instance_id, 0)
        self._counts[instance_id] = number + 1
        return Position(sender=self._line, number=number)

    # Looking

    async def state(self, entity: EntityId, expected: Any) -> EntityStateResponse:
        loaded = await self._connection.submit(self._loads, entity.instance_id)
        if loaded is None or (state := _state(loaded)).value is None:
            return EntityStateResponse(entity_exists=False, entity_state=None)
        payload = await self._large.fetched(state.value)
        content = self._codec.open(payload, state_place(state.instance_id, state.execution_id))
        value = load(content, payloads.decodable(expected), f"The state of {entity}")
        return EntityStateResponse(entity_exists=True, entity_state=value)

    async def find(self, entity: EntityId, *, include_state: bool) -> EntityMetadata | None:
        loaded = await self._connection.submit(self._loads, entity.instance_id)
        if loaded is not None and include_state:
            loaded = await self._large.whole_instance(loaded)
        return loaded_metadata(loaded, self._codec, include_state=include_state)

    async def page(
        self, which: EntityFilter, *, include_state: bool, limit: int, continuation: str | None
    ) -> EntitiesPage:
        page = await self._connection.hub.store.query_entities(which, limit=limit, continuation=continuation)
        found = tuple(metadata(record, self._codec, include_state=include_state) for record in page.records)
        return EntitiesPage(entities=found, continuation=page.continuation)

    async def _load(self, instance_ids: Sequence[str]) -> list[LoadedInstance | None]:
        loaded = await load_instances(self._connection.hub.store, list(dict.fromkeys(instance_ids)))
        return [loaded.get(instance_id) for instance_id in instance_ids]

    # Cleaning up

    async def clean(self, *, empty: bool, locks: bool, idle: timedelta) -> CleanEntityStorageResult:
        store = self._connection.hub.store
        removed = released = 0
        continuation: str | None = None
        while True:
            everything = EntityFilter(include_transient=True)
            page = await store.query_entities(everything, limit=PAGE, continuation=continuation)
            if empty:
                removed += await self._remove_empty(page.records, idle)
            if locks:
                released += await self._release_orphaned(page.records)
            continuation = page.continuation
            if continuation is None:
                return CleanEntityStorageResult(empty_entities_removed=removed, orphaned_locks_released=released)

    async def _remove_empty(self, records: Sequence[InstanceRecord], idle: timedelta) -> int:
        """Asks those that are empty to end; their owner decides, and deletes them. What a crash left ended is deleted here."""
        store, now = self._connection.hub.store, self._connection.host.now()
        purged = [await store.purge(record.instance_id) for record in records if record.terminal].count(True)
        candidates = [each.instance_id for each in records if each.entity is not None and not each.entity.exists]
        found = await load_instances(store, candidates) if candidates else {}  # records may be a moment old
        asked = 0
        for loaded in found.values():
            state = _state(loaded)
            last = state.last_operation or loaded.record.created_time
            if state.is_empty and not state.terminal and now - last >= idle:
                await self._ask_to_end(state.instance_id, idle)
                asked += 1
        return purged + asked

    async def _ask_to_end(self, instance_id: str, idle: timedelta) -> None:
        position, now = Position(sender=f"clean-{self._connection.host.token()}"), self._connection.host.now()
        request = CleanUp(line=position, sent=now, idle=idle.total_seconds())
        await self._connection.send(EntityRequest(instance_id=instance_id, request=request))

    async def _release_orphaned(self, records: Sequence[InstanceRecord]) -> int:
        """Locks end with their execution's last commit; one whose execution is not there any more was left by a lost history."""
        locked = [record.instance_id for record in records if record.entity is not None and record.entity.locked_by]
        if not locked:
            return 0
        loaded = await load_instances(self._connection.hub.store, locked)
        locks = {each: lock for each in loaded if (lock := _state(loaded[each]).lock) is not None}
        owners = await self._connection.hub.store.load([lock.instance_id for lock in locks.values()])
        orphaned = {each: lock for each, lock in locks.items() if not _holds(owners.get(lock.instance_id), lock)}
        for instance_id, lock in orphaned.items():
            position = Position(sender=f"fix-orphaned-lock-{self._connection.host.token()}")
            request = Unlock(line=position, sent=self._connection.host.now(), caller=lock)
            await self._connection.send(EntityRequest(instance_id=instance_id, request=request))
        return len(orphaned)


def _holds(owner: LoadedInstance | None, lock: Caller) -> bool:
    """Whether an orchestration is still in the execution that asked for a lock."""
    if owner is None:
        return False
    last = owner.commits[-1] if owner.commits else None
    if last is None:
        return owner.record.execution_id == lock.execution_id and not owner.record.terminal
    return last.execution_id == lock.execution_id and not last.terminal and last.continued is None


def _state(loaded: LoadedInstance) -> EntityState:
    return EntityState.fold(loaded.record, loaded.commits)


def metadata(record: InstanceRecord, codec: Codec, *, include_state: bool) -> EntityMetadata:
    """What a record says of an entity."""
    view = record.entity or EntityView()
    place = state_place(record.instance_id, record.execution_id)
    return EntityMetadata(
        entity_id=EntityId.parse(record.instance_id),
        exists=view.exists,
        state=shown(codec, view.state, place) if include_state else None,
        last_operation_time=view.last_operation,
        backlog_queue_size=view.backlog,
        locked_by=view.locked_by,
        last_failure=view.last_failure,
        parked=record.parked,
    )


def loaded_metadata(
    loaded: LoadedInstance | None, codec: Codec, *, include_state: bool = True
) -> EntityMetadata | None:
    """What an entity's last commit says of it; None if there is none, or it has ended."""
    if loaded is None or (state := _state(loaded)).terminal:
        return None
    record = msgspec.structs.replace(loaded.record, entity=state.view, parked=state.parked)
    return metadata(record, codec, include_state=include_state)
