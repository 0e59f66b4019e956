"""Large values: in pieces of less than 4 MiB, found by their content's hash."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from callboard.errors import PayloadTooLargeError
from callboard_store.documents import Document
from callboard_store.mongodb.driver import ASCENDING, UpdateOne
from callboard_store.mongodb.hub import Hub
from callboard_store.rules import is_payload_key, key_start

MAX_PAYLOAD: Final = 1024**3
PIECE: Final = 4 * 1024 * 1024 - 4096
#: Pieces in one round trip, so that a large value does not take as much memory again for the message.
_PIECES_AT_ONCE: Final = 8
_WORTH_A_THREAD: Final = 1024 * 1024


class Payloads(Hub):
    """Adds large values."""

    async def put_payload(self, instance_id: str, body: bytes) -> str:
        if len(body) > MAX_PAYLOAD:
            raise PayloadTooLargeError(f"A payload of instance {instance_id!r}", len(body), MAX_PAYLOAD)
        sha256 = await _hash(body)
        key = f"{key_start(instance_id)}{sha256}"
        starts = range(0, max(len(body), 1), PIECE)
        for at in range(0, len(starts), _PIECES_AT_ONCE):
            updates = [
                _put(key, sha256, start // PIECE, len(starts), body[start : start + PIECE])
                for start in starts[at : at + _PIECES_AT_ONCE]
            ]
            await self._update_each(self._in.payloads, updates)
        return key

    async def get_payload(self, key: str) -> bytes:
        if not is_payload_key(key):
            raise KeyError(key)
        which = {"_id": {"$gte": f"{key}/", "$lt": f"{key}0"}}
        pieces = await self._call(self._in.payloads.find(which).sort([("_id", ASCENDING)]).to_list(None))
        if not pieces or len(pieces) != pieces[0]["pieces"]:
            raise KeyError(key)
        return b"".join(piece["body"] for piece in pieces)


def _put(key: str, sha256: str, number: int, pieces: int, body: bytes) -> UpdateOne:
    """Puts a piece, or says of one that is there that it was put again (see ``Purging``)."""
    fields: Document = {"instanceId": key.partition("/")[0], "sha256": sha256, "pieces": pieces, "body": body}
    update = {"$setOnInsert": fields, "$currentDate": {"at": True}}
    return UpdateOne({"_id": f"{key}/{number:06d}"}, update, upsert=True)


async def _hash(body: bytes) -> str:
    if len(body) < _WORTH_A_THREAD:
        return hashlib.sha256(body).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()
