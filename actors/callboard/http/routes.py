"""What each route does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from fastapi import Request, Response

from callboard.client import Client, InstanceStatus
from callboard.core import folding
from callboard.core.payloads import text as valid_text
from callboard.errors import CallboardError, InstanceNotFinishedError, InstanceNotFoundError
from callboard.http.asking import MAX_EVENT_NAME, Query, json_body, media_type, no_body
from callboard.http.paths import PREFIX
from callboard.http.problems import RequestError, problem
from callboard.http.replies import (
    LOOK_AGAIN,
    create_check_status_response,
    json_response,
    root_url,
)
from callboard.instance_json import instance_json
from callboard.ports import Destination

T = TypeVar("T")

#: How much of the time that a request may take a purge of many instances uses; then it says that there are more.
PURGE_SHARE = 0.7
#: How long the servers may take to show that they are there, in seconds.
READY_WITHIN = 3.0


class Waiting(msgspec.Struct, frozen=True):
    """How long the caller of a start waits for the end."""

    seconds: float | None
    error_on_failure: bool

    @classmethod
    def of(cls, query: Query) -> Waiting:
        seconds, pause = query.seconds("timeout"), query.seconds("pollingInterval")
        if seconds is not None and pause is not None and pause > seconds:
            raise RequestError(400, "The value of 'pollingInterval' must not be more than 'timeout'.")
        return cls(seconds, query.flag("returnInternalServerErrorOnFailure", default=False))


class Routes:
    """The API's operations on one hub.

    Args:
        client: Gives the client: it may not be there yet when the app is made.
        body_limit: Largest body, in bytes.
        server_timeout: How long the broker and the store may take, in seconds.
    """

    def __init__(self, client: Callable[[], Client], *, body_limit: int, server_timeout: float) -> None:
        self._client = client
        self._body_limit = body_limit
        self._server_timeout = server_timeout

    # Starting

    async def start(self, request: Request) -> Response:
        """Start an orchestration; the body is its input."""
        query = self.query(request)
        waiting = Waiting.of(query)
        if media_type(request) == "multipart/form-data":  # what Postman sends when no body was chosen
            await no_body(request, self._body_limit)
            payload = None
        else:
            payload = await json_body(request, self._body_limit)
        instance_id = await self.bounded(
            self._client().start_encoded(
                request.path_params["name"],
                payload,
                instance_id=request.path_params.get("instance_id") or None,
                version=query.text("version"),
            )
        )
        return await self._started(request, instance_id, waiting)

    async def restart(self, request: Request) -> Response:
        """Start an orchestration again, with the same input."""
        query = self.query(request)
        waiting = Waiting.of(query)
        new_id = query.flag("restartWithNewInstanceId", default=True)
        again = self._client().restart(request.path_params["instance_id"], restart_with_new_instance_id=new_id)
        try:
            started = await self.bounded(again)
        except InstanceNotFoundError as error:  # to Durable Functions it is an argument that is wrong
            raise RequestError(400, str(error)) from None
        return await self._started(request, started.instance_id, waiting)

    async def _started(self, request: Request, instance_id: str, waiting: Waiting) -> Response:
        """The end of an instance that was started just now, if it comes in the time that the caller waits; or where to follow it."""
        ended = await self._ended_within(instance_id, waiting.seconds) if waiting.seconds else None
        if ended is not None:
            return _result(ended, error_on_failure=waiting.error_on_failure)
        hub = self._client().hub.name
        return create_check_status_response(request, hub, instance_id, error_on_failure=waiting.error_on_failure)

    async def _ended_within(self, instance_id: str, seconds: float) -> InstanceStatus | None:
        try:
            async with asyncio.timeout(seconds):
                return await self._client().wait(instance_id)
        except TimeoutError:
            return None

    # Looking

    async def status(self, request: Request) -> Response:
        """Show an instance, on request with its history."""
        query = self.query(request)
        show_input = query.flag("showInput", default=True)
        show_history = query.flag("showHistory", default=False)
        show_outputs = query.flag("showHistoryOutput", default=False)
        error_on_failure = query.flag("returnInternalServerErrorOnFailure", default=False)
        instance_id = request.path_params["instance_id"]
        status = await self.bounded(self._client().get_status(instance_id))
        history: list[folding.EventJson] | None = None
        if show_history and status.runtime_status != "Pending":
            commits = await self.bounded(self._client().readable_history(instance_id))
            history = folding.folded(commits, inputs=show_input, outputs=show_outputs)
        payload = instance_json(status, show_input=show_input, history=history)
        if not status.is_terminal:
            return json_response(payload, 202, {"Location": str(request.url), "Retry-After": LOOK_AGAIN})
        return json_response(payload, _ended_code(status, error_on_failure=error_on_failure))

    async def instances(self, request: Request) -> Response:
        """List instances, newest first, a page at a time."""
        query = self.query(request)
        show_input = query.flag("showInput", default=True)
        listing = self._client().list_instances(
            query.instances(),
            limit=query.page_size(),
            continuation=request.headers.get("x-ms-continuation-token") or None,
        )
        try:
            page = await self.bounded(listing)
        except ValueError as error:
            raise RequestError(400, f"The continuation token is not one of ours: {error}") from None
        headers = {"x-ms-continuation-token": page.continuation} if page.continuation else None
        return json_response([instance_json(each, show_input=show_input) for each in page.instances], 200, headers)

    # Sending

    async def raise_event(self, request: Request) -> Response:
        """Raise an external event; the body is its data."""
        self.query(request)
        if media_type(request) != "application/json":
            raise RequestError(400, "Only application/json request content is supported.")
        name = valid_text(request.path_params["event_name"], "The name of an event")
        if not 0 < len(name) <= MAX_EVENT_NAME:
            raise RequestError(400, f"The name of an event has 1 to {MAX_EVENT_NAME} characters.")
        payload = await json_body(request, self._body_limit)
        await self.bounded(self._client().raise_event_encoded(request.path_params["instance_id"], name, payload))
        return Response(status_code=202)

    async def terminate(self, request: Request) -> Response:
        """End an instance."""
        reason = self.query(request).text("reason")
        await self.bounded(self._client().terminate(request.path_params["instance_id"], reason))
        return Response(status_code=202)

    async def suspend(self, request: Request) -> Response:
        """Pause an instance."""
        reason = self.query(request).text("reason")
        await self.bounded(self._client().suspend(request.path_params["instance_id"], reason))
        return Response(status_code=202)

    async def resume(self, request: Request) -> Response:
        """Let a suspended instance go on."""
        reason = self.query(request).text("reason")
        await self.bounded(self._client().resume(request.path_params["instance_id"], reason))
        return Response(status_code=202)

    async def purge(self, request: Request) -> Response:
        """Delete an instance that has ended, with its history and its children."""
        self.query(request)
        try:
            deleted = await self.bounded(self._client().purge(request.path_params["instance_id"]))
        except InstanceNotFinishedError as error:
            if (status := await self._client().find(error.instance_id)) is not None and status.is_terminal:
                raise RequestError(503, str(error)) from None
            raise
        return json_response({"instancesDeleted": deleted})

    async def purge_many(self, request: Request) -> Response:
        """Delete all instances that have ended, of those that the filter names, with their children."""
        which = self.query(request).instances()
        if which.created_from is None:
            raise RequestError(400, "Please provide value for 'createdTimeFrom' parameter.")
        in_time = self._client().purge_instances(which, timeout=self._server_timeout * PURGE_SHARE)
        purged = await self.bounded(in_time)
        if not purged.complete:
            return json_response({"instancesDeleted": purged.deleted, "isComplete": False})
        return json_response({"instancesDeleted": purged.deleted}, 200 if purged.deleted else 404)

    # Around it

    async def not_yet(self, request: Request) -> Response:
        """Durable Functions has this; Callboard does not have it yet."""
        return problem(501, f"{request.method} {request.url.path} is not implemented in this version of Callboard.")

    async def index(self, request: Request) -> Response:
        """Say what is here."""
        client, root = self._client(), root_url(request)
        return json_response(
            {
                "hub": client.hub.name,
                "orchestrations": client.orchestrations,
                "startPostUri": f"{root}/api/orchestrators/{{functionName}}[/{{instanceId}}]",
                "instancesGetUri": f"{root}{PREFIX}/instances",
                "readyGetUri": f"{root}/readyz",
            }
        )

    async def live(self, request: Request) -> Response:
        """Answer as long as this process does."""
        return json_response({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """Say whether the broker and the store answer."""
        hub = self._client().hub
        checks = {"store": hub.store.view(ttl=READY_WITHIN), "broker": hub.broker.depth(Destination.dead_letters())}
        troubles = await asyncio.gather(*(_trouble(check) for check in checks.values()))
        state = dict(zip(checks, (trouble or "ready" for trouble in troubles), strict=True))
        return json_response(state, 503 if any(troubles) else 200, {"Retry-After": "1"} if any(troubles) else None)

    def query(self, request: Request) -> Query:
        """The request's parameters; refuses one for another hub."""
        query, hub = Query(request), self._client().hub.name
        if (asked := query.text("taskHub")) is not None and asked.lower() != hub.lower():
            raise RequestError(400, f"This server serves task hub {hub!r}, not {asked[:64]!r}.")
        return query

    async def bounded(self, call: Awaitable[T]) -> T:
        """Clients wait for servers as long as it takes; whoever asks over HTTP should hear that it takes long."""
        try:
            async with asyncio.timeout(self._server_timeout):
                return await call
        except TimeoutError:
            raise RequestError(
                503,
                f"The broker or the store did not answer within {self._server_timeout:g} s. What was asked for may still happen: look "
                "before you ask again.",
            ) from None


def _result(status: InstanceStatus, *, error_on_failure: bool) -> Response:
    """The end of an orchestration that was waited for: its output alone, or if it failed all about it."""
    if status.runtime_status == "Completed":
        return json_response(status.output)
    return json_response(instance_json(status), _ended_code(status, error_on_failure=error_on_failure))


def _ended_code(status: InstanceStatus, *, error_on_failure: bool) -> int:
    return 500 if error_on_failure and status.runtime_status == "Failed" else 200


async def _trouble(check: Awaitable[Any]) -> str | None:
    try:
        async with asyncio.timeout(READY_WITHIN):
            await check
    except (CallboardError, TimeoutError) as error:
        return f"unavailable: {error}" if str(error) else f"unavailable: no answer within {READY_WITHIN:g} s"
    return None
