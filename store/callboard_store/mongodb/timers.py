"""Pending durable timers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from callboard.ports import TimerRow
from callboard_store.documents import Document, execution_start, timer_document, timer_id, timer_of
from callboard_store.mongodb.driver import ASCENDING
from callboard_store.mongodb.hub import Hub


class Timers(Hub):
    """Adds timers."""

    async def put_timers(self, timers: Sequence[TimerRow]) -> None:
        await self._insert_missing(self._in.timers, [timer_document(timer) for timer in timers])

    async def delete_timers(self, timers: Sequence[TimerRow]) -> None:
        if timers:
            await self._call(self._in.timers.delete_many({"_id": {"$in": [timer_id(timer) for timer in timers]}}))

    async def delete_execution_timers(self, executions: Sequence[tuple[str, str]]) -> None:
        if not executions:
            return
        ranges: list[Document] = []
        for instance_id, execution_id in executions:
            start = execution_start(instance_id, execution_id)
            ranges.append({"_id": {"$gte": start, "$lt": f"{start[:-1]}0"}})
        await self._call(self._in.timers.delete_many({"$or": ranges}))

    async def due_timers(self, partitions: Sequence[int], *, until: datetime, limit: int) -> list[TimerRow]:
        which = {"partition": {"$in": list(partitions)}, "fireAt": {"$lte": until}}
        cursor = self._in.timers.find(which).sort([("fireAt", ASCENDING)]).limit(limit)
        return [timer_of(document) for document in await self._call(cursor.to_list(None))]
