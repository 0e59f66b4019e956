"""What people look for, as conditions on records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from callboard.ports import EntityFilter, InstanceFilter
from callboard_store.documents import PURGED, Document
from callboard_store.rules import parse_continuation, parse_entity_continuation, prefix_end

#: The ids of entities, in the order of ids: what begins with an @. What is not one of them is two ranges of an index.
_ENTITIES: Final[Document] = {"_id": {"$gte": "@", "$lt": "A"}}


def condition(which: InstanceFilter, token: str | None) -> Document:
    """The filter of a query. What people give is only ever a value in it, never an operator."""
    found: Document = {"runtimeStatus": {"$ne": PURGED}, "$nor": [_ENTITIES]}
    if which.statuses:
        found["runtimeStatus"] = {"$in": [status for status in which.statuses if status != PURGED]}
    if which.names:
        found["name"] = {"$in": list(which.names)}
    if which.parked is not None:
        found["parked"] = {"$exists": which.parked}
    if which.id_prefix:
        end = prefix_end(which.id_prefix)
        found["_id"] = {"$gte": which.id_prefix, **({"$lt": end} if end else {})}
    if which.parent_id:
        found["parent.instanceId"] = {"$eq": which.parent_id}
    created: dict[str, Any] = {}
    if which.created_from:
        created["$gte"] = which.created_from
    if which.created_to:
        created["$lte"] = which.created_to
    updated = {"$gte": which.updated_from, "$lte": which.updated_to}
    if bounds := {operator: bound for operator, bound in updated.items() if bound}:
        found["lastUpdatedTime"] = bounds
    exact = [*_tagged(which.tags), *_with_custom_status(which.custom_status)]
    if exact:
        found["$and"] = exact
    if token is not None:
        last, instance_id = parse_continuation(token)
        created["$lte"] = min(last, which.created_to or last)
        found["$or"] = [{"createdTime": {"$lt": last}}, {"createdTime": last, "_id": {"$lt": instance_id}}]
    if created:
        found["createdTime"] = created
    return found


def entity_condition(which: EntityFilter, token: str | None) -> Document:
    """The filter of a query of entities."""
    prefix = which.id_prefix
    ids: Document = {"$gte": prefix, "$lt": prefix_end(prefix)}
    if token is not None:
        ids["$gt"] = parse_entity_continuation(token)
    found: Document = {"_id": ids, "runtimeStatus": {"$ne": PURGED}}
    if not which.include_transient:
        found["entity.state"] = {"$exists": True}
    last = {"$gte": which.last_operation_from, "$lte": which.last_operation_to}
    if bounds := {operator: bound for operator, bound in last.items() if bound}:
        found["entity.lastOperation"] = bounds
    return found


def _tagged(tags: Mapping[str, str]) -> list[Document]:
    """Tags have names that paths cannot have."""
    return [
        {
            "$expr": {
                "$eq": [{"$getField": {"field": {"$literal": name}, "input": "$tags"}}, {"$literal": value}],
            }
        }
        for name, value in tags.items()
    ]


def _with_custom_status(fields: Mapping[str, str | float | bool | None]) -> list[Document]:
    return [
        {"customStatusFields": {"$elemMatch": {"name": {"$eq": name}, "value": {"$eq": value}}}}
        for name, value in fields.items()
    ]
