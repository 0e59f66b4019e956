"""The broker contract, over every broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from callboard.testing.broker_contract import BrokerContract, ConnectedBrokerContract
from callboard_broker.memory import MemoryBroker, MemoryServer
from callboard_broker.rabbitmq import RabbitMQBroker
from callboard_broker.sqlite import SQLiteBroker

if TYPE_CHECKING:
    from pathlib import Path

    from callboard.ports import Broker


class TestMemoryBroker(ConnectedBrokerContract):
    def setup_method(self) -> None:
        self.server = MemoryServer()

    def make_broker(self) -> Broker:
        return MemoryBroker(self.server)

    async def break_connections(self) -> None:
        self.server.drop_connections()


class TestRabbitMQBroker(ConnectedBrokerContract):
    @pytest.fixture(autouse=True)
    def _server(self, amqp_url: str) -> None:
        self.url, self.brokers = amqp_url, list[RabbitMQBroker]()

    def make_broker(self) -> Broker:
        self.brokers.append(RabbitMQBroker.from_url(self.url))
        return self.brokers[-1]

    async def break_connections(self) -> None:
        for broker in self.brokers:
            broker.drop_connections()


class TestSQLiteBroker(BrokerContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path / 'broker.db'}"

    def make_broker(self) -> Broker:
        return SQLiteBroker.from_url(self.url)
