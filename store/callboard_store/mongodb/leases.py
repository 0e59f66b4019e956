"""Workers and the partitions that they own, by the server's clock alone."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from callboard.ports import HubView, Lease, WorkerInfo
from callboard_store.documents import Document, encode, lease_of, worker_of
from callboard_store.mongodb.driver import ASCENDING, DuplicateKeyError, ReturnDocument
from callboard_store.mongodb.hub import Hub, after

_EXPIRED: Final[dict[str, Any]] = {"$lte": ["$expires", "$$NOW"]}
_LEASE: Final[dict[str, Any]] = {"owner": True, "epoch": True, "expired": _EXPIRED, "now": "$$NOW"}


class Leases(Hub):
    """Adds workers and leases."""

    async def heartbeat(self, worker: WorkerInfo, *, ttl: float) -> HubView:
        said: Document = {name: {"$literal": value} for name, value in encode(worker).items()}
        alive = [{"$set": {**said, "heartbeat": "$$NOW"}}]
        mine = {"owner": {"$eq": worker.worker_id}}
        await asyncio.gather(
            self._say_alive(worker.worker_id, alive),
            self._call(self._in.partitions.update_many(mine, [{"$set": {"expires": after(ttl)}}])),
        )
        return await self.view(ttl=ttl)

    async def _say_alive(self, worker_id: str, alive: list[Document]) -> None:
        try:
            await self._call(self._in.workers.update_one({"_id": worker_id}, alive, upsert=True))
        except DuplicateKeyError:
            await self._call(self._in.workers.update_one({"_id": worker_id}, alive))

    async def view(self, *, ttl: float) -> HubView:
        alive = {"$expr": {"$gt": ["$heartbeat", after(-ttl)]}}
        workers, partitions = await asyncio.gather(
            self._call(self._in.workers.find(alive).sort([("_id", ASCENDING)]).to_list(None)),
            self._call(self._in.partitions.find({}, _LEASE).sort([("_id", ASCENDING)]).to_list(None)),
        )
        return HubView(
            now=partitions[0]["now"],
            workers=tuple(worker_of(document) for document in workers),
            leases=tuple(lease_of(document, expired=document["expired"]) for document in partitions),
        )

    async def acquire(
        self, partition: int, worker_id: str, *, epoch: int, ttl: float, steal: bool = False
    ) -> Lease | None:
        free: Document = {} if steal else {"$or": [{"owner": None}, {"$expr": _EXPIRED}]}
        taken: Document = {"owner": {"$literal": worker_id}, "epoch": epoch + 1, "expires": after(ttl)}
        # A repeated call whose first answer was lost finds itself as the owner already.
        mine = {"owner": {"$eq": worker_id}, "epoch": epoch + 1}
        document = await self._call(
            self._in.partitions.find_one_and_update(
                {"_id": partition, "$or": [{"epoch": epoch, **free}, mine]},
                [{"$set": taken}],
                return_document=ReturnDocument.AFTER,
            )
        )
        return lease_of(document, expired=False) if document else None

    async def release(self, partition: int, worker_id: str) -> None:
        mine = {"_id": partition, "owner": {"$eq": worker_id}}
        await self._call(self._in.partitions.update_one(mine, _FREE))

    async def leave(self, worker_id: str) -> None:
        await self._call(self._in.partitions.update_many({"owner": {"$eq": worker_id}}, _FREE))
        await self._call(self._in.workers.delete_one({"_id": worker_id}))


_FREE: Final[dict[str, Any]] = {"$set": {"owner": None}, "$unset": {"expires": ""}}
