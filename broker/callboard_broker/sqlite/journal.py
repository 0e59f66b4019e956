"""The journal: messages and consumers as rows of an SQLite file. Synchronous, for one thread; the only importer of sqlite3 here.

Invariants:
- A message's row exists from the commit of its publish to the commit of its ack.
- ``consumer`` names the subscription that holds the message; whoever buries a dead process gives its messages back.
- Only what must outlive a power cut is synced to disk: publishes to durable queues. Claims and acks are written without a sync,
  which a kill -9 does not undo; a power cut may, and then a message comes again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from callboard.errors import BrokerUnavailableError, ConfigurationError
from callboard.ports import NO_PROPERTIES, Destination, DestinationKind, Properties
from callboard_broker.sqlite import lifeline
from callboard_broker.topology import named, topic_matches

logger = logging.getLogger(__name__)

_SCHEMA = (
    # AUTOINCREMENT: an id is never used again, so a late ack cannot delete another message.
    """CREATE TABLE IF NOT EXISTS broker_messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        consumer INTEGER,
        deliveries INTEGER NOT NULL,
        headers TEXT,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS broker_messages_waiting ON broker_messages (queue, id) WHERE consumer IS NULL",
    "CREATE INDEX IF NOT EXISTS broker_messages_held ON broker_messages (consumer) WHERE consumer IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS broker_consumers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        process TEXT NOT NULL,
        queue TEXT NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS broker_consumers_queue ON broker_consumers (queue)",
    "CREATE TABLE IF NOT EXISTS broker_foreign_queues (name TEXT PRIMARY KEY)",
    """CREATE TABLE IF NOT EXISTS broker_bindings (
        exchange TEXT NOT NULL,
        key TEXT NOT NULL,
        queue TEXT NOT NULL,
        PRIMARY KEY (exchange, key, queue)
    )""",
)

_CLAIM = """UPDATE broker_messages SET consumer = ?, deliveries = deliveries + 1
    WHERE id IN (SELECT id FROM broker_messages WHERE queue = ? AND consumer IS NULL ORDER BY id LIMIT ?)
    RETURNING id, body, headers, deliveries"""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that a consumer holds."""

    id: int
    body: bytes
    headers: Mapping[str, str]
    deliveries: int
    properties: Properties = NO_PROPERTIES


def queue_name(hub: str, destination: Destination) -> str:
    """What the ``queue`` column says. No name of ours has a slash in it (``topology`` saw to that), and others' have what comes last."""
    if destination.kind is DestinationKind.FOREIGN:
        destination = named(hub, destination.name)
    if destination.kind is DestinationKind.FOREIGN:
        return f"/{destination.kind.value}/{destination.name}"
    return f"{hub}/{destination.kind.value}/{destination.name}"


