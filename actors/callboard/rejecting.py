"""Foreign messages that nobody could make sense of: put aside with the reason in a header, for a person to look at and send again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial

from callboard.batching import retrying
from callboard.ports import Broker, Delivery, Destination, Host, Properties

#: Why a message was put aside, the queue it was read from, and its message id.
REASON, SOURCE, MESSAGE_ID = "x-callboard-reason", "x-callboard-source", "x-callboard-message-id"
#: Longest reason, in characters.
MAX_REASON = 1_000
#: How long to wait for the next message of those that are counted, in seconds.
PATIENCE = 5.0


async def reject(broker: Broker, host: Host, delivery: Delivery, *, source: str, reason: str) -> None:
    """Puts a message aside, and only then lets the broker forget it.

    Args:
        broker: Open.
        host: For pauses while the broker is away.
        delivery: The message.
        source: The name of the queue it was read from.
        reason: What is wrong with it.
    """
    about = delivery.properties
    headers = {name: value for name, value in delivery.headers.items() if not name.startswith("x-")}
    headers |= {REASON: reason[:MAX_REASON], SOURCE: source}
    if about.message_id is not None:
        headers[MESSAGE_ID] = about.message_id
    kept = Properties(
        correlation_id=about.correlation_id, reply_to=about.reply_to, content_type=about.content_type, type=about.type
    )
    publish = partial(broker.publish, Destination.rejected(), delivery.body, headers, kept)
    await retrying(publish, host, "put a message aside")
    delivery.ack()


async def redrive(broker: Broker, *, source: str | None = None) -> int:
    """Sends messages that were put aside back to the queues they were read from; returns how many.

    Args:
        broker: Open.
        source: Only those of that queue.
    """
    sent = 0
    async with _held(broker) as held:
        for delivery in held:
            queue = delivery.headers.get(SOURCE)
            if queue is not None and source in (None, queue):
                await _send_back(broker, delivery, queue)
                sent += 1
    return sent


async def _send_back(broker: Broker, delivery: Delivery, queue: str) -> None:
    headers = {name: value for name, value in delivery.headers.items() if name not in (REASON, SOURCE, MESSAGE_ID)}
    about = delivery.properties
    properties = Properties(
        message_id=delivery.headers.get(MESSAGE_ID),
        correlation_id=about.correlation_id,
        reply_to=about.reply_to,
        content_type=about.content_type,
        type=about.type,
    )
    await broker.prepare(queue)
    await broker.publish(Destination.foreign(queue), delivery.body, headers, properties)
    delivery.ack()


async def rejected(broker: Broker) -> list[Delivery]:
    """What was put aside, oldest first. It stays where it is."""
    async with _held(broker) as held:
        return held


@contextlib.asynccontextmanager
async def _held(broker: Broker) -> AsyncGenerator[list[Delivery]]:
    """As many messages as wait at the moment, in hand; what is not acked goes back."""
    count = await broker.depth(Destination.rejected())
    held: list[Delivery] = []
    if not count:
        yield held
        return
    arrived = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        held.append(delivery)
        arrived.set()

    subscription = await broker.consume(Destination.rejected(), on_delivery, prefetch=count)
    try:
        with contextlib.suppress(TimeoutError):  # somebody else may have taken some
            async with asyncio.timeout(PATIENCE):
                while len(held) < count:
                    await arrived.wait()
                    arrived.clear()
        yield held[:count]
    finally:
        await subscription.aclose()
