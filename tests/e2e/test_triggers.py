"""Messages on queues of others start orchestrations and raise events."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from callboard import App, OrchestrationContext
from callboard.ports import Destination, Properties
from callboard.rejecting import MESSAGE_ID, REASON, redrive, rejected
from tests.e2e.stage import Stage, ended, until


def make_app(hub: str) -> App:
    """Queue names are not the hub's: each test has its own."""
    app = App("triggers", partitions=4)

    @app.trigger(f"{hub}-orders", instance_id="body:order.id")
    @app.trigger(f"{hub}-events")
    @app.trigger(f"{hub}-bound", exchange=f"{hub}-shop", keys=("order.*",), instance_id="header:Order-Id")
    @app.orchestration
    async def process(context: OrchestrationContext, order: Any) -> Any:
        return [order, await context.wait_for_external_event("paid")]

    @app.trigger(f"{hub}-careless", at_least_once=True)
    @app.orchestration
    async def careless(context: OrchestrationContext, order: Any) -> Any:
        return order

    app.trigger(f"{hub}-payments", event="paid", instance_id="body:orderId")
    return app


async def test_a_message_starts_one_instance_and_another_raises_its_event(stage: Stage) -> None:
    app = make_app(stage.hub)
    orders, payments = (Destination.foreign(f"{stage.hub}-{name}") for name in ("orders", "payments"))
    async with stage.playing(app) as client:
        broker = client.hub.broker
        order = msgspec.json.encode({"order": {"id": 7}})
        for number in range(3):
            await broker.publish(orders, order, None, Properties(message_id=f"m-{number}"))
        await until(lambda: client.find("7"), lambda found: found)
        for _ in range(2):
            paid = msgspec.json.encode({"orderId": "7", "amount": 5})
            await broker.publish(payments, paid, None, Properties(message_id="p-1"))
        assert (await ended(client, "7")).output == [{"order": {"id": 7}}, {"orderId": "7", "amount": 5}]
        await broker.publish(orders, order, None, Properties(message_id="late"))
        topic = Destination.topic(f"{stage.hub}-shop", "order.new")
        await broker.publish(topic, b'{"n": 1}', {"order-id": "8"}, Properties(message_id="t"))
        assert await until(lambda: client.find("8"), lambda found: found)
        assert (await client.get_status("7")).is_terminal, "a trigger never replaces an instance"


async def test_cloud_events_in_both_modes(stage: Stage) -> None:
    app = make_app(stage.hub)
    events = Destination.foreign(f"{stage.hub}-events")
    async with stage.playing(app) as client:
        broker = client.hub.broker
        attributes = {"specversion": "1.0", "id": "1", "source": "shop", "type": "order"}
        structured = Properties(content_type="application/cloudevents+json; charset=utf-8")
        await broker.publish(events, msgspec.json.encode({**attributes, "data": {"a": 1}}), None, structured)
        packed = base64.b64encode(b'{"b": 2}').decode()
        await broker.publish(
            events, msgspec.json.encode({**attributes, "id": "2", "data_base64": packed}), None, structured
        )
        binary = {f"cloudEvents:{name}": value for name, value in {**attributes, "id": "3"}.items()}
        await broker.publish(events, b'{"c": 3}', binary, Properties(content_type="application/json"))
        for key, value in (("shop:1", {"a": 1}), ("shop:2", {"b": 2}), ("shop:3", {"c": 3})):
            found = await until(lambda key=key: client.find(key), lambda found: found)  # type: ignore[misc]
            assert found is not None
            assert found.input == value


async def test_what_makes_no_sense_is_put_aside_and_can_be_sent_again(stage: Stage) -> None:
    app = make_app(stage.hub)
    async with stage.playing(app) as client:
        broker = client.hub.broker

        async def send(queue: str, body: bytes, message_id: str | None = "m", **about: Any) -> None:
            properties = Properties(message_id=message_id, **about)
            await broker.publish(Destination.foreign(f"{stage.hub}-{queue}"), body, None, properties)

        await send("orders", b"no json")
        await send("orders", b'{"order": {}}')
        await send("events", b"1", None)
        await send("events", b"{}", "c", content_type="application/cloudevents+json")
        await send("events", b"1", "a/b")
        await send("payments", b'{"orderId": "later"}', "p")
        aside = await until(lambda: rejected(broker), lambda found: len(found) == 6)
        reasons = "\n".join(each.headers[REASON] for each in aside)
        for says in (
            "not JSON",
            "no body order.id",
            "at_least_once",
            "A CloudEvent has",
            "'a/b' is not allowed",
            "'later'",
        ):
            assert says in reasons
        await send("orders", b'{"order": {"id": "later"}}')
        await until(lambda: client.find("later"), lambda found: found)
        assert await redrive(broker, source=f"{stage.hub}-payments") == 1
        assert (await ended(client, "later")).output == [{"order": {"id": "later"}}, {"orderId": "later"}]
        left = await until(lambda: rejected(broker), lambda found: len(found) == 5)
        assert "m" in {each.headers.get(MESSAGE_ID) for each in left}
        await send("careless", b'"fine"', None)
        page = await until(client.list_instances, lambda page: len(page.instances) == 2)
        assert {each.name for each in page.instances} == {"process", "careless"}
