"""An instance as JSON, in the form of Durable Functions' status payload: for the HTTP API and the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from callboard.client import InstanceStatus
from callboard.core.folding import EventJson


def instance_json(
    status: InstanceStatus, *, show_input: bool = True, history: list[EventJson] | None = None
) -> dict[str, Any]:
    """An instance as ``GET /instances/{id}`` shows it; what Durable Functions does not have is there only if it is so."""
    payload: dict[str, Any] = {
        "name": status.name,
        "instanceId": status.instance_id,
        "runtimeStatus": status.runtime_status,
        "input": status.input if show_input else None,
        "customStatus": status.custom_status,
        "output": status.output,
        "createdTime": seconds(status.created_time),
        "lastUpdatedTime": seconds(status.last_updated_time),
    }
    if status.version is not None:
        payload["version"] = status.version
    if (parked := status.parked) is not None:  # further lines say where the code was: see `folding`
        reason = parked.reason.partition("\n")[0]
        payload["parked"] = {"kind": parked.kind, "reason": reason, "since": seconds(parked.at)}
    return payload if history is None else {**payload, "historyEvents": history}


def seconds(moment: datetime) -> str:
    """A time as Durable Functions writes it, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
