"""The commands that start, send and change, and those that look, against a running `callboard dev`."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from .processes import call, serving, shop, until_true


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    made = shop(tmp_path_factory.mktemp("shop"))
    with serving(made, "dev", "shop:app") as (command, _):
        yield made
        assert command.stop() == 0


def said(folder: Path, *words: str, code: int = 0) -> Any:
    """What a command prints as JSON."""
    done: subprocess.CompletedProcess[str] = call(folder, *words, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def test_start_and_wait_prints_the_end(folder: Path) -> None:
    ended = said(folder, "start", "order", '"tea"', "--id", "tea", "--wait")
    assert (ended["runtimeStatus"], ended["output"]) == ("Completed", ["packed tea", "shipped tea"])
    plain = call(folder, "start", "order", '"milk"', "--wait")
    assert json.loads(plain.stdout) == ["packed milk", "shipped milk"]


def test_input_comes_from_files_and_pipes(folder: Path) -> None:
    (folder / "input.json").write_text('"rice"')
    assert said(folder, "start", "order", "@input.json", "--wait")["output"] == ["packed rice", "shipped rice"]
    assert said(folder, "start", "order", "@nothing.json", code=2) is None
    assert said(folder, "start", "order", "{not json", code=2) is None


def test_an_instance_is_explained_and_told_to_go_on(folder: Path) -> None:
    assert said(folder, "start", "approve", "--id", "waits", "--tag", "team=red") == {"id": "waits"}

    def awaited() -> list[str]:
        return [each["text"] for each in said(folder, "explain", "waits")["reasons"] if each.get("awaits")]

    until_true(lambda: bool(awaited()))
    assert awaited() == ["It waits for the event 'approval', which has not been raised."]
    assert "It belongs to worker" in call(folder, "explain", "waits").stdout
    said(folder, "suspend", "waits", "--reason", "lunch")
    until_true(lambda: said(folder, "status", "waits")["runtimeStatus"] == "Suspended")
    said(folder, "raise-event", "waits", "approval", '{"by": "Ann"}')
    said(folder, "resume", "waits")
    assert said(folder, "status", "waits", "--watch")["output"] == {"by": "Ann"}
    assert [each["instanceId"] for each in said(folder, "list", "--tag", "team=red", "--since", "today")] == ["waits"]


def test_terminate_restart_and_count(folder: Path) -> None:
    said(folder, "start", "approve", "--id", "ends")
    said(folder, "terminate", "ends", "--reason", "enough")
    until_true(lambda: said(folder, "status", "ends")["runtimeStatus"] == "Terminated")
    again = said(folder, "restart", "ends")["id"]
    assert again != "ends"
    until_true(lambda: said(folder, "status", again)["runtimeStatus"] == "Running")
    assert said(folder, "restart", again, "--same-id", code=1) is None
    assert said(folder, "count", "--name", "approve")["Terminated"] == 1


def test_the_hub_shows_its_worker(folder: Path) -> None:
    hub = said(folder, "hub")
    assert len(hub["workers"]) == 1
    assert {lease["owner"] for lease in hub["leases"]} == {hub["workers"][0]["workerId"]}
    assert "0-3" in call(folder, "hub").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("status", "nobody"), "nobody"),
        (("explain", "nobody"), "nobody"),
        (("raise-event", "nobody", "x"), "nobody"),
        (("status", "tea", "--hub", "typo"), "no task hub 'typo'.*shop"),
        (("list", "--since", "tomorrow"), "no time"),
        (("list", "--tag", "red"), "NAME=VALUE"),
        (("start", "order", "--store", "mongodb://127.0.0.1:9/"), "Which hub"),
        (("start", "order", "--store", "mongodb://127.0.0.1:9/", "--hub", "shop"), "Which broker"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(folder: Path, words: tuple[str, ...], says: str) -> None:
    done = call(folder, *words)
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert re.search(says, " ".join(done.stderr.split()))
