"""`callboard rejected` and `redrive`, as a person runs them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from callboard import TaskHub
from callboard.ports import Destination, Properties
from tests.cli.processes import call, serving, shop


def test_what_was_put_aside_is_shown_and_sent_again(tmp_path: Path) -> None:
    shop(tmp_path)
    with serving(tmp_path, "dev", "shop:app"):
        asyncio.run(publish(tmp_path, b"nonsense"))
        shown = json.loads(call(tmp_path, "rejected").stdout)
        while not shown:
            shown = json.loads(call(tmp_path, "rejected").stdout)
        assert (shown[0]["source"], shown[0]["body"], shown[0]["messageId"]) == ("shop.ingress", "nonsense", "m-1")
        assert "This is no request" in shown[0]["reason"]
        assert json.loads(call(tmp_path, "redrive", "--source", "other").stdout) == 0
        assert json.loads(call(tmp_path, "redrive").stdout) == 1


async def publish(folder: Path, body: bytes) -> None:
    url = f"sqlite:///{next(folder.rglob('*.db'))}"
    async with TaskHub.from_urls("shop", broker=url, store=url) as hub:
        about = Properties(message_id="m-1")
        await hub.broker.publish(Destination.foreign("shop.ingress"), body, None, about)
