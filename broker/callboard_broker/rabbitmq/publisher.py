"""Publishing with confirms, many at once. Its cost limits throughput: the driver's own publish takes four times the CPU.

Rules of this file:
- Frames go to the connection's outbox, which one task writes in order, many to one write; nothing here waits for the socket.
- Only we publish on the channel, so that the n-th publish in the outbox has delivery tag n.
- What the driver calls back must not raise: it would take the channel's reader down.
"""

from __future__ import annotations

import asyncio
import enum
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.exceptions import PublishError

from callboard.ports import NO_PROPERTIES, Properties
from callboard_broker.rabbitmq import frames

#: Bytes, for a server that sets no limit (0).
DEFAULT_FRAME_MAX = 131_072


class DriverChannel(Protocol):
    """What we use of the driver's channel (aiormq.channel.Channel)."""

    connection: Any
    number: int
    delivery_tag: int
    """Of the last publish."""
    confirmations: dict[int, Any]
    """Futures by delivery tag, in order."""
    message_id_delivery_tag: dict[str, int]
    """Says which future a returned message belongs to."""
    frames: Any
    """The queue between the connection's reader and the channel's."""
    consumers: dict[str, Any]
    on_consumer_cancel_callbacks: set[Any]

    @property
    def closing(self) -> asyncio.Future[Any]: ...

    @property
    def is_closed(self) -> bool: ...

    async def close(self) -> None: ...

    async def queue_declare(
        self,
        queue: str,
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> Any: ...

    async def exchange_declare(
        self, exchange: str, *, exchange_type: str = "direct", passive: bool = False, durable: bool = False
    ) -> Any: ...

    async def queue_bind(self, queue: str, exchange: str, routing_key: str) -> Any: ...

    async def basic_qos(self, *, prefetch_count: int) -> Any: ...

    async def basic_consume(self, queue: str, callback: Callable[[DeliveredMessage], Any], /) -> Any: ...

    async def basic_cancel(self, consumer_tag: str, /) -> Any: ...


class Outcome(enum.Enum):
    """What became of one publish."""

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    """No queue of that name."""
    REFUSED = "refused"
    """The server could not keep it."""
    LOST = "lost"
    """The channel ended first; it may have arrived."""


class Outbox:
    """Frames on their way to the socket of one connection, in order."""

    def __init__(self, write_queue: asyncio.Queue[ChannelFrame]) -> None:
        self._write_queue = write_queue
        self._parts: list[bytes] = []
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="callboard broker outbox")

    def write(self, *parts: bytes) -> None:
        self._parts += parts
        self._wake.set()
        self._idle.clear()

    async def flushed(self) -> None:
        """Returns once everything written so far is with the driver, so that later requests come after it."""
        await self._idle.wait()

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        self._idle.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            parts, self._parts = self._parts, []
            await self._write_queue.put(ChannelFrame(payload=b"".join(parts), should_close=False))
            if not self._parts:
                self._idle.set()


class Window:
    """Bounds what is sent and not yet confirmed; first come, first served."""

    def __init__(self, messages: int, size: int) -> None:
        self._messages, self._size = messages, size
        self._free_messages, self._free_size = messages, size
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._open_wide = False

    async def acquire(self, size: int) -> None:
        size = min(size, self._size)
        if self._take(size, first=not self._waiting):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release(size)
            raise

    def release(self, size: int) -> None:
        self._free_messages += 1
        self._free_size += min(size, self._size)
        while self._waiting:
            turn, wanted = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
            elif self._take(wanted, first=True):
                self._waiting.popleft()
                turn.set_result(None)
            else:
                return

    def open_wide(self) -> None:
        """Lets everybody through, now and later: there is nothing left to wait for."""
        self._open_wide = True
        while self._waiting:
            turn, wanted = self._waiting.popleft()
            if not turn.done():
                self._take(wanted, first=True)
                turn.set_result(None)

    def _take(self, size: int, *, first: bool) -> bool:
        if not self._open_wide and (not first or self._free_messages < 1 or self._free_size < size):
            return False
        self._free_messages -= 1
        self._free_size -= size
        return True


