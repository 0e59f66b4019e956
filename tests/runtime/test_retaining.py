"""Workers delete what ended long enough ago."""

from __future__ import annotations

from datetime import timedelta

import pytest

from callboard import App, OrchestrationContext, retaining
from callboard.cli.problems import CommandError
from callboard.cli.retention import retention_of
from callboard.errors import ConfigurationError
from callboard.worker import WorkerOptions
from tests.runtime.support import Stage, a_while, eventually

app = App("stage")
NOW = {"Completed": timedelta(), "Failed": timedelta(days=1)}


@app.orchestration
async def ends(context: OrchestrationContext, well: bool = True) -> None:
    if not well:
        raise ValueError("badly")


@app.orchestration
async def parent(context: OrchestrationContext) -> None:
    await context.call_sub_orchestration(ends, instance_id="child")
    await context.wait_for_external_event("go")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retaining, "EVERY", 0.02)
    monkeypatch.setattr(retaining, "PAUSE", 0.0)
    monkeypatch.setattr(retaining, "PAGE", 2)


@pytest.mark.usefixtures("fast", "often")
async def test_what_ended_is_deleted_when_its_time_has_come_and_nothing_else() -> None:
    async with Stage() as stage:
        await stage.worker(app, retention=NOW)
        client = await stage.client(app)
        for number in range(7):
            await client.start(ends, instance_id=f"well{number}")
        await client.start(ends, False, instance_id="badly")
        await client.start(parent, instance_id="runs")

        async def left() -> set[str]:
            return {each.instance_id for each in (await client.list_instances()).instances}

        async def as_expected() -> bool:
            return await left() == {"badly", "runs", "child"}

        await eventually(as_expected)
        await a_while()
        assert await as_expected()
        assert (await client.get_status("badly")).runtime_status == "Failed"
        await client.raise_event("runs", "go")

        async def all_gone() -> bool:
            return await left() == {"badly"}

        await eventually(all_gone)


def test_options_say_how_long() -> None:
    days = timedelta(days=1)
    assert retention_of(["30d", "failed=90d"]) == {"Completed": 30 * days, "Failed": 90 * days, "Terminated": 30 * days}
    assert retention_of(["completed=90m"]) == {"Completed": timedelta(minutes=90)}
    assert retention_of([]) == {}
    for wrong in ("running=1d", "30", "d", "-1d", "failed="):
        with pytest.raises(CommandError):
            retention_of([wrong])
    with pytest.raises(ConfigurationError, match="Running"):
        WorkerOptions(retention={"Running": timedelta()})
