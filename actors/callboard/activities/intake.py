"""Deliveries of activity queues, taken apart into calls. A delivery is acked when the last of its calls is settled."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from callboard.batching import retrying
from callboard.core.messages import ActivityCall
from callboard.core.payloads import is_json
from callboard.errors import MalformedMessageError
from callboard.packs import encode_pack
from callboard.ports import Broker, Delivery, Destination, Host, Subscription
from callboard.receiving import Quarantine, check_id, unpacked


class DeliveryCalls:
    """Counts the calls of one broker message."""

    __slots__ = ("_delivery", "_remaining")

    def __init__(self, delivery: Delivery, calls: int) -> None:
        self._delivery = delivery
        self._remaining = calls

    def settle(self) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            self._delivery.ack()


class CallAccount:
    """One call of a delivery; settled once, however often it is said."""

    __slots__ = ("_delivery_calls", "settled")

    def __init__(self, delivery_calls: DeliveryCalls) -> None:
        self._delivery_calls = delivery_calls
        self.settled = False

    def settle(self) -> None:
        if not self.settled:
            self.settled = True
            self._delivery_calls.settle()


class Take(Protocol):
    """Is handed each call; ``redelivered``: it may have been before."""

    def __call__(self, call: ActivityCall, account: CallAccount, *, redelivered: bool) -> None: ...


class Intake:
    """Consumes activity queues.

    Args:
        take: Is handed each call.
    """

    def __init__(
        self,
        broker: Broker,
        host: Host,
        quarantine: Quarantine,
        take: Take,
        *,
        prefetch: int,
    ) -> None:
        self._broker = broker
        self._host = host
        self._quarantine = quarantine
        self._take = take
        self._prefetch = prefetch
        self._subscriptions: list[Subscription] = []

    async def serve(self, queue: str) -> None:
        """Starts to consume a queue."""
        source = Destination.activities(queue)
        self._subscriptions.append(
            await self._broker.consume(
                source, lambda delivery: self._on_delivery(delivery, source), prefetch=self._prefetch
            )
        )

    async def aclose(self) -> None:
        """Stops consuming; what is not acked goes back."""
        for subscription in self._subscriptions:
            await subscription.aclose()

    def _on_delivery(self, delivery: Delivery, source: Destination) -> None:
        calls, unreadable = unpacked(delivery, checked)
        if not calls and not unreadable:
            delivery.ack()
            return
        shared = DeliveryCalls(delivery, len(calls) + len(unreadable))
        for part in unreadable:
            self._quarantine.keep(part, source, shared.settle)
        if delivery.redelivered and len(calls) > 1:
            # One of them may have killed its worker: from here on each goes alone, and only the culprit is dead-lettered.
            self._host.spawn(self._publish_singly(calls, shared), name="callboard single calls")
            return
        for call in calls:
            self._take(call, CallAccount(shared), redelivered=delivery.redelivered)

    async def _publish_singly(self, calls: list[ActivityCall], shared: DeliveryCalls) -> None:
        for call in calls:
            await retrying(partial(self._publish_alone, call), self._host, "publish")
            shared.settle()

    async def _publish_alone(self, call: ActivityCall) -> None:
        await self._broker.publish(Destination.activities(call.queue), encode_pack([call]))


def checked(message: object) -> ActivityCall:
    """Refuses what is well-formed but cannot be meant.

    Raises:
        MalformedMessageError: another message, an id that is not allowed, a payload that is no JSON.
    """
    if not isinstance(message, ActivityCall):
        raise MalformedMessageError(f"{type(message).__name__} is no activity call")
    check_id(message.instance_id)
    if not all(payload is None or is_json(payload) for payload in (message.input, message.heartbeat_details)):
        raise MalformedMessageError(
            f"the input of activity {message.name[:64]!r} for {message.instance_id} is not JSON"
        )
    if message.start_by is not None and message.start_by.tzinfo is None:
        raise MalformedMessageError(
            f"the call of activity {message.name[:64]!r} for {message.instance_id} has a time without a time zone"
        )
    return message
