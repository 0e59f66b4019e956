"""The form of a sealed value: JSON text that says how it is encoded, under which key, and holds the data in Base64."""

from __future__ import annotations

import base64
import binascii

import msgspec

from callboard.core.events import Payload
from callboard.core.payloads import MARK


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stands under ``$callboard``."""

    codec: str
    """How the data are encoded: ``json`` or ``cloudpickle``."""
    cipher: str | None = None
    """How they are encrypted: ``aes-256-gcm``, or not at all."""
    key: str
    """The id of the key."""
    mac: str | None = None
    """HMAC-SHA256 over codec, key id, place and data, of what is not encrypted (a cipher authenticates its data itself)."""
    nonce: str | None = None
    data: str


class _Outer(msgspec.Struct, frozen=True):
    envelope: Envelope = msgspec.field(name="$callboard")


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Outer)


def written(envelope: Envelope) -> Payload:
    """An envelope as payload."""
    return f"{MARK}{_encode(envelope).decode()}}}"


def read(payload: Payload) -> Envelope:
    """The envelope that a payload is.

    Raises:
        ValueError: it is none, or lacks something.
    """
    try:
        return _decoder.decode(payload).envelope
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error


def to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_text(text: str | None) -> bytes:
    """Raises ValueError for what is no Base64."""
    if text is None:
        raise ValueError("something is missing")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
