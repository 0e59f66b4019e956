"""A client's line to its hub: what it sends to actors, what they answer, and the records it looks at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from callboard.batching import Batcher, retrying
from callboard.core.instances import InstanceRecord, check_instance_id
from callboard.core.messages import InstanceMessage, Message
from callboard.errors import InstanceNotFoundError, InstanceNotRunningError, MalformedMessageError
from callboard.host import SystemHost
from callboard.hub import TaskHub
from callboard.ownership import LEASE
from callboard.packs import Packer, decode_pack
from callboard.ports import Delivery, Destination, Host, Subscription
from callboard.routes import Routes, Sender
from callboard.scope import Scope
from callboard.telemetry import Telemetry
from callboard.tracing import Tracing

A = TypeVar("A")
B = TypeVar("B")

log = logging.getLogger("callboard")

#: How old a client's view of the partitions' owners may get while it is used, in seconds.
VIEW_AGE = 5.0
#: How long what was sent may take to reach the broker when the client ends, in seconds.
FLUSH = 5.0


class Connection:
    """Sends for a client, listens for it, and batches its looks.

    Args:
        hub: Opened.
        host: Clock, randomness and tasks; the machine's own by default.
        telemetry: Where spans go; by default where the process's go.
    """

    def __init__(self, hub: TaskHub, host: Host | None, telemetry: Telemetry | None = None) -> None:
        self.hub = hub
        self._own_host = SystemHost() if host is None else None
        self.host = Scope(host or self._own_host or SystemHost())
        self.tracing: Tracing = (telemetry or Telemetry()).tracing()
        self.client_id = f"client-{self.host.token()[:16]}"
        self.packer = Packer(hub.broker, self.host)
        self.routes = Routes(hub.partitions)
        self._sender = Sender(self.packer, self.routes)
        self._viewed = -VIEW_AGE
        self._looks: Batcher[str, InstanceRecord | None] = Batcher(self._look, self.host, name="look", parallel=2)
        self._inbox: Subscription | None = None
        self._inbox_opening = asyncio.Lock()
        self._listeners: dict[type[Any], Callable[[Any], None]] = {}
        self._on_reconnect: list[Callable[[], None]] = []

    async def aclose(self) -> None:
        """Lets what was sent reach the broker (up to a few seconds), and ends."""
        until = self.host.monotonic() + FLUSH
        while not self.packer.idle and self.host.monotonic() < until:
            await self.host.sleep(0.005)
        if self._inbox is not None:
            await self._inbox.aclose()
            self._inbox = None
        await self._looks.aclose()
        await self.host.aclose()
        if self._own_host is not None:
            self._own_host.close()

    # Sending

    def tell(self, message: InstanceMessage) -> None:
        """Sends without waiting: losing it costs time, nothing else."""
        self._keep_routes_fresh()
        self._sender.tell(message, _log_unsent)

    async def send(self, message: InstanceMessage) -> None:
        """Sends, and returns once the broker keeps the message."""
        self._keep_routes_fresh()
        await retrying(lambda: self._sent(message), self.host, "send")

    async def _sent(self, message: InstanceMessage) -> None:
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sender.tell(message, lambda error: _settle(confirmed, None, error))
        await confirmed

    def _keep_routes_fresh(self) -> None:
        if self.host.monotonic() - self._viewed >= VIEW_AGE:
            self._viewed = self.host.monotonic()
            self.host.spawn(self.refresh_routes(), name="callboard view")

    async def refresh_routes(self) -> None:
        """Looks who owns the partitions now."""
        self._viewed = self.host.monotonic()
        view = await retrying(lambda: self.hub.store.view(ttl=LEASE), self.host, "view")
        self.routes.update(view.leases)

    # Listening

    @property
    def listens(self) -> bool:
        """Whether actors can answer to ``client_id``."""
        return self._inbox is not None

    def on(self, kind: type[B], listener: Callable[[B], None]) -> None:
        """Hands messages of a kind that come to this client's inbox to a listener."""
        self._listeners[kind] = listener

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        """Calls a listener when the inbox may have missed messages."""
        self._on_reconnect.append(listener)

    async def listen(self) -> None:
        """Opens the inbox, once."""
        if self._inbox is not None:
            return
        async with self._inbox_opening:
            if self._inbox is None:
                inbox = Destination.inbox(self.client_id)
                self._inbox = await self.hub.broker.consume(inbox, self._on_delivery, prefetch=1000)
                self.hub.broker.on_reconnect(self._reconnected)

    def _on_delivery(self, delivery: Delivery) -> None:
        messages: Sequence[Message] = ()
        try:
            messages = decode_pack(delivery.body)
        except MalformedMessageError as error:
            log.warning("A message to this client cannot be understood: %s", error)
        for message in messages:
            listener = self._listeners.get(type(message))
            if listener is not None:
                listener(message)
        delivery.ack()

    def _reconnected(self) -> None:
        for listener in self._on_reconnect:
            listener()

    # Looking

    async def find(self, instance_id: str) -> InstanceRecord | None:
        """The record of an instance, if there is one; looks under way at the same time share a query."""
        found: InstanceRecord | None = await self.submit(self._looks, check_instance_id(instance_id))
        return found

    async def record(self, instance_id: str) -> InstanceRecord:
        """The record of an instance; raises InstanceNotFoundError if there is none."""
        record = await self.find(instance_id)
        if record is None:
            raise InstanceNotFoundError(instance_id)
        return record

    async def require_running(self, instance_id: str) -> InstanceRecord:
        """The record of an instance; raises InstanceNotRunningError if it has ended."""
        record = await self.record(instance_id)
        if record.terminal:
            raise InstanceNotRunningError(instance_id, record.runtime_status)
        return record

    async def submit(self, batcher: Batcher[A, B], item: A) -> B | None:
        """Puts an item into a batcher and waits for what comes of it."""
        done: asyncio.Future[B | None] = asyncio.get_running_loop().create_future()
        batcher.submit(item, lambda result, error: _settle(done, result, error))
        return await done

    async def _look(self, instance_ids: Sequence[str]) -> list[InstanceRecord | None]:
        records = await self.hub.store.records(list(dict.fromkeys(instance_ids)))
        return [records.get(instance_id) for instance_id in instance_ids]


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _log_unsent(error: BaseException | None) -> None:
    if error is not None:
        log.warning("A message was not confirmed: %s", error)