class _Confirmation:
    """Stands in the driver's table of pending confirms where it expects a future.

    A future there would be cancelled together with its publisher, and a message that is returned after that would take the channel's
    reader down.
    """

    __slots__ = ("_channel", "_identity", "_size", "waiter")

    def __init__(self, channel: PublisherChannel, identity: str, size: int) -> None:
        self._channel, self._identity, self._size = channel, identity, size
        self.waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def done(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def set_result(self, _frame: object) -> None:
        self.settle(Outcome.CONFIRMED)

    def set_exception(self, error: BaseException) -> None:
        self.settle(Outcome.RETURNED if isinstance(error, PublishError) else Outcome.REFUSED)

    def settle(self, outcome: Outcome) -> None:
        self._channel.settled(self._identity, self._size)
        if not self.waiter.done():
            self.waiter.set_result(outcome)


class PublisherChannel:
    """Publishes with confirms, many at once.

    Every attempt gets a message id of its own, never seen before: the driver finds returned messages by it, and with one id twice in flight
    it reports messages as confirmed that came back.

    Args:
        connection: What all channels of the connection may have in flight together.
        window: Messages that this channel may have in flight.
    """

    def __init__(self, channel: DriverChannel, outbox: Outbox, connection: Window, window: int) -> None:
        self._channel, self._outbox = channel, outbox
        self._connection, self._window = connection, Window(window, 0)
        self._frame_max = channel.connection.connection_tune.frame_max or DEFAULT_FRAME_MAX
        self._identity = uuid.uuid4().hex
        self.lost = False
        channel.closing.add_done_callback(lambda _: self.lose())

    async def publish(
        self,
        routing_key: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        *,
        persistent: bool,
        exchange: str | None = None,
        properties: Properties = NO_PROPERTIES,
    ) -> Outcome:
        """Sends a message; one for others' queues (``exchange`` given, maybe empty) comes back from nowhere."""
        size = len(body)
        await self._window.acquire(0)
        try:
            await self._connection.acquire(size)
        except BaseException:
            self._window.release(0)
            raise
        if self.lost:
            self._give_room(size)
            return Outcome.LOST
        mode = frames.PERSISTENT if persistent else frames.TRANSIENT
        try:
            waiter = self._send(routing_key, body, headers, mode, exchange, properties)
        except BaseException:
            self._give_room(size)
            raise
        return await waiter

    def _send(
        self,
        routing_key: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        mode: int,
        exchange: str | None,
        properties: Properties,
    ) -> asyncio.Future[Outcome]:
        channel, number, size = self._channel, self._channel.number, len(body)
        tag = channel.delivery_tag + 1
        identity = f"{self._identity}.{tag}"
        known_by = identity if exchange is None else properties.message_id
        header = frames.content_header(number, size, headers, mode, known_by, properties)
        method = frames.publish(number, routing_key, exchange or "", mandatory=exchange is None)
        confirmation = _Confirmation(self, identity, size)
        channel.delivery_tag = tag
        channel.confirmations[tag] = confirmation
        channel.message_id_delivery_tag[identity] = tag
        self._outbox.write(method, header, *frames.body_frames(number, body, self._frame_max))
        return confirmation.waiter

    def settled(self, identity: str, size: int) -> None:
        self._channel.message_id_delivery_tag.pop(identity, None)
        self._give_room(size)

    def _give_room(self, size: int) -> None:
        self._window.release(0)
        self._connection.release(size)

    def lose(self) -> None:
        """Ends all that is pending: nobody will confirm it any more."""
        self.lost = True
        pending = list(self._channel.confirmations.values())
        self._channel.confirmations.clear()
        for confirmation in pending:
            if isinstance(confirmation, _Confirmation):  # else the driver's mark of a message that was returned
                confirmation.settle(Outcome.LOST)
        self._window.open_wide()


def closing_reason(closing: asyncio.Future[Any]) -> str:
    """Why the driver closed a channel or connection."""
    error = None if closing.cancelled() else closing.exception()
    return str(error or "no reason given")
