"""Fixtures for every test: servers, hub names, and a loop for `async def` tests."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import MongoDBServer, RabbitMQServer, Server, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


def server_url(variable: str, server: Callable[[], Server]) -> Iterator[str]:
    """Yield the URL the environment names, or that of a private server for as long as we are iterated.

    A server that cannot be had fails the test everywhere: a skipped test proves nothing.
    """
    if url := os.environ.get(variable):
        yield url
        return
    try:
        private = server().__enter__()
    except ServerError as error:
        pytest.fail(str(error), pytrace=False)
    try:
        yield private.url
    finally:
        private.close()


@pytest.fixture(scope="session")
def amqp_url() -> Iterator[str]:
    """URL of a RabbitMQ broker for the whole session: AMQP_URL, or a private one."""
    yield from server_url("AMQP_URL", RabbitMQServer)


@pytest.fixture(scope="session")
def mongodb_url() -> Iterator[str]:
    """URL of a MongoDB server for the whole session: MONGODB_URL, or a private replica set."""
    yield from server_url("MONGODB_URL", MongoDBServer)


@pytest.fixture
def hub() -> str:
    """Return a short hub name that no other test has."""
    return f"t{uuid.uuid4().hex[:8]}"


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a coroutine function one that runs in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let `async def` tests run, each in a loop of its own, under Hypothesis too (one loop for each example)."""
    if not isinstance(item, pytest.Function):
        return
    given = getattr(item.obj, "hypothesis", None)
    if given is not None and inspect.iscoroutinefunction(given.inner_test):
        given.inner_test = in_a_loop(given.inner_test)
    elif inspect.iscoroutinefunction(item.obj):
        item.obj = in_a_loop(item.obj)
