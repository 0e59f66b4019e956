"""The commands about entities, against a running `callboard dev`."""

from __future__ import annotations

import json
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


def said(folder: Path, *words: str) -> Any:
    done = call(folder, "entity", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def comes_to(folder: Path, key: str, value: int) -> None:
    until_true(lambda: call(folder, "entity", "get", "counter", key).returncode == 0)
    until_true(lambda: said(folder, "get", "counter", key)["state"] == {"value": value})


def test_signal_get_list_and_clean(folder: Path) -> None:
    assert said(folder, "signal", "Counter", "a", "add", "2") == {"entityId": "@counter@a", "operation": "add"}
    (folder / "amount.json").write_text("40")
    call(folder, "entity", "signal", "counter", "a", "add", "@amount.json")
    comes_to(folder, "a", 42)
    said(folder, "signal", "counter", "late", "add", "1", "--at", "2000-01-01")
    comes_to(folder, "late", 1)
    table = call(folder, "entity", "get", "counter", "a").stdout
    assert '{"value":42}' in table
    until_true(lambda: [each["entityId"]["key"] for each in said(folder, "list")] == ["a", "late"])
    assert [each["state"] for each in said(folder, "list", "--name", "counter", "--prefix", "l")] == [{"value": 1}]
    assert "@counter@late" in call(folder, "entity", "list").stdout
    said(folder, "signal", "counter", "late", "delete")
    until_true(lambda: not said(folder, "get", "counter", "late")["exists"])
    assert said(folder, "clean") == {"emptyEntitiesRemoved": 0, "orphanedLocksReleased": 0}
    assert "Removed 1 empty entities" in call(folder, "entity", "clean", "--idle", "0m").stdout
    until_true(lambda: call(folder, "entity", "get", "counter", "late").returncode == 1)
    assert [each["entityId"]["key"] for each in said(folder, "list", "--all")] == ["a"]


def test_entities_are_no_instances(folder: Path) -> None:
    said(folder, "signal", "counter", "b", "add", "1")
    comes_to(folder, "b", 1)
    listed = call(folder, "list", "--json")
    assert json.loads(listed.stdout) == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("get", "counter", "nobody"), 1, "@counter@nobody"),
        (("get", "a b", "c"), 2, "whitespace"),
        (("signal", "counter", "a/b", "add"), 2, "'/'"),
        (("signal", "counter", "a", "add", "{"), 2, "not JSON"),
        (("list", "--prefix", "a"), 2, "--name"),
        (("clean", "--idle", "soon"), 2, "no length of time"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, words: tuple[str, ...], code: int, says: str) -> None:
    done = call(folder, "entity", *words)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
