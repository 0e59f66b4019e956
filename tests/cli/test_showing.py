"""Tables: what an instance holds is shown, not obeyed."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from callboard.cli.showing import history_table, instances_table, quarantine_table, quarantined_json, status_table
from callboard.core.instances import InstanceRecord, Parked
from callboard.ports import Quarantined

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVIL = "\x1b[31m\x9b2J[bold]x[/bold]"


def printed(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=300, force_terminal=True, color_system=None).print(table)
    return stream.getvalue()


def test_values_neither_style_nor_move_the_terminal() -> None:
    record = InstanceRecord(
        instance_id=EVIL,
        partition=0,
        execution_id="e",
        name=EVIL,
        input=EVIL,
        output=EVIL,
        created_time=NOW,
        last_updated_time=NOW,
        parked=Parked(reason=EVIL, at=NOW),
    )
    event = {
        "EventType": "TaskFailed",
        "EventId": -1,
        "Timestamp": "t",
        "Failure": {"errorType": "E", "errorMessage": EVIL},
    }
    message = Quarantined(id="1", at=NOW, source="x", reason=EVIL, body=EVIL.encode(), headers={})
    for table in (
        status_table(record),
        instances_table([record], more=True),
        history_table([event]),
        quarantine_table([message]),
    ):
        text = printed(table)
        assert "[bold]x[/bold]" in text
        assert "\\x1b" in text
        assert "\x1b[31m" not in text
        assert "\x9b" not in text


def test_bodies_that_are_no_text_are_shown_as_base64() -> None:
    message = Quarantined(id="1", at=NOW, source="x", reason="y", body=b"\xff\xfe", headers={})
    assert quarantined_json([message])[0]["bodyBase64"] == "//4="
