"""Timers, workers, leases and the quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from callboard.ports import HubView, Lease, Quarantined, TimerRow, WorkerInfo
from callboard_store.rules import MAX_QUARANTINED
from callboard_store.sqlite.database import Sql
from callboard_store.sqlite.instances import Topic
from callboard_store.sqlite.tables import json, text, time_of


class Timers(Topic):
    """Adds timers."""

    async def put_timers(self, timers: Sequence[TimerRow]) -> None:
        rows = [
            (
                timer.instance_id,
                timer.execution_id,
                timer.timer_id,
                timer.partition,
                text(timer.fire_at),
                timer.of_task,
            )
            for timer in timers
        ]
        if rows:
            statement = "INSERT INTO {timers} VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
            await self._write(lambda sql: sql.run_each(statement, rows))

    async def delete_timers(self, timers: Sequence[TimerRow]) -> None:
        rows = [(timer.instance_id, timer.execution_id, timer.timer_id) for timer in timers]
        if rows:
            statement = "DELETE FROM {timers} WHERE instance_id = ? AND execution_id = ? AND timer_id = ?"
            await self._write(lambda sql: sql.run_each(statement, rows))

    async def delete_execution_timers(self, executions: Sequence[tuple[str, str]]) -> None:
        if executions:
            statement = "DELETE FROM {timers} WHERE instance_id = ? AND execution_id = ?"
            await self._write(lambda sql: sql.run_each(statement, executions))

    async def due_timers(self, partitions: Sequence[int], *, until: datetime, limit: int) -> list[TimerRow]:
        rows = await self._read(
            lambda sql: sql.rows(
                """SELECT instance_id, execution_id, timer_id, partition, fire_at, of_task FROM {timers}
                    WHERE partition IN (SELECT value FROM json_each(?)) AND fire_at <= ? ORDER BY fire_at LIMIT ?""",
                json(partitions),
                text(until),
                limit,
            )
        )
        return [
            TimerRow(
                instance_id=row[0],
                execution_id=row[1],
                timer_id=row[2],
                partition=row[3],
                fire_at=time_of(row[4]),
                of_task=bool(row[5]),
            )
            for row in rows
        ]


class Leases(Topic):
    """Adds workers and leases, by this machine's clock."""

    async def heartbeat(self, worker: WorkerInfo, *, ttl: float) -> HubView:
        now = self._clock()

        def work(sql: Sql) -> HubView:
            sql.run(
                """INSERT INTO {workers} VALUES (?1, ?2, ?3)
                    ON CONFLICT DO UPDATE SET heartbeat = excluded.heartbeat, info = excluded.info""",
                worker.worker_id,
                now,
                json(worker),
            )
            sql.run("DELETE FROM {workers} WHERE heartbeat < ?", now - _FORGOTTEN_SECONDS)
            sql.run("UPDATE {partitions} SET expires = ? WHERE owner = ?", now + ttl, worker.worker_id)
            return _view(sql, now, ttl)

        return await self._write(work)

    async def view(self, *, ttl: float) -> HubView:
        now = self._clock()
        return await self._read(lambda sql: _view(sql, now, ttl))

    async def acquire(
        self, partition: int, worker_id: str, *, epoch: int, ttl: float, steal: bool = False
    ) -> Lease | None:
        now = self._clock()
        taken = await self._write(
            lambda sql: sql.run(
                # A repeated call whose first answer was lost finds itself as the owner already.
                """UPDATE {partitions} SET owner = ?1, epoch = ?2 + 1, expires = ?3 WHERE partition = ?4 AND (
                    (epoch = ?2 AND (?5 OR owner IS NULL OR expires <= ?6)) OR (epoch = ?2 + 1 AND owner = ?1)
                )""",
                worker_id,
                epoch,
                now + ttl,
                partition,
                steal,
                now,
            )
        )
        return Lease(partition=partition, owner=worker_id, epoch=epoch + 1, expired=False) if taken else None

    async def release(self, partition: int, worker_id: str) -> None:
        statement = "UPDATE {partitions} SET owner = NULL, expires = 0 WHERE partition = ? AND owner = ?"
        await self._write(lambda sql: sql.run(statement, partition, worker_id))

    async def leave(self, worker_id: str) -> None:
        def work(sql: Sql) -> None:
            sql.run("UPDATE {partitions} SET owner = NULL, expires = 0 WHERE owner = ?", worker_id)
            sql.run("DELETE FROM {workers} WHERE worker_id = ?", worker_id)

        await self._write(work)


class Quarantine(Topic):
    """Adds the quarantine."""

    async def quarantine(self, message: Quarantined) -> None:
        values = (
            text(message.at),
            message.source,
            message.reason,
            json(message.headers),
            message.body[:MAX_QUARANTINED],
        )
        await self._write(
            lambda sql: sql.run(
                "INSERT INTO {quarantine} VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", message.id, *values
            )
        )

    async def quarantined(self, limit: int) -> list[Quarantined]:
        rows = await self._read(
            lambda sql: sql.rows(
                "SELECT id, at, source, reason, body, headers FROM {quarantine} ORDER BY at DESC, id LIMIT ?", limit
            )
        )
        return [_quarantined(row) for row in rows]


_FORGOTTEN_SECONDS = 86_400


def _view(sql: Sql, now: float, ttl: float) -> HubView:
    infos = sql.column("SELECT info FROM {workers} WHERE heartbeat > ? ORDER BY worker_id", now - ttl)
    leases = sql.rows("SELECT partition, owner, epoch, expires FROM {partitions} ORDER BY partition")
    return HubView(
        now=datetime.fromtimestamp(now, UTC),
        workers=tuple(msgspec.json.decode(info, type=WorkerInfo) for info in infos),
        leases=tuple(
            Lease(partition=partition, owner=owner, epoch=epoch, expired=expires <= now)
            for partition, owner, epoch, expires in leases
        ),
    )


def _quarantined(row: tuple[Any, ...]) -> Quarantined:
    key, at, source, reason, body, headers = row
    return Quarantined(
        id=key,
        at=time_of(at),
        source=source,
        reason=reason,
        body=body,
        headers=msgspec.json.decode(headers, type=dict[str, str]),
    )
