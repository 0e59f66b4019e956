"""Instance records: created by those who start instances, brought up to date by the owners of their commits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, get_args

from callboard.core.events import TERMINAL, RuntimeStatus
from callboard.core.instances import InstanceRecord, Projection
from callboard.errors import StoreUnavailableError
from callboard.ports import CreateOutcome, EntityFilter, InstanceFilter, InstancePage, ParkedInstance
from callboard_store.documents import (
    PURGED,
    Document,
    is_tombstone,
    projection_filter,
    projection_update,
    record_document,
    record_of,
)
from callboard_store.mongodb.driver import ASCENDING, DESCENDING, BulkWriteError, Collection, UpdateOne, duplicates
from callboard_store.mongodb.filters import condition, entity_condition
from callboard_store.mongodb.hub import after
from callboard_store.mongodb.purging import Purging
from callboard_store.rules import continuation, entity_continuation, key_start

_ATTEMPTS: Final = 5


class Records(Purging):
    """Adds the records of instances."""

    async def create(self, records: Sequence[InstanceRecord], *, replace: bool = True) -> list[CreateOutcome]:
        outcomes: dict[int, CreateOutcome] = {}
        left = list(range(len(records)))
        for record in records:
            key_start(record.instance_id)  # what does not fit a key is refused before anything is written
        for _ in range(_ATTEMPTS):
            documents = [record_document(records[index]) for index in left]
            clashes = [left[at] for at in await self._insert_new(self._in.instances, documents)]
            outcomes |= {index: CreateOutcome(created=True) for index in left if index not in set(clashes)}
            left = await self._replace_terminal(records, clashes, outcomes, replace=replace) if clashes else []
            if not left:
                return [outcomes[index] for index in range(len(records))]
        raise StoreUnavailableError(
            f"Instance {records[left[0]].instance_id!r} is being purged and created again and again by others. Try again later."
        )

    async def _insert_new(self, collection: Collection, documents: list[Document]) -> list[int]:
        """Inserts documents, and returns which of them were there already."""
        try:
            if documents:
                await self._call(collection.insert_many(documents, ordered=False))
        except BulkWriteError as error:
            return duplicates(error, self._server)
        return []

    async def _replace_terminal(
        self,
        records: Sequence[InstanceRecord],
        clashes: list[int],
        outcomes: dict[int, CreateOutcome],
        *,
        replace: bool,
    ) -> list[int]:
        """Decides about records whose id is taken; returns those that must be tried again."""
        replacements = [_replacement(records[index], TERMINAL if replace else ()) for index in clashes]
        await self._update_each(self._in.instances, replacements)
        ids = [records[index].instance_id for index in clashes]
        found = {
            document["_id"]: document
            for document in await self._call(self._in.instances.find({"_id": {"$in": ids}}).to_list(None))
        }
        again: list[int] = []
        for index in clashes:
            document = found.get(records[index].instance_id)
            if document is None:
                again.append(index)
            elif records[index].execution_id in (document["executionId"], document["startedAs"]):
                outcomes[index] = CreateOutcome(created=True)
            elif is_tombstone(document):
                if document.get("purging"):
                    await self._finish_purge(document)
                again.append(index)
            else:
                outcomes[index] = CreateOutcome(created=False, existing=record_of(document))
        return again

    async def records(self, instance_ids: Sequence[str]) -> dict[str, InstanceRecord]:
        if not instance_ids:
            return {}
        which = {"_id": {"$in": list(instance_ids)}, "runtimeStatus": {"$ne": PURGED}}
        documents = await self._call(self._in.instances.find(which).to_list(None))
        return {document["_id"]: record_of(document) for document in documents}

    async def project(self, projections: Sequence[Projection]) -> None:
        updates = [
            UpdateOne(projection_filter(projection), projection_update(projection))
            for projection in sorted(projections, key=_number)  # a chain of one instance applies in one call
        ]
        await self._update_each(self._in.instances, updates)

    async def pending_starts(
        self, partitions: Sequence[int], *, before: datetime, limit: int, ahead: float = 0.0
    ) -> list[InstanceRecord]:
        which = {
            "runtimeStatus": "Pending",
            "partition": {"$in": list(partitions)},
            "createdTime": {"$lte": before},
            "$expr": {"$lte": ["$startAfter", after(ahead)]},
        }
        cursor = self._in.instances.find(which).sort([("startAfter", ASCENDING)]).limit(limit)
        return [record_of(document) for document in await self._call(cursor.to_list(None))]

    async def parked(self, partitions: Sequence[int], limit: int, *, after: str | None = None) -> list[ParkedInstance]:
        which: Document = {"partition": {"$in": list(partitions)}, "parked": {"$exists": True}}
        if after is not None:
            which["_id"] = {"$gt": after}
        shown = {"name": True, "version": True, "parked.kind": True}
        cursor = self._in.instances.find(which, shown).sort([("_id", ASCENDING)]).limit(limit)
        return [
            ParkedInstance(
                instance_id=document["_id"],
                name=document["name"],
                version=document.get("version"),
                kind=document["parked"]["kind"],
            )
            for document in await self._call(cursor.to_list(None))
        ]

    async def query(self, which: InstanceFilter, *, limit: int, continuation: str | None = None) -> InstancePage:
        limit = max(limit, 1)
        cursor = self._in.instances.find(condition(which, continuation))
        cursor = cursor.sort([("createdTime", DESCENDING), ("_id", DESCENDING)]).limit(limit + 1)
        records = [record_of(document) for document in await self._call(cursor.to_list(None))]
        return _page(records, limit)

    async def count(self, which: InstanceFilter) -> dict[str, int]:
        statuses = [status for status in which.statuses or get_args(RuntimeStatus) if status != PURGED]
        everywhere = condition(which, None)
        counts = await asyncio.gather(
            *(
                self._call(self._in.instances.count_documents({**everywhere, "runtimeStatus": {"$eq": status}}))
                for status in statuses
            )
        )
        return {status: count for status, count in zip(statuses, counts, strict=True) if count}

    async def query_entities(self, which: EntityFilter, *, limit: int, continuation: str | None = None) -> InstancePage:
        limit = max(limit, 1)
        cursor = self._in.instances.find(entity_condition(which, continuation)).sort([("_id", ASCENDING)])
        records = [record_of(document) for document in await self._call(cursor.limit(limit + 1).to_list(None))]
        more = len(records) > limit
        return InstancePage(
            records=tuple(records[:limit]), continuation=entity_continuation(records[limit - 1]) if more else None
        )


def _number(projection: Projection) -> int:
    return projection.n


def _replacement(record: InstanceRecord, ends: Iterable[str]) -> UpdateOne:
    """Puts a new record in the place of one that ended so under another execution id, or of its tombstone."""
    ended = {
        "_id": {"$eq": record.instance_id},
        "runtimeStatus": {"$in": [*sorted(ends), PURGED]},
        "purging": {"$exists": False},
        "executionId": {"$ne": record.execution_id},
        "startedAs": {"$ne": record.execution_id},
    }
    kept = {"head": "$head", "first": {"$add": ["$head", 1]}}
    return UpdateOne(ended, [{"$replaceWith": {"$mergeObjects": [{"$literal": record_document(record)}, kept]}}])


def _page(records: list[InstanceRecord], limit: int) -> InstancePage:
    more = len(records) > limit
    return InstancePage(records=tuple(records[:limit]), continuation=continuation(records[limit - 1]) if more else None)
