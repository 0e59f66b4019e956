"""What every private server can do, whichever way it is run."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .process import Process, ServerError, free_port

if TYPE_CHECKING:
    from types import TracebackType

START_SECONDS = 120.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05
LOG_TAIL_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to run one server, and how to end it when a signal to the command does not do it."""

    command: list[str]
    environment: dict[str, str] | None = None
    companions: list[list[str]] = field(default_factory=list[list[str]])
    stop: list[str] | None = None
    kill: list[str] | None = None
    discard: list[str] | None = None
    inspect: list[str] | None = None  #: prints the server's process id, when the command is not the server itself


class Server(ABC):
    """A private server: its own port, its own directory, gone when we are gone.

    `stop`, `kill`, `start` and `restart` keep port and data; `close` (or leaving the `with` block) discards them.
    """

    title: str

    def __init__(self) -> None:
        """Choose a port and a directory; nothing runs yet."""
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"callboard-{self.title.lower()}-"))
        self._log = self.directory / "server.log"
        self._process: Process | None = None
        self._launched: Launch | None = None
        self._discard = weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    @abstractmethod
    def _launch(self) -> Launch:
        """Say how to run the server; called at every start."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether the server answers clients, and is ours: another may have taken the port just before."""

    @property
    def running(self) -> bool:
        """Whether the server's process runs (it may not be ready yet)."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            ServerError: if it does not run.
        """
        if self._process is None or not self._process.running:
            raise ServerError(f"{self.title} is not running.")
        if self._launched is not None and self._launched.inspect is not None:
            return int(subprocess.run(self._launched.inspect, check=True, capture_output=True, text=True).stdout)
        return self._process.pid

    @property
    def in_container(self) -> bool:
        """Whether it runs in a container rather than as a process of ours."""
        return self._launched is not None and self._launched.inspect is not None

    def launch(self) -> None:
        """Start the server's process without waiting until it is ready."""
        if self.running:
            return
        self._launched = launch = self._launch()
        self._process = Process(
            launch.command,
            environment=launch.environment,
            log=self._log,
            companions=launch.companions,
            cleanup=[launch.discard] if launch.discard else [],
            remove=self.directory,
        )

    def wait_until_ready(self) -> None:
        """Wait until the server answers clients.

        Raises:
            ServerError: if it ends or does not answer in time; the message holds the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if not self.running:
                raise ServerError(f"{self.title} ended while starting.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.title} is not ready after {START_SECONDS:.0f} s.\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def start(self) -> None:
        """Start the server and wait until it is ready; nothing if it runs."""
        self.launch()
        self.wait_until_ready()

    def stop(self) -> None:
        """Stop the server as its operator would (SIGTERM), with SIGKILL if it does not listen."""
        if self._process is None or self._launched is None:
            return
        if self._launched.stop:
            run_quietly(self._launched.stop)
        else:
            self._process.signal(signal.SIGCONT)
            self._process.signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill the server with SIGKILL: no flush, no farewell."""
        if self._process is None or self._launched is None:
            return
        if self._launched.kill:
            run_quietly(self._launched.kill)
        else:
            self._process.signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop the server and start it again with the same port and data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server and remove its data."""
        self.kill()
        if self._launched is not None and self._launched.discard:
            run_quietly(self._launched.discard)
        self._discard()

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        lines: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"--- end of {self.title}'s log", *lines[-LOG_TAIL_LINES:]])

    def __enter__(self) -> Self:
        """Start, cleaning up if that fails."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def run_quietly(command: list[str]) -> None:
    """Run a command whose failure only means that there was nothing to do."""
    subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)


def docker_works() -> bool:
    """Whether a Docker engine answers."""
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "info"], check=False, stdin=subprocess.DEVNULL, capture_output=True)
    return asked.returncode == 0


def container(image: str, name: str, options: list[str], arguments: list[str], *, exists: bool) -> Launch:
    """Run an image in the foreground, so that our guard sees its end; a second start finds the first one's data."""
    first = ["docker", "run", "--name", name, *options, image, *arguments]
    return Launch(
        command=["docker", "start", "--attach", name] if exists else first,
        stop=["docker", "stop", "-t", "20", name],
        kill=["docker", "kill", name],
        discard=["docker", "rm", "--force", "--volumes", name],
        inspect=["docker", "inspect", "--format", "{{.State.Pid}}", name],
    )
