"""A hub's collections: how they are made, and how they are called."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final, TypeVar

from callboard.errors import ConfigurationError, HubMismatchError, HubNotFoundError, StoreUnavailableError
from callboard_store.documents import PURGED, Document
from callboard_store.mongodb.driver import (
    ASCENDING,
    DESCENDING,
    DRIVER_ERRORS,
    BulkWriteError,
    ClientLike,
    CodecOptions,
    Collection,
    DuplicateKeyError,
    IndexModel,
    OperationFailure,
    ReadConcern,
    ReadPreference,
    ReturnDocument,
    UpdateOne,
    WriteConcern,
    duplicates,
    translated,
)
from callboard_store.rules import DEFAULT_PARTITIONS, check_hub, check_partitions

logger = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA: Final = 1
"""Of the documents; a newer one in the database is refused."""

#: A write that must survive. The time-out leaves open whether it did.
DURABLE = WriteConcern("majority", j=True, wtimeout=10_000)
#: A write that may be lost.
LOSABLE = WriteConcern(1)
#: Never what a failover could take back.
MAJORITY = ReadConcern("majority")
#: What the primary has now; may be taken back.
LOCAL = ReadConcern("local")
LINEARIZABLE = ReadConcern("linearizable")

_PAST_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Collections:
    """Of one hub; writes are durable and reads of the majority, except where the name says otherwise."""

    name: str
    hubs: Collection
    instances: Collection
    history: Collection
    payloads: Collection
    timers: Collection
    claims: Collection
    limits: Collection
    partitions: Collection
    workers: Collection
    quarantine: Collection
    losable_history: Collection
    confirmed_instances: Collection
    confirmed_history: Collection


class Hub:
    """What the store's topics share: the hub's collections, and calls whose errors are ours."""

    def __init__(self, client: ClientLike | None, database: str, server: str) -> None:
        self._client = client
        self._database = database
        self._server = server
        self._open_collections: Collections | None = None
        self._sharded = False
        self._under_way: set[asyncio.Future[Any]] = set()
        # Motor has a thread for each call that waits, ten on two cores: slow reads must leave some to the commits.
        self._confirming = asyncio.Semaphore(3)

    @property
    def _in(self) -> Collections:
        if self._open_collections is None:
            raise StoreUnavailableError(f"{self!r} is not open. Call open() first, and nothing after aclose().")
        return self._open_collections

    async def _call(self, operation: Awaitable[T]) -> T:
        """Awaits an operation of the driver.

        It is shielded: cancelling one closes its connection, and leaves open whether a write happened although its answer is on the way.
        `DuplicateKeyError` and `BulkWriteError` are for the caller.
        """
        future = asyncio.ensure_future(operation)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(future)
        except (DuplicateKeyError, BulkWriteError):
            raise
        except DRIVER_ERRORS as error:
            raise translated(error, self._server) from error

    async def _insert_missing(self, collection: Collection, documents: list[Document]) -> None:
        """Inserts those whose key is not there yet."""
        try:
            if documents:
                await self._call(collection.insert_many(documents, ordered=False))
        except BulkWriteError as error:
            duplicates(error, self._server)

    async def _update_each(self, collection: Collection, updates: list[UpdateOne]) -> None:
        """Does updates in one call. An upsert that lost a race has found what it would have put."""
        try:
            if updates:
                await self._call(collection.bulk_write(updates, ordered=False))
        except BulkWriteError as error:
            duplicates(error, self._server)

    async def _open_hub(self, client: ClientLike, hub: str, partitions: int | None, *, create: bool) -> int:
        check_partitions(partitions)
        replicated = await self._look_at_server(client)
        collections = self._collections_of(client, check_hub(hub), replicated=replicated)
        if not create:
            await self._require_hub(collections.hubs, hub)
        document = await self._hub_document(collections.hubs, hub, partitions)
        count = int(document["partitions"])
        if partitions not in (None, count):
            raise HubMismatchError(hub, existing=count, requested=partitions)
        if document["schema"] > SCHEMA:
            raise ConfigurationError(
                f"Task hub {hub!r} was made by a newer Callboard (schema {document['schema']}, this one knows {SCHEMA}). Upgrade this one."
            )
        await self._make_indexes(collections)
        rows: list[Document] = [{"_id": number, "owner": None, "epoch": 0} for number in range(count)]
        await self._insert_missing(collections.partitions, rows)
        self._open_collections = collections
        return count

    async def _look_at_server(self, client: ClientLike) -> bool:
        """Whether the deployment has linearizable reads: replica sets and sharded clusters do, a lone mongod does not."""
        hello: Document = await self._call(client.get_database("admin").command("hello"))
        self._sharded = hello.get("msg") == "isdbgrid"
        replicated = "setName" in hello or self._sharded
        if not replicated:
            logger.warning(
                "MongoDB at %s is a standalone server: nothing is lost by a crash, but there is no failover, and linearizable reads are "
                "replaced by plain ones (equivalent while there is only one server). Use a replica set in production.",
                self._server,
            )
        return replicated

    def _collections_of(self, client: ClientLike, hub: str, *, replicated: bool) -> Collections:
        database: Any = client.get_database(self._database)
        codec: CodecOptions[Document] = CodecOptions(tz_aware=True, tzinfo=UTC)

        def named(name: str) -> Any:
            return database.get_collection(
                name,
                codec_options=codec,
                read_preference=ReadPreference.PRIMARY,
                write_concern=DURABLE,
                read_concern=MAJORITY,
            )

        instances, history = named(f"{hub}.instances"), named(f"{hub}.history")
        confirming = LINEARIZABLE if replicated else MAJORITY
        return Collections(
            name=hub,
            hubs=named("hubs"),
            instances=instances,
            history=history,
            payloads=named(f"{hub}.payloads"),
            timers=named(f"{hub}.timers"),
            claims=named(f"{hub}.claims"),
            limits=named(f"{hub}.limits"),
            partitions=named(f"{hub}.partitions"),
            workers=named(f"{hub}.workers"),
            quarantine=named(f"{hub}.quarantine"),
            losable_history=history.with_options(write_concern=LOSABLE, read_concern=LOCAL),
            confirmed_instances=instances.with_options(read_concern=confirming),
            confirmed_history=history.with_options(read_concern=confirming),
        )

    async def _require_hub(self, hubs: Collection, hub: str) -> None:
        if await self._call(hubs.find_one({"_id": {"$eq": hub}})) is None:
            known = await self._call(hubs.find({}, {"_id": True}).to_list(None))
            raise HubNotFoundError(hub, [each["_id"] for each in known])

    async def _hub_document(self, hubs: Collection, hub: str, partitions: int | None) -> Document:
        made = {
            "$setOnInsert": {"partitions": partitions or DEFAULT_PARTITIONS, "schema": SCHEMA},
            "$currentDate": {"lastOpened": True},
        }
        while True:
            try:
                document = await self._call(
                    hubs.find_one_and_update({"_id": hub}, made, upsert=True, return_document=ReturnDocument.AFTER)
                )
            except DuplicateKeyError:
                continue  # another one made it at the same moment
            assert document is not None
            return document

    async def _make_indexes(self, collections: Collections) -> None:
        try:
            for collection, indexes in _indexes(collections):
                await self._call(collection.create_indexes(indexes))
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, OperationFailure) and error.__cause__.code in _INDEX_CONFLICTS:
                raise ConfigurationError(
                    f"Database {self._database!r} at {self._server} has other indexes than Callboard makes: {error.__cause__}. "
                    f"Drop that index, or use another database."
                ) from error
            raise

    async def _close_client(self, client: ClientLike) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=5)
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing


def after(seconds: float) -> Document:
    """An expression: the server's time, and so many seconds more."""
    return {"$add": ["$$NOW", int(seconds * 1000)]}


