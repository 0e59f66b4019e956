"""Why an instance does not go on, end to end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from callboard import App, OrchestrationContext, WorkerOptions
from callboard.client.explaining import Explanation
from callboard.errors import InstanceNotFoundError
from tests.e2e.stage import Stage, ended, until

app = App("explaining", partitions=4)


@app.activity
async def hold(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.orchestration
async def child(context: OrchestrationContext) -> None:
    await context.wait_for_external_event("Never")


@app.orchestration
async def everything(context: OrchestrationContext) -> None:
    tasks = [
        context.call_activity("paint", None, queue="gpu"),
        context.call_activity(hold, 3600),
        context.call_sub_orchestration(child, instance_id="kid"),
        context.create_timer(timedelta(days=365)),
        context.wait_for_external_event("Approval"),
    ]
    await asyncio.gather(*tasks)


async def test_it_says_what_is_awaited_and_who_has_it(stage: Stage) -> None:
    async with stage.playing(app, WorkerOptions(drain=0.1)) as client:
        await client.start(everything, instance_id="a")

        async def look() -> Explanation:
            return await client.explain("a")

        explanation = await until(look, lambda seen: len(seen.reasons) == 6 and "Running" in seen.reasons[2].text)
        awaited = [(each.awaits.kind, each.awaits.name) for each in explanation.reasons if each.awaits]
        assert awaited == [
            ("activity", "paint"),
            ("activity", "hold"),
            ("child", "child"),
            ("timer", ""),
            ("event", "Approval"),
        ]
        gpu, here, kid, timer, event, owner = explanation.reasons
        assert (gpu.trouble, here.trouble) == (True, False)
        assert "No live worker serves its queue 'gpu'" in gpu.text
        assert "kid, which is Running" in kid.text
        assert "due in 365 d" in timer.text
        assert "'Approval', which has not been raised" in event.text
        assert f"worker {explanation.owner}" in owner.text
        await client.terminate("a")
        await ended(client, "a")
        explanation = await client.explain("a")
        assert "Nothing is awaited" in explanation.text
        assert explanation.runtime_status == "Terminated"


async def test_it_says_that_nobody_runs_the_instance(stage: Stage) -> None:
    async with stage.client(app) as client:
        await client.start(child, instance_id="a")
        explanation = await client.explain("a")
        assert explanation.owner is None
        assert [each.trouble for each in explanation.reasons] == [False, True]
        assert "has not begun" in explanation.text
        assert "no live worker runs orchestrations: start one" in explanation.text
        with pytest.raises(InstanceNotFoundError):
            await client.explain("nobody")
