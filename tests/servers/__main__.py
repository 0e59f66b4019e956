"""Command line: `python -m tests.servers install`, `python -m tests.servers -- COMMAND ARGUMENTS…`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import FrameType

from . import MongoDBServer, RabbitMQServer, Server, ServerError
from .guard import PR_SET_PDEATHSIG, set_process_option
from .install import install
from .process import Process, say

USAGE = "usage: python -m tests.servers install | python -m tests.servers -- COMMAND ARGUMENTS…"
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 20.0


class Interrupted(BaseException):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        """Remember which one."""
        super().__init__(number)
        self.number = signal.Signals(number)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Turn the first signal into an exception; later ones must not disturb the cleaning up."""
    del frame
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise Interrupted(number)


@contextlib.contextmanager
def servers() -> Generator[dict[str, str]]:
    """Start what the environment does not name; yield what to add to the environment."""
    wanted: dict[str, Server] = {}
    if not os.environ.get("AMQP_URL"):
        wanted["AMQP_URL"] = RabbitMQServer()
    if not os.environ.get("MONGODB_URL"):
        wanted["MONGODB_URL"] = MongoDBServer()
    environment: dict[str, str] = {}
    try:
        for server in wanted.values():
            say(f"starting {server.title}")
            server.launch()
        for variable, server in wanted.items():
            server.wait_until_ready()
            say(f"{server.title} is ready at {server.url}")
            environment[variable] = server.url
            environment[variable.replace("_URL", "_SERVER_PID")] = str(server.pid)
        yield environment
    finally:
        for server in wanted.values():
            server.close()
        if wanted:
            say("stopped")


def typed_at_our_terminal(number: signal.Signals) -> bool:
    """Whether a signal is a Ctrl-C, which the terminal has given to the command as well."""
    if number is not signal.SIGINT:
        return False
    try:
        with Path("/dev/tty").open(encoding="ascii") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def run(command: list[str]) -> int:
    """Run the command with servers around it; return its exit code."""
    with servers() as environment:
        os.environ.update(environment)
        process = Process(command)
        try:
            return process.wait()
        except Interrupted as interrupted:
            if not typed_at_our_terminal(interrupted.number):
                process.signal(interrupted.number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            raise
        finally:
            process.end()


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    for ending in ENDINGS:
        signal.signal(ending, interrupt)
    set_process_option(PR_SET_PDEATHSIG, signal.SIGTERM)  # whoever started us was killed, and nobody waits any more
    try:
        match arguments:
            case ["install"]:
                install()
                return 0
            case ["--", _, *_]:
                return run(arguments[1:])
            case _:
                print(USAGE, file=sys.stderr)
                return 2
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        return 128 + interrupted.number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
