"""What the tests of the RabbitMQ adapter share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from callboard.ports import Destination
from callboard.testing.broker_contract import Received
from callboard_broker.rabbitmq import RabbitMQBroker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from ssl import SSLContext

P0, P1 = Destination.partition(0), Destination.partition(1)
WORK, ME = Destination.activities("work"), Destination.inbox("me")
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No fault may leave errors or tracebacks behind in anybody's log: what happened is said once, by us."""
    caplog.set_level(logging.INFO)
    yield
    noise = [
        record
        for record in caplog.get_records("call")
        if record.exc_info or record.levelno >= logging.ERROR or record.name.startswith(("aiormq", "aio_pika"))
    ]
    assert not noise, [(record.name, record.getMessage()) for record in noise]


@contextlib.asynccontextmanager
async def opened(url: str, hub: str, **options: Any) -> AsyncGenerator[RabbitMQBroker]:
    broker = RabbitMQBroker.from_url(url, **{"backoff_max": 1.0, **options})
    await broker.open(hub, 2)
    try:
        yield broker
    finally:
        await broker.aclose()


def inside(thing: object) -> Any:
    """Lets a test reach for what it must break."""
    return thing


async def eventually(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


class Traffic:
    """Publishes all the time and consumes all the time; nothing confirmed may be missing in the end."""

    def __init__(self, broker: RabbitMQBroker) -> None:
        self.broker, self.received, self.confirmed = broker, Received(ack=True), set[bytes]()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    async def __aenter__(self) -> Self:
        for destination in (P0, WORK):
            await self.broker.consume(destination, self.received, prefetch=20)
        self._tasks = [asyncio.create_task(self._publish(number)) for number in range(20)]
        await eventually(lambda: len(self.confirmed) > 200)
        return self

    async def _publish(self, number: int) -> None:
        count = 0
        while not self._stopped:
            body = b"%d.%d" % (number, count)
            await self.broker.publish(P0 if number % 2 else WORK, body)
            self.confirmed.add(body)
            count += 1
            await asyncio.sleep(0.002)

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            so_far = len(self.confirmed)
            await eventually(lambda: len(self.confirmed) > so_far + 200)
        self._stopped = True
        await asyncio.gather(*self._tasks)
        if kind is None:
            await self.received.wait_for_bodies(self.confirmed)


class Proxy:
    """Stands between client and server. Can swallow what is sent, as a network does that lost its way; can speak TLS to the client."""

    def __init__(self, target: int, tls: SSLContext | None = None) -> None:
        self.target, self.swallow, self._tls = target, False, tls

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.wait(
            [
                asyncio.create_task(self._pump(reader, back)),
                asyncio.create_task(self._pump(there, writer)),
            ]
        )

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        swallowed = False
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                swallowed = swallowed or self.swallow
                if not swallowed:
                    writer.write(data)
                    await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await eventually(lambda: len(asyncio.all_tasks()) == 1)
