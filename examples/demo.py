"""What `make demo` shows: the server of `callboard dev`, a real request, the status to its end, and the history.

Everything goes over HTTP, as from any program: start, look, look again, done. The data go to a folder that is removed again.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.json import JSON
from rich.table import Table

PROJECT = Path(__file__).resolve().parent.parent
CITIES = ["Tokyo", "Seattle", "London"]
EXPECTED = ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]
DEADLINE_SECONDS = 60.0

console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)


class DemoError(Exception):
    """Something is off."""


def main() -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="callboard-demo-") as folder, server(folder) as url:
            show(run_hello_sequence(url))
    except DemoError as error:
        console.print(f"The demo failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(
        "The server has stopped cleanly. Next: README.md, or [bold].venv/bin/callboard dev examples.hello_sequence:app[/bold]"
    )
    return 0


@contextlib.contextmanager
def server(folder: str) -> Generator[str]:
    """Run `callboard dev` on a free port for as long as the block lasts; yield its URL once it is ready."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["callboard", "dev", "examples.hello_sequence:app", "--port", str(port)]
    console.print(f"$ {' '.join(command)}", style="bold", markup=False)
    with (Path(folder) / "log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "callboard.cli", *command[1:], "--data", folder],
            cwd=PROJECT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_ready(url, process)
            yield url
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DEADLINE_SECONDS)
            if process.returncode != 0:
                raise DemoError(f"the server did not stop cleanly (exit code {process.returncode}).")
        except DemoError:
            log.seek(0)
            console.print(log.read(), style="dim", markup=False)
            raise
        finally:
            process.kill()
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while True:
        if process.poll() is not None:
            raise DemoError(f"the server ended at once, with exit code {process.returncode}.")
        with contextlib.suppress(OSError):
            if request("GET", f"{url}/readyz")[0] == 200:
                return
        if time.monotonic() > until:
            raise DemoError(f"the server was not ready within {DEADLINE_SECONDS:g} s.")
        time.sleep(0.05)


def run_hello_sequence(url: str) -> dict[str, Any]:
    """Start hello_sequence and follow its status to the end; return that with the history."""
    start = f"{url}/api/orchestrators/hello_sequence"
    console.print(f"POST {start}\n     {json.dumps(CITIES)}", style="bold", markup=False)
    code, links = request("POST", start, CITIES)
    if code != 202:
        raise DemoError(f"the start was answered with {code}: {links}")
    status_url = links["statusQueryGetUri"]
    console.print(f"GET  {status_url}", style="bold", markup=False)
    until = time.monotonic() + DEADLINE_SECONDS
    while (answer := request("GET", status_url))[0] == 202:
        if time.monotonic() > until:
            raise DemoError(f"not done within {DEADLINE_SECONDS:g} s: {answer[1]}")
        time.sleep(0.05)
    code, status = answer
    console.print(JSON(json.dumps(status)))
    if code != 200 or status["runtimeStatus"] != "Completed" or status["output"] != EXPECTED:
        raise DemoError(f"Completed with {EXPECTED} was expected.")
    payload: dict[str, Any] = request("GET", f"{status_url}&showHistory=true&showHistoryOutput=true")[1]
    return payload


def show(status: dict[str, Any]) -> None:
    """Print the history as a table."""
    table = Table("time", "event", "function", "input", "result", title="Its history", title_justify="left")
    for event in status["historyEvents"]:
        result = event.get("Result")
        table.add_row(
            event["Timestamp"].partition("T")[2].rstrip("Z"),
            event["EventType"],
            event.get("FunctionName", ""),
            event.get("Input", ""),
            "" if result is None else json.dumps(result),
        )
    console.print(table)
    names = [event["EventType"] for event in status["historyEvents"]]
    if names != ["ExecutionStarted", *["TaskCompleted"] * len(CITIES), "ExecutionCompleted"]:
        raise DemoError(f"the history is not as expected: {names}")


def request(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """Make an HTTP request; return the status code and the JSON of the answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, data=data, method=method, headers=headers)  # noqa: S310 - our own server's URL
    try:
        with opener.open(asked, timeout=DEADLINE_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


#: Straight to our server, whatever proxy the environment names.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
