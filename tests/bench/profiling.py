"""Profiles a whole process with cProfile: the CPU time of every thread of it, not only of the one that asks."""

from __future__ import annotations

import contextlib
import cProfile
import pstats
import threading
import time
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def profiled(path: Path) -> Generator[None]:
    """Profile this thread and those that start meanwhile; write the sum to a file that pstats reads."""
    profiles = [cProfile.Profile(time.thread_time)]
    run = threading.Thread.run

    def run_profiled(thread: threading.Thread) -> None:
        profile = cProfile.Profile(time.thread_time)
        profiles.append(profile)
        profile.runcall(run, thread)

    threading.Thread.run = run_profiled  # type: ignore[method-assign, assignment]
    profiles[0].enable()
    try:
        yield
    finally:
        profiles[0].disable()
        threading.Thread.run = run  # type: ignore[method-assign]
        stats = pstats.Stats(profiles[0])
        for profile in profiles[1:]:
            stats.add(profile)
        stats.dump_stats(path)
