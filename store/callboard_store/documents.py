"""Values as documents, and back. Pure: dicts in, dicts out.

Field names are those that a person reads in Compass or mongosh; times are dates, which MongoDB keeps to the millisecond. Keys of what
belongs to an instance begin with its id and a slash (which no id contains): one instance is one range of ``_id``.

A document in ``instances`` holds, besides the record: ``startedAs`` (the execution id it was created with, which tells a repeated
``create`` from a clash even when the execution has moved on) and, while Pending, ``startAfter``. One with the status
``Purged`` is a tombstone: see `tombstone_fields`. A commit that was trimmed or purged is a document with ``expires`` until then. Beside the
commits, ``history`` holds notes of those whose effects are not known to be done: see `note_document`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias, cast

import msgspec

from callboard.core.events import Payload
from callboard.core.instances import Commit, InstanceRecord, Projection
from callboard.core.messages import ActivityCall, TaskKey
from callboard.ports import Claim, Lease, Quarantined, TimerRow, WorkerInfo
from callboard_store.rules import MAX_QUARANTINED, key_end, key_start

Document: TypeAlias = dict[str, Any]

#: The status of tombstones in ``instances``; no instance has it.
PURGED = "Purged"

_DATES = (datetime, bytes)
_INT64 = 2**63


def encode(value: object) -> Document:
    """A struct as a document, dates and bytes as they are."""
    document: Document = msgspec.to_builtins(value, builtin_types=_DATES)
    return document


# --- Commits ----------------------------------------------------------------------------------------------------------


def commit_id(instance_id: str, n: int) -> str:
    """The key of a commit: sorts by number within an instance."""
    return f"{key_start(instance_id)}{n:010d}"


def commit_range(instance_id: str, *, start: int = 0, stop: int | None = None) -> Document:
    """A condition on ``_id``: the commits of an instance with ``start <= n < stop``."""
    return {
        "$gte": commit_id(instance_id, start),
        "$lt": key_end(instance_id) if stop is None else commit_id(instance_id, stop),
    }


def commit_document(commit: Commit) -> Document:
    return {"_id": commit_id(commit.instance_id, commit.n), **encode(commit)}


def note_document(key: str, commits: Sequence[Commit]) -> Document:
    """A note of commits whose effects are not done, the oldest first."""
    commits = sorted(commits, key=lambda commit: commit.at)
    return {
        "_id": key,
        "at": commits[0].at,
        "partitions": sorted({commit.partition for commit in commits}),
        "unsent": [commit_id(commit.instance_id, commit.n) for commit in commits],
    }


def commit_of(document: Document) -> Commit:
    return msgspec.convert(document, Commit, builtin_types=_DATES)


# --- Records ----------------------------------------------------------------------------------------------------------


def record_document(record: InstanceRecord) -> Document:
    """A new record. What conditions and updates rely on is there even where it has its default."""
    document = {
        "_id": record.instance_id,
        **encode(record),
        "runtimeStatus": record.runtime_status,
        "generation": record.generation,
        "head": record.head,
        "first": record.first,
        "startedAs": record.execution_id,
    }
    if record.runtime_status == "Pending":
        document["startAfter"] = record.scheduled_start_time or record.created_time
    return document


def record_of(document: Document) -> InstanceRecord:
    return msgspec.convert(document, InstanceRecord, builtin_types=_DATES)


def is_tombstone(document: Document) -> bool:
    status: str = document["runtimeStatus"]
    return status == PURGED


def tombstone_fields(document: Document, *, seconds: float) -> Document:
    """What stays of a record that is purged.

    ``purging`` while what belongs to it is being deleted; afterwards ``expires``.
    """
    return {
        "_id": document["_id"],
        "instanceId": document["_id"],
        "partition": document["partition"],
        "executionId": document["executionId"],
        "startedAs": document["startedAs"],
        "runtimeStatus": PURGED,
        "head": document["head"],
        "purging": True,
        "tombstoneSeconds": seconds,
    }


def projection_filter(projection: Projection) -> Document:
    """Which document a projection may change."""
    return {
        "_id": {"$eq": projection.instance_id},
        "head": {"$lt": projection.n},
        # Not a tombstone. Asked of a field without an index: each index that could answer makes the planner try it out.
        "purgedAt": {"$exists": False},
        "$or": [
            {"executionId": {"$eq": projection.execution_id}},
            {"generation": {"$lt": projection.generation}},
        ],
    }


def custom_status_fields(custom_status: Payload | None) -> list[Document] | None:
    """What queries by custom status look at: the plain fields of an object, as a list because a name may be anything."""
    try:
        value: object = msgspec.json.decode(custom_status) if custom_status else None
    except msgspec.DecodeError:
        return None  # nothing of ours, and not the store's to judge
    if not isinstance(value, dict):
        return None
    plain = cast("dict[str, object]", value)
    fields = [
        {"name": name, "value": field}
        for name, field in plain.items()
        if field is None or isinstance(field, str | bool | float) or (isinstance(field, int) and abs(field) < _INT64)
    ]
    return fields or None


def projection_update(projection: Projection) -> Document:
    """What it changes there."""
    fields: Document = {
        "executionId": projection.next_execution_id,
        "generation": projection.next_generation,
        "runtimeStatus": projection.runtime_status,
        "customStatus": projection.custom_status,
        "customStatusFields": custom_status_fields(projection.custom_status),
        "lastUpdatedTime": projection.last_updated_time,
        "completedTime": projection.completed_time,
        "parked": encode(projection.parked) if projection.parked else None,
        "output": projection.output,
        "failure": encode(projection.failure) if projection.failure else None,
        "head": projection.n,
        "first": projection.first,
        "entity": encode(projection.entity) if projection.entity else None,
        "startAfter": None,
    }
    if projection.begins:
        fields["input"], fields["version"] = projection.input, projection.version
    return {
        "$set": {name: value for name, value in fields.items() if value is not None},
        "$unset": {name: "" for name, value in fields.items() if value is None},
    }


# --- Timers and claims ------------------------------------------------------------------------------------------------


def execution_start(instance_id: str, execution_id: str) -> str:
    """What the keys of an execution's timers and claims begin with."""
    return f"{key_start(instance_id)}{execution_id}/"


