"""Deleting what is over: trimmed executions, purged instances.

Each deletion names what it takes by a bound that was fixed before (a number, an execution, a time), so that one that arrives late,
after the id has been used again, takes nothing of the new instance. The numbers of deleted commits stay taken for a while:
an owner that was asleep, and appends where it believes the history to end, must lose.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from callboard.core.events import TERMINAL
from callboard.core.instances import Commit, InstanceRecord
from callboard_store.documents import (
    PURGED,
    Document,
    commit_of,
    commit_range,
    record_of,
    tombstone_fields,
)
from callboard_store.mongodb.driver import DESCENDING, ReturnDocument
from callboard_store.mongodb.hub import after
from callboard_store.mongodb.outbox import Outbox
from callboard_store.rules import PAYLOAD_GRACE_SECONDS, TAKEN_SECONDS, key_end, key_start, payload_hashes

_NOT_TAKEN: Final = {"$exists": False}


class Purging(Outbox):
    """Adds trim and purge."""

    payload_grace_seconds: float = PAYLOAD_GRACE_SECONDS

    async def trim(self, instance_id: str, *, below: int) -> int:
        unsent = await self._unsent_of(instance_id)
        over = {"$and": [{"_id": commit_range(instance_id, stop=below)}, {"_id": {"$nin": sorted(unsent)}}]}
        sent = {**over, "expires": _NOT_TAKEN}
        taken = await self._call(self._in.history.update_many(sent, _TAKEN))
        if taken.modified_count:
            await self._delete_unused_payloads(instance_id)
        return int(taken.modified_count)

    async def purge(self, instance_id: str, *, tombstone_seconds: float = 7 * 86_400) -> bool:
        document = await self._call(self._in.instances.find_one({"_id": {"$eq": instance_id}}))
        if document is None:
            return False
        if document["runtimeStatus"] != PURGED:
            document = await self._begin_purge(document, tombstone_seconds)
        if document is None or not document.get("purging"):
            return False
        await self._finish_purge(document)
        return True

    async def _begin_purge(self, document: Document, tombstone_seconds: float) -> Document | None:
        """Turns the record of an instance that may be purged into its tombstone; from then on no reader knows the instance."""
        if document["runtimeStatus"] not in TERMINAL or not await self._is_over(document):
            return None
        as_read = {name: document[name] for name in ("_id", "executionId", "head", "runtimeStatus")}
        buried = tombstone_fields(document, seconds=tombstone_seconds)
        tombstone = {"$mergeObjects": [{"$literal": buried}, {"purgedAt": "$$NOW"}]}
        return await self._call(
            self._in.instances.find_one_and_update(
                as_read, [{"$replaceWith": tombstone}], return_document=ReturnDocument.AFTER
            )
        )

    async def _is_over(self, document: Document) -> bool:
        """Whether all commits are sent, and none is newer than the record."""
        if await self._unsent_of(document["_id"]):
            return False
        kept = {"_id": commit_range(document["_id"]), "expires": _NOT_TAKEN}
        history = self._in.losable_history
        last = await self._call(history.find(kept, {"n": True}).sort([("_id", DESCENDING)]).limit(1).to_list(None))
        return not last or last[0]["n"] <= document["head"]

    async def _finish_purge(self, tombstone: Document) -> None:
        """Deletes all that belongs to a purged instance; may be repeated, and done by several at once."""
        instance_id: str = tombstone["_id"]
        commits = {"_id": commit_range(instance_id, stop=tombstone["head"] + 1), "expires": _NOT_TAKEN}
        found = await self._call(self._in.history.find(commits, {"executionId": True}).to_list(None))
        executions = {document["executionId"] for document in found} | {tombstone["executionId"]}
        mine: Document = {"_id": {"$gte": key_start(instance_id), "$lt": key_end(instance_id)}}
        of_executions = {**mine, "executionId": {"$in": sorted(executions)}}
        await self._call(self._in.timers.delete_many(of_executions))
        await self._call(self._in.claims.delete_many(of_executions))
        await self._call(self._in.payloads.delete_many({**mine, "at": {"$lte": tombstone["purgedAt"]}}))
        await self._call(self._in.history.update_many(commits, _TAKEN))
        ended = {"_id": instance_id, "purging": True, "purgedAt": tombstone["purgedAt"]}
        finish: list[dict[str, Any]] = [
            {"$set": {"expires": after(tombstone["tombstoneSeconds"])}},
            {"$unset": ["purging", "tombstoneSeconds"]},
        ]
        await self._call(self._in.instances.update_one(ended, finish))

    async def _delete_unused_payloads(self, instance_id: str) -> None:
        """Deletes payloads that no kept commit and not the record refers to, unless their commit may still be on the way."""
        mine: Document = {"_id": {"$gte": key_start(instance_id), "$lt": key_end(instance_id)}}
        old = {**mine, "$expr": {"$lte": ["$at", after(-self.payload_grace_seconds)]}}
        stored = await self._call(self._in.payloads.find(old, {"sha256": True, "at": True}).to_list(None))
        if not stored:
            return
        kept = await self._kept_values(instance_id)
        bodies = [await self.get_payload(value.body) for value in kept if isinstance(value, Commit) and value.body]
        used = payload_hashes([*kept, *bodies])
        latest: dict[str, datetime] = {}
        for document in stored:
            if document["sha256"] not in used:
                latest[document["sha256"]] = max(document["at"], latest.get(document["sha256"], document["at"]))
        for sha256, at in latest.items():
            # Put again since: its "at" is later now, and it stays.
            unused = {**mine, "sha256": sha256, "at": {"$lte": at}}
            await self._call(self._in.payloads.delete_many(unused))

    async def _kept_values(self, instance_id: str) -> list[Commit | InstanceRecord]:
        kept = {"_id": commit_range(instance_id), "expires": _NOT_TAKEN}
        values: list[Commit | InstanceRecord] = [
            commit_of(document) for document in await self._call(self._in.history.find(kept).to_list(None))
        ]
        known = {"_id": {"$eq": instance_id}, "runtimeStatus": {"$ne": PURGED}}
        record = await self._call(self._in.instances.find_one(known))
        return [*values, record_of(record)] if record else values


#: What makes a commit a taken number: nothing of it stays but whose it was, and that only for a while.
_TAKEN: Final[list[dict[str, Any]]] = [
    {
        "$replaceWith": {
            "_id": "$_id",
            "instanceId": "$instanceId",
            "n": "$n",
            "token": "$token",
            "expires": after(TAKEN_SECONDS),
        }
    }
]
