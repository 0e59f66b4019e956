"""Why does an instance not go on? What it waits for, who has it, and what stands in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from callboard.bodies import load_instances
from callboard.codecs.showing import shown
from callboard.core.codec import JSON, Codec, progress_place
from callboard.core.events import RuntimeStatus
from callboard.core.explaining import Awaited, awaited
from callboard.core.instances import InstanceRecord, check_instance_id
from callboard.core.state import InstanceState
from callboard.errors import InstanceNotFoundError
from callboard.ownership import LEASE
from callboard.ports import Claim, HubView, Lease, Quarantined, Store, WorkerInfo

#: How many of the latest messages in quarantine are searched.
QUARANTINED = 200
#: How much later than due a timer may be before that is worth a word.
_LATE = timedelta(seconds=5)


class Reason(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One thing that an instance waits for, or that stands in its way."""

    text: str
    """For a person."""
    awaits: Awaited | None = None
    worker_id: str | None = None
    """Who runs the activity."""
    heartbeat: datetime | None = None
    progress: Any = None
    """What the activity's last heartbeat said."""
    trouble: bool = False
    """Whether somebody must do something about it."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Why an instance is where it is."""

    instance_id: str
    name: str
    runtime_status: RuntimeStatus
    last_updated_time: datetime
    owner: str | None
    """The worker that owns its partition."""
    partition: int
    epoch: int
    reasons: tuple[Reason, ...]

    @property
    def text(self) -> str:
        """All of it in sentences, a line each."""
        head = f"{self.name} {self.instance_id} is {self.runtime_status}."
        return "\n".join([head, *(reason.text for reason in self.reasons)])


class _Scene(msgspec.Struct, frozen=True):
    """What was looked up."""

    record: InstanceRecord
    state: InstanceState
    view: HubView
    claims: Sequence[Claim]
    children: dict[str, InstanceRecord]
    quarantined: Sequence[Quarantined]
    codec: Codec

    @property
    def lease(self) -> Lease:
        return self.view.leases[self.record.partition]

    def worker(self, worker_id: str | None) -> WorkerInfo | None:
        return next((worker for worker in self.view.workers if worker.worker_id == worker_id), None)


async def explain(store: Store, instance_id: str, codec: Codec = JSON) -> Explanation:
    """Looks at everything that could hold an instance up; the codec opens what activities have said of their progress.

    Raises:
        InstanceNotFoundError: there is none of that id.
    """
    check_instance_id(instance_id)
    loaded, view, claims, quarantined = await asyncio.gather(
        load_instances(store, [instance_id]),
        store.view(ttl=LEASE),
        store.claims(instance_id),
        store.quarantined(QUARANTINED),
    )
    if instance_id not in loaded:
        raise InstanceNotFoundError(instance_id)
    record, state = (
        loaded[instance_id].record,
        InstanceState.fold(loaded[instance_id].record, loaded[instance_id].commits),
    )
    children = [each.instance_id for each in awaited(state) if each.instance_id is not None]
    mentions = [message for message in quarantined if instance_id.encode() in message.body]
    scene = _Scene(record, state, view, claims, await store.records(children), mentions, codec)
    lease = scene.lease
    return Explanation(
        instance_id=instance_id,
        name=record.name,
        runtime_status=state.status,
        last_updated_time=state.at or record.last_updated_time,
        owner=None if lease.expired else lease.owner,
        partition=record.partition,
        epoch=lease.epoch,
        reasons=tuple(_reasons(scene)),
    )


def _reasons(scene: _Scene) -> list[Reason]:
    state, now = scene.state, scene.view.now
    reasons: list[Reason] = []
    if state.terminal:
        ended = _ago(now, scene.record.completed_time or scene.record.last_updated_time)
        failure = f": {scene.record.failure.error_message}" if scene.record.failure else ""
        return [Reason(text=f"It ended {ended}{failure}. Nothing is awaited.")]
    if state.parked is not None:
        reasons.append(
            Reason(
                text=f"Its code cannot run; it was parked {_ago(now, state.parked.at)}: {state.parked.reason}",
                trouble=True,
            )
        )
    if state.suspended:
        reasons.append(Reason(text="It is suspended: what comes in is kept until it is resumed.", trouble=True))
    if state.waiting_to_begin:
        reasons.append(_not_begun(scene))
    reasons.extend(_awaits(each, scene) for each in awaited(state))
    if not reasons:
        reasons.append(
            Reason(
                text="It waits for nothing that history knows of: its next turn is under way, or it waits for a message."
            )
        )
    reasons.append(_ownership(scene))
    reasons.extend(
        Reason(
            text=f"A message of {_ago(now, message.at)} that names it is in quarantine: {message.reason}", trouble=True
        )
        for message in scene.quarantined
    )
    return reasons


