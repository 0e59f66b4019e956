"""Deliveries of one consumer on one connection, and their acks.

Rules of this file:
- Nothing is written to a channel after its Close: the server answers that by closing the whole connection. So acks stop first.
- Only one message is acked at a time (never "all up to this one"): a wrong guess about order would lose messages.
- What the driver calls must not raise: it would take the reader of the channel, or of the connection, down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from aiormq.abc import DeliveredMessage
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from callboard.ports import Delivery, Properties
from callboard_broker.rabbitmq import frames
from callboard_broker.rabbitmq.publisher import DriverChannel, Outbox, closing_reason

log = logging.getLogger("callboard.broker")


class RabbitMQDelivery:
    """One message in the consumer's hands, on one channel of one connection: on no other can it be acked."""

    __slots__ = ("_channel", "_header", "_settled", "_tag", "body", "redelivered")

    def __init__(self, channel: ConsumerChannel, frame: Basic.Deliver, header: ContentHeader, body: bytes) -> None:
        self._channel = channel
        self._tag = cast("int", frame.delivery_tag)
        self._header = header
        self._settled = False
        self.body = body
        self.redelivered = bool(frame.redelivered)

    @property
    def headers(self) -> Mapping[str, str]:
        """As they were published; what a stranger or the broker put there in other types is text here."""
        headers = cast("dict[str, Any] | None", self._header.properties.headers)
        return {name: _text(value) for name, value in headers.items()} if headers else {}

    @property
    def properties(self) -> Properties:
        said = self._header.properties
        return Properties(
            message_id=said.message_id or None,
            correlation_id=said.correlation_id or None,
            reply_to=said.reply_to or None,
            content_type=said.content_type or None,
            type=said.message_type or None,
        )

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
    """Consumes one queue. Ends once, for good: acks after that go nowhere, and the server delivers again.

    Attributes:
        lost: Resolves with the reason when the channel ended other than by ``finish``.
        delivered: How many messages came so far.
        unacked: How many are in the consumer's hands.
    """

    def __init__(self, channel: DriverChannel, outbox: Outbox, on_delivery: Callable[[Delivery], None]) -> None:
        self.channel, self._outbox, self._on_delivery = channel, outbox, on_delivery
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.delivered = self.unacked = 0
        self._open = True
        channel.frames = _ShortCut(channel.frames, self._deliver)
        channel.closing.add_done_callback(self._on_closing)
        channel.on_consumer_cancel_callbacks.add(self._on_cancel)

    async def on_message(self, message: DeliveredMessage) -> None:
        """Takes what did not come by the short cut. The driver runs this as a task and cancels it with the channel."""
        self._deliver(cast("Basic.Deliver", message.delivery), message.header, message.body)

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
        self._on_delivery = _leave_unacked

    async def finish(self) -> None:
        """Gives back what is not acked, after all acks. The consumer must be cancelled, or it would get it again."""
        if self._open:
            self._open = False
            if self.unacked:
                self._outbox.write(frames.give_back_all(self.channel.number))
            await self._outbox.flushed()

    def _deliver(self, frame: Basic.Deliver, header: ContentHeader, body: bytes) -> None:
        if not self._open:
            return
        self.delivered += 1
        self.unacked += 1
        try:
            self._on_delivery(RabbitMQDelivery(self, frame, header, body))
        except Exception:
            log.exception("A consumer's on_delivery raised; the message stays unacked")

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        self.lose(f"the channel was closed: {closing_reason(closing)}")

    def _on_cancel(self, _frame: object) -> None:
        self.lose("the server ended the consumer (was its queue deleted?)")


def _leave_unacked(_delivery: Delivery) -> None:
    """Takes deliveries that came too late; they go back with the channel."""


class _ShortCut:
    """Stands between the connection's reader and the channel's queue of frames, and picks the deliveries out.

    The driver's way (queue, reader task, a task for each message) costs as much CPU again as reading the frames. Should a later driver
    not pass here any more, deliveries take that way: ``ConsumerChannel.on_message``.
    """

    def __init__(
        self,
        queue: asyncio.Queue[Any],
        deliver: Callable[[Basic.Deliver, ContentHeader, bytes], None],
    ) -> None:
        self._queue, self._deliver = queue, deliver
        self._frame: Basic.Deliver | None = None
        self._header: ContentHeader | None = None
        self._parts: list[bytes] = []
        self._missing = 0
        self.get, self.task_done = queue.get, queue.task_done

    async def put(self, item: tuple[int, object]) -> None:
        frame = item[1]
        if isinstance(frame, Basic.Deliver):
            self._frame = frame
        elif self._frame is None:
            await self._queue.put(item)
        elif isinstance(frame, ContentHeader):
            self._header, self._missing = frame, frame.body_size
            self._deliver_if_complete()
        elif isinstance(frame, ContentBody):
            self._parts.append(frame.value)
            self._missing -= len(frame.value)
            self._deliver_if_complete()
        else:
            await self._queue.put(item)

    def _deliver_if_complete(self) -> None:
        if self._missing > 0 or self._frame is None or self._header is None:
            return
        frame, header, parts = self._frame, self._header, self._parts
        self._frame, self._header, self._parts = None, None, []
        self._deliver(frame, header, parts[0] if len(parts) == 1 else b"".join(parts))
