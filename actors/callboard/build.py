"""What a worker's code is: the names and versions that it can run, and a digest that changes when the code does.

The digest decides whether it is worth the while to try an instance again that could not run. So it rather takes in too much than too
little: the orchestrators themselves, and the source of every module of theirs that is loaded, from their package or folder.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

from callboard.ports import OrchestrationVersions, WorkerCode
from callboard.registry import Registry

_PLAIN = (bool, int, float, str, bytes, type(None))
_PLACES_OF_OTHERS = ("stdlib", "platstdlib", "purelib", "platlib")


def worker_code(registry: Registry, *, orchestrations: bool, activities: bool, build: str | None = None) -> WorkerCode:
    """What a worker with these functions tells the others.

    Args:
        orchestrations: Whether it runs orchestrations.
        activities: Whether it runs activities.
        build: The name of the deployment, where the digest is not wanted.
    """
    names = sorted(registry.orchestrations) if orchestrations else []
    entities = sorted(registry.entities) if orchestrations else []
    return WorkerCode(
        build=build or build_of(registry),
        version=registry.versions.default,
        match=registry.versions.match,
        orchestrations=tuple(
            OrchestrationVersions(name=name, versions=registry.orchestration_versions(name)) for name in names
        ),
        entities=tuple(entities),
        activities=tuple(sorted(registry.activities)) if activities else (),
    )


def build_of(registry: Registry) -> str:
    """A digest of the code that decides how orchestrations go: 16 hex digits."""
    digest = hashlib.sha256(repr((sys.version_info[:2], registry.versions)).encode())
    functions: list[Callable[..., Any]] = []
    for definition in registry.all_orchestrations():
        functions.append(definition.function)
        digest.update(repr((definition.name, definition.version)).encode())
        for part in _function(definition.function):
            digest.update(part)
    for name in sorted(registry.entities):
        digest.update(name.encode())
        functions.append(registry.entities[name].function)
    for path in sorted(_sources(functions)):
        digest.update(_content(path))
    return digest.hexdigest()[:16]


def _function(function: Callable[..., Any]) -> Iterator[bytes]:
    """The byte code of a function, and what it closes over as far as that has a plain value."""
    code: CodeType | None = getattr(function, "__code__", None)
    if code is not None:
        yield from _code(code)
    for cell in getattr(function, "__closure__", None) or ():
        yield repr(cell.cell_contents).encode() if isinstance(cell.cell_contents, _PLAIN) else b"?"


def _code(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        elif isinstance(constant, _PLAIN):
            yield repr(constant).encode()


def _sources(functions: Iterable[Callable[..., Any]]) -> set[Path]:
    """The files of all loaded modules that lie in the functions' packages or, for modules outside of any, folders."""
    roots = {root for function in functions if (root := _root(function.__module__)) is not None}
    if not roots:
        return set()
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    paths = {Path(file) for file in files if isinstance(file, str) and file.endswith(".py")}
    return {path for path in paths if not roots.isdisjoint(path.parents) and not _foreign(path)}


def _root(module: str) -> Path | None:
    top = sys.modules.get(module.partition(".")[0]) if "." in module else sys.modules.get(module)
    file = getattr(top, "__file__", None) or getattr(sys.modules.get(module), "__file__", None)
    return Path(file).parent if isinstance(file, str) else None


@lru_cache(maxsize=65_536)
def _foreign(path: Path) -> bool:
    """Whether a file belongs to Python or an installed package."""
    parents = {str(parent) for parent in path.parents}
    return not parents.isdisjoint(sysconfig.get_path(place) for place in _PLACES_OF_OTHERS)


def _content(path: Path) -> bytes:
    try:
        stat = path.stat()
    except OSError:
        return b""
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65_536)
def _digest(path: Path, _changed: int, _size: int) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""
