"""Tables for people and JSON for programs. What instances hold is data: it styles nothing and moves no cursor."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from callboard.client import EntityMetadata
from callboard.client.explaining import Explanation
from callboard.core.folding import EventJson, timestamp
from callboard.core.instances import InstanceRecord
from callboard.ports import HubView, Quarantined

#: How much of a value fits in a row of a list, in characters.
_EXCERPT = 60
#: Width of a table that goes into a file or a pipe.
_PIPE_WIDTH = 160

_COLOURS = {"Completed": "green", "Failed": "red", "Terminated": "red", "Suspended": "yellow", "Pending": "cyan"}
#: Fields of events that a person does not look for.
_PLUMBING = {"EventType", "EventId", "Timestamp", "MessageId", "ExecutionId", "Seen", "Generation", "Parent", "Queue"}


def print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def console() -> Console:
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PIPE_WIDTH)


def print_table(table: Table) -> None:
    console().print(table if table.row_count else "None.")


def explanation_table(explanation: Explanation) -> Table:
    """Why an instance is where it is, a row for each reason."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row(Text(""), _text(f"{explanation.name} {explanation.instance_id} is {explanation.runtime_status}."))
    for reason in explanation.reasons:
        table.add_row(
            Text("!" if reason.trouble else "·", style="yellow" if reason.trouble else "dim"), _text(reason.text)
        )
    return table


def counts_table(counts: Mapping[str, int]) -> Table:
    """Numbers of instances, a row for each status."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for status, number in sorted(counts.items()):
        table.add_row(Text(status, style=_COLOURS.get(status, "")), Text(f"{number:,}", justify="right"))
    return table


def hub_table(view: HubView) -> Table:
    """A hub's workers with their partitions, and the partitions that nobody owns."""
    owned: dict[str | None, list[int]] = {}
    for lease in view.leases:
        owned.setdefault(None if lease.expired else lease.owner, []).append(lease.partition)
    table = Table("worker", "where", "since", "partitions", "activity queues")
    for worker in view.workers:
        mine = owned.pop(worker.worker_id, [])
        table.add_row(
            _text(worker.worker_id),
            _text(f"{worker.host}, pid {worker.pid}"),
            _text(_shown(worker.started)),
            _text(_ranges(mine) if worker.orchestrations else "activities only"),
            _text(", ".join(worker.queues)),
        )
    unowned = sorted(number for numbers in owned.values() for number in numbers)
    if unowned:
        table.add_row(Text("nobody", style="yellow"), "", "", _text(_ranges(unowned)), "")
    return table


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, runs of them shortened: 0-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def status_table(record: InstanceRecord, explanation: Explanation | None = None) -> Table:
    """One instance, a row for each field, and for each reason why it does not go on."""
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
    rows.extend(("", _text(reason.text)) for reason in (explanation.reasons if explanation else ()))
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


def entity_table(entity: EntityMetadata) -> Table:
    """One entity, a row for each field."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    failure, last = entity.last_failure, entity.last_operation_time
    rows: list[tuple[str, str | None]] = [
        ("entity", str(entity.entity_id)),
        ("state", _json(entity.state) if entity.exists else "none"),
        ("last operation", _shown(last) if last is not None else None),
        ("waiting", str(entity.backlog_queue_size)),
        ("locked by", entity.locked_by),
        ("last failure", f"{failure.error_type}: {failure.error_message}" if failure is not None else None),
        ("parked", entity.parked.reason if entity.parked is not None else None),
    ]
    for name, value in rows:
        if value is not None:
            table.add_row(Text(name, style="dim"), _text(value))
    return table


def entities_table(entities: Sequence[EntityMetadata], *, more: bool) -> Table:
    """Entities, a row for each."""
    caption = "There are more: --top N shows more of them." if more else None
    table = Table("entity", "last operation", "waiting", "locked by", "state", caption=caption)
    for entity in entities:
        last = entity.last_operation_time
        table.add_row(
            _text(str(entity.entity_id)),
            _text(_shown(last) if last is not None else ""),
            str(entity.backlog_queue_size or ""),
            _text(entity.locked_by),
            _text(_excerpt(_json(entity.state)) if entity.exists else "none"),
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
