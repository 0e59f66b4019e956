"""What the README shows is what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.processes import call, environment, serving

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
HELLO, CLIENT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_hello_example_is_the_file() -> None:
    assert (PROJECT / "examples" / "hello_sequence.py").read_text(encoding="utf-8") == HELLO


def test_the_client_example_runs_beside_callboard_dev(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "client.py").write_text(CLIENT, encoding="utf-8")
    with serving(tmp_path, "dev", "examples.hello_sequence:app"):
        done = subprocess.run(
            [sys.executable, "client.py"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[0-9a-f]{32} \['Hello Tokyo!', 'Hello London!'\]\n", done.stdout)


def test_every_link_leads_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (PROJECT / target).exists(), target


def test_every_option_exists(tmp_path: Path) -> None:
    commands = ("dev", "worker", "serve", "list", "start")
    helps = "".join(call(tmp_path, name, "--help", COLUMNS="200").stdout for name in commands)
    for option in set(re.findall(r"--[a-z]+(?:-[a-z]+)*", README)) - {"--help"}:
        assert option in helps, option
