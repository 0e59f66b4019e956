"""The app: which route leads where."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute

from callboard.client import Client
from callboard.core.payloads import MAX_PAYLOAD
from callboard.http.entities import EntityRoutes
from callboard.http.guard import Guard
from callboard.http.keys import Authentication, HttpKeys
from callboard.http.messages import MessageRoutes
from callboard.http.paths import PREFIX
from callboard.http.problems import add_problem_answers
from callboard.http.routes import Routes
from callboard.http.tracing import TraceHeaders
from callboard.instruments import Instrument, client_instruments
from callboard.prometheus import CONTENT_TYPE, exposition


def create_http_app(
    client: Client | Callable[[], Client],
    *,
    keys: HttpKeys | None = None,
    allowed_hosts: Collection[str] = ("*",),
    body_limit: int = MAX_PAYLOAD,
    server_timeout: float = 15.0,
    instruments: Sequence[Instrument] = (),
) -> FastAPI:
    """Makes Durable Functions' HTTP API for one hub, to serve or to mount in an app of your own: ``app.mount("/durable", …)``.

    Args:
        client: Of the hub; or a function that returns it, for a client that is opened after the app is made.
        keys: Who may read, operate or administer. Without keys whoever reaches it can do everything.
        allowed_hosts: The names under which it answers, against web pages that point a name of theirs at this machine; ``*``: all.
        body_limit: Largest body of a request, in bytes.
        server_timeout: How long the broker and the store may take before a request is answered with 503, in seconds.
        instruments: What ``/metrics`` shows, besides the client's own.
    """
    app = FastAPI(title="Callboard", docs_url=None, redoc_url=None, redirect_slashes=False)
    get_client = client if callable(client) else lambda: client
    routes = Routes(get_client, body_limit=body_limit, server_timeout=server_timeout)
    messages = MessageRoutes(get_client, routes, body_limit=body_limit)
    _add_routes(app, routes, messages, EntityRoutes(get_client, routes, body_limit=body_limit))
    _add_metrics(app, get_client, instruments)
    add_problem_answers(app)
    if "*" not in allowed_hosts:
        app.add_middleware(Guard, allowed_hosts=allowed_hosts)
    if keys is not None:
        app.add_middleware(Authentication, keys=keys)
    app.add_middleware(TraceHeaders)
    return app


def _add_metrics(app: FastAPI, client: Callable[[], Client], instruments: Sequence[Instrument]) -> None:
    def metrics() -> Response:
        """Show this process's metrics, for Prometheus."""
        return Response(exposition([*client_instruments(client()), *instruments]), media_type=CONTENT_TYPE)

    app.add_api_route("/metrics", metrics, methods=["GET"], operation_id="GET /metrics")


def _add_routes(app: FastAPI, routes: Routes, messages: MessageRoutes, entities: EntityRoutes) -> None:
    # An id takes any path, so that one that is not allowed is called that, and not a missing page.
    instance = f"{PREFIX}/instances/{{instance_id:path}}"
    for method, path, endpoint in (
        ("POST", "/api/orchestrators/{name}", routes.start),
        ("POST", "/api/orchestrators/{name}/{instance_id:path}", routes.start),
        ("POST", f"{PREFIX}/orchestrators/{{name}}", routes.start),
        ("POST", f"{PREFIX}/orchestrators/{{name}}/{{instance_id:path}}", routes.start),
        ("GET", f"{PREFIX}/instances", routes.instances),
        ("DELETE", f"{PREFIX}/instances", routes.purge_many),
        ("POST", f"{instance}/raiseEvent/{{event_name:path}}", routes.raise_event),
        ("POST", f"{instance}/send/{{message_name:path}}", messages.send),
        ("POST", f"{instance}/ask/{{message_name:path}}", messages.ask),
        ("GET", f"{instance}/query/{{message_name:path}}", messages.query),
        ("POST", f"{instance}/query/{{message_name:path}}", messages.query),
        ("POST", f"{instance}/terminate", routes.terminate),
        ("POST", f"{instance}/suspend", routes.suspend),
        ("POST", f"{instance}/resume", routes.resume),
        ("POST", f"{instance}/rewind", routes.not_yet),
        ("POST", f"{instance}/restart", routes.restart),
        ("GET", instance, routes.status),
        ("DELETE", instance, routes.purge),
        ("GET", f"{PREFIX}/entities", entities.list),
        ("GET", f"{PREFIX}/entities/{{entity:path}}", entities.get),
        ("POST", f"{PREFIX}/entities/{{entity:path}}", entities.signal),
        ("DELETE", f"{PREFIX}/entities/{{entity:path}}", entities.delete),
        ("POST", f"{PREFIX}/makeprimary", routes.not_yet),
        ("GET", "/", routes.index),
        ("GET", "/healthz", routes.live),
        ("GET", "/readyz", routes.ready),
    ):
        # The path is part of the id, which must be unique: one function serves several routes.
        app.add_api_route(path, endpoint, methods=[method], operation_id=f"{method} {path}")
    for route in app.routes:
        if isinstance(route, APIRoute):
            route.path_regex = re.compile(route.path_regex.pattern, re.IGNORECASE)
