"""Values as JSON text, and back into the types that functions declare.

Text that begins with `MARK` is an envelope (`callboard.core.codec`): a value that is more than its plain JSON. A user's own JSON that
begins so is put into an envelope too, so that the two are never confused: that is what `encode` and `checked` do, and `decode` undoes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from callboard.core import types
from callboard.core.events import Payload
from callboard.errors import InvalidPayloadError, PayloadTooLargeError

T = TypeVar("T")

#: Largest encoded value, in bytes: an argument, a result, an event, an output.
MAX_PAYLOAD = 1_048_576
#: Longest name of an event, version or tag, in characters.
MAX_TEXT = 1_024
#: Largest encoded custom status, in bytes (Durable Functions: 16 KiB).
MAX_CUSTOM_STATUS = 16_384
#: What an envelope begins with, to the letter. Text that only means the same, with other spaces, is plain JSON.
MARK = '{"$callboard":'
#: And one that only quotes a user's JSON.
QUOTED = MARK + '{"codec":"json","value":'


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
    return escaped(encoded.decode())


def decode(payload: Payload | None, expected: type[T] | Any, what: str) -> Any:
    """Decodes JSON text into the declared type; None stays None whatever is declared.

    Raises:
        InvalidPayloadError: it is no JSON, or does not fit the type; says where.
    """
    if payload is None:
        return None
    return decode_json(unescaped(payload, what) if payload.startswith(MARK) else payload, expected, what)


def decode_json(text: str, expected: type[T] | Any, what: str) -> Any:
    """`decode` for text that cannot be an envelope: a part of a value."""
    if expected is Any:
        return _decode_any(text, what)
    try:
        if (validate := types.validator(expected)) is not None:
            return validate(text, by_alias=True, by_name=True)
        return msgspec.json.decode(text, type=expected, dec_hook=_from_builtins)
    except Exception as error:  # a type's own hooks (__post_init__, model_validate) raise what they like
        raise InvalidPayloadError(f"{what} does not fit {_describe(expected)}: {error}") from error


def escaped(text: str) -> Payload:
    """A user's JSON as a payload: in an envelope of its own if it looks like one."""
    return f"{QUOTED}{text}}}}}" if text.startswith(MARK) else text


def unescaped(payload: Payload, what: str) -> str:
    """The user's JSON in an envelope that holds nothing else.

    Raises:
        InvalidPayloadError: it holds something else.
    """
    if not payload.startswith(QUOTED):
        raise InvalidPayloadError(f"{what} is sealed, and nobody has opened it.")
    return payload[len(QUOTED) : -2]


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


def tags(given: dict[str, str] | None) -> dict[str, str] | None:
    """Returns tags that history can hold; raises as `text` does."""
    if given is None:
        return None
    return {text(key, "The name of a tag"): text(given[key], f"Tag {key!r}") for key in given}


def checked(payload: Payload | None, what: str, *, limit: int = MAX_PAYLOAD) -> Payload | None:
    """JSON that came as text from elsewhere, as a payload, if it can be carried.

    Raises:
        InvalidPayloadError: it is not JSON.
        PayloadTooLargeError: it is over the limit.
    """
    if payload is None:
        return None
    size = len(payload.encode(errors="replace"))
    if size > limit:
        raise PayloadTooLargeError(what, size, limit)
    if not is_json(payload):
        raise InvalidPayloadError(f"{what} is not JSON: send one JSON value.")
    return escaped(payload)


def is_json(text: str) -> bool:
    """Whether text is one JSON value."""
    try:
        _any_decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def decodable(expected: Any) -> Any:
    """What to give to `decode` for a declared type; what cannot be decoded into at all is taken as Any."""
    return types.decodable(expected, _from_builtins)


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
    if (validate := types.validator(expected)) is not None:
        # From JSON again: a strict model takes a time or a tuple in JSON's own form only there.
        return validate(_encode(value), by_alias=True, by_name=True)
    raise TypeError(f"{expected!r} cannot be made from JSON")


def _describe(expected: object) -> str:
    return expected.__qualname__ if isinstance(expected, type) else str(expected)


_encode = msgspec.json.Encoder(enc_hook=_to_builtins).encode
_any_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def checked_tags(tags: dict[str, str] | None) -> dict[str, str] | None:
    """Returns the tags unchanged when they are text that can be stored; raises InvalidPayloadError otherwise."""
    if tags is None:
        return None
    return {text(key, "The name of a tag"): text(tags[key], f"Tag {key!r}") for key in tags}
