"""The activity that sends requests: redirects, credentials, limits, errors; and through a worker."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from callboard import App, Blueprint, OrchestrationContext, RetryPolicy
from callboard.core.events import TaskScheduled, TimerCreated
from callboard.core.failure import FailureDetails
from callboard.core.http_calls import HttpReply, HttpRequest
from callboard.errors import HttpRequestError, RegistrationError
from callboard.host import SystemHost
from callboard.http_activity import HttpActivity
from tests.runtime.support import Stage
from tests.web import Answering, Asked, Says, WebServer


@contextlib.asynccontextmanager
async def sending(limit: int = 1000, **sources: Any) -> AsyncGenerator[Callable[..., Awaitable[HttpReply]]]:
    host = SystemHost(threads=2)
    activity = HttpActivity(host, sources, limit=limit)

    async def send(method: str, uri: str, content: str | None = None, **options: Any) -> HttpReply:
        return await activity.perform(HttpRequest(method=method, uri=uri, content=content, **options))

    try:
        yield send
    finally:
        await activity.aclose()
        host.close()


def hello(asked: Asked) -> Says:
    return Says(
        headers={"X-Two": "1", "Content-Type": "text/plain; charset=latin-1"}, body="grüß dich".encode("latin-1")
    )


def redirecting(status: int, target: str = "/there") -> Answering:
    def answer(asked: Asked) -> Says:
        return Says(status, {"Location": target}) if asked.path.startswith("/here") else Says(body=b"arrived")

    return answer


SECRET = "x" * 7
SECRETS = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Api-Key": "k", "Accept": "a/b"}


async def test_a_response_comes_as_data() -> None:
    async with WebServer(hello) as server, sending() as send:
        reply = await send("POST", f"{server.url}/a?b=c", "täg", headers={"Content-Type": "text/x"}, timeout=10)
        assert (reply.status_code, reply.content, reply.headers["x-two"]) == (200, "grüß dich", "1")
        assert (reply.location, reply.retry_after) == (None, None)
        (asked,) = server.asked
        assert (asked.method, asked.path, asked.body) == ("POST", "/a?b=c", "täg")
        assert (asked.headers["content-type"], asked.headers["user-agent"]) == ("text/x", "callboard")


async def test_connections_are_kept_but_cookies_are_not() -> None:
    def answer(asked: Asked) -> Says:
        return Says(headers={"Set-Cookie": "session=secret; Path=/"})

    async with WebServer(answer) as server, sending() as send:
        for _ in range(3):
            assert "session" in (await send("GET", server.url)).headers["set-cookie"]
        assert [asked.headers.get("cookie") for asked in server.asked] == [None] * 3
        assert server.connections == 1


@pytest.mark.parametrize(("status", "method", "then"), [
    (301, "POST", "GET"), (302, "POST", "GET"), (303, "PUT", "GET"), (307, "POST", "POST"), (308, "PUT", "PUT"),
    (301, "GET", "GET"), (303, "HEAD", "HEAD"), (302, "PUT", "PUT"),
])  # fmt: skip
async def test_redirects_are_followed_as_browsers_do(status: int, method: str, then: str) -> None:
    async with WebServer(redirecting(status)) as server, sending() as send:
        content = None if method in ("GET", "HEAD") else "body"
        await send(method, f"{server.url}/here", content, headers={**SECRETS, "Content-Type": "text/x"})
        first, second = server.asked
        assert (first.method, second.method, second.path) == (method, then, "/there")
        assert second.body == (content if then == method and content else "")
        assert ("content-type" in second.headers) == (then == method)
        assert second.headers["authorization"] == "Bearer x"  # the same origin


async def test_another_origin_sees_no_credentials_and_neither_does_the_way_back() -> None:
    def back(asked: Asked) -> Says:
        return Says(307, {"Location": f"{home.url}/back"})

    def away(asked: Asked) -> Says:
        return Says(307, {"Location": f"{elsewhere.url}/there"})

    async with (
        WebServer(hello) as home,
        WebServer(back) as elsewhere,
        WebServer(away) as server,
        sending(own=token) as send,
    ):
        reply = await send("POST", f"{server.url}/here", "body", headers=SECRETS, token_source="own")
        assert reply.content == "grüß dich"
        assert server.asked[0].headers["authorization"] == "Bearer token"
        for asked in (*elsewhere.asked, *home.asked):
            assert not {"authorization", "cookie", "x-api-key"} & asked.headers.keys()
            assert (asked.headers["accept"], asked.body) == ("a/b", "body")


async def test_redirects_may_be_left_alone() -> None:
    async with WebServer(redirecting(302)) as server, sending() as send:
        reply = await send("GET", f"{server.url}/here", follow_redirects=False)
        assert (reply.status_code, reply.location, reply.same_origin) == (302, f"{server.url}/there", True)


async def test_redirects_have_an_end() -> None:
    async with WebServer(redirecting(302, "/here/again")) as server, sending() as send:
        with pytest.raises(HttpRequestError, match="more than 20 times") as raised:
            await send("GET", f"{server.url}/here")
        assert FailureDetails.from_exception(raised.value).is_non_retriable
        assert len(server.asked) == 21


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://x/", "http://", "javascript:alert(1)"])
async def test_redirects_lead_only_where_http_goes(target: str) -> None:
    async with WebServer(redirecting(302, target)) as server, sending() as send:
        with pytest.raises(HttpRequestError) as raised:
            await send("GET", f"{server.url}/here")
        assert raised.value.non_retriable


@pytest.mark.parametrize(("headers", "expected"), [
    ({"Retry-After": "7"}, 7.0), ({"Retry-After": "-7"}, 0.0), ({"Retry-After": "soon"}, None), ({"Retry-After": "nan"}, None),
    ({"Retry-After": "1e300"}, 100 * 365 * 86_400.0), ({}, None),
    ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
])  # fmt: skip
async def test_the_time_to_wait_is_told_in_seconds(headers: dict[str, str], expected: float | None) -> None:
    async with WebServer(lambda asked: Says(202, headers)) as server, sending() as send:
        assert (await send("GET", server.url)).retry_after == expected


async def test_the_time_to_wait_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    async with WebServer(lambda asked: Says(202, {"Retry-After": later})) as server, sending() as send:
        found = (await send("GET", server.url)).retry_after
        assert found is not None
        assert 3500 < found <= 3600


@pytest.mark.parametrize(("location", "resolved", "same"), [
    ("/status/1", "{url}/status/1", True), ("status", "{url}/a/status", True), ("{url}/x", "{url}/x", True),
    ("http://other.example/x", "http://other.example/x", False), ("https://127.0.0.1:{port}/x", "https://127.0.0.1:{port}/x", False),
    ("http://other.example:port/", None, False),
])  # fmt: skip
async def test_locations_are_resolved(location: str, resolved: str | None, same: bool) -> None:
    def filled(text: str) -> str:
        return text.replace("{url}", server.url).replace("{port}", str(server.port))

    async with WebServer(lambda asked: Says(202, {"Location": filled(location)})) as server, sending() as send:
        reply = await send("GET", f"{server.url}/a/b")
        assert reply.location == (filled(resolved) if resolved else None)
        assert reply.same_origin == same


async def test_bodies_are_limited_decompressed_too() -> None:
    bomb = gzip.compress(b"x" * 1_000_000)
    assert len(bomb) < 2_000

    def answer(asked: Asked) -> Says:
        return (
            Says(headers={"Content-Encoding": "gzip"}, body=bomb) if asked.path == "/bomb" else Says(body=b"x" * 1001)
        )

    async with WebServer(answer) as server, sending(limit=1000) as send:
        for path in ("/bomb", "/long"):
            with pytest.raises(HttpRequestError, match="over 1,000 bytes") as raised:
                await send("GET", server.url + path)
            assert raised.value.non_retriable


async def test_a_request_that_takes_too_long_is_a_timeout_error() -> None:
    async def answer(asked: Asked) -> Says:
        if asked.path != "/":
            await asyncio.Event().wait()
        return Says()

    async with WebServer(answer) as server, sending() as send:
        await send("GET", server.url)
        with pytest.raises(TimeoutError, match=r"GET http://127.0.0.1:\d+/a was not answered within 0.05 s"):
            await send("GET", f"{server.url}/a?code=secret", timeout=0.05)


async def test_errors_name_the_request_without_its_secrets() -> None:
    async with WebServer(lambda asked: Says(hang_up=True)) as server, sending() as send:
        with pytest.raises(HttpRequestError) as raised:
            await send("GET", f"http://user:{SECRET}@127.0.0.1:{server.port}/a?code={SECRET}#{SECRET}")
        assert str(raised.value).startswith(f"GET http://127.0.0.1:{server.port}/a failed: RemoteProtocolError")
        assert not raised.value.non_retriable
        assert SECRET not in str(FailureDetails.from_exception(raised.value))
    with pytest.raises(HttpRequestError, match="ConnectError") as raised:
        async with sending() as send:
            await send("GET", server.url)
    assert not raised.value.non_retriable


@pytest.mark.parametrize("uri", ["http://shop.example:port/", "http://[::1", "http://\ud800"])
async def test_what_is_no_uri_after_all_is_final(uri: str) -> None:
    async with sending() as send:
        with pytest.raises(HttpRequestError) as raised:
            await send("GET", uri)
        assert raised.value.non_retriable


async def test_tokens_come_from_plain_and_async_sources() -> None:
    async def fresh() -> str:
        return "async"

    async with WebServer(hello) as server, sending(plain=lambda: "plain", fresh=fresh) as send:
        for name in ("plain", "fresh"):
            await send("GET", server.url, headers={"authorization": "old"}, token_source=name)
        assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer plain", "Bearer async"]
        with pytest.raises(HttpRequestError, match="token_source"):
            await send("GET", server.url, token_source="nobody")


# Registration


def test_what_is_built_in_cannot_be_replaced() -> None:
    app = App("stage")
    with pytest.raises(RegistrationError, match="built in"):
        app.activity(name="BuiltIn::HttpActivity")(hello)


def token() -> str:
    return "token"


def test_token_sources_of_blueprints_are_included_once() -> None:
    app, blueprint = App("stage"), Blueprint()
    blueprint.token_source("crm")(token)
    app.include(blueprint)
    app.include(blueprint)
    with pytest.raises(RegistrationError, match="'crm'"):
        app.token_source("crm")(lambda: "other")
    assert app.registry.token_sources == {"crm": token}


# Through a worker


app = App("stage")


@app.token_source("crm")
async def crm_token() -> str:
    return "from the worker"


@app.orchestration
async def order(context: OrchestrationContext, url: str) -> list[Any]:
    policy = RetryPolicy(first_retry_interval=0.02, max_number_of_attempts=3)
    response = await context.call_http(
        "POST", f"{url}/orders", {"amount": 5}, token_source="crm", retry=policy, status_codes_to_retry=[503]
    )
    return [response.status_code, response.json()]


@pytest.mark.usefixtures("fast")
async def test_a_call_polls_and_tries_again_through_a_worker_without_activities() -> None:
    states = iter([
        Says(503), Says(202, {"Location": "/status", "Retry-After": "0.02"}), Says(hang_up=True),
        Says(202, {"Location": "/status", "Retry-After": "0"}), Says(201, body=b'{"id":7}'),
    ])  # fmt: skip
    async with WebServer(lambda asked: next(states)) as server, Stage() as stage:
        worker = await stage.worker(app, memory=0)
        assert worker.worker.queues == ("builtin",)
        client = await stage.client(app)
        handle = await client.start("order", server.url)
        assert await handle.result(timeout=20) == [201, {"id": 7}]
        assert [(asked.method, asked.path) for asked in server.asked] == [("POST", "/orders")] * 2 + [
            ("GET", "/status")
        ] * 3
        assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer from the worker"}
        history = await stage.exact(handle.instance_id)
        assert "from the worker" not in str(history)
        assert sum(isinstance(event, TaskScheduled) for event in history) == 5
        assert sum(isinstance(event, TimerCreated) for event in history) == 4
