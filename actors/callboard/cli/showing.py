"""Tables for people and JSON for programs. What instances hold is data: it styles nothing and moves no cursor."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from callboard.core.folding import EventJson, timestamp
from callboard.core.instances import InstanceRecord
from callboard.ports import Quarantined

#: How much of a value fits in a row of a list, in characters.
_EXCERPT = 60
#: Width of a table that goes into a file or a pipe.
_PIPE_WIDTH = 160

_COLOURS = {"Completed": "green", "Failed": "red", "Terminated": "red", "Suspended": "yellow", "Pending": "cyan"}
#: Fields of events that a person does not look for.
_PLUMBING = {"EventType", "EventId", "Timestamp", "MessageId", "ExecutionId", "Seen", "Generation", "Parent", "Queue"}


def print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_table(table: Table) -> None:
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PIPE_WIDTH)
    console.print(table if table.row_count else "None.")


def status_table(record: InstanceRecord) -> Table:
    """One instance, a row for each field."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows: list[tuple[str, Text]] = [
        ("instance", _text(record.instance_id)),
        ("orchestration", _text(record.name)),
        ("status", _status(record)),
        ("input", _text(record.input)),
        ("custom status", _text(record.custom_status)),
        ("output", _text(record.output)),
        ("created", _text(_shown(record.created_time))),
        ("last updated", _text(_shown(record.last_updated_time))),
    ]
    if record.version is not None:
        rows.insert(2, ("version", _text(record.version)))
    if record.parent is not None:
        rows.append(("parent", _text(record.parent.instance_id)))
    if record.parked is not None:
        rows.append((f"parked since {_shown(record.parked.at)}", _text(record.parked.reason)))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), value)
    return table


def instances_table(records: Sequence[InstanceRecord], *, more: bool) -> Table:
    """Instances, a row for each."""
    caption = "There are more: --top N shows more of them." if more else None
    table = Table("instance", "orchestration", "status", "created", "last updated", "output", caption=caption)
    for record in records:
        table.add_row(
            _text(record.instance_id),
            _text(record.name),
            _status(record),
            _text(_shown(record.created_time)),
            _text(_shown(record.last_updated_time)),
            _text(_excerpt(record.output or "")),
        )
    return table


def history_table(events: Iterable[EventJson]) -> Table:
    """Events, a row for each; the frames of turns are left out."""
    table = Table("time", "event", "#", "what")
    for event in events:
        if event["EventType"] in ("OrchestratorStarted", "OrchestratorCompleted"):
            continue
        number = event.get("TaskScheduledId", event.get("TimerId", event["EventId"]))
        table.add_row(
            _text(str(event["Timestamp"])),
            _text(str(event["EventType"])),
            "" if number == -1 else str(number),
            _text(_details(event)),
        )
    return table


def quarantine_table(messages: Sequence[Quarantined]) -> Table:
    """Messages that nobody understood."""
    table = Table("time", "read from", "why", "begins with")
    for message in messages:
        body = message.body[:_EXCERPT].decode(errors="replace")
        table.add_row(_text(_shown(message.at)), _text(message.source), _text(message.reason), _text(body))
    return table


def quarantined_json(messages: Sequence[Quarantined]) -> list[dict[str, Any]]:
    """The same for programs, whole: a body that is no text in Base64."""
    return [
        {
            "id": message.id,
            "at": timestamp(message.at),
            "source": message.source,
            "reason": message.reason,
            "headers": message.headers,
            **_body(message.body),
        }
        for message in messages
    ]


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(body).decode()}


def _details(event: EventJson) -> str:
    shown = {name: value for name, value in event.items() if name not in _PLUMBING and value is not None}
    shown.pop("TaskScheduledId", None)
    shown.pop("TimerId", None)
    if isinstance(failure := shown.get("Failure"), dict):
        shown["Failure"] = f"{failure['errorType']}: {failure['errorMessage']}"
    return "  ".join(
        f"{name}={_excerpt(value if isinstance(value, str) else _json(value))}" for name, value in shown.items()
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _status(record: InstanceRecord) -> Text:
    parked = f" ({record.parked.kind})" if record.parked is not None else ""
    return Text(record.runtime_status + parked, style=_COLOURS.get(record.runtime_status, ""))


def _shown(moment: datetime) -> str:
    return timestamp(moment)


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def _text(value: str | None) -> Text:
    """Someone's value, without what a terminal would obey."""
    shown = "".join(c if c.isprintable() or c in "\n " else f"\\x{ord(c):02x}" for c in value or "")
    return Text(shown, overflow="fold")
