"""A build is a digest of the code that decides: it changes when that does, and only then."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from callboard import App, OrchestrationContext
from callboard.build import build_of, worker_code
from callboard.ports import WorkerCode

MODULE = """
from callboard import App, OrchestrationContext
from {helper} import answer

app = App("stage")

@app.orchestration
async def program(context: OrchestrationContext) -> int:
    return answer()
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def fresh(name: str) -> App:
    for known in [each for each in sys.modules if each.partition(".")[0] in (name.partition(".")[0], "aside")]:
        del sys.modules[known]
    importlib.invalidate_caches()
    app: App = importlib.import_module(name).app
    return app


@pytest.mark.parametrize("package", [True, False], ids=["in a package", "in a folder"])
def test_it_changes_with_the_helpers_of_the_same_package_or_folder(modules: Path, package: bool) -> None:
    folder = modules / "shop" if package else modules
    folder.mkdir(exist_ok=True)
    if package:
        (folder / "__init__.py").touch()
    helper = folder / "aside.py"
    helper.write_text("def answer():\n    return 42\n")
    name = "shop.programs" if package else "programs"
    (folder / "programs.py").write_text(MODULE.format(helper="shop.aside" if package else "aside"))
    (folder / "never_imported.py").write_text("1 / 0")
    first = build_of(fresh(name).registry)
    assert build_of(fresh(name).registry) == first
    (folder / "never_imported.py").write_text("1 / 1")
    assert build_of(fresh(name).registry) == first
    helper.write_text("def answer():\n    return 43\n")
    assert build_of(fresh(name).registry) != first


def of(function: Callable[..., Any], **options: Any) -> str:
    app = App("stage", **options)
    app.orchestration(name="program")(function)
    return build_of(app.registry)


def closing_over(value: object) -> Callable[..., Any]:
    async def program(context: OrchestrationContext) -> object:
        return [value for _ in range(2)]

    return program


def test_it_changes_with_the_function_and_with_the_rules() -> None:
    async def one(context: OrchestrationContext) -> list[int]:
        return [1 for _ in range(2)]

    async def other(context: OrchestrationContext) -> list[int]:
        return [2 for _ in range(2)]

    assert of(one) == of(one)
    assert len({of(one), of(other), of(closing_over(1)), of(closing_over(2)), of(one, default_version="2")}) == 5
    assert of(closing_over(object())) == of(closing_over(object())), "what has no plain value says nothing"


def test_a_worker_says_what_it_can_run() -> None:
    app = App("stage", default_version="2.0")

    async def program(context: OrchestrationContext) -> None: ...

    app.orchestration(program)
    app.orchestration(version="1.0")(program)
    app.activity(name="pay")(lambda: None)
    code = worker_code(app.registry, orchestrations=True, activities=True, build="b")
    assert (code.build, code.activities) == ("b", ("pay",))
    assert [version for version in (None, "1.0", "1.5", "2", "3") if code.runs("i", "program", version)] == [
        None,
        "1.0",
        "1.5",
        "2",
    ]
    assert not code.runs("i", "other", "2.0")
    none = worker_code(app.registry, orchestrations=False, activities=False)
    assert (none.orchestrations, none.activities) == ((), ())
    assert none.build == build_of(app.registry)
    assert not WorkerCode(build="b").runs("i", "program", None)
