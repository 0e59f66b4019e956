"""The store contract, over SQLite and over MongoDB with either driver."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pymongo import AsyncMongoClient, MongoClient

pytest.register_assert_rewrite("callboard.testing.store_contract")

from callboard.testing.store_contract import StoreContract  # noqa: E402  rewritten, so that a failure shows its values
from callboard_store.mongodb import MongoDBStore  # noqa: E402
from callboard_store.sqlite import SQLiteStore  # noqa: E402

if TYPE_CHECKING:
    from callboard.ports import Store


class TestSQLite(StoreContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "callboard.db"

    def make_store(self) -> Store:
        return SQLiteStore(self.path)


@pytest.fixture(scope="module")
def database(mongodb_url: str) -> Iterator[str]:
    """A database that is dropped in the end."""
    name = f"contract_{uuid.uuid4().hex[:8]}"
    yield name
    with MongoClient[dict[str, object]](mongodb_url) as client:
        client.drop_database(name)


class TestMotor(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, mongodb_url: str, database: str) -> None:
        self.url, self.database = mongodb_url, database

    def make_store(self) -> Store:
        return MongoDBStore(url=self.url, database=self.database)


class PyMongoStore(MongoDBStore):
    """On a client that the program has, and closes."""

    def __init__(self, url: str, *, database: str) -> None:
        self.client = AsyncMongoClient[dict[str, object]](url)
        super().__init__(self.client, database=database)

    async def aclose(self) -> None:
        await super().aclose()
        await self.client.close()


class TestPyMongo(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, mongodb_url: str, database: str) -> None:
        self.url, self.database = mongodb_url, database

    def make_store(self) -> Store:
        return PyMongoStore(self.url, database=self.database)
