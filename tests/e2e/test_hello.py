"""The classic sequence, end to end."""

from __future__ import annotations

from callboard import App, OrchestrationContext
from tests.e2e.stage import Stage, ended

app = App("hello", partitions=4)


@app.activity
async def say_hello(city: str) -> str:
    return f"Hello {city}!"


@app.orchestration
async def hello_sequence(context: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await context.call_activity(say_hello, city) for city in cities]


async def test_says_hello_to_three_cities(stage: Stage) -> None:
    async with stage.playing(app) as client:
        started = await client.start(hello_sequence, ["Tokyo", "Seattle", "London"])
        assert (await ended(client, started.instance_id)).output == ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]


async def test_a_start_without_a_worker_is_kept_for_one(stage: Stage) -> None:
    async with stage.client(app) as client:
        started = await client.start(hello_sequence, ["Tokyo"])
        async with stage.worker(app):
            assert (await ended(client, started.instance_id)).output == ["Hello Tokyo!"]
