"""docs/calling.md does what it says."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

from callboard import App
from callboard.core import http_calls
from tests.e2e.stage import Stage, ended
from tests.web import Asked, Says, WebServer

PAGE = (Path(__file__).parents[1] / "docs" / "calling.md").read_text(encoding="utf-8")


def the_module() -> Any:
    module = types.ModuleType("calling")
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, vars(module))
    return module


async def test_the_examples_work(hub: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    module = the_module()
    app: App = module.app
    async with (
        WebServer(lambda asked: Says(201, body=b'{"kept":true}')) as server,
        Stage(hub, url, url).playing(app) as client,
    ):
        await client.start("purchase", {"amount": 5, "archive": f"{server.url}/ratings"}, instance_id="p")
        await client.start("approval", 0.05, instance_id="late")
        await client.start("approval", 3600, instance_id="prompt")
        await client.raise_event("p", "Stars", 4)
        await client.raise_event("prompt", "answer", "yes")
        delivered = ["parcel 0 delivered", "parcel 1 delivered"]
        assert (await ended(client, "p")).output == ["5 charged", delivered, 4, {"kept": True}]
        assert (await ended(client, "p-audit")).output == "5 charged"
        assert (await ended(client, "late")).output == "nobody answered"
        assert (await ended(client, "prompt")).output == "yes"
        assert module.calls == 3
        (asked,) = server.asked
        assert isinstance(asked, Asked)
        assert (asked.method, asked.body) == ("POST", '{"stars":4}')
        assert asked.headers["authorization"] == "Bearer from the vault"


def test_the_words_that_mark_a_credential_are_those_of_the_code() -> None:
    (sentence,) = re.findall(r"headers whose name has (.*?) in it", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(http_calls.CREDENTIALS)
    assert http_calls.HTTP_ACTIVITY in PAGE
    assert f"queue `{http_calls.BUILT_IN_QUEUE}`" in PAGE
