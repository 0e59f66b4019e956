"""What an instance waits for, read from its state: the first half of the answer to "why does it not go on?"."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from callboard.core.events import SubOrchestrationInstanceCreated, TaskScheduled, TimerCreated
from callboard.core.state import InstanceState

AwaitedKind: TypeAlias = Literal["activity", "child", "timer", "event", "action"]


class Awaited(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Something that an orchestration has asked for and that has not come."""

    kind: AwaitedKind
    name: str = ""
    """Of the activity, the child's orchestration, or the event."""
    task_id: int | None = None
    since: datetime | None = None
    due: datetime | None = None
    """Of a timer."""
    queue: str | None = None
    """Of an activity."""
    attempt: int = 1
    instance_id: str | None = None
    """Of a child."""


def awaited(state: InstanceState) -> list[Awaited]:
    """All that has not come, in the order in which it was asked for; external events last."""
    if state.terminal or state.waiting_to_begin:
        return []
    found: list[Awaited] = []
    for number, action in sorted(state.open.items()):
        match action:
            case TaskScheduled():
                found.append(
                    Awaited(
                        kind="activity",
                        name=action.name,
                        task_id=number,
                        since=action.timestamp,
                        queue=action.queue,
                        attempt=action.attempt,
                    )
                )
            case SubOrchestrationInstanceCreated():
                found.append(
                    Awaited(
                        kind="child",
                        name=action.name,
                        task_id=number,
                        since=action.timestamp,
                        instance_id=action.instance_id,
                    )
                )
            case TimerCreated():
                found.append(Awaited(kind="timer", task_id=number, since=action.timestamp, due=action.fire_at))
            case _:
                found.append(Awaited(kind="action", name=type(action).__name__, task_id=number, since=action.timestamp))
    found.extend(Awaited(kind="event", name=name, since=state.at) for name in state.awaited_events)
    return found
