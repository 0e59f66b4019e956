"""What a request says: its query and its body, checked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

from fastapi import Request
from starlette.requests import ClientDisconnect

from callboard.core.events import Payload, RuntimeStatus
from callboard.core.payloads import is_json
from callboard.http.problems import RequestError
from callboard.ports import InstanceFilter

#: How many instances a page holds unless the request says otherwise, and at most.
PAGE, LARGEST_PAGE = 100, 1000
#: Longest name of an external event, in characters.
MAX_EVENT_NAME = 256
#: Longest time that a request may ask to wait for an orchestration's end, in seconds.
LONGEST_WAIT = 3600.0
#: How much of a body that is too large is still read, so that the client sees the answer and not a broken connection; times the limit.
_PATIENCE = 8

_STATUSES = {name.lower(): name for name in (*get_args(RuntimeStatus), "Canceled")}


class Query:
    """The query parameters of a request; their names are case-insensitive."""

    def __init__(self, request: Request) -> None:
        self._values = {name.lower(): value for name, value in request.query_params.items()}

    def text(self, name: str) -> str | None:
        return self._values.get(name.lower()) or None

    def flag(self, name: str, *, default: bool) -> bool:
        text = self.text(name)
        if text is None:
            return default
        if text.lower() not in ("true", "false"):
            raise RequestError(400, f"The value of '{name}' must be true or false, not {text[:64]!r}.")
        return text.lower() == "true"

    def seconds(self, name: str) -> float | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= LONGEST_WAIT:
            raise RequestError(
                400, f"The value of '{name}' must be a number of seconds from 0 to {LONGEST_WAIT:g}, not {text[:64]!r}."
            )
        return value

    def page_size(self) -> int:
        text = self.text("top")
        if text is None:
            return PAGE
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
            raise RequestError(400, f"The value of 'top' must be a whole number from 1 on, not {text[:64]!r}.")
        return min(int(text), LARGEST_PAGE)

    def time(self, name: str) -> datetime | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            # A "+" that was not escaped arrives as a space.
            moment = datetime.fromisoformat(text if " " not in text[11:] else text[:11] + text[11:].replace(" ", "+"))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise RequestError(
                400, f"The value of '{name}' must be a time in ISO 8601, as in 2026-01-31T10:00:00Z, not {text[:64]!r}."
            ) from None

    def statuses(self) -> tuple[str, ...]:
        text = self.text("runtimeStatus")
        if text is None:
            return ()
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name.lower() not in _STATUSES]
        if unknown:
            raise RequestError(
                400, f"There is no runtimeStatus {unknown[0][:64]!r}. There are: {', '.join(_STATUSES.values())}."
            )
        return tuple(_STATUSES[name.lower()] for name in names)

    def instances(self) -> InstanceFilter:
        """Which instances are asked for."""
        return InstanceFilter(
            statuses=self.statuses(),
            id_prefix=self.text("instanceIdPrefix"),
            created_from=self.time("createdTimeFrom"),
            created_to=self.time("createdTimeTo"),
            parked=None if self.text("parked") is None else self.flag("parked", default=False),
        )


def media_type(request: Request) -> str:
    """The content type without its parameters; empty if none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, limit: int) -> Payload | None:
    """The body as JSON text; None if it is empty or ``null``."""
    text = (await text_body(request, limit)).strip()
    if text in ("", "null"):
        return None
    if not is_json(text):
        raise RequestError(400, f"The body is not valid JSON: {text[:64]!r}. Text must be in double quotes.")
    return text


async def text_body(request: Request, limit: int) -> str:
    """The body as text."""
    try:
        return (await _body(request, limit)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(400, "The body is not UTF-8 text. Send JSON, encoded as UTF-8.") from None


async def no_body(request: Request, limit: int) -> None:
    """Reads a body that does not matter."""
    await _body(request, limit)


async def _body(request: Request, limit: int) -> bytes:
    too_large = RequestError(
        413, f"The body is larger than {limit:,} bytes. Keep large data elsewhere and pass a reference to it."
    )
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdecimal() and (len(declared) > 15 or int(declared) > limit * _PATIENCE):
        raise too_large
    body, size = bytearray(), 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit:
                body += chunk
            elif size > limit * _PATIENCE:
                break
    except ClientDisconnect:
        raise RequestError(400, "The client went away before its request was complete.") from None
    if size > limit:
        raise too_large
    return bytes(body)