def _not_begun(scene: _Scene) -> Reason:
    start, now = scene.state.start, scene.view.now
    due = start.scheduled_start_time if start else None
    if due is not None and due > now:
        return Reason(text=f"It is to begin in {_span(due - now)}.")
    return Reason(text=f"It was created {_ago(now, scene.record.created_time)} and has not begun.")


def _awaits(each: Awaited, scene: _Scene) -> Reason:
    now = scene.view.now
    match each.kind:
        case "activity":
            return _activity(each, scene)
        case "child":
            child = scene.children.get(each.instance_id or "")
            state = f"which is {child.runtime_status}" if child else "which does not exist yet"
            return Reason(text=f"It waits for its child {each.name} {each.instance_id}, {state}.", awaits=each)
        case "timer":
            due = each.due or now
            if due >= now - _LATE:
                return Reason(text=f"It waits for a timer that is due in {_span(due - now)}.", awaits=each)
            return Reason(text=f"It waits for a timer that was due {_ago(now, due)}.", awaits=each, trouble=True)
        case "event":
            return Reason(text=f"It waits for the event {each.name!r}, which has not been raised.", awaits=each)
        case "action":
            return Reason(
                text=f"It waits for {each.name} {each.task_id}, asked for {_ago(now, each.since)}.", awaits=each
            )


def _activity(each: Awaited, scene: _Scene) -> Reason:
    now = scene.view.now
    attempt = f", attempt {each.attempt}" if each.attempt > 1 else ""
    called = f"It waits for activity {each.name!r} (task {each.task_id}{attempt}), called {_ago(now, each.since)}"
    claim = next((claim for claim in scene.claims if claim.call.task_scheduled_id == each.task_id), None)
    if claim is not None and claim.call.execution_id == scene.state.execution_id:
        heard = claim.heartbeat or claim.started
        call = claim.call
        progress = shown(scene.codec, claim.details, progress_place(call.instance_id, call.execution_id, call.name))
        told = msgspec.json.encode(progress).decode()
        said = f", which said {_ago(now, heard)}: {told}" if claim.details else f", started {_ago(now, heard)}"
        lost = " That worker is gone; the call is sent again." if claim.expired else ""
        return Reason(
            text=f"{called}. It runs on {_place(scene, claim.worker_id)}{said}.{lost}",
            awaits=each,
            worker_id=claim.worker_id,
            heartbeat=claim.heartbeat,
            progress=progress,
            trouble=claim.expired,
        )
    if not any(each.queue in worker.queues for worker in scene.view.workers):
        return Reason(
            text=f"{called}. No live worker serves its queue {each.queue!r}: start one.", awaits=each, trouble=True
        )
    return Reason(text=f"{called}. It is in queue {each.queue!r}, or has run for less than a minute.", awaits=each)


def _ownership(scene: _Scene) -> Reason:
    lease = scene.lease
    if lease.owner is None or lease.expired or scene.worker(lease.owner) is None:
        hosts = any(worker.orchestrations for worker in scene.view.workers)
        what = (
            "one of the live workers takes it over within seconds"
            if hosts
            else "no live worker runs orchestrations: start one"
        )
        return Reason(text=f"Nobody owns its partition {lease.partition} at present; {what}.", trouble=True)
    return Reason(
        text=f"It belongs to {_place(scene, lease.owner)} (partition {lease.partition}, epoch {lease.epoch})."
    )


def _place(scene: _Scene, worker_id: str) -> str:
    worker = scene.worker(worker_id)
    return f"worker {worker_id} ({worker.host}, pid {worker.pid})" if worker else f"worker {worker_id}, which is gone"


def _ago(now: datetime, then: datetime | None) -> str:
    return "some time ago" if then is None else f"{_span(now - then)} ago"


def _span(span: timedelta) -> str:
    """A span as people say it."""
    seconds = max(span.total_seconds(), 0.0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
