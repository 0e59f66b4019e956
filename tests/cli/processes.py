"""Commands as a person runs them: real processes, signals and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

DEADLINE = 60.0
CALLBOARD = [sys.executable, "-m", "callboard.cli"]

SHOP = """
import asyncio
from pathlib import Path

from callboard import App, OrchestrationContext

app = App("shop", partitions=4)
not_an_app = {"app": app}


@app.activity
async def pack(item: str) -> str:
    return f"packed {item}"


@app.activity(queue="trucks")
def ship(item: str) -> str:
    return f"shipped {item}"


@app.activity
async def slowly(seconds: float) -> None:
    Path("begun").touch()
    await asyncio.sleep(seconds)
    Path("done").touch()


@app.entity
class Counter:
    value: int = 0

    def add(self, amount: int) -> None:
        self.value += amount


@app.orchestration
async def order(context: OrchestrationContext, item: str) -> list[str]:
    return [await context.call_activity(pack, item), await context.call_activity(ship, item)]


@app.orchestration
async def approve(context: OrchestrationContext) -> object:
    return await context.wait_for_external_event("approval")


@app.orchestration
async def tour(context: OrchestrationContext, seconds: float) -> None:
    await context.call_activity(slowly, seconds)
"""


def shop(folder: Path) -> Path:
    """Writes a module `shop` with an App; returns the folder."""
    (folder / "shop.py").write_text(SHOP, encoding="utf-8")
    return folder


def environment(**more: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}, **more}


def call(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [*CALLBOARD, *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


class Running:
    """A command that stays up."""

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        self.process = subprocess.Popen(
            [*CALLBOARD, *arguments],
            cwd=folder,
            env=environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def until_says(self, pattern: str) -> re.Match[str]:
        """Waits for a line with that in it."""
        until = time.monotonic() + DEADLINE
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"never said {pattern!r}, but:\n{self.output}") from None
            self.output += line
            if found := re.search(pattern, line):
                return found
            if not line:
                raise AssertionError(f"ended without saying {pattern!r}, but:\n{self.output}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def end(self) -> None:
        """Makes sure that it has ended, with whatever it started."""
        children = self.children()
        self.process.kill()
        self.process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._reader.join()

    def children(self) -> set[int]:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return {int(line) for line in found.stdout.split()}


@contextlib.contextmanager
def running(folder: Path, *arguments: str, **more: str) -> Generator[Running]:
    """A command for as long as the block lasts."""
    command = Running(folder, *arguments, **more)
    try:
        yield command
    finally:
        command.end()


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, **more: str) -> Generator[tuple[Running, str]]:
    """`dev` or `serve` on a free port, and its URL, once it is ready."""
    with running(folder, *arguments, "--port", "0", **more) as command:
        url = command.until_says(r"(http://[\w.\[\]:]+:\d+)").group(1)
        until_true(lambda: ask("GET", f"{url}/readyz")[0] == 200)
        yield command, url


def ask(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """Makes an HTTP request; status code and JSON of the answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with _opener.open(request, timeout=DEADLINE) as answer:
            content = answer.read()
            return answer.status, json.loads(content) if content else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def until_true(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until, "did not come true"
        time.sleep(0.02)
