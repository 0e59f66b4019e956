"""docs/entities.md does what it says."""

from __future__ import annotations

import asyncio
import re
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

from callboard import Client, EntityFilter, EntityId, TaskHub, Worker

PAGE = (Path(__file__).parent.parent / "docs" / "entities.md").read_text(encoding="utf-8")
CODE, CLIENT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


async def test_the_example(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(CODE, names)
    app = names["app"]
    url = f"sqlite:///{tmp_path / 'bank.db'}"
    async with (
        TaskHub.from_urls(app.hub, broker=url, store=url, partitions=2) as hub,
        Worker(app, hub),
        Client(hub, app) as client,
    ):
        lines = CLIENT.strip().splitlines()
        await run(lines[:2], client)
        await until(client, "anna", 160)
        assert (await run(lines[2:3], client))["found"].entity_state == {"balance": 160}
        async with asyncio.timeout(30):  # lists may be a moment old
            while not (await run(lines[3:], client))["page"].entities:
                await asyncio.sleep(0.02)
        handle = await client.start("transfer", {"source": "anna", "target": "ben", "amount": 90})
        assert await handle.result(30) == 70
        await until(client, "ben", 90)
        async with asyncio.timeout(30):
            while (await client.read_entity_state(EntityId("mail", "anna"))).entity_state != [70]:
                await asyncio.sleep(0.02)


async def run(lines: list[str], client: Client) -> dict[str, Any]:
    """Runs some lines of the page, and returns what they assign."""
    names: dict[str, Any] = {
        "client": client,
        "EntityId": EntityId,
        "EntityFilter": EntityFilter,
        "timedelta": timedelta,
    }
    exec(f"async def lines():\n{textwrap.indent(chr(10).join(lines), '    ')}\n    return locals()", names)
    assigned: dict[str, Any] = await names["lines"]()
    return assigned


async def until(client: Client, key: str, balance: int) -> None:
    async with asyncio.timeout(30):
        while (await client.read_entity_state(EntityId("account", key))).entity_state != {"balance": balance}:
            await asyncio.sleep(0.02)


def test_every_command_exists() -> None:
    from callboard.cli.entities import entity  # noqa: PLC0415

    named = {command.name for command in entity.registered_commands}
    assert {words.split()[1] for words in re.findall(r"^callboard (entity .*)$", PAGE, re.MULTILINE)} <= named
