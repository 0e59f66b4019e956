"""What a client sees of an instance."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from callboard.codecs.showing import shown
from callboard.core.codec import JSON, Codec, custom_status_place, input_place, output_place
from callboard.core.events import TERMINAL, RuntimeStatus
from callboard.core.failure import FailureDetails
from callboard.core.instances import InstanceRecord, Parked


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An instance, as its record shows it."""

    instance_id: str
    name: str
    runtime_status: RuntimeStatus
    input: Any
    output: Any
    custom_status: Any
    created_time: datetime
    last_updated_time: datetime
    completed_time: datetime | None
    execution_id: str
    version: str | None
    tags: dict[str, str]
    failure: FailureDetails | None
    parent_instance_id: str | None
    parked: Parked | None

    @property
    def is_terminal(self) -> bool:
        return self.runtime_status in TERMINAL

    @classmethod
    def of(cls, record: InstanceRecord, codec: Codec = JSON) -> InstanceStatus:
        """What a record says; of values that are no JSON, or that the codec cannot open, how they are encoded."""
        instance_id, execution_id = record.instance_id, record.execution_id
        return cls(
            instance_id=record.instance_id,
            name=record.name,
            runtime_status=record.runtime_status,
            input=shown(codec, record.input, input_place(instance_id, execution_id)),
            output=shown(codec, record.output, output_place(instance_id, execution_id, record.parent)),
            custom_status=shown(codec, record.custom_status, custom_status_place(instance_id)),
            created_time=record.created_time,
            last_updated_time=record.last_updated_time,
            completed_time=record.completed_time,
            execution_id=record.execution_id,
            version=record.version,
            tags=record.tags or {},
            failure=record.failure,
            parent_instance_id=record.parent.instance_id if record.parent else None,
            parked=record.parked,
        )


class InstancesPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some instances, newest first, and where the next page begins (None on the last)."""

    instances: tuple[InstanceStatus, ...]
    continuation: str | None
