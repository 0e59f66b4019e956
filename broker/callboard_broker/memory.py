"""A broker in memory, for tests: the same contract, and switches for everything that can go wrong."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from callboard.errors import BrokerUnavailableError, PayloadTooLargeError, UnroutableError
from callboard.ports import NO_PROPERTIES, Delivery, Destination, DestinationKind, Properties, Subscription
from callboard_broker.topology import (
    ACTIVITY_DELIVERY_LIMIT,
    check_destination,
    check_foreign_name,
    check_hub,
    named,
    queue_spec,
    topic_matches,
)

MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class MemoryFaults:
    """What goes wrong, and how often; may be changed at any time. Probabilities are from 0 to 1."""

    seed: int = 0
    duplicate: float = 0.0
    """Chance that a published message is kept twice."""
    reorder: float = 0.0
    """Chance that a message takes a random place in its queue, when it is published and when it comes back."""
    delay_seconds: float = 0.0
    """Each message can be delivered only after a random part of this."""
    lose_confirms: float = 0.0
    """Chance that ``publish`` raises ``BrokerUnavailableError`` though the message is kept."""
    lose_publishes: float = 0.0
    """Chance that ``publish`` raises ``BrokerUnavailableError`` and the message is not kept."""
    random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def happens(self, chance: float) -> bool:
        """Decides one case; asks for no random number when the switch is off, so that switches do not disturb each other."""
        return chance > 0 and self.random.random() < chance


@dataclass(slots=True, eq=False)
class _Message:
    body: bytes
    headers: dict[str, str]
    properties: Properties = NO_PROPERTIES
    deliveries: int = 0
    redelivered: bool = False


class _Queue:
    """One queue and its consumers."""

    def __init__(self, hub: _Hub, destination: Destination) -> None:
        self.ready: deque[_Message] = deque()
        self.consumers: deque[_Consumer] = deque()
        self._hub = hub
        self._limit = ACTIVITY_DELIVERY_LIMIT if destination.kind is DestinationKind.ACTIVITIES else None
        self._pumping = False

    def put(self, message: _Message, faults: MemoryFaults) -> None:
        if faults.delay_seconds > 0:
            asyncio.get_running_loop().call_later(
                faults.random.random() * faults.delay_seconds, self._insert, message, len(self.ready), faults
            )
        else:
            self._insert(message, len(self.ready), faults)

    def give_back(self, messages: list[_Message], faults: MemoryFaults) -> None:
        """Takes back what was delivered and not acked; it is delivered before what waits, as a quorum queue does."""
        for message in reversed(messages):
            message.redelivered = True
            if self._limit is not None and message.deliveries > self._limit:
                self._hub.queue(Destination.dead_letters()).put(
                    _Message(message.body, message.headers, message.properties), faults
                )
            else:
                self._insert(message, 0, faults)

    def _insert(self, message: _Message, place: int, faults: MemoryFaults) -> None:
        if faults.happens(faults.reorder):
            place = faults.random.randint(0, len(self.ready))
        self.ready.insert(place, message)
        self.pump()

    def pump(self) -> None:
        """Delivers soon; never from within ``publish`` or ``ack``, as a real broker would not."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._pumping = False
        while self.ready and (consumer := self._next_consumer()) is not None:
            consumer.deliver(self.ready.popleft())

    def _next_consumer(self) -> _Consumer | None:
        for _ in range(len(self.consumers)):
            self.consumers.rotate(-1)
            if self.consumers[-1].has_room:
                return self.consumers[-1]
        return None


class _Hub:
    """The queues of one hub, and those of others, which all hubs of a server share."""

    def __init__(self, name: str, foreign: dict[str, _Queue], bindings: set[tuple[str, str, str]]) -> None:
        self.name = name
        self.queues: dict[Destination, _Queue] = {}
        self._foreign = foreign
        self.bindings = bindings
        """Exchange, key, queue."""

    def queue(self, destination: Destination) -> _Queue:
        """Makes a queue if it is not there."""
        found = self.find(destination)
        if found is not None:
            return found
        queue = _Queue(self, destination)
        if destination.kind is DestinationKind.FOREIGN:
            self._foreign[destination.name] = queue
        else:
            self.queues[destination] = queue
        return queue

    def find(self, destination: Destination) -> _Queue | None:
        if destination.kind is DestinationKind.FOREIGN:
            return self._foreign.get(destination.name)
        return self.queues.get(destination)

    def own(self, destination: Destination) -> Destination:
        """What goes by the name of a foreign queue may be one of ours."""
        return named(self.name, destination.name) if destination.kind is DestinationKind.FOREIGN else destination

    def receivers(self, destination: Destination) -> list[_Queue]:
        """The queues that a message goes to."""
        if destination.kind is DestinationKind.TOPIC:
            queues = {
                queue
                for exchange, key, queue in self.bindings
                if exchange == destination.name and topic_matches(key, destination.key)
            }
            found = [self.find(self.own(Destination.foreign(queue))) for queue in sorted(queues)]
            return [queue for queue in found if queue is not None]
        if destination.kind is DestinationKind.FOREIGN:
            queue = self.find(destination)
            return [] if queue is None else [queue]
        return [self.queue(destination)]


