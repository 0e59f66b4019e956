"""A broker journaled in an SQLite file, for ``callboard dev``, tests and small deployments on one machine.

Messages survive kill -9 and, once published, a power cut. Several processes may share the file: each sees the others' messages
within a few hundredths of a second, and takes over what a dead one held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from callboard.errors import BrokerUnavailableError, ConfigurationError, PayloadTooLargeError
from callboard.ports import NO_PROPERTIES, Delivery, Destination, DestinationKind, Properties
from callboard_broker.sqlite.journal import Journal, Letter, encode_headers, queue_name
from callboard_broker.sqlite.thread import (
    Consumer,
    Count,
    JournalThread,
    Prepare,
    Publish,
    Stop,
    Subscribe,
    Unsubscribe,
)
from callboard_broker.topology import (
    ACTIVITY_DELIVERY_LIMIT,
    check_destination,
    check_foreign_name,
    check_hub,
    queue_spec,
)

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""RabbitMQ 4's own limit, so that what runs here runs there."""


class SQLiteBroker:
    """Implements ``callboard.ports.Broker``; there the guarantees are described.

    There is no connection that could break: ``on_reconnect`` callbacks are accepted and never called.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        busy_seconds: float = 10.0,
        publish_seconds: float = 30.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        delivery_limit: int = ACTIVITY_DELIVERY_LIMIT,
    ) -> None:
        """Names the file; ``open`` makes it.

        Args:
            path: the file, made with its folder if missing; None for a private database in memory.
            busy_seconds: how long to wait while another program has the file locked.
            publish_seconds: how long a publish may take in all.
            max_message_bytes: larger messages are refused.
            delivery_limit: activity calls delivered more often than this go to the dead letters.
        """
        self._path = path
        self._busy_seconds = busy_seconds
        self._publish_seconds = publish_seconds
        self._max_message_bytes = max_message_bytes
        self._delivery_limit = delivery_limit
        self._hub = ""
        self._partitions = 0
        self._thread: JournalThread | None = None
        self._subscriptions: set[_Subscription] = set()
        self._closing: asyncio.Future[Any] | None = None

    @classmethod
    def from_url(cls, url: str, **options: Any) -> SQLiteBroker:
        """``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` for memory."""
        return cls(_path_of(url), **options)

    def __repr__(self) -> str:
        return f"SQLiteBroker({str(self._path) if self._path else None!r})"

    async def open(self, hub: str, partitions: int) -> None:
        check_hub(hub)
        if self._thread is not None:
            if self._closing is None and (hub, partitions) == (self._hub, self._partitions):
                return
            raise ConfigurationError(
                f"{self!r} is open for hub {self._hub!r} already. Make another one for another hub."
            )
        path = self._path.resolve() if self._path else None
        thread = JournalThread(Journal(path, busy_seconds=self._busy_seconds, delivery_limit=self._delivery_limit))
        self._hub, self._partitions, self._closing = hub, partitions, None
        try:
            await thread.start()
        except asyncio.CancelledError:
            thread.send(Stop(asyncio.get_running_loop().create_future()))
            raise
        self._thread = thread

    async def publish(
        self,
        destination: Destination,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        size = len(body) + sum(len(name) + len(value) for name, value in (headers or {}).items())
        if size > self._max_message_bytes:
            raise PayloadTooLargeError(f"A message for {destination}", size, self._max_message_bytes)
        thread, done = self._running()
        check_destination(destination, self._partitions)
        thread.send(
            Publish(
                destination,
                queue_name(self._hub, destination),
                body,
                dict(headers or {}),
                encode_headers(headers, properties),
                properties,
                self._hub,
                done,
            )
        )
        try:
            async with asyncio.timeout(self._publish_seconds):
                await done
        except TimeoutError as error:
            raise BrokerUnavailableError(
                f"{self!r} did not confirm a message within {self._publish_seconds} s. Is the disk overloaded? Send it again."
            ) from error

    async def consume(
        self, destination: Destination, on_delivery: Callable[[Delivery], None], *, prefetch: int = 100
    ) -> _Subscription:
        thread, done = self._running()
        check_destination(destination, self._partitions)
        queue_spec(self._hub, destination, ())  # refuses what is no queue
        if destination.kind is DestinationKind.FOREIGN:
            await self.prepare(destination.name)
        subscription = _Subscription(thread, queue_name(self._hub, destination), on_delivery, prefetch)
        self._subscriptions.add(subscription)
        subscription.on_close = self._subscriptions.discard
        thread.send(Subscribe(subscription.consumer, done))
        try:
            await done
        except BaseException:
            subscription.abandon()
            raise
        return subscription

    async def prepare(self, queue: str, *, exchange: str = "", keys: Sequence[str] = ()) -> None:
        thread, done = self._running()
        check_foreign_name("queue", queue)
        if exchange:
            check_foreign_name("exchange", exchange)
        thread.send(Prepare(queue, exchange, tuple(keys), done))
        await done

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Accepted; there is nothing to reconnect to."""

    async def depth(self, destination: Destination) -> int:
        thread, done = self._running()
        check_destination(destination, self._partitions)
        thread.send(Count(queue_name(self._hub, destination), done))
        return int(await done)

    async def aclose(self) -> None:
        if self._thread is None:
            return
        thread = self._thread
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
            for subscription in self._subscriptions:
                subscription.closed = True
            thread.send(Stop(self._closing))
        await asyncio.shield(self._closing)
        thread.join()
        self._thread = None
        self._subscriptions.clear()

    def _running(self) -> tuple[JournalThread, asyncio.Future[Any]]:
        if self._thread is None or self._closing is not None:
            raise BrokerUnavailableError(f"{self!r} is not open. Call open() first, and nothing after aclose().")
        return self._thread, asyncio.get_running_loop().create_future()


class _Subscription:
    """A consumer; implements ``callboard.ports.Subscription``."""

    def __init__(
        self, thread: JournalThread, queue: str, on_delivery: Callable[[Delivery], None], prefetch: int
    ) -> None:
        self.consumer = Consumer(queue, max(prefetch, 1), self._receive)
        self.closed = False
        self.on_close: Callable[[_Subscription], None] | None = None
        self._thread = thread
        self._on_delivery = on_delivery
        self._closing: asyncio.Future[Any] | None = None

    def _receive(self, letter: Letter) -> None:
        if self.closed:
            return  # it went back with what this subscription held
        try:
            self._on_delivery(_Delivery(letter, self))
        except Exception:
            logger.exception("A consumer of %s raised; its message stays unacked", self.consumer.queue)

    def settle(self, letter: Letter, *, ack: bool) -> None:
        if not self.closed:
            self._thread.settle(self.consumer, letter, ack=ack)

    def abandon(self) -> asyncio.Future[Any] | None:
        """Begins to close; the future is done when what was held has been returned. None if the broker closes anyway."""
        if not self.closed:
            self.closed = True
            self._closing = asyncio.get_running_loop().create_future()
            self._thread.send(Unsubscribe(self.consumer, self._closing))
            if self.on_close is not None:
                self.on_close(self)
        return self._closing

    async def aclose(self) -> None:
        closing = self.abandon()
        if closing is not None:
            await asyncio.shield(closing)


class _Delivery:
    """A letter in the consumer's hands; implements ``callboard.ports.Delivery``."""

    __slots__ = ("_letter", "_settled", "_subscription")

    def __init__(self, letter: Letter, subscription: _Subscription) -> None:
        self._letter = letter
        self._subscription = subscription
        self._settled = False

    @property
    def body(self) -> bytes:
        return self._letter.body

    @property
    def headers(self) -> Mapping[str, str]:
        return self._letter.headers

    @property
    def properties(self) -> Properties:
        return self._letter.properties

    @property
    def redelivered(self) -> bool:
        return self._letter.deliveries > 1

    def ack(self) -> None:
        self._settle(ack=True)

    def reject(self) -> None:
        self._settle(ack=False)

    def _settle(self, *, ack: bool) -> None:
        if not self._settled:
            self._settled = True
            self._subscription.settle(self._letter, ack=ack)


def _path_of(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.fragment or parts.scheme != "sqlite":
        raise ConfigurationError(
            f"{url!r} names no SQLite file. Write sqlite:///relative.db (three slashes), sqlite:////absolute/path.db (four), or "
            f"sqlite:// for a database in memory."
        )
    path = unquote(parts.path).removeprefix("/")
    return Path(path) if path and path != ":memory:" else None
