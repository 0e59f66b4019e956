"""Spans that are under way, as light as they can be: for the runtime's own, of which there are many."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from opentelemetry.sdk.trace import Event
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util import types

from callboard.core.failure import FailureDetails
from callboard.core.spans import Attributes
from callboard.telemetry.contexts import failure_attributes


class LiveSpan(Span):
    """A span that the user's code may add to, as to any other.

    Args:
        ended: Takes it when it has ended.
    """

    __slots__ = (
        "_ended", "attributes", "context", "end_time", "events", "given", "kind", "links", "name", "parent", "start_time", "status",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: Attributes,
        ended: Callable[[LiveSpan], None],
    ) -> None:
        self.name = name
        self.kind = kind
        self.context = context
        self.parent = parent
        self.given = attributes
        """The runtime's own attributes; those of the user's code are apart."""
        self.attributes: dict[str, types.AttributeValue] | None = None
        self.events: list[Event] | None = None
        self.links: list[Link] | None = None
        self.status: Status | None = None
        self.start_time = time.time_ns()
        self.end_time = 0
        self._ended: Callable[[LiveSpan], None] | None = ended

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return self._ended is not None

    def set_attribute(self, key: str, value: types.AttributeValue) -> None:
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, types.AttributeValue]) -> None:
        self.attributes = {**(self.attributes or {}), **attributes}

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        self.events = [*(self.events or ()), Event(name, attributes, timestamp)]

    def add_link(self, context: SpanContext, attributes: types.Attributes = None) -> None:
        self.links = [*(self.links or ()), Link(context, attributes)]

    def update_name(self, name: str) -> None:
        self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self.status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - the API's signature
    ) -> None:
        told = failure_attributes(FailureDetails.from_exception(exception))
        self.add_event("exception", {**told, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self.end_time = end_time or time.time_ns()
            ended(self)
