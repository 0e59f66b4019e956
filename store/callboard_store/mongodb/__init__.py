"""The store on MongoDB 5.0 or later, standalone, replica set or sharded.

Writes are acknowledged by the majority and its journals; reads are of the majority, from the primary. Nothing needs a transaction: a
commit is one document. Each hub has its own collections (``{hub}.history``, ``{hub}.instances``, …) in one database, and a document in
``hubs``. To shard, shard ``history`` by ``_id``: each instance is a range of it.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Self
from urllib.parse import urlsplit

from callboard.errors import ConfigurationError, StoreUnavailableError
from callboard_store.mongodb.claims import Claims
from callboard_store.mongodb.driver import DEFAULT_DATABASE, ClientLike, connect, database_in, masked
from callboard_store.mongodb.histories import Histories
from callboard_store.mongodb.leases import Leases
from callboard_store.mongodb.limits import Limits
from callboard_store.mongodb.quarantine import Quarantine
from callboard_store.mongodb.timers import Timers

__all__ = ["MongoDBStore"]

logger = logging.getLogger(__name__)


class MongoDBStore(Histories, Timers, Claims, Limits, Leases, Quarantine):
    """Implements ``callboard.ports.Store``; there the guarantees are described.

    On a standalone server all of it works, but there is no failover, and ``confirm`` reads plainly (the server is asked once, at ``open``,
    and a warning says so).
    """

    def __init__(self, client: ClientLike | None = None, *, url: str = "", database: str = DEFAULT_DATABASE) -> None:
        """Uses a client that the program has, or makes one from a URL at ``open``.

        Args:
            client: of Motor or of PyMongo's asynchronous API; not closed by ``aclose``.
            url: without a client: where to connect to.
            database: holds the hub's collections.
        """
        if (client is None) == (not url):
            raise ConfigurationError("A MongoDBStore needs either a client or a URL.")
        server = urlsplit(masked(url)).netloc.rpartition("@")[2] if url else "the given client's address"
        super().__init__(client, database, server)
        self._url = url

    @classmethod
    def from_url(cls, url: str) -> Self:
        """``mongodb://user:password@host:27017/database?replicaSet=…``; the database is ``callboard`` if none is named.

        Raises:
            ConfigurationError: the URL is not one.
        """
        return cls(url=url, database=database_in(url))

    def __repr__(self) -> str:
        return f"MongoDBStore({masked(self._url) if self._url else self._client!r}, database={self._database!r})"

    async def open(self, hub: str, partitions: int | None, *, create: bool = True) -> int:
        if self._open_collections is not None:
            raise StoreUnavailableError(f"{self!r} is open already. Make another one for another hub.")
        client = self._client or connect(self._url)
        try:
            count = await self._open_hub(client, hub, partitions, create=create)
        except BaseException:
            if self._url:
                await self._close_client(client)
            raise
        self._client = client
        return count

    async def aclose(self) -> None:
        if self._open_collections is not None:
            with contextlib.suppress(StoreUnavailableError):  # the partitions' next owners find what is not marked
                await self._close_outbox()
        client, self._open_collections = self._client, None
        if client is None or not self._url:
            return
        self._client = None
        await self._close_client(client)
