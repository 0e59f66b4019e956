"""Profiles a whole process with cProfile: the CPU time of every thread of it, not only of the one that asks."""

from __future__ import annotations

import contextlib
import cProfile
import pstats
import threading
import time
from collections.abc import Generator
from pathlib import Path


class ThreadProfile(cProfile.Profile):
    """The profile of one thread, in that thread's CPU time."""

    def __init__(self) -> None:
        super().__init__(time.thread_time)

    def create_stats(self) -> None:
        """Take what has returned only.

        What cProfile does, ending the calls that are still open, would read the clock of the thread that asks: it charges a
        thread that waits all the time with the CPU time of another.
        """
        self.snapshot_stats()


@contextlib.contextmanager
def profiled(path: Path) -> Generator[None]:
    """Profile this thread and those that start meanwhile; write the sum to a file that pstats reads."""
    here = ThreadProfile()
    profiles = [here]
    run = threading.Thread.run

    def run_profiled(thread: threading.Thread) -> None:
        profile = ThreadProfile()
        profiles.append(profile)
        profile.runcall(run, thread)

    threading.Thread.run = run_profiled  # type: ignore[method-assign, assignment]
    here.enable()
    try:
        yield
    finally:
        here.disable()
        threading.Thread.run = run  # type: ignore[method-assign]
        stats = pstats.Stats(here)
        for profile in profiles[1:]:
            if profile.getstats():  # pstats refuses an empty profile
                stats.add(profile)
        stats.dump_stats(path)
