"""`callboard dev`, and the commands that look at what it left."""

from __future__ import annotations

import json
import shlex
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from .processes import ask, call, running, serving, shop, until_true

INSTANCES = "runtime/webhooks/durabletask/instances"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shop(tmp_path)


def test_it_runs_orchestrations_and_stops_on_ctrl_c(folder: Path) -> None:
    with serving(folder, "dev", "shop:app") as (command, url):
        assert ask("POST", f"{url}/api/orchestrators/order?timeout=30", "tea") == (200, ["packed tea", "shipped tea"])
        assert command.stop(signal.SIGINT) == 0


def test_the_curl_line_that_it_prints_works(folder: Path) -> None:
    with running(folder, "dev", "shop:app", "--port", "0") as command:
        line = command.until_says(r"start one +(curl .*)").group(1)
        words = shlex.split(line.replace("/approve", "/order -d '\"tea\"'"))
        url = next(word for word in words if word.startswith("http"))
        code, links = ask("POST", url, json.loads(words[words.index("-d") + 1]))
        assert code == 202
        until_true(lambda: ask("GET", links["statusQueryGetUri"])[0] == 200)
        assert ask("GET", links["statusQueryGetUri"])[1]["output"] == ["packed tea", "shipped tea"]


def test_the_data_survive_a_restart(folder: Path) -> None:
    with serving(folder, "dev", "shop:app") as (command, url):
        assert ask("POST", f"{url}/api/orchestrators/order/done?timeout=30", "tea")[0] == 200
        assert ask("POST", f"{url}/api/orchestrators/approve/waiting")[0] == 202
        until_true(lambda: ask("GET", f"{url}/{INSTANCES}/waiting")[1]["runtimeStatus"] == "Running")
        assert command.stop() == 0
    assert (folder / ".callboard" / "callboard.db").exists()
    with serving(folder, "dev", "shop:app") as (command, url):
        assert ask("GET", f"{url}/{INSTANCES}/done")[1]["output"] == ["packed tea", "shipped tea"]
        assert ask("POST", f"{url}/{INSTANCES}/waiting/raiseEvent/approval", {"by": "Ann"})[0] == 202
        until_true(lambda: ask("GET", f"{url}/{INSTANCES}/waiting")[0] == 200)
        assert ask("GET", f"{url}/{INSTANCES}/waiting")[1]["output"] == {"by": "Ann"}
        assert command.stop() == 0


def test_what_is_under_way_may_finish(folder: Path) -> None:
    with serving(folder, "dev", "shop:app") as (command, url):
        assert ask("POST", f"{url}/api/orchestrators/tour", 1.0)[0] == 202
        until_true((folder / "begun").exists)
        assert command.stop() == 0
        assert (folder / "done").exists()


def test_a_second_ctrl_c_stops_at_once_and_the_work_is_done_again(folder: Path) -> None:
    with serving(folder, "dev", "shop:app", "--log-level", "info") as (command, url):
        assert ask("POST", f"{url}/api/orchestrators/tour/long", 3.0)[0] == 202
        until_true((folder / "begun").exists)
        command.process.send_signal(signal.SIGINT)
        command.until_says("Stopping")
        assert command.stop(signal.SIGINT) == 1
        assert not (folder / "done").exists()
    with serving(folder, "dev", "shop:app") as (command, url):
        until_true(lambda: ask("GET", f"{url}/{INSTANCES}/long")[0] == 200)
        assert (folder / "done").exists()


def test_another_hub_in_the_same_folder_is_another_world(folder: Path) -> None:
    with serving(folder, "dev", "shop:app") as (command, url):
        assert ask("POST", f"{url}/api/orchestrators/approve/one")[0] == 202
        command.stop()
    with serving(folder, "dev", "shop:app", "--hub", "second") as (command, url):
        assert ask("GET", f"{url}/{INSTANCES}/one")[0] == 404
        command.stop()


