"""`make demo`'s script, from end to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"


def test_the_demo_shows_the_classic_answer_and_its_history(tmp_path: Path) -> None:
    done = subprocess.run(  # from anywhere, and leaving nothing behind
        [sys.executable, str(DEMO)], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in (
        "Hello Tokyo!",
        "Hello Seattle!",
        "Hello London!",
        '"runtimeStatus": "Completed"',
        "ExecutionStarted",
    ):
        assert shown in done.stdout
    assert done.stdout.count("TaskCompleted") == 3
    assert "stopped cleanly" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_demo_fails_when_the_answer_is_wrong(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "examples").mkdir(parents=True)
    example = (DEMO.parent / "hello_sequence.py").read_text(encoding="utf-8")
    (project / "examples" / "hello_sequence.py").write_text(example.replace("Hello {city}!", "Bye"), encoding="utf-8")
    (project / "examples" / "demo.py").write_text(DEMO.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(project / "examples" / "demo.py")],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 1
    assert "The demo failed" in done.stdout
