"""docs/versions.md does what it says."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

from callboard import App
from tests.e2e.stage import Stage, ended

PAGE = Path(__file__).parents[1] / "docs" / "versions.md"


def modules() -> list[types.ModuleType]:
    made: list[types.ModuleType] = []
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        module = types.ModuleType(f"shop{number}")
        exec(block, vars(module))
        made.append(module)
    return made


async def test_the_examples_work(hub: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    versions, patches = modules()
    app: App = versions.app
    async with Stage(hub, url, url).playing(app) as client:

        async def outcome(orchestration: Any, **options: Any) -> Any:
            status = await ended(client, (await client.start(orchestration, 7, **options)).instance_id)
            return status.version, status.output

        old, new = ("1.0", ["charged 7"]), ("2.0", ["checked 7", "charged 7"])
        assert await outcome("order") == new
        assert await outcome("order", version="1.0") == old
        assert await outcome(versions.order_v1) == old
    patched: App = patches.app
    patched.activity(versions.charge)
    patched.activity(versions.check)
    async with Stage(f"{hub}p", url, url).playing(patched) as client:
        started = await client.start(patches.order, 7)
        assert (await ended(client, started.instance_id)).output == ["checked 7", "charged 7"]
