"""Servers of these tests' own, because they are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.worker_process import Orders
from tests.servers import MongoDBServer, RabbitMQServer, ServerError


class Servers(NamedTuple):
    """A RabbitMQ and a mongod that a test may stop, kill and start."""

    rabbitmq: RabbitMQServer
    mongodb: MongoDBServer


@pytest.fixture(scope="session")
def private_servers() -> Iterator[Servers]:
    """Both servers, for all chaos tests together."""
    both = Servers(RabbitMQServer(), MongoDBServer())
    try:
        for server in both:
            server.launch()
        for server in both:
            server.wait_until_ready()
        yield both
    except ServerError as error:
        pytest.fail(str(error), pytrace=False)
    finally:
        for server in both:
            server.close()


@pytest.fixture
def servers(private_servers: Servers) -> Servers:
    """Both servers, up again if the test before left one down."""
    for server in private_servers:
        server.start()
    return private_servers


@pytest.fixture
def orders(servers: Servers, hub: str, tmp_path: Path) -> Orders:
    """What workers of this test are told."""
    return Orders(hub=hub, broker=servers.rabbitmq.url, store=servers.mongodb.url, folder=str(tmp_path))
