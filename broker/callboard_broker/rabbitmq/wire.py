"""One AMQP connection and the requests made on it. The driver is imported here, and by ``errors``,
``publisher`` and ``deliveries``; nowhere else.

Rules of this file:
- A request to the server, once sent, is not cancelled with whoever waits for it, because the driver closes the channel of a cancelled
  request: requests run as tasks of their own.
- A server that does not answer in time is gone: the connection is aborted, everything on it ends, the supervisor makes a new one. But a
  queue without a leader leaves only the requests for it unanswered, so another channel is asked first; then only the channel is given up.
- The driver's errors end here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar, cast

import aio_pika
import aiormq
from aiormq.connection import Connection, TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from callboard.ports import Delivery
from callboard_broker.rabbitmq.deliveries import ConsumerChannel
from callboard_broker.rabbitmq.errors import (
    WIRE_ERRORS,
    ConnectionLostError,
    DifferentError,
    QueueMissingError,
    UnansweredError,
    cannot_connect,
    judge_difference,
    translated,
    words,
)
from callboard_broker.rabbitmq.options import RabbitMQOptions
from callboard_broker.rabbitmq.publisher import DriverChannel, Outbox, PublisherChannel, Window
from callboard_broker.topology import QueueSpec

log = logging.getLogger("callboard.broker")

T = TypeVar("T")

#: Quorum queues take the server some time to make; more channels than this at once make it no faster.
DECLARING_CHANNELS = 8
#: Seconds that a farewell may take before the socket is simply closed.
CLOSE_SECONDS = 3.0


class _Transport(TransportFactory):
    """Makes sockets as the driver does, and remembers them, to be able to abort."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, self._writer = await factory.create(url, **options)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class _Connection(aio_pika.Connection):
    """A connection whose socket can be aborted."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.socket = _Transport()
        self.kwargs["transport_factory"] = self.socket

    def __del__(self) -> None:
        """Does nothing: whoever connects also closes. The driver's own makes a task, in whatever thread collects the garbage."""


_OURS: ContextVar[bool] = ContextVar("callboard_broker_connection", default=False)