class Journal:
    """An open SQLite file, or a private database in memory (``path`` None)."""

    def __init__(self, path: Path | None, *, busy_seconds: float, delivery_limit: int) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._delivery_limit = delivery_limit
        self._process = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._connection: sqlite3.Connection | None = None
        self._lifeline: lifeline.Lifeline | None = None
        self._synced = True
        self._durable = True
        self._data_version = -1

    # Opening and closing

    def open(self) -> None:
        """Makes what is missing, says that this process lives, and takes back what dead ones held."""
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connect()
            with self.transaction():
                self._write()
                for statement in _SCHEMA:
                    self._sql.execute(statement)
                if self._path is not None:
                    self._lifeline = lifeline.Lifeline(self._path, self._process)
                self._clear_up()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise explain(error, self._path, opening=True) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the file and of life; what is still held comes back to the others."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lifeline is not None:
            self._lifeline.cut()
            self._lifeline = None

    def _connect(self) -> None:
        self._connection = sqlite3.connect(
            ":memory:" if self._path is None else self._path, timeout=self._busy_seconds, isolation_level=None
        )
        # SQLite does not wait by itself when two connections turn a new file to WAL at once, as a store and a broker do.
        mode = self._patiently("PRAGMA journal_mode = WAL")
        if self._path is not None and mode != "wal":
            raise ConfigurationError(
                f"{self._path} is on a file system without shared memory (a network mount?), where a journal is not safe. "
                f"Put it on a local disk."
            )
        self._sql.execute("PRAGMA synchronous = FULL")

    @property
    def _sql(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _one(self, statement: str, *values: object) -> Any:
        """The first column of the first row, or None."""
        row = self._sql.execute(statement, values).fetchone()
        return None if row is None else row[0]

    # Transactions

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Generator[None]:
        """All writes within are committed at its end, or none. Begins with the first write, so that none costs nothing.

        ``durable``: the commit waits for the disk.
        """
        self._durable = durable
        try:
            yield
            if self._sql.in_transaction:
                self._sql.execute("COMMIT")
        except BaseException:
            if self._connection is not None and self._sql.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._sql.execute("ROLLBACK")
            raise

    def _write(self) -> None:
        if self._sql.in_transaction:
            return
        if self._durable != self._synced:
            # In WAL mode NORMAL appends without a sync; the next synced commit takes these frames along.
            self._sql.execute("PRAGMA synchronous = FULL" if self._durable else "PRAGMA synchronous = NORMAL")
            self._synced = self._durable
        # SQLite's own waiting backs off up to 100 ms: beside a busy store on the same file that starves us.
        self._sql.execute("PRAGMA busy_timeout = 0")
        try:
            self._patiently("BEGIN IMMEDIATE")
        finally:
            self._sql.execute(f"PRAGMA busy_timeout = {int(self._busy_seconds * 1000)}")

    def _patiently(self, statement: str) -> Any:
        """Runs a statement that others' locks may stop, over and over in short intervals; returns the first value."""
        deadline = time.monotonic() + self._busy_seconds
        pause = 0.0002
        while True:
            try:
                return self._one(statement)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, 0.002)

    # Messages

    def insert(
        self, queue: str, body: bytes, headers: str | None, *, consumer: int | None = None, deliveries: int = 0
    ) -> int:
        """Keeps a message, held by ``consumer`` from the start if one is given."""
        self._write()
        cursor = self._sql.execute(
            "INSERT INTO broker_messages (queue, consumer, deliveries, headers, body) VALUES (?, ?, ?, ?, ?)",
            (queue, consumer, deliveries, headers, body),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def waiting(self, queue: str) -> bool:
        """Whether any message of the queue is held by nobody."""
        return (
            self._one("SELECT 1 FROM broker_messages WHERE queue = ? AND consumer IS NULL LIMIT 1", queue) is not None
        )

    def depth(self, queue: str) -> int:
        return int(self._one("SELECT count(*) FROM broker_messages WHERE queue = ? AND consumer IS NULL", queue))

    def claim(self, consumer: int, queue: str, limit: int) -> list[Letter]:
        """Gives the oldest waiting messages to a consumer."""
        self._write()
        rows = self._sql.execute(_CLAIM, (consumer, queue, limit)).fetchall()
        rows.sort()  # RETURNING has no order
        return [_letter(row, body, headers, deliveries) for row, body, headers, deliveries in rows]

    # Foreign queues

    def prepare(self, queue: str, exchange: str, keys: Sequence[str]) -> None:
        """Makes a foreign queue and leads an exchange's messages there."""
        self._write()
        self._sql.execute("INSERT OR IGNORE INTO broker_foreign_queues (name) VALUES (?)", (queue,))
        self._sql.executemany(
            "INSERT OR IGNORE INTO broker_bindings (exchange, key, queue) VALUES (?, ?, ?)",
            [(exchange, key, queue) for key in keys if exchange],
        )

    def receivers(self, hub: str, destination: Destination) -> list[str]:
        """The queues that a message for a topic exchange or a foreign queue goes to, as the ``queue`` column has them."""
        if destination.kind is DestinationKind.TOPIC:
            rows = self._sql.execute("SELECT key, queue FROM broker_bindings WHERE exchange = ?", (destination.name,))
            found = {queue for key, queue in rows.fetchall() if topic_matches(key, destination.key)}
        else:
            found = {destination.name}
        return [queue_name(hub, Destination.foreign(queue)) for queue in sorted(found) if self._there(hub, queue)]

    def _there(self, hub: str, queue: str) -> bool:
        if named(hub, queue).kind is not DestinationKind.FOREIGN:
            return True
        return self._one("SELECT 1 FROM broker_foreign_queues WHERE name = ?", queue) is not None

    def delete(self, messages: Sequence[int]) -> None:
        self._write()
        self._sql.executemany("DELETE FROM broker_messages WHERE id = ?", [(message,) for message in messages])

    def give_back(self, messages: Sequence[int]) -> None:
        """Lets messages be delivered again; activity calls over the delivery limit go to the dead letters instead."""
        self._write()
        for message in messages:
            row = self._sql.execute("SELECT queue, deliveries FROM broker_messages WHERE id = ?", (message,)).fetchone()
            if row is not None:
                hub, kind, _ = str(row[0]).split("/", 2)
                if kind == DestinationKind.ACTIVITIES.value and row[1] > self._delivery_limit:
                    self._bury_message(message, row[0], f"{hub}/{DestinationKind.DEAD_LETTERS.value}/")
                else:
                    self._sql.execute("UPDATE broker_messages SET consumer = NULL WHERE id = ?", (message,))

    def _bury_message(self, message: int, queue: str, dead_letters: str) -> None:
        # The names RabbitMQ gives these headers.
        letter = _letter(message, b"", self._one("SELECT headers FROM broker_messages WHERE id = ?", message), 0)
        headers = dict(letter.headers) | {
            "x-first-death-reason": "delivery_limit",
            "x-first-death-queue": queue.split("/", 2)[2],
        }
        self._sql.execute(
            "UPDATE broker_messages SET queue = ?, consumer = NULL, deliveries = 0, headers = ? WHERE id = ?",
            (dead_letters, encode_headers(headers, letter.properties), message),
        )

    # Consumers and processes

    def add_consumer(self, queue: str) -> int:
        self._write()
        cursor = self._sql.execute(
            "INSERT INTO broker_consumers (process, queue) VALUES (?, ?)", (self._process, queue)
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def remove_consumer(self, consumer: int) -> None:
        """Gives back what it holds; an inbox without consumers is gone, with all that is in it."""
        self._write()
        queue = self._one("DELETE FROM broker_consumers WHERE id = ? RETURNING queue", consumer)
        held = self._sql.execute("SELECT id FROM broker_messages WHERE consumer = ?", (consumer,)).fetchall()
        self.give_back([message for (message,) in held])
        inbox = queue is not None and _kind(queue) == DestinationKind.INBOX.value
        if inbox and self._one("SELECT 1 FROM broker_consumers WHERE queue = ?", queue) is None:
            self._sql.execute("DELETE FROM broker_messages WHERE queue = ?", (queue,))

    def consumed(self, queue: str) -> bool:
        """Whether any live process consumes the queue. Exact: a process that died a moment ago is noticed."""
        self._write()
        rows = self._sql.execute("SELECT DISTINCT process FROM broker_consumers WHERE queue = ?", (queue,)).fetchall()
        return any(process == self._process or lifeline.lives(self._file, process) for (process,) in rows)

    def changed(self) -> bool:
        """Whether another connection has written to the file since the last call."""
        before, self._data_version = self._data_version, int(self._one("PRAGMA data_version"))
        return before != self._data_version

    def peers(self) -> list[str]:
        """The other processes that have consumers, dead or alive."""
        rows = self._sql.execute("SELECT DISTINCT process FROM broker_consumers WHERE process <> ?", (self._process,))
        return [process for (process,) in rows]

    def dead(self, peers: Sequence[str]) -> list[str]:
        return [process for process in peers if not lifeline.lives(self._file, process)]

    def bury(self, process: str) -> None:
        """Gives back all that a dead process held, and forgets it."""
        self._write()
        for (consumer,) in self._sql.execute(
            "SELECT id FROM broker_consumers WHERE process = ?", (process,)
        ).fetchall():
            self.remove_consumer(consumer)
        lifeline.remove(self._file, process)
        logger.info("Took back the messages of process %s, which is gone", process)

    def _clear_up(self) -> None:
        if self._path is None:
            return
        for process in self.dead(self.peers()):
            self.bury(process)
        for process in lifeline.orphans(self._path, self.peers()):
            lifeline.remove(self._path, process)

    @property
    def _file(self) -> Path:
        assert self._path is not None, "a database in memory has no peers"
        return self._path

    def explain(self, error: Exception) -> Exception:
        """What went wrong while open, in the port's terms."""
        told = explain(error, self._path, opening=False)
        told.__cause__ = error
        return told


def explain(error: Exception, path: Path | None, *, opening: bool) -> Exception:
    """Says what an error of SQLite or the system means and what to do about it."""
    file = path or "the database in memory"
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return BrokerUnavailableError(
            f"{file} has been locked by another program for too long. End what holds a transaction open on it (an sqlite3 shell, a "
            f"database browser, a backup), then try again."
        )
    if primary == sqlite3.SQLITE_FULL:
        return BrokerUnavailableError(f"The disk of {file} is full. Free some space, then try again: nothing was lost.")
    if primary in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        what = (
            f"{file} is no SQLite database, or is damaged ({error}). Name another file, or restore a copy of this one."
        )
        return ConfigurationError(what) if opening else BrokerUnavailableError(what)
    if isinstance(error, OSError) or primary in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        what = f"{file} cannot be opened for writing ({error}). Check that it is a file, and that this user may write to it and its folder."
        return ConfigurationError(what) if opening else BrokerUnavailableError(what)
    return BrokerUnavailableError(f"{file} cannot be used: {type(error).__name__}: {error}.")


def _kind(queue: str) -> str:
    return queue.split("/", 2)[1]


def encode_headers(headers: Mapping[str, str] | None, properties: Properties = NO_PROPERTIES) -> str | None:
    """What the ``headers`` column says: the headers; with properties, both in a list."""
    if properties != NO_PROPERTIES:
        return msgspec.json.encode((headers or {}, properties)).decode()
    return msgspec.json.encode(headers).decode() if headers else None


def _letter(row: int, body: bytes, headers: str | None, deliveries: int) -> Letter:
    if headers is None or not headers.startswith("["):
        return Letter(row, body, msgspec.json.decode(headers, type=dict[str, str]) if headers else {}, deliveries)
    named_values, properties = msgspec.json.decode(headers, type=tuple[dict[str, str], Properties])
    return Letter(row, body, named_values, deliveries, properties)
