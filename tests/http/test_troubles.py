"""What the API answers when the servers behind it are away, or something in it breaks."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import pytest

from callboard import Client, TaskHub
from callboard.errors import BrokerUnavailableError, StoreUnavailableError
from callboard.http import create_http_app

from .scene import PREFIX, asking

EVERYTHING = [
    ("POST", "/api/orchestrators/echo"),
    ("GET", f"{PREFIX}/instances"),
    ("GET", f"{PREFIX}/instances/one"),
    ("DELETE", f"{PREFIX}/instances/one"),
    ("DELETE", f"{PREFIX}/instances?createdTimeFrom=2000-01-01"),
    ("POST", f"{PREFIX}/instances/one/raiseEvent/x"),
    ("POST", f"{PREFIX}/instances/one/terminate"),
    ("POST", f"{PREFIX}/instances/one/suspend"),
    ("POST", f"{PREFIX}/instances/one/resume"),
]


class TroubledClient:
    """A client whose every operation ends, or does not end, in the same way."""

    def __init__(self, trouble: Any) -> None:
        self._trouble = trouble
        self.hub = TaskHub.from_urls("theatre", broker="memory://troubles", store="sqlite://")

    def __getattr__(self, name: str) -> Any:
        async def operation(*args: object, **options: object) -> Any:
            return await self._trouble()

        return operation


def raising(error: Exception) -> Any:
    async def trouble() -> NoReturn:
        raise error

    return trouble


def app_in(trouble: Any) -> Any:
    client: Any = TroubledClient(trouble)
    assert not isinstance(client, Client)
    return create_http_app(lambda: client, server_timeout=0.05)


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
@pytest.mark.parametrize(
    "trouble",
    [
        raising(BrokerUnavailableError("amqp://guest:s3cret@rabbit is away")),
        raising(StoreUnavailableError("mongodb://u:s3cret@mongo is away")),
        lambda: asyncio.sleep(3600),
    ],
)
async def test_a_server_that_is_away_is_503_and_worth_another_try(method: str, path: str, trouble: Any) -> None:
    async with asking(app_in(trouble)) as http:
        answer = await http.request(method, path, headers={"content-type": "application/json"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert list(answer.json()) == ["Message"]
        assert "s3cret" not in answer.text


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
async def test_a_bug_of_ours_is_500_and_tells_strangers_nothing(method: str, path: str) -> None:
    async with asking(app_in(raising(ZeroDivisionError("inside")))) as http:
        answer = await http.request(method, path, headers={"content-type": "application/json"})
        assert answer.status_code == 500
        assert answer.json()["Message"].startswith("Something went wrong while processing your request")
        assert "inside" not in answer.text
        assert "ZeroDivision" not in answer.text
