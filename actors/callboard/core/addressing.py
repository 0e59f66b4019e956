"""What an orchestration's commit sends to entities: each request gets its position, and the last commit gives locked entities back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from callboard.core.entities import Position
from callboard.core.events import (
    ContinuedAsNew,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationSignaled,
    EntityUnlockSent,
    ExecutionCompleted,
    HistoryEvent,
    ToEntityEvent,
)
from callboard.core.ordering import LINE_AGE
from callboard.core.state import InstanceState

#: What makes a commit's events different from the turn's, where nothing is locked.
_ADDRESSED = frozenset(
    {EntityOperationCalled, EntityOperationSignaled, EntityLockRequested, EntityUnlockSent, ContinuedAsNew}
)
TO_ENTITY = (EntityOperationCalled, EntityOperationSignaled, EntityLockRequested, EntityUnlockSent)


def addressed(state: InstanceState, events: Sequence[HistoryEvent], now: datetime) -> tuple[HistoryEvent, ...]:
    """A turn's events as they are committed.

    Every commit that ends the execution (completed, failed, terminated, continued, reset) unlocks what the execution has locked or asked
    for: nothing else would.
    """
    if not state.locks and _ADDRESSED.isdisjoint(map(type, events)):
        return tuple(events)
    locks = dict(state.locks)
    found: list[HistoryEvent] = []
    for event in events:
        if isinstance(event, TO_ENTITY):
            event = _placed(state, event, now)  # noqa: PLW2901 - the same event, complete
            if isinstance(event, EntityLockRequested):
                locks[event.event_id] = event
            elif isinstance(event, EntityUnlockSent):
                locks.pop(event.task_scheduled_id, None)
        elif isinstance(event, (ExecutionCompleted, ContinuedAsNew)):
            found.extend(_placed(state, _unlock(request, now), now) for request in locks.values())
            locks.clear()
        if isinstance(event, ContinuedAsNew) and len(state.lines):
            state.lines.forget(now - LINE_AGE)
            following = msgspec.structs.replace(event.next, lines=state.lines.values())
            event = msgspec.structs.replace(event, next=following)  # noqa: PLW2901 - as above
        found.append(event)
    return tuple(found)


def _placed(state: InstanceState, event: ToEntityEvent, now: datetime) -> ToEntityEvent:
    if isinstance(event, EntityOperationSignaled) and event.scheduled_time is not None:
        # It comes when its time has come, not in line.
        position = Position(sender=f"{state.execution_id}/{event.event_id}")
    else:
        position = state.lines.next(event.instance_id, state.execution_id, now)
    return msgspec.structs.replace(event, line=position)


def _unlock(request: EntityLockRequested, now: datetime) -> EntityUnlockSent:
    return EntityUnlockSent(timestamp=now, instance_id=request.instance_id, task_scheduled_id=request.event_id)
