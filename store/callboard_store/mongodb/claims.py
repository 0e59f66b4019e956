"""Claims on long activities, live by the server's clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from callboard.core.messages import TaskKey
from callboard.ports import Claim, Heartbeat
from callboard_store.documents import Document, call_id, claim_fields, claim_of, task_of
from callboard_store.mongodb.driver import ASCENDING, DuplicateKeyError, ReturnDocument, UpdateMany, UpdateOne
from callboard_store.mongodb.hub import Hub, after
from callboard_store.rules import key_end, key_start

_EXPIRED: Final[dict[str, Any]] = {"$lte": ["$expires", "$$NOW"]}
_CANCELLED: Final[dict[str, Any]] = {"$eq": ["$cancelled", True]}
_IDENTITY: Final[dict[str, Any]] = {"instanceId": True, "executionId": True, "call.taskScheduledId": True}
_SHOWN: Final[dict[str, Any]] = {
    **dict.fromkeys(("call", "partition", "workerId", "started", "heartbeat", "details", "cancelled"), True),
    "expired": _EXPIRED,
}


class Claims(Hub):
    """Adds claims."""

    async def claim(self, claim: Claim, *, ttl: float) -> bool:
        taken: dict[str, Any] = {name: {"$literal": value} for name, value in claim_fields(claim).items()}
        new = {**taken, "_id": "$_id", "expires": after(ttl)}
        # A claim that is not there yet has no "expires", which is less than any date.
        mine_or_over = {"$or": [{"$eq": ["$workerId", taken["workerId"]]}, _EXPIRED]}
        free = {"$and": [mine_or_over, {"$not": [_CANCELLED]}]}
        update = [{"$replaceWith": {"$cond": [free, new, "$$ROOT"]}}]
        while True:
            try:
                document = await self._call(
                    self._in.claims.find_one_and_update(
                        {"_id": call_id(claim.call.key)}, update, upsert=True, return_document=ReturnDocument.AFTER
                    )
                )
            except DuplicateKeyError:
                continue  # made by another at this moment
            assert document is not None
            return document["workerId"] == claim.worker_id and not document.get("cancelled", False)

    async def renew_claims(
        self, worker_id: str, heartbeats: Sequence[Heartbeat] = (), *, ttl: float
    ) -> dict[TaskKey, bool]:
        mine: Document = {"workerId": {"$eq": worker_id}}
        writes: list[UpdateOne | UpdateMany] = [UpdateMany(mine, [{"$set": {"expires": after(ttl)}}])]
        writes.extend(
            UpdateOne({"_id": call_id(beat.task), **mine}, {"$set": {"heartbeat": beat.at, "details": beat.details}})
            for beat in heartbeats
        )
        await self._call(self._in.claims.bulk_write(writes, ordered=False))
        held = await self._call(self._in.claims.find(mine, {**_IDENTITY, "cancelled": True}).to_list(None))
        return {task_of(document): bool(document.get("cancelled", False)) for document in held}

    async def cancel_claims(self, tasks: Sequence[TaskKey]) -> dict[TaskKey, str]:
        these: Document = {"_id": {"$in": [call_id(task) for task in tasks]}}
        if not tasks:
            return {}
        await self._call(self._in.claims.update_many(these, {"$set": {"cancelled": True}}))
        found = await self._call(self._in.claims.find(these, {**_IDENTITY, "workerId": True}).to_list(None))
        return {task_of(document): document["workerId"] for document in found}

    async def claims(self, instance_id: str) -> list[Claim]:
        of_instance = {"_id": {"$gte": key_start(instance_id), "$lt": key_end(instance_id)}}
        found = await self._call(self._in.claims.find(of_instance, _SHOWN).to_list(None))
        claims = [claim_of(document) for document in found]
        return sorted(claims, key=lambda claim: (claim.call.execution_id, claim.call.task_scheduled_id))

    async def release_claim(self, task: TaskKey, worker_id: str, *, if_expired: bool = False) -> None:
        this: Document = {"_id": call_id(task), "workerId": {"$eq": worker_id}}
        await self._call(self._in.claims.delete_one({**this, "$expr": _EXPIRED} if if_expired else this))

    async def claimed(self, task: TaskKey) -> bool:
        live = {"_id": call_id(task), "$expr": {"$gt": ["$expires", "$$NOW"]}}
        return await self._call(self._in.claims.find_one(live, {"_id": True})) is not None

    async def expired_claims(self, partitions: Sequence[int], limit: int) -> list[Claim]:
        which = {"partition": {"$in": list(partitions)}, "$expr": _EXPIRED}
        cursor = self._in.claims.find(which, {**_SHOWN, "expires": True}).sort([("expires", ASCENDING)]).limit(limit)
        return [claim_of(document) for document in await self._call(cursor.to_list(None))]
