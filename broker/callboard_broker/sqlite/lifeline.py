"""How processes that share a journal know of each other's death: a file lock that the kernel drops with its holder.

Why no heartbeat rows: they cost writes while idle, notice a kill -9 only after seconds, and take messages away from a process that
merely slept (a laptop's lid). A write-ahead log works on one machine only, so a kernel lock reaches exactly as far as the journal.

A lock file is made, checked for orphans and removed under the journal's write lock, so none of these races with another.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Iterable
from functools import partial
from pathlib import Path


class Lifeline:
    """Says that this process lives, for as long as it does."""

    def __init__(self, database: Path, process: str) -> None:
        self._path = _lock_path(database, process)
        self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A forked child (a process pool) shares the lock and would keep us alive after our death.
        os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))

    def let_go(self) -> None:
        """Closes this process's hold only. Closing, unlike unlocking, leaves the lock to those who share it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def cut(self) -> None:
        """Ends it in good order."""
        self._path.unlink(missing_ok=True)
        self.let_go()


def lives(database: Path, process: str) -> bool:
    """Whether that process holds its lifeline."""
    try:
        descriptor = os.open(_lock_path(database, process), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # Cannot be told: taking a live process's messages is worse than waiting for somebody who may look.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove(database: Path, process: str) -> None:
    """Removes the lock file of a process that is dead."""
    _lock_path(database, process).unlink(missing_ok=True)


def orphans(database: Path, known: Iterable[str]) -> list[str]:
    """Dead processes that left a lock file and nothing else."""
    prefix = _lock_path(database, "").name
    left = {entry.name.removeprefix(prefix) for entry in database.parent.iterdir() if entry.name.startswith(prefix)}
    return [process for process in sorted(left.difference(known)) if not lives(database, process)]


def _lock_path(database: Path, process: str) -> Path:
    return database.with_name(f"{database.name}-live-{process}")


def _let_go(lifeline: weakref.ref[Lifeline]) -> None:
    held = lifeline()
    if held is not None:
        held.let_go()
