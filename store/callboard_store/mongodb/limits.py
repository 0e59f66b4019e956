"""Hub-wide limits of activities: permits that lapse, and evenly spaced starts, by the server's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from callboard.ports import Permits, Starts
from callboard_store.documents import Document
from callboard_store.mongodb.driver import DuplicateKeyError, ReturnDocument
from callboard_store.mongodb.hub import Hub, after


class Limits(Hub):
    """Adds limits: a document for each, that shows who holds how much."""

    async def hold_permits(self, worker_id: str, permits: Sequence[Permits], *, ttl: float) -> list[int]:
        return await asyncio.gather(*(self._hold(worker_id, each, ttl) for each in permits))

    async def _hold(self, worker_id: str, permits: Permits, ttl: float) -> int:
        document = await self._change(f"permits/{permits.name}", _holding(worker_id, permits, ttl))
        mine = [holder["permits"] for holder in document["holders"] if holder["workerId"] == worker_id]
        return int(sum(mine))

    async def reserve_starts(self, name: str, *, count: int, every: float, ahead: float) -> Starts:
        document = await self._change(f"starts/{name}", _reserving(count, every * 1000, ahead * 1000))
        return Starts(int(document["granted"]), document["wait"] / 1000)

    async def _change(self, key: str, update: list[Document]) -> Document:
        while True:
            try:
                document = await self._call(
                    self._in.limits.find_one_and_update(
                        {"_id": key}, update, upsert=True, return_document=ReturnDocument.AFTER
                    )
                )
            except DuplicateKeyError:
                continue  # made by another at this moment
            assert document is not None
            return document


def _holding(worker_id: str, permits: Permits, ttl: float) -> list[Document]:
    me = {"$literal": worker_id}
    is_another: Document = {"$and": [{"$ne": ["$$this.workerId", me]}, {"$gt": ["$$this.expires", "$$NOW"]}]}
    others: Document = {"$filter": {"input": {"$ifNull": ["$holders", []]}, "as": "this", "cond": is_another}}
    left: Document = {"$subtract": [permits.limit, {"$sum": "$holders.permits"}]}
    mine: Document = {"workerId": me, "permits": "$granted", "expires": after(ttl)}
    return [
        {"$set": {"limit": permits.limit, "holders": others}},
        {"$set": {"granted": {"$max": [0, {"$min": [permits.wanted, left]}]}}},
        {"$set": {"holders": {"$concatArrays": ["$holders", {"$cond": [{"$gt": ["$granted", 0]}, [mine], []]}]}}},
        {"$unset": "granted"},
    ]


def _reserving(count: int, every: float, ahead: float) -> list[Document]:
    """In milliseconds. ``next`` is when the start after the last reserved one may take place, since 1970."""
    now: Document = {"$toDouble": {"$toLong": "$$NOW"}}
    horizon: Document = {"$add": ["$now", ahead]}
    # Never further away than a reservation at this rate can have put it: the rate may have been raised.
    first: Document = {"$min": [{"$max": [{"$ifNull": ["$next", 0]}, "$now"]}, {"$add": [horizon, every]}]}
    until_horizon: Any = {"$subtract": [horizon, "$first"]}
    free: Document = {"$floor": {"$add": [1, {"$divide": [until_horizon, every]}]}}
    return [
        {"$set": {"now": now, "everySeconds": every / 1000}},
        {"$set": {"first": first}},
        {"$set": {"granted": {"$max": [0, {"$min": [count, {"$cond": [{"$lt": [until_horizon, 0]}, 0, free]}]}]}}},
        {
            "$set": {
                "next": {"$add": ["$first", {"$multiply": ["$granted", every]}]},
                "wait": {
                    "$max": [
                        0,
                        {
                            "$cond": [
                                {"$gt": ["$granted", 0]},
                                {"$subtract": ["$first", "$now"]},
                                {"$subtract": ["$first", horizon]},
                            ]
                        },
                    ]
                },
            }
        },
        {"$unset": ["now", "first"]},
    ]
