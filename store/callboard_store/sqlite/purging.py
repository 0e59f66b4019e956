"""Trim, purge and payloads. One transaction does each; what that leaves to say is in ``callboard_store.mongodb.purging``."""

from __future__ import annotations

import hashlib
from typing import Final

from callboard.core.events import TERMINAL
from callboard.errors import PayloadTooLargeError
from callboard_store.rules import TAKEN_SECONDS, key_start, payload_hashes
from callboard_store.sqlite.database import Sql
from callboard_store.sqlite.instances import Topic
from callboard_store.sqlite.tables import commit_of

MAX_PAYLOAD: Final = 1024**3
#: SQLite takes a little less than 1 GiB in one value.
PIECE: Final = 64 * 1024 * 1024


class Purging(Topic):
    """Adds what deletes, and the payloads that go with it."""

    async def trim(self, instance_id: str, *, below: int) -> int:
        now = self._clock()

        def work(sql: Sql) -> int:
            _forget_expired(sql, now)
            taken = sql.run(
                _TAKEN + " WHERE instance_id = ? AND n < ? AND pending = 0 AND expires IS NULL",
                now + TAKEN_SECONDS,
                instance_id,
                below,
            )
            if taken:
                self._delete_unused_payloads(sql, instance_id, now)
            return taken

        return await self._write(work)

    async def purge(self, instance_id: str, *, tombstone_seconds: float = 7 * 86_400) -> bool:
        now = self._clock()

        def work(sql: Sql) -> bool:
            _forget_expired(sql, now)
            if not _is_over(sql, instance_id):
                return False
            for table in ("{timers}", "{claims}", "{payloads}"):
                sql.run(f"DELETE FROM {table} WHERE instance_id = ?", instance_id)
            sql.run(_TAKEN + " WHERE instance_id = ? AND expires IS NULL", now + TAKEN_SECONDS, instance_id)
            sql.run(
                """UPDATE {instances} SET runtime_status = 'Purged', expires = ?, record = NULL, name = NULL,
                    created_time = NULL, start_after = NULL, parent = NULL, parked = 0 WHERE instance_id = ?""",
                now + tombstone_seconds,
                instance_id,
            )
            return True

        return await self._write(work)

    def _delete_unused_payloads(self, sql: Sql, instance_id: str, now: float) -> None:
        """Deletes payloads that no kept commit and not the record refers to, unless their commit may still be on the way."""
        old = set(
            sql.column(
                "SELECT sha256 FROM {payloads} WHERE instance_id = ? AND put_at <= ?",
                instance_id,
                now - self._payload_grace_seconds,
            )
        )
        if not old:
            return
        contents = sql.column(
            """SELECT content FROM {history} WHERE instance_id = ?1 AND expires IS NULL
                UNION ALL SELECT record FROM {instances} WHERE instance_id = ?1 AND expires IS NULL""",
            instance_id,
        )
        used = payload_hashes(content.encode() for content in contents)
        bodies = [commit_of(content).body for content in contents if '"body"' in content and '"n"' in content]
        used |= payload_hashes(_payload(sql, body) or b"" for body in bodies if body)
        rows = [(instance_id, sha256) for sha256 in old - used]
        sql.run_each("DELETE FROM {payloads} WHERE instance_id = ? AND sha256 = ?", rows)

    async def put_payload(self, instance_id: str, body: bytes) -> str:
        if len(body) > MAX_PAYLOAD:
            raise PayloadTooLargeError(f"A payload of instance {instance_id!r}", len(body), MAX_PAYLOAD)
        now, start = self._clock(), key_start(instance_id)

        def work(sql: Sql) -> str:
            sha256 = hashlib.sha256(body).hexdigest()
            sql.run_each(
                """INSERT INTO {payloads} VALUES (?, ?, ?, ?, ?)
                    ON CONFLICT DO UPDATE SET put_at = max(put_at, excluded.put_at)""",
                (
                    (instance_id, sha256, at // PIECE, now, body[at : at + PIECE])
                    for at in range(0, max(len(body), 1), PIECE)
                ),
            )
            return start + sha256

        return await self._write(work)

    async def get_payload(self, key: str) -> bytes:
        found = await self._read(lambda sql: _payload(sql, key))
        if found is None:
            raise KeyError(key)
        return found


_TAKEN: Final = "UPDATE {history} SET content = NULL, partition = NULL, at = NULL, pending = 0, expires = ?"


def _payload(sql: Sql, key: str) -> bytes | None:
    instance_id, _, sha256 = key.partition("/")
    pieces = sql.column(
        "SELECT content FROM {payloads} WHERE instance_id = ? AND sha256 = ? ORDER BY piece", instance_id, sha256
    )
    return b"".join(pieces) if pieces else None


def _is_over(sql: Sql, instance_id: str) -> bool:
    """Whether the record is terminal, all commits are sent, and none is newer than the record."""
    record = sql.row(
        "SELECT runtime_status, head FROM {instances} WHERE instance_id = ? AND expires IS NULL", instance_id
    )
    if record is None or record[0] not in TERMINAL:
        return False
    unfinished = sql.rows(
        "SELECT 1 FROM {history} WHERE instance_id = ? AND (pending = 1 OR (n > ? AND expires IS NULL)) LIMIT 1",
        instance_id,
        record[1],
    )
    return not unfinished


def _forget_expired(sql: Sql, now: float) -> None:
    """What MongoDB's TTL indexes do."""
    sql.run("DELETE FROM {history} WHERE expires <= ?", now)
    sql.run("DELETE FROM {instances} WHERE expires <= ?", now)
