"""One AMQP connection and the requests made on it. The driver is imported here and by ``rabbitmq_publisher`` and
``rabbitmq_deliveries``, nowhere else.

Rules of this file:
- A request to the server, once sent, is never cancelled: the driver closes the channel of a cancelled request. Requests run as tasks of
  their own; whoever waits for one may go.
- A server that does not answer in time is gone: the connection is aborted, everything on it ends, the supervisor makes a new one.
- The driver's errors end here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import aio_pika
import aiormq
from aiormq import exceptions as driver
from aiormq.connection import Connection, TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from callboard.errors import BrokerUnavailableError, ConfigurationError
from callboard.ports import Delivery
from callboard_broker.rabbitmq_deliveries import ConsumerChannel
from callboard_broker.rabbitmq_options import RabbitMQOptions
from callboard_broker.rabbitmq_publisher import DriverChannel, Outbox, PublisherChannel
from callboard_broker.topology import QueueSpec

log = logging.getLogger("callboard.broker")

T = TypeVar("T")

#: Quorum queues take the server some time to make; more channels than this at once make it no faster.
DECLARING_CHANNELS = 8
#: Seconds that a farewell may take before the socket is simply closed.
CLOSE_SECONDS = 3.0


class ConnectionLostError(Exception):
    """The connection or channel ended before the server answered."""


class QueueMissingError(Exception):
    """There is no queue of that name."""


class QueueLockedError(Exception):
    """Another connection has that exclusive queue."""


class DifferentError(Exception):
    """A queue of that name is there with other properties."""


class RefusedError(BrokerUnavailableError):
    """The server answered, and does not want us: trying again at once would not help."""


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
        self._abandoned: set[asyncio.Task[Any]] = set()
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
            raise _cannot_connect(error, options) from error
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
            _judge_difference(spec, str(error), accept=self._options.accept_existing_queues)

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
            cast("DriverChannel", channel),
            self.outbox,
            window=self._options.publish_window,
            window_bytes=self._options.publish_window_bytes,
        )

    async def consumer(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> ConsumerChannel:
        """Opens a channel that consumes.

        Raises:
            QueueMissingError: there is no such queue.
        """
        channel = cast("DriverChannel", await self._request(self._driver.channel(publisher_confirms=False)))
        consumer = ConsumerChannel(channel, self.outbox, on_delivery)
        await self._request(channel.basic_qos(prefetch_count=prefetch))
        await self._request(channel.basic_consume(queue, consumer.on_message))
        return consumer

    async def end(self, consumer: ConsumerChannel) -> None:
        """Ends a consumer; what is not acked is back in its queue when this returns."""
        consumer.stop()
        channel = consumer.channel
        with contextlib.suppress(ConnectionLostError, BrokerUnavailableError):
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
        closing = asyncio.get_running_loop().create_task(self._connection.close())
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if not closing.done():
            self._connection.socket.abort()
        await asyncio.wait({closing, *self._abandoned}, timeout=CLOSE_SECONDS)
        if closing.done() and not closing.cancelled():
            closing.exception()

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._lose(_words(error))

    @contextlib.asynccontextmanager
    async def _channel(self) -> AsyncGenerator[DriverChannel]:
        """A channel for requests that may fail: a failed request closes its channel."""
        channel = cast("DriverChannel", await self._request(self._driver.channel(publisher_confirms=False)))
        try:
            yield channel
        finally:
            if not channel.is_closed:
                with contextlib.suppress(ConnectionLostError, BrokerUnavailableError):
                    await self._request(channel.close())

    async def _request(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.get_running_loop().create_task(work)
        self._abandoned.add(task)
        task.add_done_callback(self._retrieve)
        while not task.done():
            await asyncio.wait(
                [task, cast("asyncio.Future[Any]", self.lost)],
                timeout=self._options.rpc_timeout,
                return_when="FIRST_COMPLETED",
            )
            if task.done():
                break
            if self.lost.done():
                raise ConnectionLostError(self.lost.result())
            if not self.blocked:
                self.abort(f"no answer for {self._options.rpc_timeout:g} seconds")
        if task.cancelled():
            raise ConnectionLostError("the channel was closed")
        if (error := task.exception()) is not None:
            raise _translated(error) from error
        return task.result()

    def _retrieve(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()


def _version(raw: Any) -> tuple[int, ...]:
    text = raw.decode() if isinstance(raw, bytes | bytearray) else str(raw)
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _translated(error: BaseException) -> Exception:
    match error:
        case driver.ChannelPreconditionFailed():
            return DifferentError(_words(error))
        case driver.ChannelNotFoundEntity():
            return QueueMissingError(str(error))
        case driver.ChannelLockedResource():
            return QueueLockedError(str(error))
        case driver.ChannelAccessRefused():
            return RefusedError(
                f"RabbitMQ refused: {error}. Give the user the permissions to configure, write and read the hub's queues "
                f"and the default exchange: rabbitmqctl set_permissions."
            )
        case _:
            return ConnectionLostError(_words(error))


def _words(error: BaseException | None) -> str:
    """What the driver says, without its class names."""
    return str(error).strip() if error is not None and str(error).strip() else "the connection was closed"


def _judge_difference(spec: QueueSpec, text: str, *, accept: bool) -> None:
    if accept:
        log.warning("Queue %s is used as it is, though it should have other properties: %s", spec.name, text)
        return
    limit = spec.arguments.get("x-delivery-limit")
    upgrade = (
        f" If an older RabbitMQ made it: have it keep messages by policy (rabbitmqctl set_policy --apply-to queues NAME "
        f"'^{re.escape(spec.name)}$' '{{\"delivery-limit\": {limit}}}'), then set the option accept_existing_queues=true."
        if limit is not None and "x-delivery-limit" in text
        else ""
    )
    raise ConfigurationError(
        f"Queue {spec.name!r} exists with other properties than this hub needs: {text}. Delete it once it is empty "
        f"(rabbitmqctl delete_queue {spec.name}), or use another hub name.{upgrade}"
    )


def _cannot_connect(error: BaseException, options: RabbitMQOptions) -> BrokerUnavailableError:
    where = f"RabbitMQ at {options.address}"
    if isinstance(error, driver.ProbableAuthenticationError | driver.AuthenticationError):
        return RefusedError(
            f"{where} refused the credentials of user {options.user!r}. Check user and password in the broker URL; 'guest' may "
            f"log in from the server's own machine only."
        )
    if isinstance(error, driver.InvalidFrameError) and "Connection.Close" in str(error):
        return RefusedError(
            f"{where} does not let user {options.user!r} use virtual host {options.virtual_host!r}: it does not exist, or the "
            f"user has no permissions there. Check with rabbitmqctl list_vhosts and rabbitmqctl list_permissions."
        )
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RefusedError(
            f"{where} has a certificate that is not trusted: {cause.verify_message}. Name the authority's certificate with "
            f"tls_ca_file, and connect by the name that is in the server's certificate."
        )
    return unreachable(options, "" if isinstance(error, TimeoutError) else str(cause))


def unreachable(options: RabbitMQOptions, reason: str) -> BrokerUnavailableError:
    """There is no answer, or none that makes sense."""
    reason = reason or f"no answer in {options.connect_timeout:g} seconds"
    return BrokerUnavailableError(
        f"Cannot reach RabbitMQ at {options.address}: {reason}. Check that the server runs there (and speaks {'TLS' if options.tls else 'plain AMQP'} on "
        f"that port), and that no firewall is in between."
    )
