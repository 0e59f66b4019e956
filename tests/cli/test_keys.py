"""Keys in the environment of the commands."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.cli.processes import ask, call, serving

SECRET = base64.b64encode(b"s" * 32).decode()
APP = """
from callboard import App, OrchestrationContext

app = App("letters", encrypt=True)


@app.orchestration
async def keep(context: OrchestrationContext, text: str) -> str:
    return f"{text}, kept"
"""


def test_encrypted_values_are_shown_with_the_keys_and_only_with_them(tmp_path: Path) -> None:
    (tmp_path / "letters.py").write_text(APP)
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\none:{SECRET}\n")
    with serving(tmp_path, "dev", "letters:app", CALLBOARD_KEYS_FILE=str(keys)) as (_, url):
        code, answer = ask("POST", f"{url}/api/orchestrators/keep/a?timeout=30", "a letter")
        assert (code, answer) == (200, "a letter, kept")
        shown = ask("GET", f"{url}/runtime/webhooks/durabletask/instances/a?showHistory=true&showHistoryOutput=true")[1]
        assert shown["input"] == "a letter"
        assert shown["historyEvents"][-1]["Result"] == "a letter, kept"
    for arguments in (("status", "a"), ("history", "a"), ("list",)):
        with_keys = call(tmp_path, *arguments, CALLBOARD_KEYS=f"one:{SECRET}").stdout
        assert "a letter, kept" in with_keys
        without = call(tmp_path, *arguments)
        assert without.returncode == 0, without.stderr
        assert "letter" not in without.stdout.replace("letters", "")


def test_wrong_keys_are_an_error_that_does_not_show_them(tmp_path: Path) -> None:
    (tmp_path / "letters.py").write_text(APP)
    for keys, says in (
        (f"one={SECRET}", "entry 1 is not id:base64"),
        (f"one:{SECRET[:8]}", "at least 32"),
        ("", "needs keys"),
    ):
        done = call(tmp_path, "dev", "letters:app", "--port", "0", CALLBOARD_KEYS=keys)
        assert done.returncode != 0
        assert says in done.stderr
        assert SECRET[:8] not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
