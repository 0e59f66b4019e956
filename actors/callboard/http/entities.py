"""Entities over HTTP: Durable Functions' routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import Request, Response

from callboard.client import Client, EntityMetadata
from callboard.core.entities import EntityId
from callboard.core.events import Payload
from callboard.entities import DELETE
from callboard.http.asking import Query, json_body, media_type, text_body
from callboard.http.problems import RequestError
from callboard.http.replies import json_response
from callboard.http.routes import Routes
from callboard.instance_json import seconds
from callboard.ports import EntityFilter

#: How the empty key is written in a URL.
EMPTY_KEY = "$"


class EntityRoutes:
    """What is asked of entities.

    Args:
        client: Gives the client: it may not be there yet when the app is made.
        routes: The other operations on the same hub.
        body_limit: Largest body, in bytes.
    """

    def __init__(self, client: Callable[[], Client], routes: Routes, *, body_limit: int) -> None:
        self._client = client
        self._routes = routes
        self._body_limit = body_limit

    async def get(self, request: Request) -> Response:
        """Show an entity's state; or list the entities of a name."""
        query = self._routes.query(request)
        name, slash, key = request.path_params["entity"].partition("/")
        if not slash or not key:
            return await self._listed(request, query, name or None)
        found = await self._routes.bounded(self._client().read_entity_state(_entity(name, key)))
        if not found.entity_exists:
            raise RequestError(404, f"There is no entity @{name}@{key}.")
        return json_response(found.entity_state)

    async def list(self, request: Request) -> Response:
        """List entities, a page at a time."""
        return await self._listed(request, self._routes.query(request), None)

    async def _listed(self, request: Request, query: Query, name: str | None) -> Response:
        which = EntityFilter(
            name=None if name is None else _entity(name, EMPTY_KEY).name,
            last_operation_from=query.time("lastOperationTimeFrom"),
            last_operation_to=query.time("lastOperationTimeTo"),
        )
        with_state = query.flag("fetchState", default=False)
        listing = self._client().list_entities(
            which,
            include_state=with_state,
            limit=query.page_size(),
            continuation=request.headers.get("x-ms-continuation-token") or None,
        )
        try:
            page = await self._routes.bounded(listing)
        except ValueError as error:
            raise RequestError(400, f"The continuation token is not one of ours: {error}") from None
        headers = {"x-ms-continuation-token": page.continuation} if page.continuation else None
        return json_response([entity_json(each, with_state=with_state) for each in page.entities], 200, headers)

    async def signal(self, request: Request) -> Response:
        """Have an entity carry out the operation ``op``; the body is its input."""
        operation = self._routes.query(request).text("op") or ""
        await self._signal(request, operation, await self._input(request))
        return Response(status_code=202)

    async def delete(self, request: Request) -> Response:
        """Have an entity carry out ``delete``."""
        self._routes.query(request)
        await self._signal(request, DELETE, None)
        return Response(status_code=202)

    async def _signal(self, request: Request, operation: str, payload: Payload | None) -> None:
        name, slash, key = request.path_params["entity"].partition("/")
        if not slash or not key:
            raise RequestError(404, f"Which entity? Its key is missing: /entities/{name}/{{key}}.")
        signalling = self._client().signal_entity_encoded(_entity(name, key), operation, payload)
        await self._routes.bounded(signalling)

    async def _input(self, request: Request) -> Payload | None:
        """JSON, or text of any other kind, which is passed as a string."""
        kind = media_type(request)
        if kind in ("", "application/json") or kind.endswith("+json"):
            return await json_body(request, self._body_limit)
        text = await text_body(request, self._body_limit)
        return msgspec.json.encode(text).decode() if text else None


def entity_json(entity: EntityMetadata, *, with_state: bool = False) -> dict[str, Any]:
    """An entity as ``GET /entities`` shows it."""
    last = entity.last_operation_time
    payload: dict[str, Any] = {
        "entityId": {"name": entity.entity_id.name, "key": entity.entity_id.key},
        "lastOperationTime": seconds(last) if last is not None else None,
    }
    return payload | {"state": entity.state} if with_state else payload


def _entity(name: str, key: str) -> EntityId:
    return EntityId(name, "" if key == EMPTY_KEY else key)