class _SaidByUs(logging.Filter):
    """Drops what the driver says about our connections when we say it better; debugging shows it all."""

    _TWICE = (
        "error when creating transport",
        "Unexpected connection close from remote",
        "Cancelling cause reader exited abnormally",
        "Server connection %r was stuck",
        "Connection %r was",
        "Consumer %r cancelled by the broker",
        "Closing channel %r because RPC call",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return not (_OURS.get() and str(record.msg).startswith(self._TWICE)) or log.isEnabledFor(logging.DEBUG)


_SAID_BY_US = _SaidByUs()


class Wire:
    """One connection, from made to lost. Never made again: the supervisor makes another.

    Attributes:
        version: The server's version.
        lost: Resolves with the reason when the connection ends.
    """

    def __init__(self, connection: _Connection, options: RabbitMQOptions) -> None:
        self._connection, self._options = connection, options
        assert connection.transport is not None
        self._driver: Any = cast("Connection", connection.transport.connection)
        self.version = _version(self._driver.server_properties.get("version"))
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.outbox = Outbox(self._driver.write_queue)
        self._window = Window(options.publish_window, options.publish_window_bytes)
        self._requests: set[asyncio.Task[Any]] = set()
        self._context = copy_context()
        self._driver.closing.add_done_callback(self._on_closing)

    @classmethod
    async def connect(cls, options: RabbitMQOptions, purpose: str) -> Wire:
        """Makes a connection.

        Raises:
            BrokerUnavailableError: the server cannot be reached.
            RefusedError: it refuses the credentials or the virtual host.
        """
        _OURS.set(True)
        for name in ("aiormq.connection", "aiormq.channel"):
            logging.getLogger(name).addFilter(_SAID_BY_US)
        context = await asyncio.to_thread(options.tls_context)
        try:
            connection = await aio_pika.connect(
                host=options.host,
                port=options.port,
                login=options.user,
                password=options.password,
                virtualhost=options.virtual_host,
                ssl=options.tls,
                ssl_context=context,
                timeout=options.connect_timeout,
                heartbeat=options.heartbeat,
                client_properties={"connection_name": f"callboard {purpose}"},
                connection_class=_Connection,
            )
        except (aiormq.AMQPError, OSError, TimeoutError, EOFError) as error:
            raise cannot_connect(error, options) from error
        return cls(connection, options)

    @property
    def blocked(self) -> bool:
        """Whether the server has stopped to read from this connection, because its memory or disk runs out."""
        # The driver shows it only as an awaitable that does not finish.
        ready = self._driver.ready()
        try:
            ready.send(None)
        except StopIteration:
            return False
        else:
            return True
        finally:
            ready.close()

    async def ping(self) -> None:
        """Returns when the server has answered."""
        async with self._channel():
            pass

    async def declare(self, specs: Iterable[QueueSpec]) -> None:
        """Makes the queues that are not there; cheap if they are.

        Raises:
            ConfigurationError: one is there with other properties.
        """
        waiting = iter(specs)

        async def work() -> None:
            for spec in waiting:
                await self._declare(spec)

        outcomes = await asyncio.gather(*(work() for _ in range(DECLARING_CHANNELS)), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _declare(self, spec: QueueSpec) -> None:
        try:
            async with self._channel() as channel:
                await self._request(
                    channel.queue_declare(
                        spec.name,
                        durable=spec.durable,
                        exclusive=spec.exclusive,
                        auto_delete=spec.auto_delete,
                        arguments=dict(spec.arguments),
                    )
                )
        except DifferentError as error:
            judge_difference(spec, str(error), accept=self._options.accept_existing_queues)

    async def prepare(self, spec: QueueSpec, exchange: str, keys: Iterable[str]) -> None:
        """Makes a queue, and a topic exchange that leads there, where they are missing; takes what is there as it is.

        Raises:
            QueueLockedError: the queue is another connection's own.
        """
        try:
            async with self._channel() as channel:
                await self._request(channel.queue_declare(spec.name, passive=True))
        except QueueMissingError:
            await self._declare(spec)
        if exchange:
            await self.declare_exchange(exchange)
            async with self._channel() as channel:
                for key in keys:
                    await self._request(channel.queue_bind(spec.name, exchange, key))

    async def declare_exchange(self, exchange: str) -> None:
        """Makes a durable topic exchange, if there is none of that name; takes one of another type as it is."""
        try:
            async with self._channel() as channel:
                await self._request(channel.exchange_declare(exchange, passive=True))
        except QueueMissingError:
            async with self._channel() as channel:
                await self._request(channel.exchange_declare(exchange, exchange_type="topic", durable=True))

    async def depth(self, queue: str) -> int:
        """How many messages wait.

        Raises:
            QueueMissingError: there is no such queue.
            QueueLockedError: it is another connection's own.
        """
        async with self._channel() as channel:
            answer = await self._request(channel.queue_declare(queue, passive=True))
        return answer.message_count or 0

    async def publisher(self) -> PublisherChannel:
        """Opens a channel that publishes."""
        channel = await self._request(self._driver.channel(publisher_confirms=True, on_return_raises=True))
        return PublisherChannel(
            cast("DriverChannel", channel), self.outbox, self._window, self._options.publish_window_per_queue
        )

    async def consumer(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> ConsumerChannel:
        """Opens a channel that consumes.

        Raises:
            QueueMissingError: there is no such queue.
        """
        channel = cast("DriverChannel", await self._request(self._driver.channel(publisher_confirms=False)))
        consumer = ConsumerChannel(channel, self.outbox, on_delivery)
        try:
            await self._request(channel.basic_qos(prefetch_count=prefetch))
            await self._request(channel.basic_consume(queue, consumer.on_message))
        except BaseException:
            consumer.lose("it was never started")
            raise
        return consumer

    async def end(self, consumer: ConsumerChannel) -> None:
        """Ends a consumer; what is not acked is back in its queue when this returns."""
        consumer.stop()
        channel = consumer.channel
        with contextlib.suppress(*WIRE_ERRORS):
            if self.lost.done() or channel.is_closed:
                return
            for tag in list(channel.consumers):
                await self._request(channel.basic_cancel(tag))
            await self._request(consumer.finish())
            await self._request(channel.close())

    def abort(self, reason: str) -> None:
        """Ends the connection now, without a farewell."""
        self._lose(reason)
        self._connection.socket.abort()

    async def aclose(self) -> None:
        """Ends the connection, politely if the server listens."""
        self._lose("closed by us")
        await self.outbox.aclose()
        closing = asyncio.get_running_loop().create_task(self._connection.close(), context=self._context)
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if not closing.done():
            self._connection.socket.abort()
        await asyncio.wait({closing, *self._requests}, timeout=CLOSE_SECONDS)
        if closing.done() and not closing.cancelled():
            closing.exception()

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._lose(words(error))

    @contextlib.asynccontextmanager
    async def _channel(self) -> AsyncGenerator[DriverChannel]:
        """A channel for requests that may fail: a failed request closes its channel."""
        channel = cast("DriverChannel", await self._request(self._driver.channel(publisher_confirms=False)))
        try:
            yield channel
        finally:
            if not channel.is_closed:
                with contextlib.suppress(*WIRE_ERRORS):
                    await self._request(channel.close())

    async def _request(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._spawn(work)
        while not await self._ended(task):
            if self.blocked:
                continue
            if await self._answers():
                task.cancel()
                raise UnansweredError(f"the server did not answer for {self._options.rpc_timeout:g} seconds")
            self.abort(f"no answer for {self._options.rpc_timeout:g} seconds")
        if task.cancelled():
            raise ConnectionLostError("the channel was closed")
        if (error := task.exception()) is not None:
            raise translated(error) from error
        return task.result()

    async def _ended(self, task: asyncio.Task[Any]) -> bool:
        """Waits for the request, as long as one may take."""
        lost = cast("asyncio.Future[Any]", self.lost)
        await asyncio.wait([task, lost], timeout=self._options.rpc_timeout, return_when="FIRST_COMPLETED")
        if lost.done() and not task.done():
            raise ConnectionLostError(self.lost.result())
        return task.done()

    async def _answers(self) -> bool:
        """Whether the server still opens channels."""
        opening = self._spawn(self._driver.channel(publisher_confirms=False))
        if not await self._ended(opening) or opening.cancelled() or opening.exception() is not None:
            return False
        self._spawn(opening.result().close())
        return True

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, context=self._context)
        self._requests.add(task)
        task.add_done_callback(self._retrieve)
        return task

    def _retrieve(self, task: asyncio.Task[Any]) -> None:
        self._requests.discard(task)
        if not task.cancelled():
            task.exception()


def _version(raw: Any) -> tuple[int, ...]:
    text = raw.decode() if isinstance(raw, bytes | bytearray) else str(raw)
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
