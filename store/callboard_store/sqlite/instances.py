"""Instance records and their commits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from callboard.core.events import TERMINAL
from callboard.core.instances import Commit, CommitKey, InstanceRecord, Projection
from callboard.errors import StoreUnavailableError
from callboard.ports import (
    AppendOutcome,
    CreateOutcome,
    EntityFilter,
    InstanceFilter,
    InstancePage,
    LoadedInstance,
    ParkedInstance,
)
from callboard_store.rules import (
    applies,
    continuation as continuation_after,
    current_execution,
    entity_continuation,
    key_start,
    projected,
)
from callboard_store.sqlite.database import Database, Sql
from callboard_store.sqlite.filters import condition, entity_condition
from callboard_store.sqlite.tables import commit_of, json, record_of, text

T = TypeVar("T")


class Topic:
    """What the store's topics share."""

    def __init__(self, clock: Callable[[], float], payload_grace_seconds: float) -> None:
        self._clock = clock
        self._payload_grace_seconds = payload_grace_seconds
        self._database: Database | None = None

    async def _read(self, work: Callable[[Sql], T]) -> T:
        return await self._running().call(work, writes=False)

    async def _write(self, work: Callable[[Sql], T]) -> T:
        return await self._running().call(work)

    def _running(self) -> Database:
        if self._database is None:
            raise StoreUnavailableError(f"{self!r} is not open. Call open() first, and nothing after aclose().")
        return self._database


