"""HTTP calls, as a context offers them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from callboard.core.http_calls import (
    POLL_INTERVAL,
    TIMEOUT,
    DurableHttpResponse,
    HttpCall,
    HttpOptions,
    http_request,
    status_codes,
)
from callboard.core.timeouts import Duration, interval

if TYPE_CHECKING:
    from callboard.core.context import ContextHost, DurableTask
    from callboard.core.retrying import RetryStrategy


class HttpContext:
    """The part of a context that talks HTTP."""

    __slots__ = ()
    _host: ContextHost

    def call_http(
        self,
        method: str,
        uri: str,
        content: object = None,
        headers: Mapping[str, str] | None = None,
        token_source: str | None = None,
        *,
        retry: RetryStrategy | None = None,
        status_codes_to_retry: Collection[int] = (),
        timeout: Duration = TIMEOUT,
        follow_redirects: bool = True,
        asynchronous_pattern_enabled: bool = True,
        poll_interval: Duration = POLL_INTERVAL,
    ) -> DurableTask[DurableHttpResponse]:
        """Sends an HTTP request, from an activity that every worker has, and returns a task for the response, whatever its status.

        A 202 with a Location is polled until it is something else; the waits between are durable timers, as long as Retry-After says.
        Redirects are followed. What may be a credential is not sent to another origin. Request and response are in history.

        Args:
            method: ``GET``, ``POST`` …
            uri: Absolute, ``http`` or ``https``. Never one that a stranger can choose: the worker's network may let it go far.
            content: The body: text as it is, anything else as JSON.
            headers: Its headers.
            token_source: A source registered with ``@app.token_source``, whose token is sent as ``Authorization: Bearer …``. It is
                fetched on the worker, and is not in history.
            retry: When and how often to try again: a `callboard.RetryPolicy`. The last response is returned, even if it was refused.
            status_codes_to_retry: The statuses to try again, if there is a policy; none means all from 400 on.
            timeout: For each request with its redirects.
            follow_redirects: Whether to follow redirects.
            asynchronous_pattern_enabled: Whether to poll after a 202.
            poll_interval: How long to wait before a poll, if the server does not say.

        Raises:
            ValueError: what was asked for cannot be sent.
            InvalidPayloadError: the content has no JSON form.

        Raises (where the task is awaited):
            TaskFailedError: there was no response; ``error.failure`` says why: a `HttpRequestError` or a ``TimeoutError``.
        """
        request = http_request(method, uri, content, headers, token_source, timeout, follow_redirects=follow_redirects)
        options = HttpOptions(
            retry=retry,
            status_codes_to_retry=status_codes(status_codes_to_retry),
            polls=asynchronous_pattern_enabled,
            poll_interval=interval(poll_interval),
        )
        return HttpCall(self._host, request, options).task
