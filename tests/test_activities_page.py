"""docs/activities.md does what it says."""

from __future__ import annotations

import re
import types
from pathlib import Path

from callboard import ActivityContext, App, WorkerOptions
from tests.e2e.stage import Stage, ended

PAGE = Path(__file__).parents[1] / "docs" / "activities.md"


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


async def test_the_example_works(hub: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    (program,) = re.findall(r"```python\n(.*?)```", page(), re.DOTALL)
    module = types.ModuleType("books")
    exec(program, vars(module))
    app: App = module.app
    async with Stage(hub, url, url).playing(app) as client:
        await client.start("close_month", 200, instance_id="march")
        output = (await ended(client, "march")).output
        assert re.fullmatch(r"paid 200 under [0-9a-f]{32}:0001", output)


def test_everything_that_it_names_is_there() -> None:
    names = re.search(r"annotated `ActivityContext`: (.*?)\.\n", page(), re.DOTALL)
    assert names is not None
    for name in re.findall(r"`(\w+)", names[1]):
        assert name == "logger" or hasattr(ActivityContext, name), name
    assert "concurrency" in WorkerOptions.__struct_fields__
    for parameter in (
        "timeout",
        "heartbeat_timeout",
        "schedule_to_start",
        "concurrency",
        "rate",
        "hub_concurrency",
        "hub_rate",
    ):
        assert f"{parameter}: " in str(App.activity.__doc__)
