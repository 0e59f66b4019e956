"""Spans that arrived somewhere, as the trees that a person sees in Jaeger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

#: What the runtime's times, which are whole milliseconds, may differ by from those of a finer clock, in nanoseconds.
MILLISECOND = 1_000_000


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A span as it arrived. Times are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    error: str | None = None
    """The description of its status, if that is an error."""
    events: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    """Trace and span ids."""
    resource: Mapping[str, Any] = {}

    @property
    def label(self) -> str:
        """Kind and name, its status, and whether it failed."""
        status = self.attributes.get("durabletask.task.status", "")
        return " ".join(part for part in (self.kind, self.name, status, "ERROR" if self.error else "") if part)


class Forest:
    """All spans of some traces. A span that arrived more than once under its id counts once."""

    def __init__(self, spans: Iterable[Seen]) -> None:
        self.arrived = list(spans)
        self.spans: dict[str, Seen] = {span.span_id: span for span in self.arrived}
        self._children: dict[str | None, list[Seen]] = defaultdict(list)
        for span in sorted(self.spans.values(), key=lambda span: (span.start, span.end, span.label)):
            self._children[span.parent_id].append(span)

    @property
    def orphans(self) -> list[Seen]:
        """Spans whose parent is nowhere: what Jaeger warns of."""
        return [span for span in self.spans.values() if span.parent_id is not None and span.parent_id not in self.spans]

    @property
    def repeated(self) -> list[str]:
        """Labels of spans that arrived more than once."""
        ids = [span.span_id for span in self.arrived]
        return [self.spans[each].label for each in self.spans if ids.count(each) > 1]

    def shown(self, *, by_name: bool = False, under: str | None = None) -> str:
        """Each span in a line, under its parent, in order of time or of name; all of them, or only those from one name on."""
        assert not self.orphans, f"without parents: {[span.label for span in self.orphans]}"
        traces = {span.trace_id for span in self.spans.values()}
        assert len(traces) == 1, f"{len(traces)} traces"
        roots = self._children[None] if under is None else self.named(under)
        return "\n".join(line for root in roots for line in self._lines(root, 0, by_name=by_name))

    def named(self, name: str, kind: str | None = None) -> list[Seen]:
        return [span for span in self.spans.values() if span.name == name and kind in (None, span.kind)]

    def _lines(self, span: Seen, depth: int, *, by_name: bool) -> Iterable[str]:
        yield "  " * depth + span.label
        children = self._children[span.span_id]
        for child in sorted(children, key=lambda child: child.label) if by_name else children:
            assert child.start > span.start - MILLISECOND, f"{child.label} begins before {span.label}"
            yield from self._lines(child, depth + 1, by_name=by_name)


def tree(text: str) -> str:
    """A tree as it is written in a test."""
    lines = [line for line in text.splitlines() if line.strip()]
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(line[margin:].rstrip() for line in lines)


def by_trace(spans: Sequence[Seen]) -> dict[str, Forest]:
    """The spans of each trace."""
    traces: dict[str, list[Seen]] = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    return {trace_id: Forest(each) for trace_id, each in traces.items()}
