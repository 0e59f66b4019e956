"""An SQLite file and the one thread that works on it. The only importer of sqlite3 here.

Calls that come while a transaction is being synced to disk share the next one, each in a savepoint of its own: the sync is what a
transaction costs.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from callboard.errors import CallboardError, ConfigurationError, InvalidPayloadError, StoreUnavailableError

T = TypeVar("T")
Row = tuple[Any, ...]

#: Calls in one transaction; more would make the first wait for the last.
_BATCH: Final = 256
_NOT_A_DATABASE: Final = 26
#: SQLITE_FULL, SQLITE_IOERR, SQLITE_NOMEM and the like end the transaction by themselves.
_BUSY: Final = (5, 6)


class Sql:
    """Statements on one hub's tables, which they name in braces: ``SELECT … FROM {history}``."""

    def __init__(self, connection: sqlite3.Connection, hub: str) -> None:
        self.connection = connection
        self._hub = hub
        self._statements: dict[str, str] = {}

    def run(self, statement: str, *values: object) -> int:
        """Executes a statement, and returns how many rows it changed."""
        return self.connection.execute(self._full(statement), values).rowcount

    def run_each(self, statement: str, rows: Iterable[Sequence[object]]) -> int:
        """Executes a statement for each row of values, and returns how many rows were changed in all."""
        return self.connection.executemany(self._full(statement), rows).rowcount

    def rows(self, statement: str, *values: object) -> list[Row]:
        return self.connection.execute(self._full(statement), values).fetchall()

    def row(self, statement: str, *values: object) -> Row | None:
        return cast("Row | None", self.connection.execute(self._full(statement), values).fetchone())

    def column(self, statement: str, *values: object) -> list[Any]:
        return [row[0] for row in self.rows(statement, *values)]

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns."""
        return self.column("SELECT name FROM pragma_table_info(?)", f"{self._hub}.{table}")

    def _full(self, statement: str) -> str:
        full = self._statements.get(statement)
        if full is None:
            full = self._statements[statement] = statement.replace("{", f'"{self._hub}.').replace("}", '"')
        return full


@dataclass(slots=True, eq=False)
class _Call:
    work: Callable[[Sql], Any]
    future: asyncio.Future[Any]
    writes: bool
    result: Any = None
    error: BaseException | None = None


class Database:
    """An open file (or, without a path, memory)."""

    def __init__(self, path: Path | None, *, busy_seconds: float) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._sql: Sql | None = None
        self._thread: threading.Thread | None = None

    def open(self, hub: str) -> None:
        """Opens the file and starts the thread. Blocks for as long as the file is locked.

        Raises:
            StoreUnavailableError: it cannot be opened.
            ConfigurationError: it is no database of ours.
        """
        try:
            connection = self._connect()
        except (sqlite3.Error, OSError) as error:
            raise explained(error, self._path) from error
        self._sql = Sql(connection, hub)
        # A daemon, so that a program that forgets to close us can end; a transaction is whole or not there.
        self._thread = threading.Thread(target=self._work, name="callboard-sqlite-store", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path or ":memory:", timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            _refuse_foreign(connection, self._path)
            _into_wal(connection, self._path, self._busy_seconds)
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    async def call(self, work: Callable[[Sql], T], *, writes: bool = True) -> T:
        """Runs work in the thread, in a transaction. What it raises has undone what it did."""
        if self._thread is None:
            raise StoreUnavailableError(f"The store on {self._path or 'memory'} is not open.")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put(_Call(work, future, writes))
        return await future

    async def close(self) -> None:
        """Lets what was called before finish, and closes the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    # In the thread

    def _work(self) -> None:
        sql = self._sql
        assert sql is not None
        ending = False
        while not ending:
            batch: list[_Call] = []
            call = self._calls.get()
            while call is not None:
                batch.append(call)
                if len(batch) == _BATCH or self._calls.empty():
                    break
                call = self._calls.get()
            ending = call is None
            if batch:
                self._execute(sql, batch)
                _answer(batch)
        sql.connection.close()

    def _execute(self, sql: Sql, batch: list[_Call]) -> None:
        connection = sql.connection
        try:
            connection.execute("BEGIN IMMEDIATE" if any(call.writes for call in batch) else "BEGIN")
            for call in batch:
                self._execute_one(sql, call, alone=len(batch) == 1)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for call in batch:
                call.error = call.error or explained(error, self._path)
        except _Undone:
            connection.execute("ROLLBACK")

    def _execute_one(self, sql: Sql, call: _Call, *, alone: bool) -> None:
        saved = call.writes and not alone
        if saved:
            sql.connection.execute("SAVEPOINT one")
        try:
            call.result = call.work(sql)
        except BaseException as error:
            call.error = (
                explained(error, self._path)
                if isinstance(error, sqlite3.Error | UnicodeError | OverflowError)
                else error
            )
            if not sql.connection.in_transaction:
                raise  # the error has ended the whole transaction: nobody's work is kept
            if not saved:
                if alone:
                    raise _Undone from error
                return
            sql.connection.execute("ROLLBACK TO one")
        if saved:
            sql.connection.execute("RELEASE one")


class _Undone(Exception):  # noqa: N818  a signal
    """The only call of a transaction failed."""


def _answer(batch: list[_Call]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
    for call in batch:
        loops.setdefault(call.future.get_loop(), []).append(call)
    for loop, calls in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, calls)
        except RuntimeError:
            continue  # the loop is closed: nobody waits any more


def _resolve(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.result)


def _into_wal(connection: sqlite3.Connection, path: Path | None, seconds: float) -> None:
    """Turns the file to write-ahead logging. SQLite does not wait by itself when a store and a broker do so at once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break
    if path is not None and mode != "wal":
        raise ConfigurationError(
            f"{path} is on a file system without shared memory (a network mount?), where SQLite is not safe. Put it on a local disk."
        )


def _refuse_foreign(connection: sqlite3.Connection, path: Path | None) -> None:
    """Another program's database is left alone."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    ours = any(name == "callboard_hubs" or name.startswith("broker_") for name in tables)
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if (tables and not ours) or application:
        raise ConfigurationError(
            f"{path} is a database of another program (its tables: {', '.join(sorted(tables)[:5])}). Give Callboard a file of its own."
        )


def explained(error: BaseException, path: Path | None) -> CallboardError:
    """What an error of SQLite or of the file system means to us."""
    where = path or "memory"
    match error:
        case UnicodeError() | OverflowError():
            return InvalidPayloadError(f"A value cannot be stored in SQLite: {error}.")
        case sqlite3.DatabaseError(sqlite_errorcode=code) if code == _NOT_A_DATABASE:
            return ConfigurationError(
                f"{where} is no SQLite database, or is encrypted. Give Callboard a file of its own."
            )
        case sqlite3.OperationalError(sqlite_errorcode=code) if code & 0xFF in _BUSY:
            return StoreUnavailableError(f"{where} is locked by another program for too long. Which one has it open?")
        case OSError() | sqlite3.OperationalError():
            return StoreUnavailableError(
                f"{where} cannot be used: {error}. Check that the folder exists and is writable, and that the disk is not full."
            )
        case _:
            return StoreUnavailableError(f"{where} failed: {error}. If the file is damaged, restore a backup.")
