"""Purge: instances that have ended go, with their children; what runs stays; what is interrupted is finished by the next."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
from typing import Any

import pytest

from callboard import App, Client, InstanceFilter, OrchestrationContext
from callboard.client import purging
from callboard.errors import InstanceAlreadyExistsError, InstanceNotFinishedError, InstanceNotFoundError
from tests.runtime.support import Failing, Gate, Stage, eventually

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")


@app.orchestration
async def family(context: OrchestrationContext, depth: int) -> int:
    if not depth:
        return 1
    children = [
        context.call_sub_orchestration(family, depth - 1, instance_id=f"{context.instance_id}.{n}") for n in (0, 1)
    ]
    return 1 + sum(await asyncio.gather(*children))


@app.orchestration
async def leaves_a_child(context: OrchestrationContext) -> None:
    context.call_sub_orchestration(waits, instance_id="orphan")


@app.orchestration
async def waits(context: OrchestrationContext) -> Any:
    return await context.wait_for_external_event("go")


@app.orchestration
async def generations(context: OrchestrationContext, left: int) -> None:
    await context.call_sub_orchestration(family, 0, instance_id=f"child-{left}")
    if left:
        context.continue_as_new(left - 1)


async def ids(client: Client) -> list[str]:
    return sorted(each.instance_id for each in (await client.list_instances()).instances)


async def grown(client: Client, depth: int, instance_id: str) -> None:
    assert await (await client.start(family, depth, instance_id=instance_id)).result(20) == 2 ** (depth + 1) - 1


async def test_descendants_go_with_their_ancestor_and_nobody_elses() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await grown(client, 3, "a")
        await grown(client, 1, "b")
        assert await client.purge("a") == 15
        assert await ids(client) == ["b", "b.0", "b.1"]
        with pytest.raises(InstanceNotFoundError):
            await client.purge("a")
        assert await client.purge("b", recursive=False) == 1
        assert await ids(client) == ["b.0", "b.1"]


async def test_children_of_generations_that_were_trimmed_go_too() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        await (await client.start(generations, 3, instance_id="a")).result(20)
        await eventually(lambda: worker.worker.effects.idle)
        assert await client.purge("a") == 5
        assert await ids(client) == []


async def test_a_child_that_runs_stays_and_one_taken_over_by_others_is_not_ours() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await (await client.start(leaves_a_child, instance_id="a")).result(20)
        await grown(client, 1, "b")
        await eventually(lambda: _starts(client, "b.0"))  # an id that is free is anybody's
        assert await client.purge("b") == 2
        assert await client.purge("a") == 1
        assert await ids(client) == ["b.0", "orphan"]
        with pytest.raises(InstanceNotFinishedError, match="terminate it first"):
            await client.purge("orphan")


async def _starts(client: Client, instance_id: str) -> bool:
    try:
        await (await client.start(family, 0, instance_id=instance_id)).result(20)
    except InstanceAlreadyExistsError:
        return False
    return True


async def test_an_instance_is_not_purged_while_it_or_a_child_has_effects_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(purging, "PURGE_PATIENCE", 0.1)
    async with Stage() as stage:
        worker = stage.enter(app)
        marking = worker.store.before["mark_sent"] = Gate(lambda keys: any(key.instance_id == "a.1" for key in keys))
        await worker.start()
        client = await stage.client(app)
        await grown(client, 1, "a")
        await eventually(lambda: marking.waiting)
        with pytest.raises(InstanceNotFinishedError, match=r"'a\.\d' is Completed, with effects under way"):
            await client.purge("a")
        assert "a" in await ids(client)
        result = await client.purge_instances(InstanceFilter(id_prefix="a"))
        assert not result.complete
        assert "a" in await ids(client)
        monkeypatch.setattr(purging, "PURGE_PATIENCE", 10.0)
        purge = asyncio.ensure_future(client.purge("a"))
        marking.open()
        assert 1 <= await purge <= 3
        assert await ids(client) == []


async def test_a_purge_that_is_interrupted_is_finished_by_the_next() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client, actor = await stage.meddled_client(app)
        await grown(client, 2, "a")
        actor.store.before["purge"] = Failing(
            RuntimeError("interrupted"), applies=lambda instance_id: instance_id == "a.1"
        )
        with pytest.raises(RuntimeError):
            await client.purge("a")
        left = await ids(client)
        assert "a" in left
        assert len(left) < 7
        assert await client.purge("a") == len(left)
        assert await ids(client) == []


async def test_a_filter_purges_what_has_ended_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "PAGE", 3)
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        for number in range(5):
            await grown(client, 1, f"a{number}")
        await client.start(waits, instance_id="waiting")
        assert (await client.purge_instances(InstanceFilter(statuses=("Running", "Failed")))).deleted == 0
        result = await client.purge_instances(InstanceFilter(id_prefix="a0", names=("family",)))
        assert (result.deleted, result.complete) == (3, True)
        result = await client.purge_instances(InstanceFilter(), recursive=False)
        assert (result.deleted, result.complete) == (12, True)
        assert await ids(client) == ["waiting"]


async def test_a_purge_that_runs_out_of_time_says_so() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await grown(client, 0, "a")
        result = await client.purge_instances(InstanceFilter(), timeout=0.0)
        assert (result.deleted, result.complete) == (0, False)
        assert (await client.purge_instances(InstanceFilter(), timeout=20.0)).complete


async def test_a_restart_takes_input_version_and_tags_and_leaves_the_parent() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await grown(client, 1, "a")
        await (await client.start(family, 1, instance_id="b", version="2.0", tags={"team": "x"})).result(20)
        child = await client.restart("a.0", restart_with_new_instance_id=False)
        assert (child.instance_id, await child.result(20)) == ("a.0", 1)
        assert (await client.get_status("a.0")).parent_instance_id is None
        again = await client.restart("b")
        assert again.instance_id != "b"
        assert await again.result(20) == 3
        status = await again.status()
        assert (status.version, status.tags, status.input) == ("2.0", {"team": "x"}, 1)
