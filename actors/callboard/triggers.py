"""Triggers: messages on queues of others start orchestrations, or raise events on instances (Durable Functions' queue triggers).

Rules of this file:

* A message is acked once what it asks for is durable. What comes again, by its instance id or message id, does nothing twice.
* A trigger never replaces an instance, running or ended.
* What makes no sense is put aside, with the reason (`callboard.rejecting`), and never holds up what comes behind it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable

import msgspec

from callboard.client import Client
from callboard.core.payloads import is_json
from callboard.errors import CallboardError, MalformedMessageError
from callboard.ingress import trace_of
from callboard.ports import Broker, Delivery, Destination, Host, Subscription
from callboard.rejecting import reject
from callboard.tracing import INCOMING
from callboard.trigger import Trigger, TriggerMessage

log = logging.getLogger("callboard")

_CLOUD_EVENTS = "application/cloudevents+json"
_ATTRIBUTE_PREFIXES = ("cloudevents:", "cloudevents_", "ce-", "ce_")


def received(delivery: Delivery) -> TriggerMessage:
    """A delivery as a trigger sees it: plain JSON, or a CloudEvent in either mode.

    Raises:
        MalformedMessageError: it is neither.
    """
    about = delivery.properties
    headers = {name.lower(): text for name, text in delivery.headers.items()}
    if (about.content_type or "").partition(";")[0].strip().lower() == _CLOUD_EVENTS:
        return _structured(delivery, headers)
    text = _json(delivery)
    attributes = {
        name.removeprefix(prefix): value
        for name, value in headers.items()
        for prefix in _ATTRIBUTE_PREFIXES
        if name.startswith(prefix)
    }
    key = about.message_id
    if "specversion" in attributes:
        key = f"{attributes.get('source', '')}:{attributes['id']}" if "id" in attributes else key
    return TriggerMessage(id=key, data=text, headers=headers | attributes, correlation_id=about.correlation_id)


def _structured(delivery: Delivery, headers: dict[str, str]) -> TriggerMessage:
    try:
        event = msgspec.json.decode(delivery.body, type=dict[str, msgspec.Raw])
        attributes = {
            name.lower(): str(msgspec.json.decode(raw))
            for name, raw in event.items()
            if name not in ("data", "data_base64")
        }
        data = bytes(event["data"]).decode() if "data" in event else None
        if "data_base64" in event:
            data = base64.b64decode(msgspec.json.decode(event["data_base64"], type=str), validate=True).decode()
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"This is no CloudEvent: {error}") from None
    if not {"id", "source", "specversion", "type"} <= attributes.keys():
        raise MalformedMessageError("A CloudEvent has id, source, specversion and type.")
    if data is not None and not is_json(data):
        raise MalformedMessageError("The data of the CloudEvent are not JSON.")
    key = f"{attributes['source']}:{attributes['id']}"
    correlation_id = delivery.properties.correlation_id
    return TriggerMessage(id=key, data=data, headers=headers | attributes, correlation_id=correlation_id)


def _json(delivery: Delivery) -> str | None:
    try:
        text = delivery.body.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise MalformedMessageError("The body is not UTF-8 text.") from None
    if not text:
        return None
    if not is_json(text):
        raise MalformedMessageError("The body is not JSON.")
    return text


def instance_id_of(trigger: Trigger, message: TriggerMessage, token: Callable[[], str]) -> str:
    """Which instance a message is for.

    Raises:
        MalformedMessageError: it does not say.
    """
    source = trigger.instance_id
    if not isinstance(source, str):
        try:
            return source(message)
        except Exception as error:  # the user's own function
            raise MalformedMessageError(f"instance_id cannot be made from this message: {error!r}") from error
    found: object = None
    if source == "message_id":
        found = message.id or (token() if trigger.at_least_once else None)
    elif source == "correlation_id":
        found = message.correlation_id
    elif source.startswith("header:"):
        found = message.headers.get(source.removeprefix("header:").lower())
    else:
        found = message.value()
        for name in source.removeprefix("body:").split("."):
            found = found.get(name) if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not found:
        raise MalformedMessageError(
            f"The message has no {source.replace(':', ' ')} to make an instance id from"
            + (
                ", so it could start things twice: give it one, or let the trigger say at_least_once."
                if source == "message_id"
                else "."
            )
        )
    return found


class Triggers:
    """Serves an app's triggers."""

    def __init__(self, broker: Broker, host: Host, client: Client, triggers: tuple[Trigger, ...]) -> None:
        self._broker = broker
        self._host = host
        self._client = client
        self._triggers = triggers

    async def serve(self) -> list[Subscription]:
        return [await self._serve(trigger) for trigger in self._triggers]

    async def _serve(self, trigger: Trigger) -> Subscription:
        await self._broker.prepare(trigger.queue, exchange=trigger.exchange, keys=trigger.keys)

        def on_delivery(delivery: Delivery) -> None:
            self._host.spawn(self._handle(trigger, delivery), name=f"callboard trigger {trigger.queue}")

        return await self._broker.consume(Destination.foreign(trigger.queue), on_delivery, prefetch=trigger.prefetch)

    async def _handle(self, trigger: Trigger, delivery: Delivery) -> None:
        incoming = trace_of(delivery)
        if incoming is not None:
            INCOMING.set(incoming)  # in this task alone
        try:
            message = received(delivery)
            instance_id = instance_id_of(trigger, message, self._host.token)
            await self._do(trigger, message, instance_id)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, (CallboardError, ValueError)):
                log.exception("A message on %s failed; please report this", trigger.queue)
            log.warning("A message on %s was put aside: %s", trigger.queue, error)
            await reject(self._broker, self._host, delivery, source=trigger.queue, reason=str(error))
        else:
            delivery.ack()

    async def _do(self, trigger: Trigger, message: TriggerMessage, instance_id: str) -> None:
        if trigger.orchestration is not None:
            await self._client.start_encoded(
                trigger.orchestration, message.data, instance_id=instance_id, id_reuse="return_existing"
            )
            return
        if message.id is None and not trigger.at_least_once:
            raise MalformedMessageError(
                "The message has no id, so its event could be raised twice: give it one, or let the trigger say at_least_once."
            )
        assert trigger.event is not None
        await self._client.raise_event_encoded(instance_id, trigger.event, message.data, message_id=message.id)
