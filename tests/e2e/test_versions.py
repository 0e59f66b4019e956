"""A rolling upgrade, there and back, of a hub that is at work."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from callboard import App, Client, InstanceStatus, OrchestrationContext, WorkerOptions
from callboard.core.events import PatchApplied
from callboard.ports import InstanceFilter
from tests.e2e.stage import DEADLINE, Stage, until

QUICK = WorkerOptions(heartbeat=0.3, lease=3.0)


async def first(context: OrchestrationContext, number: int) -> list[Any]:
    said = await context.call_activity("echo", number)
    return [context.version, said, await context.wait_for_external_event("go")]


async def second(context: OrchestrationContext, number: int) -> list[Any]:
    await context.create_timer(timedelta(milliseconds=10))
    child = await context.call_sub_orchestration("child", number)
    return [context.version, child, await context.wait_for_external_event("go")]


def app_of(*versions: str, default: str) -> App:
    app = App("versions", partitions=4, default_version=default)

    @app.activity
    async def echo(value: Any) -> Any:
        return value

    if "2.0" in versions:

        @app.orchestration(version="2.0")
        async def child(context: OrchestrationContext, number: int) -> Any:
            return await context.call_activity(echo, [context.version, number])

        app.orchestration(name="program", version="2.0")(second)
    if "1.0" in versions:
        app.orchestration(name="program", version="1.0")(first)
    return app


OLD, NEW, BOTH = app_of("1.0", default="1.0"), app_of("2.0", default="2.0"), app_of("1.0", "2.0", default="2.0")


async def begin(client: Client, name: str) -> list[str]:
    ids = [f"{name}-{number}" for number in range(8)]
    for number, instance_id in enumerate(ids):
        await client.start("program", number, instance_id=instance_id)
    return ids


async def finish(client: Client, ids: list[str]) -> list[Any]:
    for instance_id in ids:
        await client.raise_event(instance_id, "go", "ok")

    async def look() -> list[InstanceStatus]:
        return [await client.get_status(instance_id) for instance_id in ids]

    return [status.output for status in await until(look, lambda seen: all(status.is_terminal for status in seen))]


def old_results() -> list[Any]:
    return [["1.0", number, "ok"] for number in range(8)]


def new_results() -> list[Any]:
    return [["2.0", ["2.0", number], "ok"] for number in range(8)]


async def test_an_upgrade_and_a_way_back_lose_nothing(stage: Stage) -> None:
    async with stage.client(OLD) as old_client, stage.client(NEW) as new_client:
        async with stage.worker(OLD, QUICK):
            before = await begin(old_client, "before")
            early = await begin(new_client, "early")  # nobody can run these yet
            unrunnable = InstanceFilter(parked=True)
            waiting = await until(
                lambda: old_client.list_instances(unrunnable), lambda page: len(page.instances) == len(early)
            )
            assert {each.parked.kind for each in waiting.instances if each.parked} == {"unrunnable"}
            async with stage.worker(NEW, QUICK):  # now both are there, and each owns some of the other's
                amid_old, amid_new = await begin(old_client, "amid-old"), await begin(new_client, "amid-new")
                assert await finish(new_client, early) == new_results()
                assert await finish(old_client, amid_old) == old_results()
        async with stage.worker(NEW, QUICK):
            assert await finish(new_client, amid_new) == new_results()
        async with stage.worker(BOTH, QUICK):
            assert await finish(old_client, before) == old_results()
            assert not (await old_client.list_instances(unrunnable)).instances


async def test_the_version_that_is_started_is_seen(stage: Stage) -> None:
    async with stage.playing(BOTH, QUICK) as client:
        await client.start("program", 1, instance_id="a")
        await client.raise_event("a", "go", 1)
        assert (await client.wait("a", DEADLINE)).version == "2.0"
        await client.start("program", 1, instance_id="b", version="1.0")
        await client.raise_event("b", "go", 1)
        assert (await client.wait("b", DEADLINE)).output == ["1.0", 1, 1]


# Changes in place


def shop(*, patched: bool) -> App:
    app = App("versions", partitions=4)

    @app.activity
    async def charge(order: int) -> str:
        return f"charged {order}"

    @app.activity
    async def check_fraud(order: int) -> str:
        return f"checked {order}"

    async def before(context: OrchestrationContext, order: int) -> list[str]:
        await context.wait_for_external_event("go")
        return [await context.call_activity(charge, order)]

    async def after(context: OrchestrationContext, order: int) -> list[str]:
        said: list[str] = []
        if context.patched("fraud-check"):
            said.append(await context.call_activity(check_fraud, order))
        await context.wait_for_external_event("go")
        return [*said, await context.call_activity(charge, order)]

    app.orchestration(name="order")(after if patched else before)
    return app


async def test_a_change_in_place_leaves_running_instances_to_the_old_way(stage: Stage) -> None:
    old, new = shop(patched=False), shop(patched=True)
    async with stage.client() as client:

        async def status_of(instance_id: str) -> InstanceStatus:
            return await client.get_status(instance_id)

        async with stage.worker(old, QUICK):
            await client.start("order", 1, instance_id="early")
            await until(lambda: status_of("early"), lambda status: status.runtime_status == "Running")
        async with stage.worker(new, QUICK):
            await client.start("order", 2, instance_id="late")
            for instance_id in ("early", "late"):
                await client.raise_event(instance_id, "go")
            assert (await client.wait("early", DEADLINE)).output == ["charged 1"]
            assert (await client.wait("late", DEADLINE)).output == ["checked 2", "charged 2"]
            history = [event for commit in await client.history("late") for event in commit.events]
            assert [event.patch for event in history if isinstance(event, PatchApplied)] == ["fraud-check"]


async def test_code_that_does_not_fit_parks_its_instances_until_it_is_repaired(stage: Stage) -> None:
    careless = App("versions", partitions=4)

    @careless.orchestration(name="order")
    async def forgets_to_patch(context: OrchestrationContext, order: int) -> str:
        return str(await context.call_activity("check_fraud", order))

    async with stage.client() as client:

        async def status_of(instance_id: str) -> InstanceStatus:
            return await client.get_status(instance_id)

        async with stage.worker(shop(patched=True), QUICK):
            await client.start("order", 1, instance_id="a")
            await until(lambda: status_of("a"), lambda status: status.runtime_status == "Running")
            await client.raise_event("a", "other")
        async with stage.worker(careless, QUICK):
            await client.raise_event("a", "other")
            seen = await until(lambda: status_of("a"), lambda status: status.parked is not None)
            assert seen.parked is not None
            assert (seen.runtime_status, seen.parked.kind) == ("Suspended", "nondeterminism")
            assert seen.parked.reason.startswith("History goes on after commit")
            # Code that fits comes to life beside it: nobody has to do anything.
            async with stage.worker(shop(patched=True), QUICK):
                await until(lambda: status_of("a"), lambda status: status.parked is None)
                await client.raise_event("a", "go")
                assert (await client.wait("a", DEADLINE)).output == ["checked 1", "charged 1"]
