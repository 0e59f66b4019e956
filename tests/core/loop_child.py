"""Print the digest of the traces of COUNT seeded programs, from a process that is unlike any other.

``python loop_child.py COUNT``, with the roots of the checkout in PYTHONPATH.
"""

from __future__ import annotations

import importlib
import random
import sys

_SYSTEM = random.SystemRandom()

_MODULES = [
    "asyncio", "callboard.core.loop", "decimal", "json", "email.message", "http.client", "sqlite3", "uuid",
    "concurrent.futures", "xml.dom.minidom", "unittest.mock", "logging", "fractions",
]  # fmt: skip


def junk() -> list[object]:
    """Move the addresses of what comes next: allocate objects of many sizes, free a random half of them."""
    objects: list[object] = [
        bytearray(_SYSTEM.randrange(1, 600)) if _SYSTEM.random() < 0.5 else {_SYSTEM.random(): [object()]}
        for _ in range(_SYSTEM.randrange(100, 3000))
    ]
    _SYSTEM.shuffle(objects)
    del objects[: len(objects) // 2]
    return objects


def main() -> None:
    ballast = [junk()]
    if _SYSTEM.random() < 0.5:  # a user module that was there first
        from asyncio import as_completed  # noqa: PLC0415

        ballast.append([as_completed])
    for module in _SYSTEM.sample(_MODULES, _SYSTEM.randrange(len(_MODULES))):
        importlib.import_module(module)
        ballast.append(junk())
    programs = importlib.import_module("tests.core.loop_programs")
    traces: list[list[str]] = []
    for seed in range(int(sys.argv[1])):
        seeded = random.Random(seed)
        if seed % 10 == 0:
            ballast[seed % len(ballast)] = junk()
        traces.append(programs.run_program(programs.make_program(seeded), programs.make_schedule(seeded)))
    print(programs.digest(traces), sum(map(len, traces)))


main()
