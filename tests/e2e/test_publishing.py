"""What other services hear of orchestrations."""

from __future__ import annotations

from typing import Any

import msgspec

from callboard import App, OrchestrationContext
from callboard.ports import Delivery, Destination
from tests.e2e.stage import Stage, ended, until


async def test_an_orchestration_publishes_and_its_life_is_told(stage: Stage) -> None:
    app = App("news", partitions=4, lifecycle_events=True)

    @app.orchestration
    async def report(context: OrchestrationContext, fails: bool) -> str:
        context.publish(f"{stage.hub}-shop", "order.paid", {"fails": fails})
        context.publish("", f"{stage.hub}-direct", {"$callboard": fails})
        await context.wait_for_external_event("go")
        if fails:
            raise ValueError("no")
        return "done"

    async with stage.playing(app) as client:
        broker = client.hub.broker
        heard: dict[str, list[Delivery]] = {}
        for name, exchange in (("shop", f"{stage.hub}-shop"), ("life", f"{stage.hub}.events"), ("direct", "")):
            queue = f"{stage.hub}-{name}" if name == "direct" else f"{stage.hub}-{name}-ears"
            await broker.prepare(queue, exchange=exchange, keys=("#",) if exchange else ())
            heard[name] = []
            await broker.consume(Destination.foreign(queue), heard[name].append)
        for instance_id, fails in (("good", False), ("bad", True)):
            await client.start(report, fails, instance_id=instance_id)
            await client.raise_event(instance_id, "go")
            await ended(client, instance_id)
        gone = (await client.start(report, False)).instance_id
        await client.terminate(gone)

        async def told() -> list[str]:
            return sorted(_event(each)["type"].rpartition(".")[2] for each in heard["life"])

        await until(
            told, lambda seen: {"completed", "failed", "terminated"} <= set(seen) and seen.count("started") >= 2
        )
        ends = {
            _event(each)["subject"]: _event(each)["data"] for each in heard["life"] if "output" in _event(each)["data"]
        }
        assert ends["good"]["output"] == "done"
        failed = next(_event(each)["data"] for each in heard["life"] if _event(each)["type"].endswith("failed"))
        assert failed["failure"] == {"type": "ValueError", "message": "no"}
        assert len({each.properties.message_id for each in heard["life"]}) == len(heard["life"])

        async def published() -> set[bytes]:
            return {each.body for each in (*heard["shop"], *heard["direct"])}

        wanted = {b'{"fails":false}', b'{"fails":true}', b'{"$callboard":false}', b'{"$callboard":true}'}
        await until(published, lambda seen: wanted <= seen)


def _event(delivery: Delivery) -> dict[str, Any]:
    assert delivery.properties.content_type == "application/cloudevents+json"
    return msgspec.json.decode(delivery.body, type=dict[str, Any])
