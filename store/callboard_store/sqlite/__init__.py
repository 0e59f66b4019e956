"""The store in an SQLite file, for ``callboard dev``, tests and small deployments on one machine.

What was written survives kill -9 and a power cut. Several processes may share the file, a broker's too. A person reads it with the
sqlite3 shell: ``SELECT * FROM "trips.history"``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from callboard.errors import ConfigurationError, StoreUnavailableError
from callboard_store.rules import PAYLOAD_GRACE_SECONDS, check_hub, check_partitions
from callboard_store.sqlite.claims import Claims
from callboard_store.sqlite.database import Database
from callboard_store.sqlite.instances import Instances
from callboard_store.sqlite.limits import Limits
from callboard_store.sqlite.ownership import Leases, Quarantine, Timers
from callboard_store.sqlite.purging import Purging
from callboard_store.sqlite.tables import open_hub

__all__ = ["SQLiteStore"]


class SQLiteStore(Instances, Purging, Timers, Claims, Limits, Leases, Quarantine):
    """Implements ``callboard.ports.Store``; there the guarantees are described."""

    def __init__(
        self,
        path: str | Path | None,
        *,
        busy_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
        payload_grace_seconds: float = PAYLOAD_GRACE_SECONDS,
    ) -> None:
        """Names a file; ``open`` opens it.

        Args:
            path: the file, made with its folder if missing; None for a private database in memory, which is gone when closed.
            busy_seconds: how long to wait while another program has the file locked.
            clock: seconds since 1970; the store's time.
            payload_grace_seconds: how long ``trim`` spares a payload that nothing refers to.
        """
        super().__init__(clock, payload_grace_seconds)
        self._path = Path(path) if path is not None else None
        self._busy_seconds = busy_seconds

    @classmethod
    def from_url(cls, url: str) -> Self:
        """``sqlite:///relative.db``, ``sqlite:////absolute/path.db``, or ``sqlite://`` for memory.

        Raises:
            ConfigurationError: the URL is none of these.
        """
        parts = urlsplit(url)
        if parts.scheme != "sqlite" or parts.netloc or parts.query or parts.fragment:
            raise ConfigurationError(
                f"{url!r} names no SQLite file. Write sqlite:///relative.db (three slashes), sqlite:////absolute/path.db (four), "
                f"or sqlite:// for a database in memory."
            )
        path = unquote(parts.path).removeprefix("/")
        return cls(path if path not in ("", ":memory:") else None)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path) if self._path else None!r})"

    async def open(self, hub: str, partitions: int | None, *, create: bool = True) -> int:
        check_hub(hub)
        check_partitions(partitions)
        if self._database is not None:
            raise StoreUnavailableError(f"{self!r} is open already. Make another one for another hub.")
        database = Database(self._path.absolute() if self._path else None, busy_seconds=self._busy_seconds)
        await asyncio.get_running_loop().run_in_executor(None, database.open, hub)
        try:
            count = await database.call(lambda sql: open_hub(sql, hub, partitions, create=create))
        except BaseException:
            await database.close()
            raise
        self._database = database
        return count

    async def aclose(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            await database.close()
