"""How instances can be started, end to end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from callboard import App, OrchestrationContext
from callboard.errors import InstanceAlreadyExistsError, InvalidInstanceIdError
from callboard.ports import InstanceFilter
from tests.e2e.stage import Stage, ended, until

app = App("starting", partitions=4)


@app.orchestration
async def echo(context: OrchestrationContext, value: int = 0) -> int:
    return value


@app.orchestration
async def when(context: OrchestrationContext) -> str:
    return context.current_utc_datetime.isoformat()


@app.orchestration
async def asks(context: OrchestrationContext) -> str:
    began = context.current_utc_datetime
    answer = await context.wait_for_external_event("answer", str)
    return f"{began.isoformat()} {answer}"


async def test_many_start_at_once(stage: Stage) -> None:
    async with stage.playing(app) as client:
        started = await client.start_many(echo, range(100))
        results = await asyncio.gather(*(handle.result(60) for handle in started))
        assert results == list(range(100))
        assert await client.count() == {"Completed": 100}


async def test_of_many_starts_those_that_fail_are_told_and_the_others_are_made(stage: Stage) -> None:
    async with stage.playing(app) as client:
        await client.start(asks, instance_id="taken")
        with pytest.raises(ExceptionGroup, match="2 of 3") as caught:
            await client.start_many(
                echo, [1, 2, 3], [{"instance_id": "taken"}, {"instance_id": "free"}, {"instance_id": "a/b"}]
            )
        assert {type(error) for error in caught.value.exceptions} == {
            InstanceAlreadyExistsError,
            InvalidInstanceIdError,
        }
        assert (await ended(client, "free")).output == 2
        with pytest.raises(ValueError, match="options for 1 of them"):
            await client.start_many(echo, [1, 2], [{}])


async def test_a_scheduled_start_waits_for_its_time(stage: Stage) -> None:
    async with stage.playing(app) as client:
        due = datetime.now(UTC) + timedelta(seconds=6)
        handle = await client.start(when, start_at=due, instance_id="later")
        assert (await handle.status()).runtime_status == "Pending"
        began = datetime.fromisoformat(await handle.result(60))
        assert began >= due.replace(microsecond=due.microsecond // 1000 * 1000)


async def test_what_comes_before_the_time_of_a_scheduled_start_is_kept(stage: Stage) -> None:
    async with stage.playing(app) as client:
        handle = await client.start(asks, start_at=timedelta(seconds=3), instance_id="later")
        due = datetime.now(UTC) + timedelta(seconds=2)
        await client.raise_event("later", "answer", "yes")
        began, answer = (await handle.result(60)).split()
        assert answer == "yes"
        assert datetime.fromisoformat(began) >= due
        with pytest.raises(ValueError, match="aware"):
            await client.start(when, start_at=datetime(2030, 1, 1))  # noqa: DTZ001 - that is the point


async def test_an_id_is_used_again_as_asked_for(stage: Stage) -> None:
    async with stage.playing(app) as client:
        await client.start(asks, instance_id="busy")
        with pytest.raises(InstanceAlreadyExistsError):
            await client.start(echo, 1, instance_id="busy")
        joined = await client.start(asks, instance_id="busy", id_reuse="return_existing")
        await client.raise_event("busy", "answer", "once")
        assert (await joined.result(60)).endswith("once")
        again = await client.start(asks, instance_id="busy", id_reuse="return_existing")
        assert (await again.result(60)).endswith("once")
        with pytest.raises(InstanceAlreadyExistsError):
            await client.start(echo, 1, instance_id="busy", id_reuse="never")
        anew = await client.start(echo, 7, instance_id="busy")
        assert await anew.result(60) == 7


async def test_instances_are_found_by_their_tags(stage: Stage) -> None:
    async with stage.playing(app) as client:
        await client.start(echo, 1, instance_id="red", tags={"team": "red", "of.$": "x"})
        await client.start(echo, 1, instance_id="blue", tags={"team": "blue"})

        async def red() -> list[str]:
            page = await client.list_instances(
                InstanceFilter(tags={"team": "red", "of.$": "x"}, statuses=("Completed",))
            )
            return [each.instance_id for each in page.instances]

        assert await until(red, bool) == ["red"]