class Instances(Topic):
    """Adds records and commits."""

    # Records

    async def create(self, records: Sequence[InstanceRecord], *, replace: bool = True) -> list[CreateOutcome]:
        for record in records:
            key_start(record.instance_id)  # what does not fit a payload's key is refused

        def work(sql: Sql) -> list[CreateOutcome]:
            made = sql.run_each(
                "INSERT INTO {instances} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?) ON CONFLICT DO NOTHING",
                (_row(record) for record in records),
            )
            if made == len(records):
                return [CreateOutcome(created=True)] * made
            return [_decide(sql, record, replace=replace) for record in records]

        return await self._write(work)

    async def records(self, instance_ids: Sequence[str]) -> dict[str, InstanceRecord]:
        return await self._read(lambda sql: _records(sql, instance_ids))

    async def project(self, projections: Sequence[Projection]) -> None:
        def work(sql: Sql) -> None:
            records = _records(sql, [projection.instance_id for projection in projections])
            changed: dict[str, InstanceRecord] = {}
            for projection in sorted(projections, key=_number):
                record = records.get(projection.instance_id)
                if record is not None and applies(record, projection):
                    after = projected(record, projection)
                    records[projection.instance_id] = changed[projection.instance_id] = after
            sql.run_each(
                """UPDATE {instances} SET execution_id = ?, generation = ?, runtime_status = ?, start_after = NULL, parked = ?,
                    head = ?, first = ?, record = ? WHERE instance_id = ?""",
                (_changes(record) for record in changed.values()),
            )

        if projections:
            await self._write(work)

    async def pending_starts(
        self, partitions: Sequence[int], *, before: datetime, limit: int, ahead: float = 0.0
    ) -> list[InstanceRecord]:
        until = text(datetime.fromtimestamp(self._clock() + ahead).astimezone())
        contents = await self._read(
            lambda sql: sql.column(
                """SELECT record FROM {instances} WHERE runtime_status = 'Pending'
                    AND partition IN (SELECT value FROM json_each(?)) AND start_after <= ? AND created_time <= ?
                    ORDER BY start_after LIMIT ?""",
                json(partitions),
                until,
                text(before),
                limit,
            )
        )
        return [record_of(content) for content in contents]

    async def parked(self, partitions: Sequence[int], limit: int, *, after: str | None = None) -> list[ParkedInstance]:
        rows = await self._read(
            lambda sql: sql.rows(
                """SELECT instance_id, name, json_extract(record, '$.version'), json_extract(record, '$.parked.kind')
                    FROM {instances} WHERE parked = 1 AND partition IN (SELECT value FROM json_each(?))
                    AND instance_id > ? ORDER BY instance_id LIMIT ?""",
                json(partitions),
                after or "",
                limit,
            )
        )
        return [
            ParkedInstance(instance_id=instance_id, name=name, version=version, kind=kind)
            for instance_id, name, version, kind in rows
        ]

    async def query(self, which: InstanceFilter, *, limit: int, continuation: str | None = None) -> InstancePage:
        limit = max(limit, 1)
        where, values = condition(which, continuation)
        contents = await self._read(
            lambda sql: sql.column(
                f"""SELECT record FROM {{instances}} WHERE {where}
                    ORDER BY created_time DESC, instance_id DESC LIMIT ?""",
                *values,
                limit + 1,
            )
        )
        records = tuple(record_of(content) for content in contents[:limit])
        more = len(contents) > limit
        return InstancePage(records=records, continuation=continuation_after(records[-1]) if more else None)

    async def count(self, which: InstanceFilter) -> dict[str, int]:
        where, values = condition(which, None)
        statement = f"SELECT runtime_status, COUNT(*) FROM {{instances}} WHERE {where} GROUP BY runtime_status"
        return dict(await self._read(lambda sql: sql.rows(statement, *values)))

    async def query_entities(self, which: EntityFilter, *, limit: int, continuation: str | None = None) -> InstancePage:
        limit = max(limit, 1)
        where, values = entity_condition(which, continuation)
        contents = await self._read(
            lambda sql: sql.column(
                f"SELECT record FROM {{instances}} WHERE {where} ORDER BY instance_id LIMIT ?", *values, limit + 1
            )
        )
        records = tuple(record_of(content) for content in contents[:limit])
        more = len(contents) > limit
        return InstancePage(records=records, continuation=entity_continuation(records[-1]) if more else None)

    # Commits

    async def append(self, commits: Sequence[Commit]) -> list[AppendOutcome]:
        def work(sql: Sql) -> list[AppendOutcome]:
            stored = sql.run_each(
                "INSERT INTO {history} VALUES (?, ?, ?, ?, ?, 1, ?, NULL) ON CONFLICT DO NOTHING",
                (
                    (commit.instance_id, commit.n, commit.token, commit.partition, text(commit.at), json(commit))
                    for commit in commits
                ),
            )
            if stored == len(commits):
                return [AppendOutcome.COMMITTED] * stored
            return [_outcome(sql, commit) for commit in commits]

        return await self._write(work)

    async def load(self, instance_ids: Sequence[str]) -> dict[str, LoadedInstance]:
        def work(sql: Sql) -> tuple[dict[str, InstanceRecord], list[Any]]:
            return _records(sql, instance_ids), sql.column(
                """SELECT content FROM {instances} AS i JOIN {history} AS h
                    ON h.instance_id = i.instance_id AND h.n >= i.first - 1
                    WHERE i.instance_id IN (SELECT value FROM json_each(?)) AND h.expires IS NULL
                    ORDER BY h.instance_id, h.n""",
                json(instance_ids),
            )

        records, contents = await self._read(work)
        commits: dict[str, list[Commit]] = {instance_id: [] for instance_id in records}
        for commit in map(commit_of, contents):
            if commit.instance_id in commits:
                commits[commit.instance_id].append(commit)
        return {
            instance_id: LoadedInstance(record=record, commits=current_execution(record, commits[instance_id]))
            for instance_id, record in records.items()
        }

    async def confirm(self, instance_id: str, n: int, execution_id: str | None) -> bool:
        def work(sql: Sql) -> bool:
            record = sql.row(
                "SELECT runtime_status, execution_id FROM {instances} WHERE instance_id = ? AND expires IS NULL",
                instance_id,
            )
            if (record is None) != (execution_id is None):
                return False
            if record is not None and record[0] == "Pending" and record[1] != execution_id:
                return False
            # Any later commit, not only the next: that one may have been trimmed.
            return not sql.rows(
                "SELECT 1 FROM {history} WHERE instance_id = ? AND n > ? AND (? OR expires IS NULL) LIMIT 1",
                instance_id,
                n,
                record is not None,
            )

        return await self._read(work)

    async def mark_sent(self, keys: Sequence[CommitKey]) -> None:
        if keys:
            rows = [(key.instance_id, key.n) for key in keys]
            statement = "UPDATE {history} SET pending = 0 WHERE instance_id = ? AND n = ?"
            await self._write(lambda sql: sql.run_each(statement, rows))

    async def unsent(self, partitions: Sequence[int], *, before: datetime, limit: int) -> list[Commit]:
        contents = await self._read(
            lambda sql: sql.column(
                """SELECT content FROM {history} WHERE pending = 1
                    AND partition IN (SELECT value FROM json_each(?)) AND at <= ? ORDER BY at, instance_id, n LIMIT ?""",
                json(partitions),
                text(before),
                limit,
            )
        )
        return [commit_of(content) for content in contents]

    async def history(self, instance_id: str) -> list[Commit]:
        contents = await self._read(
            lambda sql: sql.column(
                "SELECT content FROM {history} WHERE instance_id = ? AND expires IS NULL ORDER BY n", instance_id
            )
        )
        return [commit_of(content) for content in contents]


