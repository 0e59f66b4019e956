"""A program that ends when we do, and the ports and words around it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GUARD = Path(__file__).with_name("guard.py")

#: Below every system's ephemeral range: a client that keeps reconnecting to a dead server's port inside that range sooner
#: or later connects to itself, and then the server cannot come back.
PORTS = range(15_000, 32_000)


class ServerError(Exception):
    """A server cannot be had, did not come up, or ended on its own."""


def say(words: str) -> None:
    """Tell the person what is going on."""
    print(f"servers: {words}", file=sys.stderr, flush=True)


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError(f"No free TCP port found between {PORTS.start} and {PORTS.stop}.")


class Process:
    """A running program under a guard (see guard.py): it ends with us, even if we are killed with SIGKILL.

    Attributes:
        pid: The program's own process id, for signals and for measuring.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        companions: Sequence[Sequence[str]] = (),
        cleanup: Sequence[Sequence[str]] = (),
        remove: Path | None = None,
    ) -> None:
        """Start the program.

        Args:
            command: The program and its arguments.
            environment: Its whole environment; ours when not given.
            log: Where its output goes. With a log it also gets a session of its own and no input; without, it shares our
                terminal.
            companions: Programs to start before it and to end after it.
            cleanup: Commands to run should we die before the program.
            remove: A directory to remove in that case.
        """
        order = {
            "command": list(command),
            "companions": [list(companion) for companion in companions],
            "cleanup": [list(step) for step in cleanup],
            "remove": str(remove) if remove else None,
        }
        control, self._control = os.pipe()
        reader, report = os.pipe()
        output = log.open("ab") if log else None
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(control), str(report), json.dumps(order)],
            stdin=subprocess.DEVNULL if log else None,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            env=environment,
            pass_fds=(control, report),
            start_new_session=log is not None,
        )
        for ours in (control, report):
            os.close(ours)
        if output:
            output.close()
        with open(reader, "rb") as answer:  # noqa: PTH123 a file descriptor, not a path
            pid = answer.read()
        if not pid:
            self.end()
            raise ServerError(f"Cannot start {command[0]}.")
        self.pid = int(pid)

    @property
    def running(self) -> bool:
        """Whether the program still runs."""
        return self._guard.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal, if it still runs."""
        if self.running:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the program and all it started are gone; return its exit code.

        Raises:
            subprocess.TimeoutExpired: if it still runs after `timeout` seconds.
        """
        code = self._guard.wait(timeout)
        self._let_go()
        return code

    def end(self) -> None:
        """Kill the program and all it started, now, and do its clean-up."""
        self._let_go()
        self._guard.wait()

    def _let_go(self) -> None:
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
