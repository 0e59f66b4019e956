"""What is wrong with a request, or with us: errors → status codes and ``{"Message": …}``. No stack trace leaves this process."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from callboard.errors import (
    CallboardError,
    EntityNotRegisteredError,
    InstanceAlreadyExistsError,
    InstanceNotFinishedError,
    InstanceNotFoundError,
    InstanceNotRunningError,
    InvalidEntityIdError,
    InvalidInstanceIdError,
    InvalidPayloadError,
    MessageFailedError,
    MessageRejectedError,
    OrchestrationNotRegisteredError,
    PayloadTooLargeError,
    QueryFailedError,
    RegistrationError,
    UnavailableError,
)

log = logging.getLogger("callboard.http")

#: When to come back after a 503, in seconds.
RETRY_AFTER = "5"

#: The first that fits decides.
_STATUS: tuple[tuple[type[CallboardError], int], ...] = (
    (PayloadTooLargeError, 413),
    (InvalidPayloadError, 400),
    (InvalidInstanceIdError, 400),
    (InvalidEntityIdError, 400),
    (OrchestrationNotRegisteredError, 400),
    (EntityNotRegisteredError, 404),
    (RegistrationError, 400),
    (InstanceNotFoundError, 404),
    (InstanceNotFinishedError, 404),  # Durable Functions: nothing was purged
    (InstanceAlreadyExistsError, 409),
    (InstanceNotRunningError, 410),
    (MessageRejectedError, 422),
    (MessageFailedError, 424),
    (QueryFailedError, 424),
    (UnavailableError, 503),
)


class RequestError(Exception):
    """A request that cannot be done, with what to answer."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that cannot be done."""
    if status == 503:
        headers = {"Retry-After": RETRY_AFTER, **(headers or {})}
    content = msgspec.json.encode({"Message": message})
    return Response(content, status_code=status, headers=dict(headers or {}), media_type="application/json")


def add_problem_answers(app: FastAPI) -> None:
    """Makes the app answer errors in Durable Functions' form."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(CallboardError, _on_callboard_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return problem(error.status, str(error), error.headers)


async def _on_callboard_error(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return await _on_unexpected(request, error)
    if status == 503:
        log.warning("%s %s: %s", request.method, request.url.path, error)
        return problem(503, "The broker or the store cannot be reached at present. Try again later.")
    return problem(status, str(error))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):  # Durable Functions tells no difference
        return problem(404, f"There is no {request.method} {request.url.path} here.")
    return problem(error.status_code, str(error.detail), error.headers)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "Something went wrong while processing your request. The server's log says what.")