def _number(projection: Projection) -> int:
    return projection.n


def _row(record: InstanceRecord) -> tuple[object, ...]:
    pending = record.runtime_status == "Pending"
    start_after = text(record.scheduled_start_time or record.created_time) if pending else None
    return (
        record.instance_id,
        record.partition,
        record.execution_id,
        record.execution_id,
        record.generation,
        record.name,
        record.runtime_status,
        text(record.created_time),
        start_after,
        record.parked is not None,
        record.head,
        record.first,
        json(record),
        record.parent.instance_id if record.parent else None,
    )


def _changes(record: InstanceRecord) -> tuple[object, ...]:
    return (
        record.execution_id,
        record.generation,
        record.runtime_status,
        record.parked is not None,
        record.head,
        record.first,
        json(record),
        record.instance_id,
    )


def _records(sql: Sql, instance_ids: Sequence[str]) -> dict[str, InstanceRecord]:
    contents = sql.column(
        "SELECT record FROM {instances} WHERE instance_id IN (SELECT value FROM json_each(?)) AND expires IS NULL",
        json(instance_ids),
    )
    return {record.instance_id: record for record in map(record_of, contents)}


def _decide(sql: Sql, record: InstanceRecord, *, replace: bool) -> CreateOutcome:
    """Whether the record in the table, whoever put it there, is this one or gives way to it."""
    row = sql.row(
        "SELECT execution_id, started_as, runtime_status, head, record, expires FROM {instances} WHERE instance_id = ?",
        record.instance_id,
    )
    assert row is not None
    execution_id, started_as, status, head, content, expires = row
    if record.execution_id in (execution_id, started_as):
        return CreateOutcome(created=True)
    if expires is None and not (replace and status in TERMINAL):
        return CreateOutcome(created=False, existing=record_of(content))
    kept = _with_numbers(record, head)
    sql.run("INSERT OR REPLACE INTO {instances} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)", *_row(kept))
    return CreateOutcome(created=True)


def _with_numbers(record: InstanceRecord, head: int) -> InstanceRecord:
    return msgspec.structs.replace(record, head=head, first=head + 1)


def _outcome(sql: Sql, commit: Commit) -> AppendOutcome:
    row = sql.row("SELECT token FROM {history} WHERE instance_id = ? AND n = ?", commit.instance_id, commit.n)
    assert row is not None
    return AppendOutcome.COMMITTED if row[0] == commit.token else AppendOutcome.LOST
