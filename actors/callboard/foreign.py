"""Activities in any language: calls go out as plain JSON, one to a message; results come in by the ingress.

A queue whose name begins with ``json.`` is served by foreign programs. It is a queue of the hub like any other activity queue
(``{hub}.activities.json.{name}``): durable, with dead letters, at least once.
"""

from __future__ import annotations

import logging

import msgspec

from callboard.activities.tokens import TaskToken
from callboard.activities.values import Values
from callboard.batching import retrying
from callboard.core import payloads
from callboard.core.events import Payload
from callboard.core.failure import FailureDetails
from callboard.core.messages import ActivityCall, TaskResult
from callboard.errors import CallboardError, MalformedMessageError
from callboard.packs import Sent
from callboard.ports import Broker, Destination, Host, Properties
from callboard.registry import FOREIGN_QUEUE
from callboard.routes import Sender

log = logging.getLogger("callboard")


def is_foreign(queue: str) -> bool:
    return queue.startswith(FOREIGN_QUEUE)


class ForeignCalls:
    """Hands calls out to foreign programs.

    Args:
        hub: The hub's name.
    """

    def __init__(self, broker: Broker, host: Host, values: Values, sender: Sender, hub: str) -> None:
        self._broker = broker
        self._host = host
        self._values = values
        self._sender = sender
        self._hub = hub

    def send(self, call: ActivityCall, sent: Sent) -> None:
        """Publishes a call; ``sent`` hears once it is confirmed, or that it has failed."""
        self._host.spawn(self._send(call, sent), name=f"callboard foreign call {call.name}")

    async def _send(self, call: ActivityCall, sent: Sent) -> None:
        try:
            body = await self._body(call)
        except CallboardError as error:
            self._sender.tell(_failed(call, FailureDetails.from_exception(error), self._host), sent)
            return
        trace = {} if call.trace is None else {"traceparent": call.trace.traceparent}
        about = Properties(
            correlation_id=TaskToken(call.instance_id, call.execution_id, call.task_scheduled_id).text,
            reply_to=f"{self._hub}.ingress",
            content_type="application/json",
            type=call.name if len(call.name.encode()) <= 255 else None,
        )
        try:
            await self._broker.publish(Destination.activities(call.queue), body, trace, about)
        except Exception as error:  # noqa: BLE001 - goes to the one who waits
            sent(error)
        else:
            sent(None)

    async def _body(self, call: ActivityCall) -> bytes:
        content = await self._values.given(call)
        if content is not None and not isinstance(content, str):
            raise MalformedMessageError(
                f"The input of activity {call.name!r} is a pickle, and queue {call.queue!r} is served by programs that read JSON."
            )
        token = TaskToken(call.instance_id, call.execution_id, call.task_scheduled_id).text
        return msgspec.json.encode(
            {
                "activity": call.name,
                "input": msgspec.Raw(_plain(content).encode()),
                "token": token,
                "instanceId": call.instance_id,
                "attempt": call.attempt,
            }
        )

    async def result(self, token: TaskToken, result: str | None, failure: FailureDetails | None) -> TaskResult:
        """What a foreign program says that a task came to, as a message to its orchestration."""
        call = token.call()
        payload: Payload | None = None
        if failure is None and result not in (None, "null"):
            content = payloads.checked(result, "The result of a foreign activity")
            payload = await self._values.sealed(call, content)
        return TaskResult(
            instance_id=call.instance_id,
            execution_id=call.execution_id,
            task_scheduled_id=call.task_scheduled_id,
            at=self._host.now(),
            result=payload,
            failure=failure,
        )


async def keep_trying(broker: Broker, host: Host, queue: str, body: bytes, about: Properties) -> None:
    """Publishes to a queue of others until the broker has it."""
    await retrying(lambda: broker.publish(Destination.foreign(queue), body, None, about), host, "reply")


def _plain(content: str | None) -> str:
    if content is None:
        return "null"
    return payloads.unescaped(content, "An input") if content.startswith(payloads.MARK) else content


def _failed(call: ActivityCall, failure: FailureDetails, host: Host) -> TaskResult:
    return TaskResult(
        instance_id=call.instance_id,
        execution_id=call.execution_id,
        task_scheduled_id=call.task_scheduled_id,
        at=host.now(),
        failure=failure,
    )
