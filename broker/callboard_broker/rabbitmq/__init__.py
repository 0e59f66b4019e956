"""The RabbitMQ broker: one connection publishes, another consumes, both come back by themselves.

Two connections, because a server whose memory or disk alarm is on stops reading from connections that publish, and acks on them would be
stuck as well. The driver's own reconnecting ("robust") connections are not used: they lose consumers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from callboard.errors import BrokerUnavailableError, ConfigurationError, PayloadTooLargeError, UnroutableError
from callboard.ports import NO_PROPERTIES, Delivery, Destination, DestinationKind, Properties, Subscription
from callboard_broker.rabbitmq.consumer import RabbitMQConsumer
from callboard_broker.rabbitmq.errors import (
    WIRE_ERRORS,
    ConnectionLostError,
    QueueLockedError,
    QueueMissingError,
    UnansweredError,
)
from callboard_broker.rabbitmq.link import Backoff, Link
from callboard_broker.rabbitmq.options import RabbitMQOptions
from callboard_broker.rabbitmq.publisher import Outcome, PublisherChannel
from callboard_broker.rabbitmq.wire import Wire
from callboard_broker.topology import (
    check_destination,
    check_foreign_name,
    check_hub,
    is_durable,
    is_served_by_others,
    named,
    queue_name,
    queue_spec,
    standing_queues,
)

__all__ = ["RabbitMQBroker", "RabbitMQOptions"]

log = logging.getLogger("callboard.broker")

T = TypeVar("T")


class RabbitMQBroker:
    """Carries messages over RabbitMQ 3.10 or later. See ``callboard.ports.Broker`` for the contract."""

    def __init__(self, options: RabbitMQOptions | None = None) -> None:
        self._options = options or RabbitMQOptions()
        self._dice = random.Random()
        self._hub, self._partitions = "", 0
        self._open = False
        self._publisher: _Publisher | None = None
        self._publisher_up = asyncio.Event()
        self._keys: dict[Destination, str] = {}
        self._bindings: dict[str, dict[str, set[str]]] = {}
        self._consumers: set[RabbitMQConsumer] = set()
        self._recovering: set[RabbitMQConsumer] = set()
        self._late: set[RabbitMQConsumer] = set()
        self._some_recovered = False
        self._reconnected: list[Callable[[], None]] = []
        self._publishing = Link(
            self._options, "publishing", prepare=self._prepare_publishing, on_lost=self._publishing_lost,
            probe=Wire.ping, dice=self._dice,
        )  # fmt: skip
        self._consuming = Link(
            self._options, "consuming", prepare=_nothing_to_prepare, on_lost=self._consuming_lost,
            probe=self._check_consumers, dice=self._dice,
        )  # fmt: skip

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RabbitMQBroker:
        """Makes a broker for ``amqp[s]://user:password@host:port/vhost``; options as in ``RabbitMQOptions``."""
        return cls(RabbitMQOptions.from_url(url, **options))

    def __repr__(self) -> str:
        return f"<RabbitMQBroker {self._options.address}>"

    @property
    def blocked(self) -> bool:
        """Whether RabbitMQ has stopped taking messages, because its memory or disk alarm is on."""
        wire = self._publishing.wire
        return wire is not None and wire.blocked

    async def open(self, hub: str, partitions: int) -> None:
        check_hub(hub)
        if self._open:
            raise ConfigurationError(f"This broker is open already, for hub {self._hub!r}. Make another one.")
        self._hub, self._partitions, self._open = hub, partitions, True
        self._publisher_up.clear()
        deadline = asyncio.get_running_loop().time() + self._options.connect_timeout
        try:
            await self._publishing.start(deadline)
            await self._consuming.start(deadline)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        self._open = False
        if self._consumers:
            await asyncio.gather(*(consumer.aclose() for consumer in list(self._consumers)))
        await asyncio.gather(self._consuming.aclose(), self._publishing.aclose())
        self._publisher_up.set()

    def _must_be_open(self) -> None:
        if not self._open:
            raise BrokerUnavailableError("The broker is not open. Call open() first, and not after aclose().")

    def drop_connections(self) -> None:
        """Breaks both connections without a farewell; they are made again. For tests."""
        for link in (self._publishing, self._consuming):
            if link.wire is not None:
                link.wire.abort("broken on purpose")

    # Publishing

    async def publish(
        self,
        destination: Destination,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        if len(body) > self._options.message_limit:
            raise PayloadTooLargeError("A message", len(body), self._options.message_limit)
        key = self._keys.get(destination) or self._key(destination)
        try:
            async with asyncio.timeout(self._options.publish_timeout):
                await self._publish(destination, key, body, headers, properties)
        except TimeoutError as error:
            raise BrokerUnavailableError(
                f"The message for {destination} was not confirmed in {self._options.publish_timeout:g} seconds: {self._why(key)}."
            ) from error

    async def _publish(
        self,
        destination: Destination,
        key: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        properties: Properties,
    ) -> None:
        """Tries until it is confirmed: a connection that breaks may lose the message or the confirm, and duplicates are allowed."""
        backoff: Backoff | None = None
        while True:
            publisher = self._publisher or await self._wait_for_publisher()
            with contextlib.suppress(ConnectionLostError, UnansweredError):
                declaring = _declared_as(destination)
                declared = publisher.declared.get(declaring) if declaring is not None else None
                if declared is None and declaring is not None:
                    await publisher.declare(declaring, instead_of=None)
                    declared = publisher.declared.get(declaring)
                channel = publisher.channel(destination) or await publisher.open_channel(destination)
                outcome = await channel.publish(
                    key,
                    body,
                    headers,
                    persistent=is_durable(destination),
                    exchange=_exchange(destination),
                    properties=properties,
                )
                if outcome is Outcome.CONFIRMED:
                    return
                if outcome is Outcome.LOST and destination.kind is DestinationKind.TOPIC:
                    publisher.forget(declaring, declared)  # the exchange may be gone: that closes the channel
                if outcome is Outcome.RETURNED:
                    if destination.kind is DestinationKind.INBOX:
                        raise UnroutableError(destination)
                    log.warning("There is no queue for %s any more; making it again", destination)
                    await publisher.declare(destination, instead_of=declared)
                    continue
            backoff = backoff or Backoff(self._options, self._dice)
            await backoff.pause()

    async def _wait_for_publisher(self) -> _Publisher:
        while self._publisher is None:
            self._must_be_open()
            await self._publisher_up.wait()
        return self._publisher

    async def _prepare_publishing(self, wire: Wire) -> None:
        await wire.declare(queue_spec(self._hub, each, wire.version) for each in standing_queues(self._partitions))
        self._publisher = _Publisher(self._hub, wire)
        self._publisher_up.set()

    def _publishing_lost(self, _reason: str) -> None:
        publisher, self._publisher = self._publisher, None
        self._publisher_up.clear()
        if publisher is not None:
            publisher.lose()

    def _why(self, queue: str) -> str:
        if self.blocked:
            return "RabbitMQ takes no messages, its memory or disk alarm is on (see rabbitmqctl status)"
        if self._publisher is None:
            return f"no connection ({self._publishing.trouble})"
        return f"RabbitMQ did not answer. If it does for others, look whether the queue has a leader: rabbitmq-queues quorum_status {queue}"

    def _key(self, destination: Destination) -> str:
        self._must_be_open()
        check_destination(destination, self._partitions)
        key = queue_name(self._hub, destination)
        if destination.kind in (DestinationKind.PARTITION, DestinationKind.ACTIVITIES):
            self._keys[destination] = key
        return key

    # Consuming

    async def consume(
        self, destination: Destination, on_delivery: Callable[[Delivery], None], *, prefetch: int = 100
    ) -> Subscription:
        self._must_be_open()
        check_destination(destination, self._partitions)
        queue_spec(self._hub, destination, ())  # refuses what is no queue
        consumer = RabbitMQConsumer(
            self._consuming,
            self._options,
            self,
            self._hub,
            destination,
            on_delivery,
            prefetch=prefetch,
            dice=self._dice,
            bindings=self._bindings,
        )
        self._consumers.add(consumer)
        await consumer.start(self._options.publish_timeout)
        return consumer

    async def prepare(self, queue: str, *, exchange: str = "", keys: Sequence[str] = ()) -> None:
        self._must_be_open()
        check_foreign_name("queue", queue)
        if exchange:
            check_foreign_name("exchange", exchange)
            self._bindings.setdefault(queue, {}).setdefault(exchange, set()).update(keys)
        try:
            async with asyncio.timeout(self._options.publish_timeout):
                wire = await self._publishing.connected()
                spec = queue_spec(self._hub, named(self._hub, queue), wire.version)
                await wire.prepare(spec, exchange, keys)
        except QueueLockedError as error:
            raise ConfigurationError(
                f"Queue {queue!r} is the private queue of another connection: {error}. Name another one."
            ) from error
        except TimeoutError as error:
            raise BrokerUnavailableError(f"Queue {queue!r} could not be made: {self._publishing.trouble}.") from error
        except WIRE_ERRORS as error:
            raise BrokerUnavailableError(f"Queue {queue!r} could not be made: {error}.") from error

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._reconnected.append(callback)

    async def depth(self, destination: Destination) -> int:
        self._must_be_open()
        check_destination(destination, self._partitions)
        wire = self._consuming.wire
        if wire is None:
            raise BrokerUnavailableError(f"Not connected to RabbitMQ: {self._consuming.trouble}.")
        try:
            return await wire.depth(queue_name(self._hub, destination))
        except (QueueMissingError, QueueLockedError):
            return 0
        except WIRE_ERRORS as error:
            raise BrokerUnavailableError(f"RabbitMQ did not answer as it should: {error}.") from error

    async def _check_consumers(self, wire: Wire) -> None:
        await wire.ping()
        for consumer in list(self._consumers):
            await consumer.check(wire)

    def _consuming_lost(self, reason: str) -> None:
        for consumer in self._consumers:
            consumer.lose(reason)

    # What consumers tell (consumer.Observer)

    def up(self, consumer: RabbitMQConsumer) -> None:
        if consumer in self._recovering or consumer in self._late:
            self._some_recovered = True
            self._forget_recovery(consumer)

    def down(self, consumer: RabbitMQConsumer) -> None:
        self._recovering.add(consumer)

    def failing(self, consumer: RabbitMQConsumer) -> None:
        """One whose queue is in trouble does not keep the others from going on; its own return is told when it comes."""
        if consumer in self._recovering:
            self._forget_recovery(consumer)
            self._late.add(consumer)

    def gone(self, consumer: RabbitMQConsumer) -> None:
        self._consumers.discard(consumer)
        self._forget_recovery(consumer)

    def _forget_recovery(self, consumer: RabbitMQConsumer) -> None:
        self._recovering.discard(consumer)
        self._late.discard(consumer)
        if self._some_recovered and not self._recovering:
            self._some_recovered = False
            for callback in list(self._reconnected):
                callback()


class _Publisher:
    """The publishing side of one connection: its channels, and the queues declared on it beyond those that ``open`` makes.

    Each durable queue has a channel of its own. A channel that publishes to a quorum queue without a leader is stuck in the server until
    there is one, with everything that it shall publish to other queues; other channels of the connection are not. Inboxes cannot get stuck.
    """

    def __init__(self, hub: str, wire: Wire) -> None:
        self.declared: dict[Destination, asyncio.Task[None]] = {}
        self._hub, self._wire = hub, wire
        self._channels: dict[Destination | None, PublisherChannel] = {}
        self._opening: dict[Destination | None, asyncio.Task[PublisherChannel]] = {}

    def channel(self, destination: Destination) -> PublisherChannel | None:
        """The channel for a destination, if there is one."""
        channel = self._channels.get(_sharing(destination))
        return None if channel is None or channel.lost else channel

    async def open_channel(self, destination: Destination) -> PublisherChannel:
        """Opens it, once for all who ask at the same time."""
        group = _sharing(destination)
        task = self._opening.get(group)
        if task is None:
            task = self._opening[group] = _shared(self._wire.publisher())
            task.add_done_callback(lambda _: self._opening.pop(group, None))
        channel = self._channels[group] = await asyncio.shield(task)
        return channel

    def lose(self) -> None:
        """Learns that the connection is gone."""
        for channel in self._channels.values():
            channel.lose()

    async def declare(self, destination: Destination, *, instead_of: asyncio.Task[None] | None) -> None:
        """Declares a queue, once for all who ask at the same time; again, if the given declaration is the latest."""
        task = self.declared.get(destination)
        if task is instead_of or task is None:
            task = self.declared[destination] = _shared(self._declaration(destination))
        try:
            await asyncio.shield(task)
        except BaseException:
            if task.done() and self.declared.get(destination) is task:
                del self.declared[destination]
            raise

    def forget(self, destination: Destination | None, declaration: asyncio.Task[None] | None) -> None:
        """Has something declared again that seems to be gone, unless it was in the meantime."""
        if destination is not None and self.declared.get(destination) is declaration:
            del self.declared[destination]

    def _declaration(self, destination: Destination) -> Coroutine[Any, Any, None]:
        if destination.kind is DestinationKind.TOPIC:
            return self._wire.declare_exchange(destination.name)
        spec = queue_spec(self._hub, destination, self._wire.version)
        if is_served_by_others(destination):
            return self._wire.prepare(spec, "", ())
        return self._wire.declare([spec])


def _declared_as(destination: Destination) -> Destination | None:
    """What must be declared before the first publish on a connection."""
    match destination.kind:
        case DestinationKind.ACTIVITIES:
            return destination
        case DestinationKind.TOPIC:
            return Destination.topic(destination.name, "")
        case _:
            return None


def _exchange(destination: Destination) -> str | None:
    """The exchange of messages for others; None for our own, which must not get lost on the way."""
    match destination.kind:
        case DestinationKind.TOPIC:
            return destination.name
        case DestinationKind.FOREIGN:
            return ""
        case _:
            return None


def _shared(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that many wait for; or nobody any more, and then its failure is nobody's."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _sharing(destination: Destination) -> Destination | None:
    """Destinations with the same value here share a channel."""
    match destination.kind:
        case DestinationKind.INBOX:
            return None
        case DestinationKind.FOREIGN:
            return Destination(DestinationKind.FOREIGN)
        case DestinationKind.TOPIC:
            return Destination.topic(destination.name, "")
        case _:
            return destination


async def _nothing_to_prepare(_wire: Wire) -> None:
    """Consumers prepare themselves."""
