"""Plain JSON in, plain JSON out: programs that know nothing of Callboard, on the broker alone."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from callboard import App, OrchestrationContext, TaskFailedError
from callboard.ports import Broker, Delivery, Destination, Properties
from callboard.rejecting import REASON, redrive, rejected
from tests.e2e.stage import DEADLINE, Stage, ended, until

app = App("wire", partitions=4)
charge = app.foreign_activity("charge", queue="billing", result_type=int)


@app.orchestration
async def order(context: OrchestrationContext, price: int) -> Any:
    try:
        return await context.call_activity(charge, {"price": price})
    except TaskFailedError as error:
        return f"{error.failure.error_type}: {error.failure.error_message}"


@app.orchestration
async def counter(context: OrchestrationContext, total: int = 0) -> int:
    closed = asyncio.Event()

    @context.on_message
    def add(amount: int) -> int:
        nonlocal total
        total += amount
        return total

    context.on_message("close", closed.set)
    context.on_query("total", lambda: total)
    await closed.wait()
    return total + int(await context.wait_for_external_event("more", int))


class Program:
    """A program in some language: it knows an AMQP broker and the hub's name."""

    def __init__(self, broker: Broker, hub: str) -> None:
        self.broker, self.hub = broker, hub
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self.inbox = f"program.{uuid.uuid4().hex}"

    async def listen(self) -> None:
        await self.broker.consume(Destination.foreign(self.inbox), self._on_answer)

    def _on_answer(self, delivery: Delivery) -> None:
        waiting = self._answers.pop(delivery.properties.correlation_id or "", None)
        if waiting is not None and not waiting.done():
            waiting.set_result(msgspec.json.decode(delivery.body))
        delivery.ack()

    async def request(self, message_id: str | None = None, **request: Any) -> Any:
        key = uuid.uuid4().hex
        self._answers[key] = answer = asyncio.get_running_loop().create_future()
        about = Properties(message_id=message_id, correlation_id=key, reply_to=self.inbox)
        await self.tell(about, **request)
        async with asyncio.timeout(DEADLINE):
            return await answer

    async def tell(self, about: Properties = Properties(), **request: Any) -> None:  # noqa: B008 - frozen
        await self.broker.publish(Destination.foreign(f"{self.hub}.ingress"), msgspec.json.encode(request), None, about)


@contextlib.asynccontextmanager
async def program(stage: Stage) -> AsyncGenerator[Program]:
    async with stage.connected(app) as hub:
        someone = Program(hub.broker, stage.hub)
        await someone.listen()
        yield someone


async def test_a_program_starts_sends_asks_queries_and_waits(stage: Stage) -> None:
    async with stage.playing(app) as client, program(stage) as foreign:
        assert await foreign.request(op="start", name="counter", id="a", input=1) == {"ok": True, "id": "a"}
        assert await foreign.request(op="start", name="counter", id="a", input=5) == {"ok": True, "id": "a"}, (
            "idempotent"
        )
        for _ in range(2):
            answer = await foreign.request("once", op="ask", id="a", name="add", data=2)
            assert answer == {"ok": True, "answer": 3}
        for _ in range(2):
            assert (await foreign.request("told", op="send", id="a", name="add", data=4))["ok"]
        assert await foreign.request(op="query", id="a", name="total") == {"ok": True, "answer": 7}
        refused = await foreign.request(op="ask", id="a", name="add", data="x")
        assert (refused["ok"], refused["error"]["type"]) == (False, "MessageRejectedError")
        assert (await foreign.request(op="status", id="a"))["instance"]["name"] == "counter"
        waiting = asyncio.ensure_future(foreign.request(op="wait", id="a"))
        for _ in range(2):
            assert (await foreign.request("event", op="raiseEvent", id="a", name="more", data=10))["ok"]
        await foreign.tell(op="send", id="a", name="close")
        assert (await waiting)["instance"]["output"] == 17
        assert (await foreign.request(op="start", name="counter", id="a"))["ok"]
        assert (await client.get_status("a")).is_terminal, "a start over the wire never replaces an instance"
        late = await foreign.request(op="raiseEvent", id="a", name="more")
        assert late["error"]["type"] == "InstanceNotRunningError"
        await foreign.request("as-id", op="start", name="counter")
        assert (await foreign.request(op="wait", id="as-id", timeout=0.05))["error"]["type"] == "TimeoutError"
        assert (await foreign.request(op="terminate", id="as-id", reason="enough"))["ok"]
        assert (await ended(client, "as-id")).runtime_status == "Terminated"


async def test_what_makes_no_sense_is_answered_or_put_aside_and_can_be_sent_again(stage: Stage) -> None:
    async with stage.playing(app) as client, program(stage) as foreign:
        for bad in ({"op": "explode"}, {"op": "start"}, {"op": "send", "id": "a", "name": "b", "colour": "red"}):
            assert (await foreign.request(**bad))["error"]["type"] == "MalformedMessageError"
        assert (await foreign.request(op="start", name="counter"))["error"]["type"] == "MalformedMessageError"
        assert (await foreign.request(op="start", name="nope", id="x"))["error"][
            "type"
        ] == "OrchestrationNotRegisteredError"
        assert (await foreign.request(op="status", id="nobody"))["error"]["type"] == "InstanceNotFoundError"
        await foreign.tell(Properties(message_id="m"), op="raiseEvent", id="late", name="more", data=3)
        (kept,) = await until(lambda: rejected(client.hub.broker), lambda found: found)
        assert "No instance 'late'" in kept.headers[REASON]
        await foreign.request(op="start", name="counter", id="late")
        await foreign.request(op="send", id="late", name="close")
        assert await redrive(client.hub.broker, source="elsewhere") == 0
        assert await redrive(client.hub.broker) == 1
        assert (await ended(client, "late")).output == 3
        await client.hub.broker.publish(Destination.ingress(), b"\x80\x04pickled")
        assert await until(lambda: rejected(client.hub.broker), lambda found: found)


async def test_a_program_serves_an_activity(stage: Stage) -> None:
    async with stage.playing(app) as client, program(stage) as foreign:
        calls: list[dict[str, Any]] = []
        tokens: list[str] = []

        def on_call(delivery: Delivery) -> None:
            calls.append(msgspec.json.decode(delivery.body))
            tokens.append(delivery.properties.correlation_id or "")
            assert delivery.properties.reply_to == f"{stage.hub}.ingress"
            delivery.ack()

        await foreign.broker.consume(Destination.foreign(f"{stage.hub}.activities.json.billing"), on_call)
        good, bad = [await client.start(order, price, instance_id=f"o{price}") for price in (5, 6)]

        async def seen() -> list[dict[str, Any]]:
            return sorted(calls, key=lambda call: call["instanceId"])

        first, second = await until(seen, lambda found: len(found) == 2)
        assert (first["activity"], first["input"], first["instanceId"]) == ("charge", {"price": 5}, "o5")
        assert sorted(tokens) == sorted([first["token"], second["token"]])
        for _ in range(2):
            assert (await foreign.request(op="result", token=first["token"], result=50))["ok"]
        error = {"type": "CardDeclined", "message": "no money", "retriable": False}
        await foreign.tell(Properties(correlation_id=second["token"]), op="result", error=error)
        assert (await ended(client, good.instance_id)).output == 50
        assert (await ended(client, bad.instance_id)).output == "CardDeclined: no money"
        assert (await foreign.request(op="result", token="nonsense"))["ok"] is False
