"""References: what stands for a value that is too large to be carried. The store keeps the value as a payload of its instance."""

from __future__ import annotations

from typing import Final

import msgspec

from callboard.core.events import Payload
from callboard.core.payloads import MARK

#: From how many characters on a value is kept apart.
LARGE: Final = 262_144

_START: Final = MARK + '{"ref":'


class Reference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stands under ``$callboard``."""

    ref: str
    """The payload's key."""
    bytes: int
    """The value's size."""
    told: str | None = None
    """The key of the copy that belongs to the parent: of a child's output, which either of the two may outlive."""


class _Outer(msgspec.Struct, frozen=True):
    reference: Reference = msgspec.field(name="$callboard")


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Outer)


def is_large(payload: Payload | None) -> bool:
    return payload is not None and len(payload) > LARGE


def is_reference(payload: Payload | None) -> bool:
    return payload is not None and payload.startswith(_START)


def written(reference: Reference) -> Payload:
    return f"{MARK}{_encode(reference).decode()}}}"


def read(payload: Payload | None) -> Reference | None:
    """The reference that a payload is; None if it is none."""
    if payload is None or not payload.startswith(_START):
        return None
    try:
        return _decoder.decode(payload).reference
    except msgspec.MsgspecError:
        return None


def as_told(payload: Payload | None) -> Payload | None:
    """A child's output as its parent gets it: a reference to the parent's own copy."""
    reference = read(payload)
    if reference is None or reference.told is None:
        return payload
    return written(Reference(ref=reference.told, bytes=reference.bytes))


def size(payload: Payload | None) -> int:
    """Estimate of what a value weighs once it is here, in bytes."""
    reference = read(payload)
    return len(payload or "") if reference is None else max(reference.bytes, 0)
