"""The MongoDB drivers: the only module that imports them.

Motor is the driver for a URL; PyMongo's own asynchronous client does as well, and so does a client of either kind that the program already
has. What is used of a client is what both share, as the protocols here say it. Errors of the driver leave this package as
``callboard.errors``: see `translated`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from bson.codec_options import CodecOptions
from bson.errors import BSONError, InvalidDocument
from bson.objectid import ObjectId
from motor.motor_asyncio import (
    AsyncIOMotorClient as Client,  # the day motor goes: from pymongo import AsyncMongoClient as Client
)
from pymongo import (
    ASCENDING,
    DESCENDING,
    IndexModel,
    ReadPreference,
    ReturnDocument,
    UpdateMany,
    UpdateOne,
    WriteConcern,
)
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError as DriverConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from callboard.errors import (
    CallboardError,
    ConfigurationError,
    InvalidPayloadError,
    PayloadTooLargeError,
    StoreUnavailableError,
)
from callboard_store.documents import Document

__all__ = [
    "ASCENDING",
    "DEFAULT_DATABASE",
    "DESCENDING",
    "DRIVER_ERRORS",
    "BulkWriteError",
    "ClientLike",
    "CodecOptions",
    "Collection",
    "DuplicateKeyError",
    "IndexModel",
    "ObjectId",
    "OperationFailure",
    "ReadConcern",
    "ReadPreference",
    "ReturnDocument",
    "UpdateMany",
    "UpdateOne",
    "WriteConcern",
    "connect",
    "database_in",
    "duplicates",
    "masked",
    "translated",
]

#: What the driver raises: its own errors, and those of values that have no BSON form.
DRIVER_ERRORS = (PyMongoError, BSONError, UnicodeError, OverflowError)

DEFAULT_DATABASE = "callboard"
MAX_DOCUMENT = 16 * 1024 * 1024

#: What a client made from a URL gets unless the URL says otherwise. Nothing waits for ever. Writes are not retried by the driver: a
#: retryable one costs the server a second write, and all of ours are made to be repeated by those who asked for them.
CLIENT_OPTIONS: dict[str, Any] = {
    "appname": "callboard",
    "retryWrites": False,
    "connectTimeoutMS": 10_000,
    "serverSelectionTimeoutMS": 10_000,
    "socketTimeoutMS": 60_000,
}

_TOO_LARGE = (10334, 17419, 17420)  # BSONObjectTooLarge, and the same of an update's result
_BAD_CREDENTIALS = (18, 8000)  # AuthenticationFailed, and Atlas's own
_NOT_ALLOWED = 13

Pipeline: TypeAlias = Sequence[Mapping[str, Any]]
Update: TypeAlias = Mapping[str, Any] | Pipeline


class Cursor(Protocol):
    def sort(self, keys: Sequence[tuple[str, int]]) -> Cursor: ...
    def limit(self, limit: int) -> Cursor: ...
    def to_list(self, length: int | None = None) -> Awaitable[list[Document]]: ...


class Collection(Protocol):
    """What both clients' collections have in common, as far as it is used."""

    @property
    def name(self) -> str: ...
    def with_options(self, *, write_concern: Any = None, read_concern: Any = None) -> Any: ...
    def find(self, filter: Mapping[str, Any], projection: Mapping[str, Any] | None = None) -> Cursor: ...  # noqa: A002
    def count_documents(self, filter: Mapping[str, Any]) -> Awaitable[int]: ...  # noqa: A002
    def find_one(
        self,
        filter: Mapping[str, Any],  # noqa: A002
        projection: Mapping[str, Any] | None = None,
    ) -> Awaitable[Document | None]: ...
    def find_one_and_update(
        self,
        filter: Mapping[str, Any],  # noqa: A002
        update: Update,
        *,
        upsert: bool = False,
        return_document: bool = False,
    ) -> Awaitable[Document | None]: ...
    def insert_one(self, document: Document) -> Awaitable[Any]: ...
    def insert_many(self, documents: Sequence[Document], *, ordered: bool) -> Awaitable[Any]: ...
    def bulk_write(self, requests: Sequence[UpdateOne | UpdateMany], *, ordered: bool) -> Awaitable[Any]: ...
    def update_one(self, filter: Mapping[str, Any], update: Update, *, upsert: bool = False) -> Awaitable[Any]: ...  # noqa: A002
    def update_many(self, filter: Mapping[str, Any], update: Update) -> Awaitable[Any]: ...  # noqa: A002
    def delete_one(self, filter: Mapping[str, Any]) -> Awaitable[Any]: ...  # noqa: A002
    def delete_many(self, filter: Mapping[str, Any]) -> Awaitable[Any]: ...  # noqa: A002
    def create_indexes(self, indexes: Sequence[IndexModel]) -> Awaitable[list[str]]: ...


class ClientLike(Protocol):
    """``motor.motor_asyncio.AsyncIOMotorClient`` or ``pymongo.AsyncMongoClient``."""

    def get_database(self, name: str | None = None) -> Any: ...
    def close(self) -> Any: ...