def timer_id(timer: TimerRow) -> str:
    return f"{execution_start(timer.instance_id, timer.execution_id)}{timer.timer_id}"


def timer_document(timer: TimerRow) -> Document:
    document: Document = {
        "_id": timer_id(timer),
        "instanceId": timer.instance_id,
        "executionId": timer.execution_id,
        "timerId": timer.timer_id,
        "partition": timer.partition,
        "fireAt": timer.fire_at,
    }
    return document | {"ofTask": True} if timer.of_task else document


def timer_of(document: Document) -> TimerRow:
    return TimerRow(
        instance_id=document["instanceId"],
        execution_id=document["executionId"],
        timer_id=document["timerId"],
        partition=document["partition"],
        fire_at=document["fireAt"],
        of_task=document.get("ofTask", False),
    )


def call_id(task: TaskKey) -> str:
    """The key of the claim on an activity call."""
    return f"{execution_start(task.instance_id, task.execution_id)}{task.task_scheduled_id}"


def claim_fields(claim: Claim) -> Document:
    """A claim, without its key and its expiry. What a person looks for stands outside the call."""
    call = claim.call
    fields = {
        "instanceId": call.instance_id,
        "executionId": call.execution_id,
        "activity": call.name,
        "attempt": call.attempt,
        "partition": claim.partition,
        "workerId": claim.worker_id,
        "started": claim.started,
        "heartbeat": claim.heartbeat,
        "details": claim.details,
        "call": encode(call),
    }
    return {name: value for name, value in fields.items() if value is not None}


def claim_of(document: Document) -> Claim:
    return Claim(
        call=msgspec.convert(document["call"], ActivityCall, builtin_types=_DATES),
        partition=document["partition"],
        worker_id=document["workerId"],
        started=document.get("started"),
        heartbeat=document.get("heartbeat"),
        details=document.get("details"),
        cancelled=document.get("cancelled", False),
        expired=document["expired"],
    )


def task_of(document: Document) -> TaskKey:
    """Which call a claim is on."""
    return TaskKey(document["instanceId"], document["executionId"], document["call"]["taskScheduledId"])


# --- Workers, leases, quarantine --------------------------------------------------------------------------------------


def worker_of(document: Document) -> WorkerInfo:
    return msgspec.convert(document, WorkerInfo, builtin_types=_DATES)


def lease_of(document: Document, *, expired: bool) -> Lease:
    return Lease(partition=document["_id"], owner=document["owner"], epoch=document["epoch"], expired=expired)


def quarantined_document(message: Quarantined) -> Document:
    """A message for a person: its body as text where it is text."""
    body: str | bytes = message.body[:MAX_QUARANTINED]
    try:
        text = message.body[:MAX_QUARANTINED].decode()
    except UnicodeDecodeError:
        pass
    else:
        body = text
    return {
        "_id": message.id,
        "at": message.at,
        "source": message.source,
        "reason": message.reason,
        "bodyBytes": len(message.body),
        "body": body,
        # Foreign names: a list, because a field's name may not contain everything that a header's may.
        "headers": [{"name": name, "value": value} for name, value in message.headers.items()],
    }


def quarantined_of(document: Document) -> Quarantined:
    body = document["body"]
    return Quarantined(
        id=document["_id"],
        at=document["at"],
        source=document["source"],
        reason=document["reason"],
        body=body.encode() if isinstance(body, str) else bytes(body),
        headers={header["name"]: header["value"] for header in document["headers"]},
    )