class MemoryServer:
    """What brokers share: queues and faults. Pass one to every ``MemoryBroker`` that shall see the same messages.

    Attributes:
        faults: What goes wrong; may be changed at any time.
    """

    def __init__(self, faults: MemoryFaults | None = None) -> None:
        self.faults = faults or MemoryFaults()
        self._hubs: dict[str, _Hub] = {}
        self._foreign: dict[str, _Queue] = {}
        self._bindings: set[tuple[str, str, str]] = set()
        self._brokers: list[MemoryBroker] = []

    def hub(self, name: str) -> _Hub:
        if name not in self._hubs:
            self._hubs[name] = _Hub(name, self._foreign, self._bindings)
        return self._hubs[name]

    def attach(self, broker: MemoryBroker) -> None:
        if broker not in self._brokers:
            self._brokers.append(broker)

    def detach(self, broker: MemoryBroker) -> None:
        if broker in self._brokers:
            self._brokers.remove(broker)

    def drop_connections(self, *, outage_seconds: float = 0.0) -> None:
        """Breaks every connection: unacked messages come again, inboxes lose theirs, consumers are back after the outage."""
        for broker in list(self._brokers):
            broker.drop_connection(outage_seconds=outage_seconds)


_SERVERS: WeakValueDictionary[str, MemoryServer] = WeakValueDictionary()


class _Delivery:
    """One message in a consumer's hands, on one connection."""

    __slots__ = ("_consumer", "_generation", "_message", "_number", "redelivered")

    def __init__(self, consumer: _Consumer, generation: int, number: int, message: _Message) -> None:
        self._consumer, self._generation, self._number, self._message = consumer, generation, number, message
        self.redelivered = message.redelivered

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def headers(self) -> Mapping[str, str]:
        return self._message.headers

    @property
    def properties(self) -> Properties:
        return self._message.properties

    def ack(self) -> None:
        self._consumer.settle(self._generation, self._number, give_back=False)

    def reject(self) -> None:
        self._consumer.settle(self._generation, self._number, give_back=True)


class _Consumer:
    """A running consumer; a lost connection ends its generation, not the consumer."""

    def __init__(
        self, broker: MemoryBroker, destination: Destination, on_delivery: Callable[[Delivery], None], prefetch: int
    ) -> None:
        self._broker, self._destination = broker, destination
        self._on_delivery, self._prefetch = on_delivery, prefetch
        self._unacked: dict[int, _Message] = {}
        self._numbers = itertools.count()
        self._generation = 0
        self._queue: _Queue | None = None

    @property
    def has_room(self) -> bool:
        return len(self._unacked) < self._prefetch

    def deliver(self, message: _Message) -> None:
        number = next(self._numbers)
        message.deliveries += 1
        self._unacked[number] = message
        self._on_delivery(_Delivery(self, self._generation, number, message))

    def settle(self, generation: int, number: int, *, give_back: bool) -> None:
        if generation != self._generation or self._queue is None:
            return
        message = self._unacked.pop(number, None)
        if message is None:
            return
        if give_back:
            self._queue.give_back([message], self._broker.faults)
        self._queue.pump()

    def connect(self) -> None:
        self._queue = self._broker.hub.queue(self._destination)
        self._queue.consumers.append(self)
        self._queue.pump()

    def disconnect(self) -> None:
        """Returns what is not acked; an inbox goes with its consumer."""
        queue, self._queue = self._queue, None
        if queue is None:
            return
        self._generation += 1
        queue.consumers.remove(self)
        unacked, self._unacked = list(self._unacked.values()), {}
        if self._destination.kind is not DestinationKind.INBOX:
            queue.give_back(unacked, self._broker.faults)
        elif not queue.consumers:
            self._broker.hub.queues.pop(self._destination, None)

    async def aclose(self) -> None:
        self.disconnect()
        self._broker.forget(self)


