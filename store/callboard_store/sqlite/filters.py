"""What people look for, as conditions on records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from callboard.ports import EntityFilter, InstanceFilter
from callboard_store.rules import parse_continuation, parse_entity_continuation, prefix_end
from callboard_store.sqlite.tables import json, text

#: A condition and its values. What people give is only ever a value.
Term: TypeAlias = tuple[str, tuple[object, ...]]

_NO_ENTITY: Final[Term] = ("(instance_id < '@' OR instance_id >= 'A')", ())
_MOMENT: Final = "strftime('%Y-%m-%dT%H:%M:%f', {})"
_LAST_OPERATION: Final = _MOMENT.format("json_extract(record, '$.entity.lastOperation')")
_UPDATED: Final = _MOMENT.format("json_extract(record, '$.lastUpdatedTime')")
_TAG: Final = "EXISTS (SELECT 1 FROM json_each(record, '$.tags') WHERE key = ? AND value = ?)"
_CUSTOM_STATUS: Final = """json_type(json_extract(record, '$.customStatus')) = 'object' AND EXISTS (
    SELECT 1 FROM json_each(json_extract(record, '$.customStatus'))
    WHERE key = ? AND type IN (SELECT value FROM json_each(?)) AND atom IS ?)"""


def condition(which: InstanceFilter, token: str | None) -> tuple[str, list[object]]:
    """The WHERE clause of a query, and its values."""
    terms: list[Term] = [("expires IS NULL", ()), _NO_ENTITY, *_what(which), *_when(which)]
    if token is not None:
        created, instance_id = parse_continuation(token)
        terms.append(("(created_time, instance_id) < (?, ?)", (text(created), instance_id)))
    return " AND ".join(term for term, _ in terms), [value for _, values in terms for value in values]


def entity_condition(which: EntityFilter, token: str | None) -> tuple[str, list[object]]:
    """The WHERE clause of a query of entities, and its values."""
    prefix = which.id_prefix
    terms: list[Term] = [
        ("expires IS NULL", ()),
        ("instance_id >= ? AND instance_id < ?", (prefix, prefix_end(prefix))),
    ]
    if token is not None:
        terms.append(("instance_id > ?", (parse_entity_continuation(token),)))
    if not which.include_transient:
        terms.append(("json_extract(record, '$.entity.state') IS NOT NULL", ()))
    if which.last_operation_from:
        terms.append((f"{_LAST_OPERATION} >= {_MOMENT.format('?')}", (text(which.last_operation_from),)))
    if which.last_operation_to:
        terms.append((f"{_LAST_OPERATION} <= {_MOMENT.format('?')}", (text(which.last_operation_to),)))
    return " AND ".join(term for term, _ in terms), [value for _, values in terms for value in values]


def _what(which: InstanceFilter) -> Iterator[Term]:
    if which.statuses:
        yield "runtime_status IN (SELECT value FROM json_each(?))", (json(which.statuses),)
    if which.names:
        yield "name IN (SELECT value FROM json_each(?))", (json(which.names),)
    if which.id_prefix:
        yield "instance_id >= ?", (which.id_prefix,)
        if (end := prefix_end(which.id_prefix)) is not None:
            yield "instance_id < ?", (end,)
    if which.parked is not None:
        yield "parked = ?", (which.parked,)
    if which.parent_id:
        yield "parent = ?", (which.parent_id,)
    for name, tag in which.tags.items():
        yield _TAG, (name, tag)
    for name, value in which.custom_status.items():
        kinds, atom = _json_atom(value)
        yield _CUSTOM_STATUS, (name, json(kinds), atom)


def _when(which: InstanceFilter) -> Iterator[Term]:
    if which.created_from:
        yield "created_time >= ?", (text(which.created_from),)
    if which.created_to:
        yield "created_time <= ?", (text(which.created_to),)
    if which.updated_from:
        yield f"{_UPDATED} >= {_MOMENT.format('?')}", (text(which.updated_from),)
    if which.updated_to:
        yield f"{_UPDATED} <= {_MOMENT.format('?')}", (text(which.updated_to),)


def _json_atom(value: str | float | None) -> tuple[list[str], str | float | None]:
    """How ``json_each`` tells a plain value: its types, and what it is to SQL."""
    match value:
        case None:
            return ["null"], None
        case bool():
            return [str(value).lower()], int(value)
        case str():
            return ["text"], value
        case _:
            return ["integer", "real"], value