def connect(url: str) -> ClientLike:
    """Makes a client; nothing is sent yet.

    Raises:
        ConfigurationError: the URL is not one.
    """
    given = {option.partition("=")[0].lower() for option in re.split("[&;]", urlsplit(url).query)}
    options = {name: value for name, value in CLIENT_OPTIONS.items() if name.lower() not in given}
    try:
        client: ClientLike = Client(url, **options)
    except (PyMongoError, ValueError) as error:
        # "from None": the driver's message may quote a piece of an unescaped password.
        raise ConfigurationError(f"{masked(url)!r} is no MongoDB URL: {_without_password(str(error), url)}.") from None
    return client


def database_in(url: str) -> str:
    """The database that a URL names, or the default.

    Raises:
        ConfigurationError: the URL is not one.
    """
    try:
        if url.startswith("mongodb+srv:"):  # parsing one looks it up in DNS, which is for connect
            return unquote(urlsplit(url).path.lstrip("/")) or DEFAULT_DATABASE
        database: str | None = parse_uri(url)["database"]
    except (InvalidURI, DriverConfigurationError, ValueError) as error:
        raise ConfigurationError(
            f"{masked(url)!r} is no MongoDB URL: {_without_password(str(error), url)}. Write mongodb://user:password@host:27017/database, "
            f"with the user's name and password percent-encoded."
        ) from None
    return database or DEFAULT_DATABASE


def masked(url: str) -> str:
    """The URL without its password."""
    return re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", url)


def _without_password(message: str, url: str) -> str:
    """Blanks every piece of the credentials that an error message might quote."""
    credentials = url.partition("://")[2].rpartition("@")[0]
    for piece in sorted(re.split(r"[:@/]", credentials.partition(":")[2]), key=len, reverse=True):
        if piece:
            message = message.replace(piece, "***").replace(unquote(piece), "***")
    return message.rstrip(".")


def duplicates(error: BulkWriteError, server: str) -> list[int]:
    """Which operations of a bulk met an existing key, all others having been done.

    Raises:
        StoreUnavailableError: something else went wrong, so that what was written is unknown.
        PayloadTooLargeError: a document would have become too large.
    """
    details: Mapping[str, Any] = error.details or {}
    failed: list[Mapping[str, Any]] = details.get("writeErrors", [])
    others = [entry for entry in failed if entry.get("code") != 11000]
    unsure: list[Mapping[str, Any]] = details.get("writeConcernErrors", [])
    if others or unsure:
        reason = (others or unsure)[0].get("errmsg", "unknown error")
        if any(entry.get("code") in _TOO_LARGE for entry in others):
            raise _too_large(reason) from error
        raise StoreUnavailableError(
            f"MongoDB at {server} did not confirm a write: {reason}. Check the state of the replica set (rs.status())."
        ) from error
    return [entry["index"] for entry in failed]


def translated(error: Exception, server: str) -> CallboardError:
    """What an error of the driver means to us."""
    match error:
        case DocumentTooLarge():
            return _too_large(str(error))
        case InvalidDocument() | BSONError() | UnicodeError() | OverflowError():
            return InvalidPayloadError(f"A value cannot be stored in MongoDB: {error}.")
        case DriverConfigurationError():
            return ConfigurationError(f"MongoDB at {server} cannot be used as configured: {error}")
        case OperationFailure():
            return _refused(error, server)
        case ServerSelectionTimeoutError():
            return StoreUnavailableError(
                f"MongoDB at {server} cannot be reached: {_brief(error)}. Check host and port, that mongod runs, the replica set's "
                f"name and that it has a primary (rs.status()), and TLS."
            )
        case ConnectionFailure():
            return StoreUnavailableError(f"The connection to MongoDB at {server} broke: {_brief(error)}.")
        case _:
            return StoreUnavailableError(f"MongoDB at {server} failed: {_brief(error)}.")


def _refused(error: OperationFailure, server: str) -> CallboardError:
    if error.code in _TOO_LARGE:
        return _too_large(str(error))
    if error.code in _BAD_CREDENTIALS:
        return StoreUnavailableError(
            f"MongoDB at {server} refuses the user name or password. Check them in the URL (percent-encoded), and authSource, the "
            f"database that knows the user (often ?authSource=admin)."
        )
    if error.code == _NOT_ALLOWED:
        return StoreUnavailableError(
            f"MongoDB at {server} does not let this user do it: {_brief(error)}. Give the user the role readWrite on the database, and "
            f"check that the URL has credentials."
        )
    return StoreUnavailableError(f"MongoDB at {server} failed: {_brief(error)}.")


def _too_large(message: str) -> PayloadTooLargeError:
    size = re.search(r"size: (\d+)", message)
    key = re.search(r'_id: "([^"]*)"', message)
    what = f"Document {key[1]!r}" if key else "A document"
    return PayloadTooLargeError(f"{what} for MongoDB", int(size[1]) if size else MAX_DOCUMENT + 1, MAX_DOCUMENT)


def _brief(error: Exception) -> str:
    """The driver's message without its dump of the topology and of whole server replies."""
    return str(error).partition(", Timeout:")[0].partition(", full error:")[0].rstrip(".")