_INDEX_CONFLICTS: Final = (85, 86)  # IndexOptionsConflict, IndexKeySpecsConflict


def _indexes(collections: Collections) -> list[tuple[Collection, list[IndexModel]]]:
    """Each costs every write to its collection: those of the hot path are partial, and hold only what is pending."""
    up, down = ASCENDING, DESCENDING
    return [
        (
            collections.history,
            [
                IndexModel([("at", up)], name="notes", partialFilterExpression={"unsent": {"$exists": True}}),
                IndexModel(
                    [("expires", up)],
                    name="taken_numbers",
                    expireAfterSeconds=0,
                    partialFilterExpression={"expires": {"$exists": True}},
                ),
            ],
        ),
        (
            collections.instances,
            [
                IndexModel([("createdTime", down), ("_id", down)], name="created"),
                IndexModel([("runtimeStatus", up), ("createdTime", down), ("_id", down)], name="status"),
                IndexModel([("name", up), ("createdTime", down), ("_id", down)], name="name"),
                IndexModel(
                    [("partition", up), ("startAfter", up)],
                    name="pending_starts",
                    partialFilterExpression={"runtimeStatus": "Pending"},
                ),
                IndexModel(
                    [("parent.instanceId", up)],
                    name="children",
                    partialFilterExpression={"parent.instanceId": {"$exists": True}},
                ),
                IndexModel([("partition", up)], name="parked", partialFilterExpression={"parked": {"$exists": True}}),
                IndexModel(
                    [("expires", up)],
                    name="tombstones",
                    expireAfterSeconds=0,
                    partialFilterExpression={"runtimeStatus": PURGED},
                ),
            ],
        ),
        (collections.timers, [IndexModel([("partition", up), ("fireAt", up)], name="due")]),
        (
            collections.claims,
            [
                IndexModel([("partition", up), ("expires", up)], name="expired"),
                IndexModel([("workerId", up)], name="worker"),
            ],
        ),
        (collections.workers, [IndexModel([("heartbeat", up)], name="forgotten", expireAfterSeconds=_PAST_DAY)]),
        (collections.quarantine, [IndexModel([("at", down)], name="at")]),
    ]
