"""Claims on long activities, live by the server's clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from callboard.core.messages import ActivityCall
from callboard.ports import Claim
from callboard_store.documents import call_id, claim_fields, claim_of
from callboard_store.mongodb.driver import ASCENDING, DuplicateKeyError, ReturnDocument
from callboard_store.mongodb.hub import Hub, after

_EXPIRED: Final[dict[str, Any]] = {"$lte": ["$expires", "$$NOW"]}


class Claims(Hub):
    """Adds claims."""

    async def claim(self, claim: Claim, *, ttl: float) -> bool:
        taken: dict[str, Any] = {name: {"$literal": value} for name, value in claim_fields(claim).items()}
        new = {**taken, "_id": "$_id", "expires": after(ttl)}
        # A claim that is not there yet has no "expires", which is less than any date.
        free = {"$or": [{"$eq": ["$workerId", taken["workerId"]]}, _EXPIRED]}
        update = [{"$replaceWith": {"$cond": [free, new, "$$ROOT"]}}]
        while True:
            try:
                document = await self._call(
                    self._in.claims.find_one_and_update(
                        {"_id": call_id(claim.call)}, update, upsert=True, return_document=ReturnDocument.AFTER
                    )
                )
            except DuplicateKeyError:
                continue  # made by another at this moment
            return document is not None and bool(document["workerId"] == claim.worker_id)

    async def renew_claims(self, worker_id: str, *, ttl: float) -> None:
        mine = {"workerId": {"$eq": worker_id}}
        await self._call(self._in.claims.update_many(mine, [{"$set": {"expires": after(ttl)}}]))

    async def release_claim(self, call: ActivityCall, worker_id: str) -> None:
        await self._call(self._in.claims.delete_one({"_id": call_id(call), "workerId": {"$eq": worker_id}}))

    async def claimed(self, call: ActivityCall) -> bool:
        live = {"_id": call_id(call), "$expr": {"$gt": ["$expires", "$$NOW"]}}
        return await self._call(self._in.claims.find_one(live, {"_id": True})) is not None

    async def expired_claims(self, partitions: Sequence[int], limit: int) -> list[Claim]:
        which = {"partition": {"$in": list(partitions)}, "$expr": _EXPIRED}
        cursor = self._in.claims.find(which).sort([("expires", ASCENDING)]).limit(limit)
        return [claim_of(document) for document in await self._call(cursor.to_list(None))]