class MemoryBroker:
    """Carries messages within the process.

    Brokers that share a ``MemoryServer`` see the same queues. See ``callboard.ports.Broker`` for the contract.
    """

    def __init__(
        self,
        server: MemoryServer | None = None,
        *,
        message_limit_bytes: int = MESSAGE_LIMIT_BYTES,
        publish_timeout_seconds: float = 30.0,
    ) -> None:
        self.server = server or MemoryServer()
        self._message_limit, self._publish_timeout = message_limit_bytes, publish_timeout_seconds
        self._hub: _Hub | None = None
        self._partitions = 0
        self._consumers: list[_Consumer] = []
        self._reconnected: list[Callable[[], None]] = []
        self._online = asyncio.Event()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> MemoryBroker:
        """Makes a broker on ``memory://name``; those of one name share their queues while one of them lives."""
        name = urlsplit(url).netloc
        server = _SERVERS.get(name) or MemoryServer()
        _SERVERS[name] = server
        return cls(server, **options)

    @property
    def faults(self) -> MemoryFaults:
        """What goes wrong, shared with everyone on the server."""
        return self.server.faults

    @property
    def hub(self) -> _Hub:
        self._must_be_open()
        assert self._hub is not None
        return self._hub

    def _must_be_open(self) -> None:
        if self._hub is None:
            raise BrokerUnavailableError("The broker is not open. Call open() first, and not after aclose().")

    async def open(self, hub: str, partitions: int) -> None:
        check_hub(hub)
        self._hub, self._partitions = self.server.hub(hub), partitions
        self.server.attach(self)
        self._online.set()

    async def publish(
        self,
        destination: Destination,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        self._must_be_open()
        check_destination(destination, self._partitions)
        if len(body) > self._message_limit:
            raise PayloadTooLargeError("A message", len(body), self._message_limit)
        await self._until_online()
        hub, faults = self.hub, self.faults  # of now: it may have been closed meanwhile
        destination = hub.own(destination)
        if destination.kind is DestinationKind.INBOX and destination not in hub.queues:
            raise UnroutableError(destination)
        if faults.happens(faults.lose_publishes):
            raise BrokerUnavailableError(
                "The connection broke before the message was sent (a fault asked for by the test)."
            )
        for _ in range(2 if faults.happens(faults.duplicate) else 1):
            for queue in hub.receivers(destination):
                queue.put(_Message(bytes(body), dict(headers or {}), properties), faults)
        if faults.happens(faults.lose_confirms):
            raise BrokerUnavailableError("The connection broke before the confirm (a fault asked for by the test).")

    async def _until_online(self) -> None:
        await asyncio.sleep(0)
        if not self._online.is_set():
            try:
                await asyncio.wait_for(self._online.wait(), self._publish_timeout)
            except TimeoutError as error:
                raise BrokerUnavailableError(f"Not connected for {self._publish_timeout:g} seconds.") from error

    async def consume(
        self, destination: Destination, on_delivery: Callable[[Delivery], None], *, prefetch: int = 100
    ) -> Subscription:
        self._must_be_open()
        check_destination(destination, self._partitions)
        await self._until_online()
        queue_spec(self.hub.name, destination, ())  # refuses what is no queue
        consumer = _Consumer(self, self.hub.own(destination), on_delivery, prefetch)
        consumer.connect()
        self._consumers.append(consumer)
        return consumer

    async def prepare(self, queue: str, *, exchange: str = "", keys: Sequence[str] = ()) -> None:
        self._must_be_open()
        check_foreign_name("queue", queue)
        await self._until_online()
        self.hub.queue(self.hub.own(Destination.foreign(queue)))
        if exchange:
            check_foreign_name("exchange", exchange)
            self.hub.bindings.update((exchange, key, queue) for key in keys)

    def forget(self, consumer: _Consumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._reconnected.append(callback)

    async def depth(self, destination: Destination) -> int:
        self._must_be_open()
        check_destination(destination, self._partitions)
        queue = self.hub.find(self.hub.own(destination))
        return len(queue.ready) if queue else 0

    def drop_connection(self, *, outage_seconds: float = 0.0) -> None:
        """Breaks this broker's connection, as ``MemoryServer.drop_connections`` does for all."""
        self._online.clear()
        for consumer in self._consumers:
            consumer.disconnect()
        asyncio.get_running_loop().call_later(outage_seconds, self._reconnect)

    def _reconnect(self) -> None:
        if self._hub is None or self._online.is_set():
            return
        for consumer in self._consumers:
            consumer.connect()
        self._online.set()
        for callback in list(self._reconnected):
            callback()

    async def aclose(self) -> None:
        for consumer in list(self._consumers):
            await consumer.aclose()
        self.server.detach(self)
        self._hub = None
        self._online.set()
