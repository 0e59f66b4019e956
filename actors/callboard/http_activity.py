"""The built-in activity that sends the requests of ``call_http``. The only importer of httpx, which is loaded with the first request."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

from callboard.core.http_calls import HttpReply, HttpRequest, without_content, without_credentials
from callboard.core.payloads import MAX_PAYLOAD
from callboard.core.timeouts import LONGEST
from callboard.errors import HttpRequestError
from callboard.ports import Host
from callboard.registry import TokenSource

if TYPE_CHECKING:
    import httpx

#: How many redirects a request follows.
MAX_REDIRECTS = 20

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}


class HttpActivity:
    """Sends requests. Connections are shared; cookies are not kept, so no call ever sees those of another.

    Args:
        host: Clock and threads.
        token_sources: By name.
        limit: Largest body of a response, in bytes, decompressed.
    """

    def __init__(self, host: Host, token_sources: Mapping[str, TokenSource], *, limit: int = MAX_PAYLOAD) -> None:
        self._host = host
        self._token_sources = token_sources
        self._limit = limit
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def aclose(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def perform(self, request: HttpRequest) -> HttpReply:
        """Sends a request, follows its redirects, and returns what came in the end.

        Raises:
            HttpRequestError: nothing came that can be used.
            TimeoutError: not in time.
        """
        client = await self._connected()
        import httpx  # noqa: PLC0415 - it is loaded now

        what = f"{request.method} {_shown(request.uri)}"
        try:
            async with asyncio.timeout(request.timeout):
                return await self._follow(client, request, httpx.URL(request.uri), what)
        except TimeoutError:
            raise TimeoutError(f"{what} was not answered within {request.timeout:g} s.") from None
        except httpx.InvalidURL:
            raise HttpRequestError(f"{what}: this is no URI that can be called.", non_retriable=True) from None
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise HttpRequestError(f"{what} cannot be sent: {error}", non_retriable=True) from None
        except httpx.HTTPError as error:
            raise HttpRequestError(f"{what} failed: {type(error).__name__}: {error}") from error

    async def _follow(self, client: httpx.AsyncClient, request: HttpRequest, url: httpx.URL, what: str) -> HttpReply:
        method, content = request.method, request.content
        headers = await self._authorized(request)
        for _ in range(MAX_REDIRECTS + 1):
            body = None if content is None else content.encode()
            following = client.build_request(method, url, headers=headers, content=body)
            response = await client.send(following, stream=True)
            try:
                target = _location(url, response)
                if target is None or response.status_code not in _REDIRECTS or not request.follow_redirects:
                    return await self._reply(request, response, target, what)
            finally:
                await response.aclose()
            if target.scheme not in _PORTS or not target.host:
                raise HttpRequestError(f"{what} was redirected to where HTTP does not go.", non_retriable=True)
            if _turns_into_get(response.status_code, method):
                method, content, headers = "GET", None, without_content(headers)
            if _origin(target) != _origin(url):
                headers = without_credentials(headers)
            url = target
        raise HttpRequestError(f"{what} was redirected more than {MAX_REDIRECTS} times.", non_retriable=True)

    async def _reply(
        self, request: HttpRequest, response: httpx.Response, location: httpx.URL | None, what: str
    ) -> HttpReply:
        import httpx  # noqa: PLC0415

        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > self._limit:
                raise HttpRequestError(
                    f"The response to {what} is over {self._limit:,} bytes. Fetch it in an activity of your own, which keeps it elsewhere.",
                    non_retriable=True,
                )
        return HttpReply(
            status_code=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            content=_text(bytes(body), response.charset_encoding),
            location=None if location is None else str(location),
            same_origin=location is not None and _origin(location) == _origin(httpx.URL(request.uri)),
            retry_after=self._retry_after(response.headers.get("retry-after")),
        )

    async def _authorized(self, request: HttpRequest) -> dict[str, str]:
        headers = {"User-Agent": "callboard", **request.headers}
        if request.token_source is not None:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            headers["Authorization"] = f"Bearer {await self._token(request.token_source)}"
        return headers

    async def _token(self, name: str) -> str:
        source = self._token_sources.get(name)
        if source is None:
            raise HttpRequestError(
                f"No token source {name!r} is registered on this worker: @app.token_source({name!r})."
            )
        found = source() if inspect.iscoroutinefunction(source) else await self._host.in_thread(source)
        return found if isinstance(found, str) else await found

    async def _connected(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                self._client = await self._host.in_thread(_client)
        return self._client

    def _retry_after(self, value: str | None) -> float | None:
        """Seconds, or a date."""
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            try:
                at = parsedate_to_datetime(value)
            except ValueError:
                return None
            at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
            seconds = (at - self._host.now()).total_seconds()
        return min(max(seconds, 0.0), LONGEST) if seconds == seconds else None  # noqa: PLR0124 - NaN is not


def _client() -> httpx.AsyncClient:
    """Loads httpx and the certificates, which takes longer than all else here: few workers need it, and no loop should wait."""
    import httpx  # noqa: PLC0415

    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx.AsyncClient(cookies=no_cookies, timeout=None, follow_redirects=False)  # noqa: S113 - see perform


def _location(url: httpx.URL, response: httpx.Response) -> httpx.URL | None:
    import httpx  # noqa: PLC0415

    value = response.headers.get("location")
    if value is None:
        return None
    try:
        return url.join(value)
    except (httpx.InvalidURL, ValueError):
        return None


def _turns_into_get(status: int, method: str) -> bool:
    """As browsers do it."""
    return (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port if url.port is not None else _PORTS.get(url.scheme)


def _text(body: bytes, charset: str | None) -> str:
    try:
        return body.decode(charset or "utf-8", errors="replace")
    except LookupError:
        return body.decode(errors="replace")


def _shown(uri: str) -> str:
    """A URI without what may be secret in it."""
    scheme, _, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2].partition("?")[0]
    return f"{scheme}://{host}{slash}{path.partition('?')[0].partition('#')[0]}"
