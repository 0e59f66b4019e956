"""The tables of a hub, and how values look in them.

Values are JSON text, as the runtime's types encode themselves; what queries need stands beside it in columns. Times are texts that sort;
expiries, which only this machine's clock compares, are seconds since 1970. ``expires`` in ``instances`` marks a tombstone, in
``history`` the number of a commit that was deleted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from callboard.core.instances import Commit, InstanceRecord
from callboard.errors import ConfigurationError, HubMismatchError, HubNotFoundError
from callboard_store.rules import DEFAULT_PARTITIONS
from callboard_store.sqlite.database import Sql

SCHEMA: Final = 1
"""Of the tables; a newer one in the file is refused."""

_HUBS: Final = """CREATE TABLE IF NOT EXISTS callboard_hubs (
    hub TEXT PRIMARY KEY COLLATE NOCASE, partitions INTEGER NOT NULL, schema INTEGER NOT NULL
)"""

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS {instances} (
        instance_id TEXT PRIMARY KEY, partition INTEGER NOT NULL, execution_id TEXT NOT NULL, started_as TEXT NOT NULL,
        generation INTEGER NOT NULL, name TEXT, runtime_status TEXT NOT NULL, created_time TEXT, start_after TEXT,
        parked INTEGER NOT NULL DEFAULT 0, head INTEGER NOT NULL, first INTEGER NOT NULL, record TEXT, expires REAL,
        parent TEXT
    )""",
    "CREATE INDEX IF NOT EXISTS {instances_created} ON {instances} (created_time, instance_id) WHERE expires IS NULL",
    "CREATE INDEX IF NOT EXISTS {instances_status} ON {instances} (runtime_status, created_time, instance_id)",
    """CREATE INDEX IF NOT EXISTS {instances_pending} ON {instances} (partition, start_after)
        WHERE runtime_status = 'Pending'""",
    "CREATE INDEX IF NOT EXISTS {instances_parked} ON {instances} (partition) WHERE parked = 1",
    "CREATE INDEX IF NOT EXISTS {instances_expires} ON {instances} (expires) WHERE expires IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS {history} (
        instance_id TEXT NOT NULL, n INTEGER NOT NULL, token TEXT NOT NULL, partition INTEGER, at TEXT,
        pending INTEGER NOT NULL, content TEXT, expires REAL, PRIMARY KEY (instance_id, n)
    )""",
    "CREATE INDEX IF NOT EXISTS {history_unsent} ON {history} (partition, at) WHERE pending = 1",
    "CREATE INDEX IF NOT EXISTS {history_expires} ON {history} (expires) WHERE expires IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS {payloads} (
        instance_id TEXT NOT NULL, sha256 TEXT NOT NULL, piece INTEGER NOT NULL, put_at REAL NOT NULL, content BLOB NOT NULL,
        PRIMARY KEY (instance_id, sha256, piece)
    )""",
    """CREATE TABLE IF NOT EXISTS {timers} (
        instance_id TEXT NOT NULL, execution_id TEXT NOT NULL, timer_id INTEGER NOT NULL, partition INTEGER NOT NULL,
        fire_at TEXT NOT NULL, of_task INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (instance_id, execution_id, timer_id)
    )""",
    "CREATE INDEX IF NOT EXISTS {timers_due} ON {timers} (partition, fire_at)",
    """CREATE TABLE IF NOT EXISTS {claims} (
        instance_id TEXT NOT NULL, execution_id TEXT NOT NULL, task_scheduled_id INTEGER NOT NULL, partition INTEGER NOT NULL,
        worker_id TEXT NOT NULL, expires REAL NOT NULL, call TEXT NOT NULL, started TEXT, heartbeat TEXT, details TEXT,
        cancelled INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (instance_id, execution_id, task_scheduled_id)
    )""",
    """CREATE TABLE IF NOT EXISTS {permits} (
        name TEXT NOT NULL, worker_id TEXT NOT NULL, permits INTEGER NOT NULL, expires REAL NOT NULL, PRIMARY KEY (name, worker_id)
    )""",
    "CREATE TABLE IF NOT EXISTS {starts} (name TEXT PRIMARY KEY, next REAL NOT NULL)",
    """CREATE TABLE IF NOT EXISTS {partitions} (
        partition INTEGER PRIMARY KEY, owner TEXT, epoch INTEGER NOT NULL, expires REAL NOT NULL
    )""",
    "CREATE TABLE IF NOT EXISTS {workers} (worker_id TEXT PRIMARY KEY, heartbeat REAL NOT NULL, info TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS {quarantine} (
        id TEXT PRIMARY KEY, at TEXT NOT NULL, source TEXT NOT NULL, reason TEXT NOT NULL, headers TEXT NOT NULL,
        body BLOB NOT NULL
    )""",
)

#: Columns that tables of an earlier version lack.
_ADDED: Final = (
    ("timers", "of_task", "INTEGER NOT NULL DEFAULT 0"),
    ("claims", "started", "TEXT"),
    ("claims", "heartbeat", "TEXT"),
    ("claims", "details", "TEXT"),
    ("claims", "cancelled", "INTEGER NOT NULL DEFAULT 0"),
)

_commit_decoder = msgspec.json.Decoder(Commit)
_record_decoder = msgspec.json.Decoder(InstanceRecord)


def open_hub(sql: Sql, hub: str, partitions: int | None, *, create: bool) -> int:
    """Makes what is missing, and returns the hub's number of partitions."""
    sql.run(_HUBS)
    if not create and sql.row("SELECT 1 FROM callboard_hubs WHERE hub = ?", hub) is None:
        raise HubNotFoundError(hub, sql.column("SELECT hub FROM callboard_hubs"))
    sql.run("INSERT OR IGNORE INTO callboard_hubs VALUES (?, ?, ?)", hub, partitions or DEFAULT_PARTITIONS, SCHEMA)
    row = sql.row("SELECT hub, partitions, schema FROM callboard_hubs WHERE hub = ?", hub)
    assert row is not None
    name, count, schema = row
    if name != hub:
        raise ConfigurationError(
            f"Task hub {hub!r} differs only in case from {name!r}, which SQLite cannot tell apart. Choose another name."
        )
    if partitions not in (None, count):
        raise HubMismatchError(hub, existing=count, requested=partitions)
    if schema > SCHEMA:
        raise ConfigurationError(
            f"Task hub {hub!r} was made by a newer Callboard (schema {schema}, this one knows {SCHEMA}). Upgrade this one."
        )
    for statement in _TABLES:
        sql.run(statement)
    for table, column, kind in _ADDED:
        if column not in sql.columns(table):
            sql.run(f"ALTER TABLE {{{table}}} ADD COLUMN {column} {kind}")
    _add_parent(sql)
    sql.run("CREATE INDEX IF NOT EXISTS {instances_parent} ON {instances} (parent) WHERE parent IS NOT NULL")
    sql.run_each("INSERT OR IGNORE INTO {partitions} VALUES (?, NULL, 0, 0)", ((number,) for number in range(count)))
    return int(count)


def _add_parent(sql: Sql) -> None:
    """A file that was made before there was this column."""
    if "parent" not in sql.columns("instances"):
        sql.run("ALTER TABLE {instances} ADD COLUMN parent TEXT")
        sql.run("UPDATE {instances} SET parent = json_extract(record, '$.parent.instanceId') WHERE record IS NOT NULL")


def text(moment: datetime) -> str:
    """A time as text that sorts."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def time_of(value: str) -> datetime:
    return datetime.fromisoformat(value)


def json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def commit_of(content: str) -> Commit:
    return _commit_decoder.decode(content)


def record_of(content: str) -> InstanceRecord:
    return _record_decoder.decode(content)
