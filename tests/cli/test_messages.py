"""`callboard send`, `ask` and `query`, as a person runs them."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from tests.cli.processes import call, serving
from tests.test_messages_page import blocks


def test_talking_to_an_instance(tmp_path: Path) -> None:
    (tmp_path / "theatre.py").write_text(blocks()[0], encoding="utf-8")
    with serving(tmp_path, "dev", "theatre:app") as (_, url):
        request = urllib.request.Request(
            f"{url}/api/orchestrators/box_office/office", b"3", {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()
        sold = call(tmp_path, "ask", "office", "sell", "2", "--id", "once")
        assert (sold.returncode, json.loads(sold.stdout)) == (0, "2 seats booked"), sold.stderr
        assert json.loads(call(tmp_path, "ask", "office", "sell", "2", "--id", "once").stdout) == "2 seats booked"
        assert json.loads(call(tmp_path, "query", "office", "free").stdout) == 1
        refused = call(tmp_path, "ask", "office", "sell", "2")
        assert (refused.returncode, "only 1 seats are free" in refused.stderr) == (1, True)
        wrong = call(tmp_path, "send", "office", "sell", "two")
        assert (wrong.returncode, "DATA is not JSON" in wrong.stderr) == (2, True)
        nobody = call(tmp_path, "send", "nobody", "close")
        assert (nobody.returncode, "No instance 'nobody'" in nobody.stderr) == (1, True)
        assert call(tmp_path, "send", "office", "close").returncode == 0
        assert json.loads(call(tmp_path, "query", "office", "free").stdout) == 1
    late = call(tmp_path, "query", "office", "free", "--timeout", "0.2")
    assert (late.returncode, "Is a worker running?" in late.stderr) == (1, True)


def test_servers_need_both_urls(tmp_path: Path) -> None:
    done = call(tmp_path, "ask", "a", "b", "--store", "sqlite:///x.db", "--hub", "h")
    assert (done.returncode, "--broker URL" in done.stderr) == (2, True)
