"""Sending, asking and querying over HTTP: Callboard's own routes, beside those of Durable Functions."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from urllib.parse import urlencode

from fastapi import Request, Response

from callboard.client import Client
from callboard.core.events import Payload
from callboard.http.asking import MAX_EVENT_NAME, json_body, media_type
from callboard.http.problems import RequestError
from callboard.http.replies import json_response
from callboard.http.routes import Routes

#: How long an answer is waited for unless the request says otherwise, in seconds.
ANSWER_WITHIN = 30.0


class MessageRoutes:
    """What reaches the handlers of an orchestration.

    Args:
        client: Gives the client: it may not be there yet when the app is made.
        routes: The other operations on the same hub.
        body_limit: Largest body, in bytes.
    """

    def __init__(self, client: Callable[[], Client], routes: Routes, *, body_limit: int) -> None:
        self._client = client
        self._routes = routes
        self._body_limit = body_limit

    async def send(self, request: Request) -> Response:
        """Send a message to a handler; the body is its data. Under the same messageId it is handled once."""
        message_id = self._routes.query(request).text("messageId")
        instance_id, name, payload = await self._asked(request)
        sending = self._client().send_encoded(instance_id, name, payload, message_id=message_id)
        await self._routes.bounded(sending)
        return Response(status_code=202)

    async def ask(self, request: Request) -> Response:
        """Send a message to a handler and answer with its answer; or with 202, if that takes longer than ``timeout`` seconds."""
        query = self._routes.query(request)
        wait, message_id = query.seconds("timeout"), query.text("messageId") or uuid.uuid4().hex
        instance_id, name, payload = await self._asked(request)
        try:
            answer = await self._client().ask_encoded(
                instance_id, name, payload, timeout=ANSWER_WITHIN if wait is None else wait, message_id=message_id
            )
        except TimeoutError:
            again = f"{request.url.path}?{urlencode({'messageId': message_id})}"
            return json_response({"messageId": message_id}, 202, {"Location": again, "Retry-After": "1"})
        return json_response(answer)

    async def query(self, request: Request) -> Response:
        """Answer with what a query handler says."""
        wait = self._routes.query(request).seconds("timeout")
        instance_id, name, payload = await self._asked(request)
        try:
            answer = await self._client().query_encoded(
                instance_id, name, payload, timeout=ANSWER_WITHIN if wait is None else wait
            )
        except TimeoutError as error:
            raise RequestError(503, str(error)) from None
        return json_response(answer)

    async def _asked(self, request: Request) -> tuple[str, str, Payload | None]:
        payload = await json_body(request, self._body_limit)
        if payload is not None and media_type(request) != "application/json":
            raise RequestError(400, "Only application/json request content is supported.")
        name = request.path_params["message_name"]
        if not 0 < len(name) <= MAX_EVENT_NAME:
            raise RequestError(400, f"The name of a message has 1 to {MAX_EVENT_NAME} characters.")
        return request.path_params["instance_id"], name, payload
