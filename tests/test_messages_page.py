"""docs/messages.md does what it says."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import pytest

from callboard import App, MessageRejectedError
from tests.e2e.stage import Stage, ended

PAGE = Path(__file__).parents[1] / "docs" / "messages.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


async def test_the_example_works(hub: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    program, talk = blocks()
    module = types.ModuleType("box_office")
    exec(program, vars(module))
    app: App = module.app
    async with Stage(hub, url, url).playing(app) as client:
        await client.start("box_office", 3, instance_id="office")
        with pytest.raises(MessageRejectedError, match="only 3 seats are free"):
            await client.ask("office", "sell", 4)
        close, *asks = talk.strip().splitlines()
        heard: dict[str, Any] = {"client": client}
        source = (
            "async def talk():\n" + "".join(f"    {line}\n" for line in (*asks, close)) + "    return receipt, seats\n"
        )
        exec(source, heard)
        assert await heard["talk"]() == ("2 seats booked", 1)
        assert (await ended(client, "office")).output == ["2 seats booked"]
