"""HTTP calls from orchestrations: a request is the work of an activity, and the waiting between polls that of durable timers.

Rules of this file:

* URIs are taken apart by the activity, which resolves locations and compares origins. Here they are text.
* What may be a credential goes to the origin that it was given for, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from callboard.core import payloads
from callboard.core.failure import FailureDetails, type_name
from callboard.core.retrying import Call, RetryStrategy, guarded
from callboard.core.timeouts import LONGEST, Duration, Timeouts
from callboard.errors import HttpStatusError, InvalidPayloadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from callboard.core.context import DurableTask

#: The activity that sends requests; every worker has it (Durable Functions' name for it).
HTTP_ACTIVITY: Final = "BuiltIn::HttpActivity"
#: The queue of what is built in: every worker knows all that comes over it.
BUILT_IN_QUEUE: Final = "builtin"
#: How long a request may take, in seconds, unless it says otherwise (that of .NET's HttpClient).
TIMEOUT: Final = 100.0
#: How long to wait before a poll where the server does not say, in seconds (Durable Functions' default).
POLL_INTERVAL: Final = 30.0
#: Longest URI, in characters.
MAX_URI: Final = 8_192

#: What the name of a header has in it that may be a credential.
CREDENTIALS: Final = ("auth", "cookie", "token", "secret", "key", "password", "credential", "signature", "session")
_OF_CONTENT = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding"})
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the activity is to send (Durable Functions' ``DurableHttpRequest``)."""

    method: str
    uri: str
    headers: dict[str, str] = {}
    content: str | None = None
    token_source: str | None = None
    timeout: float = TIMEOUT
    """For all of it, redirects included; in seconds."""
    follow_redirects: bool = True


