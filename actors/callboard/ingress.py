"""The ingress: plain JSON from any AMQP client in any language. The contract is docs/wire.md.

A request is answered before it is acked, so a worker that dies in between leaves it to another, and it is done again: every operation
is made so that this is harmless if the request has an id. Never pickles.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeAlias

import msgspec

from callboard.activities.tokens import TaskToken
from callboard.client import Client
from callboard.core.failure import FailureDetails
from callboard.core.tracing import TraceContext, checked
from callboard.errors import CallboardError, MalformedMessageError, MessageFailedError, QueryFailedError
from callboard.foreign import ForeignCalls, keep_trying
from callboard.instance_json import instance_json
from callboard.ports import Broker, Delivery, Destination, Host, Properties, Subscription
from callboard.rejecting import reject
from callboard.routes import Sender
from callboard.tracing import INCOMING

log = logging.getLogger("callboard")

#: How many requests a worker has in hand at a time; those that wait for something are among them.
PREFETCH = 1_000
#: How long a request may wait for an answer or an end: unless it says otherwise, and at most, in seconds.
WAIT, LONGEST_WAIT = 60.0, 600.0

_NULL = msgspec.Raw(b"null")


class _Request(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="op", forbid_unknown_fields=True, tag=True
):
    pass


class Start(_Request, frozen=True, kw_only=True, tag="start"):
    name: str
    id: str | None = None
    """By default the message id."""
    input: msgspec.Raw = _NULL
    version: str | None = None
    tags: dict[str, str] | None = None


class RaiseEvent(_Request, frozen=True, kw_only=True, tag="raiseEvent"):
    id: str
    name: str
    data: msgspec.Raw = _NULL


class Send(_Request, frozen=True, kw_only=True, tag="send"):
    id: str
    name: str
    data: msgspec.Raw = _NULL


class Ask(_Request, frozen=True, kw_only=True, tag="ask"):
    id: str
    name: str
    data: msgspec.Raw = _NULL
    timeout: float = WAIT


class Query(_Request, frozen=True, kw_only=True, tag="query"):
    id: str
    name: str
    data: msgspec.Raw = _NULL
    timeout: float = WAIT


class Wait(_Request, frozen=True, kw_only=True, tag="wait"):
    id: str
    timeout: float = WAIT


class Status(_Request, frozen=True, kw_only=True, tag="status"):
    id: str


class Terminate(_Request, frozen=True, kw_only=True, tag="terminate"):
    id: str
    reason: str | None = None


class Error(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "Error"
    message: str = ""
    retriable: bool = True


class Result(_Request, frozen=True, kw_only=True, tag="result"):
    token: str | None = None
    """By default the correlation id."""
    result: msgspec.Raw = _NULL
    error: Error | None = None


Request: TypeAlias = Start | RaiseEvent | Send | Ask | Query | Wait | Status | Terminate | Result

_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


class Ingress:
    """Serves the hub's ingress.

    Args:
        client: Carries requests out.
        calls: Takes the results of foreign activities.
        sender: Sends them.
    """

    def __init__(self, broker: Broker, host: Host, client: Client, calls: ForeignCalls, sender: Sender) -> None:
        self._broker = broker
        self._host = host
        self._client = client
        self._calls = calls
        self._sender = sender
        self._source = f"{client.hub.name}.ingress"

    async def serve(self) -> Subscription:
        return await self._broker.consume(Destination.ingress(), self._on_delivery, prefetch=PREFETCH)

    def _on_delivery(self, delivery: Delivery) -> None:
        self._host.spawn(self._serve(delivery), name="callboard ingress")

    async def _serve(self, delivery: Delivery) -> None:
        incoming = trace_of(delivery)
        if incoming is not None:
            INCOMING.set(incoming)  # in this task alone
        try:
            answer = await self._do(delivery)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, (CallboardError, TimeoutError, ValueError)):
                log.exception("A request at %s failed; please report this", self._source)
            await self._refuse(delivery, error)
        else:
            await self._reply(delivery, {"ok": True, **answer})
            delivery.ack()

    async def _do(self, delivery: Delivery) -> dict[str, Any]:
        about = delivery.properties
        try:
            request = _decoder.decode(delivery.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedMessageError(f"This is no request: {error}") from None
        client, key = self._client, about.message_id
        match request:
            case Start():
                return await self._start(request, key)
            case RaiseEvent():
                await client.raise_event_encoded(request.id, request.name, _text(request.data), message_id=key)
            case Send():
                await client.send_encoded(request.id, request.name, _text(request.data), message_id=key)
            case Ask():
                answer = await client.ask_encoded(
                    request.id, request.name, _text(request.data), timeout=_seconds(request.timeout), message_id=key
                )
                return {"answer": answer}
            case Query():
                answer = await client.query_encoded(
                    request.id, request.name, _text(request.data), timeout=_seconds(request.timeout)
                )
                return {"answer": answer}
            case Wait():
                return {"instance": instance_json(await client.wait(request.id, _seconds(request.timeout)))}
            case Status():
                return {"instance": instance_json(await client.get_status(request.id))}
            case Terminate():
                await client.terminate(request.id, request.reason)
            case Result():
                await self._take(request, about.correlation_id)
        return {}

    async def _start(self, request: Start, key: str | None) -> dict[str, Any]:
        instance_id = request.id or key
        if instance_id is None:
            raise MalformedMessageError(
                "A start needs an id, or a message id that serves as one: else it could happen twice."
            )
        started = await self._client.start_encoded(
            request.name,
            _text(request.input),
            instance_id=instance_id,
            version=request.version,
            tags=request.tags,
            id_reuse="return_existing",
        )
        return {"id": started}

    async def _take(self, request: Result, correlation_id: str | None) -> None:
        token = TaskToken.of(request.token or correlation_id or "")
        error = request.error
        failure = None
        if error is not None:
            failure = FailureDetails(
                error_type=error.type, error_message=error.message, is_non_retriable=not error.retriable
            )
        result = await self._calls.result(token, _text(request.result), failure)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def sent(trouble: BaseException | None) -> None:
            if not confirmed.done():
                confirmed.set_result(None) if trouble is None else confirmed.set_exception(trouble)

        self._sender.tell(result, sent)
        await confirmed

    async def _refuse(self, delivery: Delivery, error: Exception) -> None:
        if delivery.properties.reply_to:
            await self._reply(delivery, {"ok": False, "error": _told(error)})
            delivery.ack()
        else:
            log.warning("A message at %s was put aside: %s", self._source, error)
            await reject(self._broker, self._host, delivery, source=self._source, reason=str(error))

    async def _reply(self, delivery: Delivery, answer: dict[str, Any]) -> None:
        about = delivery.properties
        if about.reply_to:
            reply = Properties(correlation_id=about.correlation_id or about.message_id, content_type="application/json")
            await keep_trying(self._broker, self._host, about.reply_to, msgspec.json.encode(answer), reply)


def trace_of(delivery: Delivery) -> TraceContext | None:
    """The trace context that a message brings in its headers, by W3C's names."""
    headers = delivery.headers
    if (parent := headers.get("traceparent")) is None:
        return None
    return checked(
        TraceContext(traceparent=parent, tracestate=headers.get("tracestate"), baggage=headers.get("baggage"))
    )


def _text(raw: msgspec.Raw) -> str | None:
    text = bytes(raw).decode()
    return None if text == "null" else text


def _seconds(timeout: float) -> float:
    return min(max(timeout, 0.0), LONGEST_WAIT)


def _told(error: Exception) -> dict[str, Any]:
    told: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, (MessageFailedError, QueryFailedError)):
        told["failure"] = {"type": error.failure.error_type, "message": error.failure.error_message}
    return told
