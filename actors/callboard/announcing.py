"""What other services hear: what orchestrations publish, and, for hubs that want it, how their lives go.

Both follow from commits, so they are told at least once, and always under the same message id.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from callboard.batching import retrying
from callboard.core import payloads
from callboard.core.codec import Codec, output_place, published_place
from callboard.core.events import ExecutionCompleted, ExecutionStarted, MessagePublished
from callboard.core.instances import Commit, sent_message_id
from callboard.core.tracing import TraceContext, action_context
from callboard.errors import CallboardError, PayloadRejectedError
from callboard.large_values import LargeValues
from callboard.packs import Sent
from callboard.ports import Broker, Destination, Host, Properties

_CLOUD_EVENTS = "application/cloudevents+json"


class Holder(Protocol):
    """A commit whose effects are under way."""

    def hold(self) -> Holder: ...

    def sent(self, error: BaseException | None) -> None: ...


class Announcer:
    """Publishes for others.

    Args:
        hub: The hub's name.
        lifecycle: Whether the beginnings and ends of instances are told on the topic exchange ``{hub}.events``.
    """

    def __init__(
        self, broker: Broker, host: Host, codec: Codec, large: LargeValues, hub: str, *, lifecycle: bool
    ) -> None:
        self._broker = broker
        self._host = host
        self._codec = codec
        self._large = large
        self._hub = hub
        self.lifecycle = lifecycle

    def publish(self, commit: Commit, event: MessagePublished, sent: Sent) -> None:
        """Publishes what an orchestration asked for."""
        self._host.spawn(self._publish(commit, event, sent), name="callboard publish for others")

    def announce(self, commit: Commit, holder: Holder) -> None:
        """Tells of what a commit begins or ends, if it does and the hub wants it told."""
        for told in _lifecycle(commit) if self.lifecycle else ():
            self._host.spawn(self._announce(commit, told, holder.hold().sent), name="callboard announce")

    async def _publish(self, commit: Commit, event: MessagePublished, sent: Sent) -> None:
        place = published_place(commit.instance_id, commit.execution_id, event.event_id)
        try:
            content = self._codec.open(await self._large.fetched(event.input), place)
            body = _json(content if isinstance(content, str) or content is None else "null")
            context = action_context(commit.trace, commit.execution_id, event.event_id)
            about = Properties(
                message_id=sent_message_id(commit.execution_id, event.event_id), content_type="application/json"
            )
            await self._send(event.exchange, event.key, body, about, context)
        except Exception as error:  # noqa: BLE001 - goes to the one who waits
            sent(error)
        else:
            sent(None)

    async def _announce(self, commit: Commit, told: str, sent: Sent) -> None:
        try:
            body = await self._cloud_event(commit, told)
            about = Properties(message_id=f"{commit.execution_id}/{told}", content_type=_CLOUD_EVENTS)
            await self._send(f"{self._hub}.events", f"{told}.{body['data']['name']}", msgspec.json.encode(body), about)
        except Exception as error:  # noqa: BLE001 - goes to the one who waits
            sent(error)
        else:
            sent(None)

    async def _send(
        self, exchange: str, key: str, body: bytes, about: Properties, context: TraceContext | None = None
    ) -> None:
        headers = {} if context is None else {"traceparent": context.traceparent}
        if not exchange:
            await self._broker.prepare(key)
        where = Destination.topic(exchange, key) if exchange else Destination.foreign(key)
        await self._broker.publish(where, body, headers, about)

    async def _cloud_event(self, commit: Commit, told: str) -> dict[str, Any]:
        record = await self._record_name(commit)
        data: dict[str, Any] = {"instanceId": commit.instance_id, "executionId": commit.execution_id, "name": record}
        completed = commit.completed
        if completed is not None and told != "started":
            data["runtimeStatus"] = completed.orchestration_status
            if completed.failure is not None:
                data["failure"] = {"type": completed.failure.error_type, "message": completed.failure.error_message}
            elif completed.orchestration_status == "Completed":
                data["output"] = msgspec.Raw(await self._output(commit, completed))
        return {
            "specversion": "1.0",
            "id": f"{commit.execution_id}/{told}",
            "source": f"callboard/{self._hub}",
            "type": f"callboard.orchestration.{told}",
            "subject": commit.instance_id,
            "time": commit.at,
            "datacontenttype": "application/json",
            "data": data,
        }

    async def _output(self, commit: Commit, completed: ExecutionCompleted) -> bytes:
        try:
            payload = await self._large.fetched(completed.result)
            content = self._codec.open(payload, output_place(commit.instance_id, commit.execution_id, completed.parent))
        except PayloadRejectedError:
            return b"null"
        return _json(content if isinstance(content, str) else None)

    async def _record_name(self, commit: Commit) -> str:
        started = next((event for event in commit.events if isinstance(event, ExecutionStarted)), None)
        if started is not None:
            return started.name
        records = await retrying(lambda: self._large.store.records([commit.instance_id]), self._host, "look")
        record = records.get(commit.instance_id)
        if record is None:
            raise CallboardError(f"Instance {commit.instance_id!r} has no record any more.")
        return record.name


def _lifecycle(commit: Commit) -> list[str]:
    """What a commit begins and ends; an execution that goes on as new does neither."""
    started = next((event for event in commit.events if isinstance(event, ExecutionStarted)), None)
    told = ["started"] if started is not None and started.generation == 0 else []
    if commit.completed is not None:
        told.append(commit.completed.orchestration_status.lower())
    return told


def _json(content: str | None) -> bytes:
    if content is None:
        return b"null"
    return (payloads.unescaped(content, "A value") if content.startswith(payloads.MARK) else content).encode()
