"""The two kinds of channel that carry messages: one publishes with confirms, one consumes. Cheap, because their cost limits throughput.

Rules of this file:
- Publishes and acks go to the connection's outbox, which one task writes in order, many to one write; nothing here waits for the socket.
- Only we publish on a publisher channel, so that the n-th publish in the outbox has delivery tag n.
- Nothing is written to a consumer channel after its Close: the server answers that by closing the whole connection. So acks stop first.
- What the driver calls back must not raise: it would take the channel's reader down.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import PublishError

from callboard.ports import Delivery
from callboard_broker import rabbitmq_frames as frames

log = logging.getLogger("callboard.broker")


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


class _Window:
    """Bounds what is sent and not yet confirmed; first come, first served."""

    def __init__(self, messages: int, size: int) -> None:
        self._messages, self._size = messages, size
        self._free_messages, self._free_size = messages, size
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def acquire(self, size: int) -> None:
        size = min(size, self._size)
        if not self._waiting and self._take(size):
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
            elif self._take(wanted):
                self._waiting.popleft()
                turn.set_result(None)
            else:
                return

    def open_wide(self) -> None:
        """Lets everybody through: there is nothing left to wait for."""
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def _take(self, size: int) -> bool:
        if self._free_messages < 1 or self._free_size < size:
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
    """

    def __init__(self, channel: Channel, outbox: Outbox, *, window: int, window_bytes: int) -> None:
        self._channel, self._outbox = channel, outbox
        self._window = _Window(window, window_bytes)
        self._frame_max = channel.connection.connection_tune.frame_max
        self._identity = uuid.uuid4().hex
        self._lost = False
        self.on_lost: Callable[[str], None] = _nobody_cares
        channel.closing.add_done_callback(self._on_closing)

    async def publish(
        self, routing_key: str, body: bytes, headers: Mapping[str, str] | None, *, persistent: bool
    ) -> Outcome:
        size = len(body)
        await self._window.acquire(size)
        if self._lost:
            return Outcome.LOST
        return await self._send(routing_key, body, headers, frames.PERSISTENT if persistent else frames.TRANSIENT)

    def _send(
        self, routing_key: str, body: bytes, headers: Mapping[str, str] | None, mode: int
    ) -> asyncio.Future[Outcome]:
        channel, number, size = self._channel, self._channel.number, len(body)
        identity = f"{self._identity}.{channel.delivery_tag + 1}"
        header = frames.content_header(number, size, headers, mode, identity)
        channel.delivery_tag = tag = channel.delivery_tag + 1
        confirmation = _Confirmation(self, identity, size)
        channel.confirmations[tag] = cast("Any", confirmation)
        channel.message_id_delivery_tag[identity] = tag
        self._outbox.write(
            frames.publish(number, routing_key), header, *frames.body_frames(number, body, self._frame_max)
        )
        return confirmation.waiter

    def settled(self, identity: str, size: int) -> None:
        self._channel.message_id_delivery_tag.pop(identity, None)
        self._window.release(size)

    def lose(self) -> None:
        """Ends all that is pending: nobody will confirm it any more."""
        self._lost = True
        pending = list(cast("dict[int, object]", self._channel.confirmations).values())
        self._channel.confirmations.clear()
        for confirmation in pending:
            if isinstance(confirmation, _Confirmation):  # else the driver's mark of a message that was returned
                confirmation.settle(Outcome.LOST)
        self._window.open_wide()

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        self.lose()
        self.on_lost(f"the publishing channel was closed: {_reason(closing)}")


class RabbitMQDelivery:
    """One message in the consumer's hands, on one channel of one connection: no other can ack it."""

    __slots__ = ("_channel", "_headers", "_settled", "_tag", "body", "redelivered")

    def __init__(self, channel: ConsumerChannel, message: DeliveredMessage) -> None:
        self._channel = channel
        self._tag = cast("int", message.delivery_tag)
        self._headers = cast("dict[str, Any] | None", message.header.properties.headers)
        self._settled = False
        self.body = message.body
        self.redelivered = bool(message.redelivered)

    @property
    def headers(self) -> Mapping[str, str]:
        """As they were published; what a stranger or the broker put there in other types is text here."""
        return {name: _text(value) for name, value in self._headers.items()} if self._headers else {}

    def ack(self) -> None:
        if not self._settled:
            self._settled = True
            self._channel.settle(frames.ack, self._tag)

    def reject(self) -> None:
        if not self._settled:
            self._settled = True
            self._channel.settle(frames.give_back, self._tag)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return str(value)


class ConsumerChannel:
    """Consumes one queue. Closed once, for good: acks after that go nowhere, and the server delivers again.

    Attributes:
        lost: Resolves with the reason when the channel ended other than by ``stop``.
        delivered: How many messages came so far.
        unacked: How many are in the consumer's hands.
    """

    def __init__(self, channel: Channel, outbox: Outbox, on_delivery: Callable[[Delivery], None]) -> None:
        self.channel, self._outbox, self._on_delivery = channel, outbox, on_delivery
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.delivered = self.unacked = 0
        self._open = True
        channel.closing.add_done_callback(self._on_closing)
        channel.on_consumer_cancel_callbacks.add(self._on_cancel)

    async def on_message(self, message: DeliveredMessage) -> None:
        """Is run by the driver as a task for each message, and cancelled with the channel: so it only hands over."""
        if not self._open:
            return
        self.delivered += 1
        self.unacked += 1
        try:
            self._on_delivery(RabbitMQDelivery(self, message))
        except Exception:
            log.exception("A consumer's on_delivery raised; the message stays unacked")

    def settle(self, frame: Callable[[int, int], bytes], tag: int) -> None:
        if self._open:
            self.unacked -= 1
            self._outbox.write(frame(self.channel.number, tag))

    def lose(self, reason: str) -> None:
        self._open = False
        if not self.lost.done():
            self.lost.set_result(reason)

    def stop(self) -> None:
        """Ends deliveries; acks still count until ``finish``."""
        self._on_delivery = _ignore

    async def finish(self) -> None:
        """Gives back what is not acked, after all acks. The consumer must be cancelled, or it would get it again."""
        if self._open:
            self._open = False
            if self.unacked:
                self._outbox.write(frames.give_back_all(self.channel.number))
            await self._outbox.flushed()

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        self.lose(f"the channel was closed: {_reason(closing)}")

    def _on_cancel(self, _frame: object) -> None:
        self.lose("the server ended the consumer (was its queue deleted?)")


def _ignore(_delivery: Delivery) -> None:
    """Takes deliveries that came too late; they go back with the channel."""


def _nobody_cares(_reason: str) -> None:
    """Until somebody does."""


def _reason(closing: asyncio.Future[Any]) -> str:
    error = None if closing.cancelled() else closing.exception()
    return str(error or "no reason given")
