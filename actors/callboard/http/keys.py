"""Keys of the HTTP API: who may read, operate or administer."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeAlias, get_args

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from callboard.errors import ConfigurationError
from callboard.http.paths import PREFIX
from callboard.http.problems import problem

#: Each may do what those before it may: look; start, send and control; delete.
Role: TypeAlias = Literal["read", "operate", "admin"]

VARIABLE: Final = "CALLBOARD_HTTP_KEYS"
FILE_VARIABLE: Final = "CALLBOARD_HTTP_KEYS_FILE"
#: Shortest key, in characters.
SHORTEST: Final = 16
#: Where a request's key is kept for the URIs that its answer gives.
CODE: Final = "callboard.code"

_ROLES: Final[tuple[Role, ...]] = get_args(Role)
_OPEN: Final = ("/healthz", "/readyz")
#: From the beginning: names of events and messages may look like paths.
_READING_POST: Final = re.compile(rf"{re.escape(PREFIX)}/instances/[^/]+/query/[^/]+$", re.IGNORECASE)


class HttpKeys:
    """The keys that are known, by their hashes.

    Args:
        keys: Roles and keys. Several may have one role, so that a key can be replaced without a gap.

    Raises:
        ConfigurationError: a role is unknown, a key is shorter than 16 characters, or there is none.
    """

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        self._keys: list[tuple[bytes, Role]] = []
        for role, key in keys:
            if role not in _ROLES:
                raise ConfigurationError(
                    f"There is no role {role[:16]!r} for an HTTP key. There are: {', '.join(_ROLES)}."
                )
            if len(key) < SHORTEST:
                raise ConfigurationError(f"A key for {role} is shorter than {SHORTEST} characters: make a random one.")
            self._keys.append((_hash(key), role))
        if not self._keys:
            raise ConfigurationError("No HTTP key is given.")

    @classmethod
    def parse(cls, text: str, *, source: str = "The HTTP keys") -> HttpKeys:
        """Reads ``role:key`` entries between commas or line ends; ``#`` begins a comment line.

        Raises:
            ConfigurationError: an entry is wrong; says which, without the key.
        """
        lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
        entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
        pairs = [entry.partition(":") for entry in entries]
        for number, (_, colon, key) in enumerate(pairs, 1):
            if not colon or not key:
                raise ConfigurationError(f"{source}: entry {number} is not role:key.")
        try:
            return cls((role.strip().lower(), key.strip()) for role, _, key in pairs)
        except ConfigurationError as error:
            raise ConfigurationError(f"{source}: {error}") from None

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> HttpKeys | None:
        """Reads ``CALLBOARD_HTTP_KEYS``, or the file that ``CALLBOARD_HTTP_KEYS_FILE`` names; None if neither is set.

        Raises:
            ConfigurationError: both are set, the file cannot be read, or an entry is wrong.
        """
        environment = os.environ if environment is None else environment
        text, path = environment.get(VARIABLE, ""), environment.get(FILE_VARIABLE, "")
        if text and path:
            raise ConfigurationError(f"Both {VARIABLE} and {FILE_VARIABLE} are set: leave one of them out.")
        if not path:
            return cls.parse(text, source=VARIABLE) if text else None
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The file of HTTP keys {path} cannot be read: {error}.") from None
        return cls.parse(text, source=path)

    def role_of(self, key: str) -> Role | None:
        """What a key allows; takes as long for a wrong key as for a right one."""
        given, found = _hash(key), None
        for known, role in self._keys:
            if hmac.compare_digest(given, known) and (found is None or _ROLES.index(role) > _ROLES.index(found)):
                found = role
        return found

    def __repr__(self) -> str:
        return f"<HttpKeys {', '.join(role for _, role in self._keys)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("HTTP keys are secrets: they are not pickled.")


def needed(method: str, path: str) -> Role | None:
    """The least role that a request needs; None: nobody needs a key for it."""
    if path in _OPEN:
        return None
    if method in ("GET", "HEAD", "OPTIONS") or _READING_POST.match(path):
        return "read"
    return "admin" if method == "DELETE" or path.lower().endswith("/makeprimary") else "operate"


class Authentication:
    """Lets requests through whose key allows them: header ``x-functions-key``, ``Authorization: Bearer``, or ``?code=``."""

    def __init__(self, app: ASGIApp, keys: HttpKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        role = needed(scope["method"], _route(scope)) if scope["type"] == "http" else None
        if role is None:
            await self._app(scope, receive, send)
            return
        key = _key_of(scope)
        has = self._keys.role_of(key) if key else None
        if has is None:
            refusal = problem(
                401,
                "This needs a key: header x-functions-key, Authorization: Bearer, or ?code=.",
                {"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)
        elif _ROLES.index(has) < _ROLES.index(role):
            await problem(403, f"This needs a key for {role}; the one given is for {has}.")(scope, receive, send)
        else:
            await self._app({**scope, CODE: key}, receive, send)


def _route(scope: Scope) -> str:
    """The path within this app, wherever it is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _key_of(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    if given := headers.get("x-functions-key"):
        return given
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return QueryParams(scope.get("query_string", b"")).get("code")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