# What goes wrong


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nothing:app", "There is no module 'nothing'"),
        ("nothing.deeper:app", "There is no module 'nothing'"),
        ("shop:other", "Module 'shop' has no 'other'"),
        ("shop:not_an_app", "shop:not_an_app is a dict, not a callboard.App"),
        ("shop:App", "shop:App is the class App, not a callboard.App"),
        ("shop", "Write MODULE:ATTRIBUTE"),
        (":app", "Write MODULE:ATTRIBUTE"),
        ("shop.py:app", "Name the module instead: shop:app"),
        ("./shop.py", "Name the module instead: shop:app"),
        ("..shop:app", "cannot be imported"),
    ],
)
def test_a_wrong_target_is_explained(folder: Path, target: str, says: str) -> None:
    done = call(folder, "dev", target)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "callboard/cli" not in done.stderr
    assert not (folder / ".callboard").exists()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def f():\n    1 / 0\n\nf()\n", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError: "),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("from callboard import App\napp = App('no spaces')\n", "'no spaces' cannot name a task hub"),
        (
            "from callboard import App\napp = App('a')\n@app.activity\ndef f(*items: int) -> None: ...\n",
            "has a *items parameter",
        ),
    ],
)
def test_an_error_in_the_users_module_shows_the_users_lines_only(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    done = call(tmp_path, "dev", "broken:app")
    assert done.returncode == 2
    assert says in done.stderr
    assert "broken.py" in done.stderr
    for ours in ("callboard/cli", "importlib", "Traceback"):
        assert ours not in done.stderr


@pytest.fixture
def taken_port() -> Generator[str]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield str(other.getsockname()[1])


def test_a_port_in_use_is_explained(folder: Path, taken_port: str) -> None:
    done = call(folder, "dev", "shop:app", "--port", taken_port)
    assert done.returncode == 2
    assert done.stderr.startswith(f"callboard: Port {taken_port} of 127.0.0.1 is in use by another program.")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--allow-remote"),
        (["--host", "192.0.2.1"], "--allow-remote"),
        (["--host", "192.0.2.1", "--allow-remote"], "no address of this machine"),
        (["--host", "no such host", "--allow-remote"], "no address of this machine"),
        (["--port", "70000"], "65535"),
        (["--log-level", "loud"], "loud"),
        (["--reload"], "--reload"),
        (["--data", "/dev/null/data"], "cannot be written to"),
        (["--hub", "no spaces"], "cannot name a task hub"),
    ],
)
def test_wrong_options_are_explained(folder: Path, options: list[str], says: str) -> None:
    done = call(folder, "dev", "shop:app", "--port", "0", *options, COLUMNS="200")
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_database_is_explained(folder: Path) -> None:
    (folder / ".callboard").mkdir()
    (folder / ".callboard" / "callboard.db").write_bytes(b"not a database" * 100)
    done = call(folder, "dev", "shop:app", "--port", "0")
    assert done.returncode == 1
    assert "callboard.db" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_has_help(tmp_path: Path) -> None:
    overview = call(tmp_path, "--help")
    assert overview.returncode == 0
    for command in ("dev", "worker", "serve", "status", "history", "list", "quarantine"):
        assert command in overview.stdout
        help_text = call(tmp_path, command, "--help", COLUMNS="200")
        assert help_text.returncode == 0
        assert "--log-level" in help_text.stdout


# Looking


def test_looking_at_what_has_run(folder: Path) -> None:
    with serving(folder, "dev", "shop:app") as (command, url):
        assert ask("POST", f"{url}/api/orchestrators/order/done?timeout=30", "tea")[0] == 200
        assert ask("POST", f"{url}/api/orchestrators/approve/waiting")[0] == 202
        until_true(lambda: ask("GET", f"{url}/{INSTANCES}/waiting")[1]["runtimeStatus"] == "Running")
        looks_right(folder)  # while it runs
        assert command.stop() == 0
    looks_right(folder)


def looks_right(folder: Path) -> None:
    shown = json.loads(call(folder, "status", "done", "--json").stdout)
    assert (shown["runtimeStatus"], shown["output"]) == ("Completed", ["packed tea", "shipped tea"])
    assert "Completed" in call(folder, "status", "done").stdout

    events = json.loads(call(folder, "history", "done", "--json").stdout)
    names = [event["EventType"] for event in events if not event["EventType"].startswith("Orchestrator")]
    assert names == [
        "ExecutionStarted",
        *["TaskScheduled", "TaskCompleted"] * 2,
        "ExecutionCompleted",
    ]
    table = call(folder, "history", "done").stdout
    assert "TaskCompleted" in table
    assert "packed tea" in table

    listed = json.loads(call(folder, "list", "--json").stdout)
    assert [instance["instanceId"] for instance in listed] == ["waiting", "done"]
    only = json.loads(call(folder, "list", "--status", "running", "--name", "approve", "--json").stdout)
    assert [instance["instanceId"] for instance in only] == ["waiting"]
    assert "waiting" in call(folder, "list").stdout
    assert call(folder, "quarantine").stdout == "None.\n"
    assert json.loads(call(folder, "quarantine", "--json").stdout) == []


def test_looking_in_the_wrong_place_is_explained(folder: Path) -> None:
    done = call(folder, "status", "one")
    assert done.returncode == 2
    assert "There are no data at" in done.stderr
    assert not (folder / ".callboard").exists()
    with serving(folder, "dev", "shop:app") as (command, _):
        command.stop()
    missing = call(folder, "history", "one")
    assert (missing.returncode, missing.stderr) == (
        1,
        "callboard: No instance 'one' exists in this task hub.\n",
    )
    assert call(folder, "list", "--status", "sleeping").returncode == 2
    hubless = call(folder, "list", "--store", "sqlite:///x.db")
    assert (hubless.returncode, "--hub NAME" in hubless.stderr) == (2, True)
    assert not (folder / "x.db").exists()
