"""Keys with roles: who may do what over HTTP."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from callboard.errors import ConfigurationError
from callboard.http import HttpKeys
from callboard.http.keys import needed

from .scene import PREFIX, Api, api

READ, OPERATE, ADMIN = "read-0123456789abc", "operate-0123456789", "admin-0123456789ab"
KEYS = HttpKeys.parse(f"read:{READ}, operate:{OPERATE}\n# a comment\nadmin:{ADMIN}")


@asynccontextmanager
async def locked(folder: Path) -> AsyncGenerator[Api]:
    async with api(folder, keys=KEYS) as opened:
        yield opened


async def code(opened: Api, method: str, path: str, key: str | None, **options: Any) -> int:
    headers = {"x-functions-key": key} if key else {}
    return (await opened.ask(method, path, headers=headers, **options)).status_code


async def test_each_role_may_do_what_those_below_it_may(tmp_path: Path) -> None:
    async with locked(tmp_path) as opened:
        start = "/api/orchestrators/echo/a"
        codes = [await code(opened, "POST", start, key, json=1) for key in (None, "wrong" * 5, READ, OPERATE)]
        assert codes == [401, 401, 403, 202]
        await opened.client.wait("a", 20)
        looks = [await code(opened, "GET", "instances/a", key) for key in (None, READ, OPERATE, ADMIN)]
        assert looks == [401, 200, 200, 200]
        purges = [await code(opened, "DELETE", "instances/a", key) for key in (None, READ, OPERATE, ADMIN)]
        assert purges == [401, 403, 403, 200]


async def test_a_key_may_come_in_any_of_three_ways_and_the_answer_says_which(tmp_path: Path) -> None:
    async with locked(tmp_path) as opened:
        assert (await opened.ask("GET", f"instances?code={READ}")).status_code == 200
        assert (await opened.ask("GET", "instances", headers={"Authorization": f"Bearer {READ}"})).status_code == 200
        refused: httpx.Response = await opened.ask("GET", "instances")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "x-functions-key" in refused.json()["Message"]


async def test_the_uris_of_an_answer_carry_the_key_of_its_request(tmp_path: Path) -> None:
    async with locked(tmp_path) as opened:
        answer = await opened.ask("POST", "/api/orchestrators/echo", json=1, headers={"x-functions-key": OPERATE})
        links = answer.json()
        for name, uri in links.items():
            assert name == "id" or f"code={OPERATE}" in uri
        await opened.client.wait(links["id"], 20)
        assert (await opened.http.get(links["statusQueryGetUri"])).status_code == 200


async def test_health_needs_no_key(tmp_path: Path) -> None:
    async with locked(tmp_path) as opened:
        assert await code(opened, "GET", "/healthz", None) == 200
        assert await code(opened, "GET", "/readyz", None) == 200


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", f"{PREFIX}/instances", "read"),
        ("GET", "/readyz", None),
        ("POST", f"{PREFIX}/instances/a/raiseEvent/readyz", "operate"),
        ("DELETE", f"{PREFIX}/instances/healthz", "admin"),
        ("POST", f"{PREFIX}/instances/a/query/free", "read"),
        ("POST", f"{PREFIX}/instances/a/raiseEvent/query", "operate"),
        ("POST", f"{PREFIX}/instances/query/terminate", "operate"),
        ("POST", f"{PREFIX}/instances/a/raiseEvent/instances/x/query/y", "operate"),
        ("POST", f"{PREFIX}/instances/a/send{PREFIX}/instances/x/query/y", "operate"),
        ("POST", f"{PREFIX}/instances/a/query/b/terminate", "operate"),
        ("POST", "/api/orchestrators/start/instances/x/query/y", "operate"),
        ("POST", "/api/orchestrators/query", "operate"),
        ("DELETE", f"{PREFIX}/instances", "admin"),
        ("POST", f"{PREFIX}/MakePrimary", "admin"),
        ("PUT", "/anything", "operate"),
    ],
)
def test_what_each_route_needs(method: str, path: str, role: str | None) -> None:
    assert needed(method, path) == role


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "No HTTP key"),
        ("root:0123456789abcdef", "no role 'root'"),
        ("read:short", "shorter than 16"),
        ("0123456789abcdef", "entry 1 is not role:key"),
    ],
)
def test_wrong_keys_are_refused_without_showing_them(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        HttpKeys.parse(text)
    assert "0123456789" not in str(caught.value)


def test_keys_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    assert HttpKeys.from_env({}) is None
    file = tmp_path / "keys"
    file.write_text(f"admin:{ADMIN}\n")
    found = HttpKeys.from_env({"CALLBOARD_HTTP_KEYS_FILE": str(file)})
    assert found is not None
    assert found.role_of(ADMIN) == "admin"
    assert ADMIN not in repr(found)
    with pytest.raises(ConfigurationError, match="Both"):
        HttpKeys.from_env({"CALLBOARD_HTTP_KEYS_FILE": "x", "CALLBOARD_HTTP_KEYS": "y"})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        HttpKeys.from_env({"CALLBOARD_HTTP_KEYS_FILE": str(tmp_path / "none")})
    with pytest.raises(TypeError):
        pickle.dumps(found)