class DurableHttpResponse(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An answer to ``call_http``, whatever its status."""

    status_code: int
    headers: dict[str, str] = {}
    """Names in lower case; several values of one name are joined by commas."""
    content: str = ""

    def json(self, expected: Any = Any) -> Any:
        """The content, decoded as JSON into a type.

        Raises:
            InvalidPayloadError: it is no JSON, or does not fit.
        """
        return payloads.decode(self.content, payloads.decodable(expected), "The content of the HTTP response")

    def raise_for_status(self) -> None:
        """Raises HttpStatusError if the status is 400 or more."""
        if self.status_code >= 400:
            raise HttpStatusError(self.status_code, self.content)


class HttpReply(DurableHttpResponse, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the activity returns: the response, and what of it only the activity can tell."""

    location: str | None = None
    """The Location, resolved."""
    same_origin: bool = False
    """Whether that is at the origin of the request."""
    retry_after: float | None = None
    """The Retry-After, in seconds from when the response came."""

    @property
    def response(self) -> DurableHttpResponse:
        return DurableHttpResponse(status_code=self.status_code, headers=self.headers, content=self.content)


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a call is made, beyond its request."""

    retry: RetryStrategy | None = None
    status_codes_to_retry: frozenset[int] = frozenset()
    polls: bool = True
    poll_interval: timedelta = timedelta(seconds=POLL_INTERVAL)

    def refused(self, reply: HttpReply) -> FailureDetails | None:
        """Why a reply counts as a failed attempt."""
        status = reply.status_code
        if status in self.status_codes_to_retry or (not self.status_codes_to_retry and status >= 400):
            error = HttpStatusError(status, reply.content)
            return FailureDetails(error_type=type_name(HttpStatusError), error_message=str(error))
        return None


class Requests(Protocol):
    """Makes requests calls."""

    def http(self, request: HttpRequest, refused: Callable[[Any], FailureDetails | None]) -> Call: ...


class HttpHost(Protocol):
    """The execution behind a call."""

    now: datetime

    @property
    def calls(self) -> Requests: ...

    def new_task(self, when_cancelled: Callable[[DurableTask[Any]], None]) -> DurableTask[Any]: ...

    def create_timer(self, fire_at: datetime) -> DurableTask[None]: ...

    def make(self, call: Call, retry: RetryStrategy | None) -> DurableTask[Any]: ...


class HttpCall:
    """One call: its request, and then as many polls as the server wants (202, with a Location)."""

    def __init__(self, host: HttpHost, request: HttpRequest, options: HttpOptions) -> None:
        self._host = host
        self._options = options
        self._request = request
        self.task: DurableTask[DurableHttpResponse] = host.new_task(self._cancelled)
        self._current: DurableTask[Any] = self._send()
        self.task.task_id = self._current.task_id

    def _send(self) -> DurableTask[Any]:
        call = self._host.calls.http(self._request, self._options.refused)
        self._current = self._host.make(call, self._options.retry)
        self._current.add_done_callback(guarded(self.task, self._on_reply))
        return self._current

    def _on_reply(self, request: Any) -> None:
        if self.task.done():
            return
        error = request.exception()
        if error is not None:
            self.task.set_exception(error)
            return
        reply: HttpReply = request.result()
        if reply.status_code != 202 or reply.location is None or not self._options.polls:
            self.task.set_result(reply.response)
            return
        self._request = poll_of(self._request, reply.location, same_origin=reply.same_origin)
        delay = self._options.poll_interval
        if reply.retry_after is not None:
            delay = timedelta(seconds=min(max(reply.retry_after, 0.0), LONGEST))
        self._current = self._host.create_timer(self._host.now + delay)
        self._current.add_done_callback(guarded(self.task, self._on_timer))

    def _on_timer(self, _timer: object) -> None:
        if not self.task.done():
            self._send()

    def _cancelled(self, _task: object) -> None:
        self._current.cancel()


def http_request(
    method: str,
    uri: str,
    content: object,
    headers: Mapping[str, str] | None,
    token_source: str | None,
    timeout: Duration,
    *,
    follow_redirects: bool,
) -> HttpRequest:
    """A request as people ask for it, checked.

    Raises:
        ValueError: the method, the URI, a header or the time limit is not possible.
        InvalidPayloadError: the content has no JSON form.
    """
    checked = _checked_headers(headers or {})
    kind, text = _content(content)
    if text is not None and not any(name.lower() == "content-type" for name in checked):
        checked["Content-Type"] = kind
    seconds = Timeouts.of(timeout).start_to_close
    return HttpRequest(
        method=_checked_method(method),
        uri=_checked_uri(uri),
        headers=checked,
        content=text,
        token_source=token_source,
        timeout=TIMEOUT if seconds is None else seconds,
        follow_redirects=follow_redirects,
    )


def poll_of(request: HttpRequest, location: str, *, same_origin: bool) -> HttpRequest:
    """The request that asks how far it is: as Durable Functions does, with the same headers but the function key."""
    kept = {
        name: value
        for name, value in request.headers.items()
        if name.lower() not in _OF_CONTENT and name.lower() != "x-functions-key"
    }
    return msgspec.structs.replace(
        request,
        method="GET",
        uri=location,
        content=None,
        headers=kept if same_origin else without_credentials(kept),
        token_source=request.token_source if same_origin else None,
    )


def without_credentials(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that another origin may see."""
    return {
        name: value
        for name, value in headers.items()
        if not any(word in name.lower() for word in CREDENTIALS) and name.lower() != "host"
    }


def without_content(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that a request without content may have."""
    return {name: value for name, value in headers.items() if name.lower() not in _OF_CONTENT}


def status_codes(codes: Collection[int]) -> frozenset[int]:
    """Checks status codes; raises ValueError for what is none."""
    wrong = [code for code in codes if not 100 <= code <= 599]
    if wrong:
        raise ValueError(f"status_codes_to_retry: {wrong[0]!r} is no HTTP status.")
    return frozenset(codes)


def _content(content: object) -> tuple[str, str | None]:
    if content is None or isinstance(content, str):
        return "text/plain; charset=utf-8", content
    if isinstance(content, (bytes, bytearray, memoryview)):
        raise InvalidPayloadError("call_http sends text or JSON. Send bytes from an activity of your own.")
    return "application/json", payloads.encode(content, "The content of an HTTP request")


def _checked_method(method: str) -> str:
    if not method or not _TOKEN.issuperset(method):
        raise ValueError(f"{method[:64]!r} is no HTTP method.")
    return method.upper()


def _checked_uri(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if scheme.lower() not in ("http", "https") or not separator or rest[:1] in ("", "/", "?", "#"):
        raise ValueError(f"call_http needs an absolute URI, http://… or https://…, not {uri[:64]!r}.")
    if len(uri) > MAX_URI or any(c.isspace() or not c.isprintable() for c in uri):
        raise ValueError(f"The URI of an HTTP call has up to {MAX_URI:,} characters, and no spaces: {uri[:64]!r}")
    return uri


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not name or not _TOKEN.issuperset(name):
            raise ValueError(f"{name[:64]!r} is no name of an HTTP header.")
        if any((ord(c) < 0x20 and c != "\t") or ord(c) == 0x7F for c in value):
            raise ValueError(f"The HTTP header {name!r} has a line break or a control character.")
    return dict(headers)
