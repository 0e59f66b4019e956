"""The core decides by what it is given: no clock, no dice, no I/O, no threads, no log."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import callboard.core
import callboard.errors

CORE = sorted(Path(callboard.core.__file__).parent.glob("*.py"))
FILES = [*CORE, Path(callboard.errors.__file__)]

#: All that the core may import, beside itself and callboard.errors. ``from random import Random``: seeded, so no dice.
ALLOWED = {
    "__future__", "bisect", "collections", "collections.abc", "dataclasses", "datetime", "enum", "hashlib", "inspect",
    "itertools", "msgspec", "pydantic", "re", "traceback",
    "typing", "uuid", "zlib",
}  # fmt: skip
ALLOWED_NAMES = {"random": {"Random"}, "asyncio": {"CancelledError"}}
ONLY_THE_LOOP = {
    "asyncio", "asyncio.events", "asyncio.tasks", "contextvars", "math", "sys", "weakref",
}  # fmt: skip
#: Calls that are impure though what they belong to may be imported.
FORBIDDEN_CALLS = {
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "uuid.uuid1", "uuid.uuid4", "open", "print", "input", "hash",
    "id", "Random",
}  # fmt: skip


def imports(tree: ast.AST) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend((node.module or "", alias.name) for alias in node.names)
    return found


def problems(source: str, *, loop: bool = False) -> list[str]:
    tree = ast.parse(source)
    found: list[str] = []
    for module, name in imports(tree):
        ours = module == "callboard.errors" or module.startswith("callboard.core")
        named = name in ALLOWED_NAMES.get(module, set())
        if not (ours or named or module in ALLOWED or (loop and module in ONLY_THE_LOOP)):
            found.append(f"import {module}.{name}" if name else f"import {module}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            if call in FORBIDDEN_CALLS and not (call == "Random" and node.args):
                found.append(f"{call}()")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_core_is_pure(path: Path) -> None:
    assert problems(path.read_text(), loop=path.name == "loop.py") == []


@pytest.mark.parametrize("source", [
    "import time", "import os", "import logging", "import random", "from random import randint", "import threading", "import asyncio",
    "from callboard.ports import Store", "from datetime import datetime\ndatetime.now()", "import uuid\nuuid.uuid4()",
    "from random import Random\nRandom()", "open('x')", "def f():\n    import socket", "hash('x')",
])  # fmt: skip
def test_the_check_sees_what_is_not(source: str) -> None:
    assert problems(source)


def test_the_core_keeps_no_state_of_its_own() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Global), path
