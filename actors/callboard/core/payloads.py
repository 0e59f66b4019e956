"""Values as JSON text, and back into the types that functions declare."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from callboard.core.events import Payload
from callboard.errors import InvalidPayloadError, PayloadTooLargeError

T = TypeVar("T")

#: Largest encoded value, in bytes: an argument, a result, an event, an output.
MAX_PAYLOAD = 1_048_576
#: Longest name of an event, version or tag, in characters.
MAX_TEXT = 1_024
#: Largest encoded custom status, in bytes (Durable Functions: 16 KiB).
MAX_CUSTOM_STATUS = 16_384


def encode(value: object, what: str, *, limit: int = MAX_PAYLOAD) -> Payload | None:
    """Encodes a value as JSON text; None stays None.

    Args:
        value: Anything msgspec can encode (dataclasses, TypedDicts, Structs, datetimes, UUIDs, Decimals, enums), or a pydantic model.
        what: How an error names the value: ``"The result of activity 'pay'"``.
        limit: Largest size, in bytes.

    Raises:
        InvalidPayloadError: the value has no JSON form.
        PayloadTooLargeError: it is over the limit.
    """
    if value is None:
        return None
    try:
        encoded = _encode(value)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidPayloadError(
            f"{what} cannot be encoded as JSON: {error}. Use JSON types, dataclasses, TypedDicts, msgspec.Structs or pydantic models."
        ) from error
    if len(encoded) > limit:
        raise PayloadTooLargeError(what, len(encoded), limit)
    return encoded.decode()


def decode(payload: Payload | None, expected: type[T] | Any, what: str) -> Any:
    """Decodes JSON text into the declared type; None stays None whatever is declared.

    Raises:
        InvalidPayloadError: it is no JSON, or does not fit the type; says where.
    """
    if payload is None:
        return None
    if expected is Any:
        return _decode_any(payload, what)
    try:
        return msgspec.json.decode(payload, type=expected, dec_hook=_from_builtins)
    except Exception as error:  # a type's own hooks (__post_init__, model_validate) raise what they like
        raise InvalidPayloadError(f"{what} does not fit {_describe(expected)}: {error}") from error


def text(value: object, what: str) -> str:
    """Returns a name unchanged if history can hold it: what is no string, or half of one, could be written but never read again.

    Raises:
        InvalidPayloadError: it cannot.
    """
    if not isinstance(value, str):
        raise InvalidPayloadError(f"{what} must be a string, not {type(value).__qualname__}.")
    if not value.isascii() and any(0xD800 <= ord(character) < 0xE000 for character in value):
        raise InvalidPayloadError(f"{what} must be valid Unicode: {value!r} has half a character.")
    if len(value) > MAX_TEXT:
        raise PayloadTooLargeError(what, len(value), MAX_TEXT)
    return value


def checked(payload: Payload | None, what: str) -> Payload | None:
    """Returns text unchanged that came encoded from elsewhere, if it can be carried.

    Raises:
        InvalidPayloadError: it is not JSON.
        PayloadTooLargeError: it is over the limit.
    """
    if payload is None:
        return None
    size = len(payload.encode(errors="replace"))
    if size > MAX_PAYLOAD:
        raise PayloadTooLargeError(what, size, MAX_PAYLOAD)
    if not is_json(payload):
        raise InvalidPayloadError(f"{what} is not JSON: send one JSON value.")
    return payload


def is_json(text: str) -> bool:
    """Whether text is one JSON value."""
    try:
        _any_decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def decodable(expected: Any) -> Any:
    """The type to decode into: what msgspec cannot handle at all (an open TypeVar, a name that is not defined) is taken as Any."""
    if expected is None or expected is type(None):
        return Any
    try:
        msgspec.json.Decoder(expected, dec_hook=_from_builtins)
    except (TypeError, ValueError, NameError):
        return Any
    return expected


def _decode_any(payload: Payload, what: str) -> Any:
    try:
        return _any_decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidPayloadError(f"{what} is not JSON: {error}") from error


def _to_builtins(value: object) -> object:
    dump = getattr(value, "model_dump", None)  # pydantic's protocol: used if it is there, never imported
    if callable(dump):
        return dump(mode="json")
    raise TypeError(f"objects of type {type(value).__qualname__} have no JSON form")


def _from_builtins(expected: type[Any], value: object) -> Any:
    if expected is object:
        return value
    validate = getattr(expected, "model_validate", None)
    if callable(validate):
        return validate(value)
    raise TypeError(f"{expected!r} cannot be made from JSON")


def _describe(expected: object) -> str:
    return expected.__qualname__ if isinstance(expected, type) else str(expected)


_encode = msgspec.json.Encoder(enc_hook=_to_builtins).encode
_any_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
