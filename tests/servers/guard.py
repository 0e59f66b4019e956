"""Run one program so that it cannot outlive whoever asked for it.

Started as a plain script (standard library only) by `process.py`. The asker holds the write end of a pipe; when that end
closes, however the asker died, the guard kills the program with everything it started and cleans up after it. On Linux the
guard is a subreaper, so that daemons and processes in sessions of their own are found too, and the program dies with the
guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Order(TypedDict):
    """What to run, and what to do when the asker is gone."""

    command: list[str]
    companions: list[list[str]]
    cleanup: list[list[str]]
    remove: str | None


def set_process_option(option: int, value: int) -> None:
    """Call prctl(2) where it exists."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_the_guard() -> None:
    """Run in each child between fork and exec."""
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a program whose end we learn of by waiting for any child."""
    return subprocess.Popen(command, preexec_fn=die_with_the_guard)  # no thread runs here, so preexec_fn is safe


def children() -> Iterator[int]:
    """Yield the processes that are ours to end, orphans of our program included."""
    with contextlib.suppress(OSError):
        yield from map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split())


def reap() -> Iterator[tuple[int, int]]:
    """Yield pid and wait status of each child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def end_everything(known: list[int]) -> None:
    """Kill every descendant, also those that only become our children while we do so."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in {*known, *children()}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            known.clear()
            os.waitpid(-1, 0)


def wait_for_end(program: int, control: int) -> int | None:
    """Return the program's wait status, or None when the asker is gone."""
    wakeup, alarm = os.pipe()
    for end in (wakeup, alarm):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    while True:
        for pid, status in reap():
            if pid == program:
                return status
        readable, _, _ = select.select([control, wakeup], [], [])
        if control in readable:
            return None
        os.read(wakeup, 4096)


def clean_up(order: Order) -> None:
    """Do what the asker can no longer do."""
    for command in order["cleanup"]:
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    if order["remove"] is not None:
        shutil.rmtree(order["remove"], ignore_errors=True)


def notice(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up pipe does it. (An ignored signal would stay ignored in the program.)"""


def main(control: int, report: int, order: Order) -> int:
    """Run the order; return the program's exit code, as a shell would give it."""
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, notice)
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    known = [spawn(command).pid for command in order["companions"]]
    program = spawn(order["command"]).pid
    os.write(report, str(program).encode())
    os.close(report)
    status = wait_for_end(program, control)
    if status is None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(program, signal.SIGKILL)
            os.waitpid(program, 0)
    end_everything(known)
    if status is None:
        clean_up(order)
        return 1
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), cast("Order", json.loads(sys.argv[3]))))
