"""What a trigger is, and what it sees of a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from callboard.errors import RegistrationError


class TriggerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a trigger has received."""

    id: str | None
    """The message id; of a CloudEvent, ``id`` and ``source`` in one."""
    data: str | None
    """The body, or a CloudEvent's data: JSON text."""
    headers: Mapping[str, str]
    """By their names in lower case; of a CloudEvent, its attributes as well."""
    correlation_id: str | None = None

    def value(self) -> Any:
        """The data, decoded."""
        return None if self.data is None else msgspec.json.decode(self.data)


#: Where the instance id comes from: ``message_id``, ``correlation_id``, ``header:NAME``, ``body:PATH`` (a dotted path), or a function.
IdSource: TypeAlias = str | Callable[[TriggerMessage], str]


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """What one queue's messages do."""

    queue: str
    orchestration: str | None = None
    """What to start."""
    event: str | None = None
    """Or, what to raise on an instance that is there."""
    instance_id: IdSource = "message_id"
    exchange: str = ""
    keys: tuple[str, ...] = ()
    prefetch: int = 100
    at_least_once: bool = False

    def __post_init__(self) -> None:
        if (self.orchestration is None) == (self.event is None):
            raise RegistrationError("A trigger starts an orchestration or raises an event: say which, and not both.")
        if self.event is not None and self.instance_id == "message_id":
            raise RegistrationError(
                "A trigger that raises an event needs instance_id: 'header:NAME', 'body:PATH' or a function."
            )
        known = self.instance_id in ("message_id", "correlation_id") or not isinstance(self.instance_id, str)
        if not known and not str(self.instance_id).startswith(("header:", "body:")):
            raise RegistrationError(
                f"{self.instance_id!r} is no source of instance ids: use 'message_id', 'correlation_id', 'header:NAME', 'body:PATH' or "
                "a function."
            )
        if self.prefetch < 1:
            raise RegistrationError("prefetch must be at least 1.")
