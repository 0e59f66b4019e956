"""One subscription, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Protocol

from callboard.errors import BrokerUnavailableError, ConfigurationError
from callboard.ports import Delivery, Destination, DestinationKind
from callboard_broker.rabbitmq.deliveries import ConsumerChannel
from callboard_broker.rabbitmq.errors import WIRE_ERRORS, QueueMissingError, UnansweredError
from callboard_broker.rabbitmq.link import Backoff, Link
from callboard_broker.rabbitmq.options import RabbitMQOptions
from callboard_broker.rabbitmq.wire import Wire
from callboard_broker.topology import named, queue_name, queue_spec

log = logging.getLogger("callboard.broker")

#: Made by ``open``, so that consumers need not declare them first.
_STANDING = (
    DestinationKind.PARTITION,
    DestinationKind.DEAD_LETTERS,
    DestinationKind.INGRESS,
    DestinationKind.REJECTED,
)


class Observer(Protocol):
    """Whom consumers tell how they are."""

    def up(self, consumer: RabbitMQConsumer) -> None: ...

    def down(self, consumer: RabbitMQConsumer) -> None: ...

    def failing(self, consumer: RabbitMQConsumer) -> None: ...

    def gone(self, consumer: RabbitMQConsumer) -> None: ...


class RabbitMQConsumer:
    """A subscription: declare, consume; when its channel ends for whatever reason, again.

    It has a channel of its own, because closing a channel is the one way to return at once what is not acked. When only its channel or its
    queue is gone, the other consumers of the connection go on.
    """

    def __init__(
        self,
        link: Link,
        options: RabbitMQOptions,
        observer: Observer,
        hub: str,
        destination: Destination,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        dice: random.Random,
        bindings: Mapping[str, Mapping[str, Collection[str]]],
    ) -> None:
        self._link, self._observer = link, observer
        self._hub, self._destination = hub, destination
        self._on_delivery, self._prefetch = on_delivery, prefetch
        self._backoff = Backoff(options, dice)
        self._bindings = bindings
        self._declared = destination.kind in _STANDING
        self._channel: ConsumerChannel | None = None
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._wire: Wire | None = None
        self._trouble = ""
        self._seen_by_probe = -1

    async def start(self, timeout: float) -> None:
        """Returns once messages can come.

        Raises:
            BrokerUnavailableError: not in time.
            ConfigurationError: the queue is there with other properties.
        """
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"callboard consumer {self._destination}")
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._first)
        except TimeoutError as error:
            await self.aclose()
            why = self._trouble or self._link.trouble
            raise BrokerUnavailableError(
                f"Cannot consume {self._destination}: {why} (tried for {timeout:g} s)."
            ) from error
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Is not interrupted by the cancellation of who waits for it: half closed, it would keep messages from everybody."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._end_channel()
        self._observer.gone(self)

    def lose(self, reason: str) -> None:
        """Learns that the connection is gone."""
        if self._channel is not None:
            self._channel.lose(reason)

    async def check(self, wire: Wire) -> None:
        """Starts over if the queue has messages, there is room, and none came since the last check: the consumer died silently."""
        channel = self._channel
        if channel is None or channel.unacked >= self._prefetch:
            return
        seen, self._seen_by_probe = self._seen_by_probe, channel.delivered
        if seen != channel.delivered:
            return
        try:
            waiting = await wire.depth(queue_name(self._hub, self._destination))
        except QueueMissingError:
            waiting = -1
        except UnansweredError:
            return  # a queue without a leader delivers nothing to a new consumer either
        if waiting and channel is self._channel and seen == channel.delivered and channel.unacked < self._prefetch:
            channel.lose(f"nothing was delivered while {waiting} messages wait" if waiting > 0 else "its queue is gone")

    async def _run(self) -> None:
        while True:
            wire = await self._link.connected()
            try:
                channel = await self._uninterrupted(self._consume(wire))
            except (*WIRE_ERRORS, ConfigurationError) as error:
                if isinstance(error, ConfigurationError) and not self._first.done():
                    self._first.set_exception(error)
                    return
                await self._failed(wire, error)
                continue
            self._established()
            reason = await channel.lost
            self._observer.down(self)
            if self._link.wire is wire:
                log.warning("Consumer of %s ended: %s; starting it again", self._destination, reason)
            await self._end_channel()
            await self._backoff.pause()

    @staticmethod
    async def _uninterrupted(work: Coroutine[Any, Any, ConsumerChannel]) -> ConsumerChannel:
        """Is cancelled only after the work is done, so that no channel is left open that nobody knows of."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
            raise

    async def _consume(self, wire: Wire) -> ConsumerChannel:
        spec = queue_spec(self._hub, self._own(), wire.version)
        if self._destination.kind is DestinationKind.FOREIGN:
            await wire.prepare(spec, "", ())
            for exchange, keys in self._bindings.get(spec.name, {}).items():
                await wire.prepare(spec, exchange, keys)
        elif not self._declared:
            await wire.declare([spec])
        self._declared = False
        self._channel = await wire.consumer(queue_name(self._hub, self._destination), self._prefetch, self._on_delivery)
        self._wire = wire
        self._seen_by_probe = -1
        return self._channel

    def _own(self) -> Destination:
        foreign = self._destination.kind is DestinationKind.FOREIGN
        return named(self._hub, self._destination.name) if foreign else self._destination

    def _established(self) -> None:
        self._backoff.reset()
        self._trouble = ""
        if not self._first.done():
            self._first.set_result(None)
        self._observer.up(self)

    async def _failed(self, wire: Wire, error: Exception) -> None:
        if self._link.wire is wire:
            if self._trouble != str(error):
                log.warning("Cannot consume %s, still trying: %s", self._destination, error)
            self._observer.failing(self)
        self._trouble = str(error)
        await self._backoff.pause()

    async def _end_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and self._wire is not None:
            await self._wire.end(channel)
