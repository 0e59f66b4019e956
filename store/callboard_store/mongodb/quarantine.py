"""Messages that could not be understood, kept for a person."""

from __future__ import annotations

from callboard.ports import Quarantined
from callboard_store.documents import quarantined_document, quarantined_of
from callboard_store.mongodb.driver import DESCENDING
from callboard_store.mongodb.hub import Hub


class Quarantine(Hub):
    """Adds the quarantine."""

    async def quarantine(self, message: Quarantined) -> None:
        await self._insert_missing(self._in.quarantine, [quarantined_document(message)])

    async def quarantined(self, limit: int) -> list[Quarantined]:
        cursor = self._in.quarantine.find({}).sort([("at", DESCENDING)]).limit(limit)
        return [quarantined_of(document) for document in await self._call(cursor.to_list(None))]
