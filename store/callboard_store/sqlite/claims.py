"""Claims on long activities, live by this machine's clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from callboard.core.messages import ActivityCall, TaskKey
from callboard.ports import Claim, Heartbeat
from callboard_store.sqlite.database import Sql
from callboard_store.sqlite.instances import Topic
from callboard_store.sqlite.tables import json, text, time_of


class Claims(Topic):
    """Adds claims on long activities."""

    async def claim(self, claim: Claim, *, ttl: float) -> bool:
        now = self._clock()
        call = claim.call
        values = (
            *(call.instance_id, call.execution_id, call.task_scheduled_id, claim.partition, claim.worker_id, now + ttl),
            json(call),
            text(claim.started) if claim.started else None,
            text(claim.heartbeat) if claim.heartbeat else None,
            claim.details,
        )
        taken = await self._write(
            lambda sql: sql.run(
                """INSERT INTO {claims} (instance_id, execution_id, task_scheduled_id, partition, worker_id, expires, call,
                        started, heartbeat, details) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                    ON CONFLICT DO UPDATE SET worker_id = excluded.worker_id, expires = excluded.expires,
                        partition = excluded.partition, call = excluded.call, started = excluded.started,
                        heartbeat = excluded.heartbeat, details = excluded.details
                    WHERE NOT cancelled AND (worker_id = excluded.worker_id OR expires <= ?)""",
                *values,
                now,
            )
        )
        return taken > 0

    async def renew_claims(
        self, worker_id: str, heartbeats: Sequence[Heartbeat] = (), *, ttl: float
    ) -> dict[TaskKey, bool]:
        until = self._clock() + ttl
        beats = [(text(beat.at), beat.details, *_identity(beat.task), worker_id) for beat in heartbeats]

        def work(sql: Sql) -> dict[TaskKey, bool]:
            sql.run("UPDATE {claims} SET expires = ? WHERE worker_id = ?", until, worker_id)
            sql.run_each(f"UPDATE {{claims}} SET heartbeat = ?, details = ? {_SAME_TASK} AND worker_id = ?", beats)
            held = sql.rows(f"SELECT {_KEY}, cancelled FROM {{claims}} WHERE worker_id = ?", worker_id)
            return {TaskKey(*key): bool(cancelled) for *key, cancelled in held}

        return await self._write(work)

    async def cancel_claims(self, tasks: Sequence[TaskKey]) -> dict[TaskKey, str]:
        def work(sql: Sql) -> dict[TaskKey, str]:
            found = {
                task: row[0]
                for task in tasks
                if (row := sql.row(f"SELECT worker_id FROM {{claims}} {_SAME_TASK}", *_identity(task)))
            }
            sql.run_each(f"UPDATE {{claims}} SET cancelled = 1 {_SAME_TASK}", map(_identity, found))
            return found

        return await self._write(work) if tasks else {}

    async def claims(self, instance_id: str) -> list[Claim]:
        now = self._clock()
        rows = await self._read(
            lambda sql: sql.rows(
                f"SELECT {_SHOWN} FROM {{claims}} WHERE instance_id = ?2 ORDER BY execution_id, task_scheduled_id",
                now,
                instance_id,
            )
        )
        return [_claim_of(row) for row in rows]

    async def release_claim(self, task: TaskKey, worker_id: str, *, if_expired: bool = False) -> None:
        statement = f"DELETE FROM {{claims}} {_SAME_TASK} AND worker_id = ? AND (expires <= ? OR NOT ?)"
        now = self._clock()
        await self._write(lambda sql: sql.run(statement, *_identity(task), worker_id, now, if_expired))

    async def claimed(self, task: TaskKey) -> bool:
        now = self._clock()
        found = await self._read(
            lambda sql: sql.row(f"SELECT 1 FROM {{claims}} {_SAME_TASK} AND expires > ?", *_identity(task), now)
        )
        return found is not None

    async def expired_claims(self, partitions: Sequence[int], limit: int) -> list[Claim]:
        now = self._clock()
        rows = await self._read(
            lambda sql: sql.rows(
                f"""SELECT {_SHOWN} FROM {{claims}}
                    WHERE partition IN (SELECT value FROM json_each(?2)) AND expires <= ?1 ORDER BY expires LIMIT ?3""",
                now,
                json(partitions),
                limit,
            )
        )
        return [_claim_of(row) for row in rows]


_KEY = "instance_id, execution_id, task_scheduled_id"
_SAME_TASK = "WHERE instance_id = ? AND execution_id = ? AND task_scheduled_id = ?"
_SHOWN = "call, partition, worker_id, started, heartbeat, details, cancelled, expires <= ?1"


def _identity(task: TaskKey) -> tuple[str, str, int]:
    return task.instance_id, task.execution_id, task.task_scheduled_id


def _claim_of(row: tuple[Any, ...]) -> Claim:
    call, partition, worker_id, started, heartbeat, details, cancelled, expired = row
    return Claim(
        call=msgspec.json.decode(call, type=ActivityCall),
        partition=partition,
        worker_id=worker_id,
        started=time_of(started) if started else None,
        heartbeat=time_of(heartbeat) if heartbeat else None,
        details=details,
        cancelled=bool(cancelled),
        expired=bool(expired),
    )
