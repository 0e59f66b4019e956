"""Messages on the wire: many to one broker message, for one destination."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from callboard.core.messages import WIRE_VERSION, Message, Pack
from callboard.errors import MalformedMessageError
from callboard.ports import Broker, Destination, DestinationKind, Host

#: Called once the broker has confirmed, or with what went wrong.
Sent: TypeAlias = Callable[[BaseException | None], None]

#: Most messages in one pack.
MOST_MESSAGES = 256
#: Most activity calls in one pack: a pack is one worker's, so large ones would starve the others.
MOST_CALLS = 50
#: Bytes from which on a pack is closed.
MOST_BYTES = 524_288


class _Split(msgspec.Struct, frozen=True):
    v: int
    messages: tuple[msgspec.Raw, ...]


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Pack)
_splitter = msgspec.json.Decoder(_Split)
_HEAD = b'{"v":%d,"messages":[' % WIRE_VERSION
_HEADERS = {"content-type": "application/json"}


def encode_pack(messages: Sequence[Message]) -> bytes:
    """Encodes messages as one pack."""
    return _join([_encode(message) for message in messages])


def decode_pack(body: bytes) -> tuple[Message, ...]:
    """Decodes a pack.

    Raises:
        MalformedMessageError: not JSON, another wire version, or a message that is not known or lacks something; says which.
    """
    try:
        pack = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"not a pack of messages: {error}") from error
    if pack.v != WIRE_VERSION:
        raise MalformedMessageError(f"wire version {pack.v} is not known here (this worker speaks {WIRE_VERSION})")
    return pack.messages


def split_pack(body: bytes) -> list[bytes]:
    """A pack of each message of a pack, decoded or not; empty if it is no pack of this version at all."""
    try:
        pack = _splitter.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return [_join([bytes(message)]) for message in pack.messages] if pack.v == WIRE_VERSION else []


def _join(encoded: Sequence[bytes]) -> bytes:
    return _HEAD + b",".join(encoded) + b"]}"


class Packer:
    """Packs what goes to one destination while the previous publish to it awaits its confirm."""

    def __init__(self, broker: Broker, host: Host, *, parallel: int = 2) -> None:
        self._broker = broker
        self._host = host
        self._parallel = parallel
        self._lines: dict[Destination, _Line] = {}

    def send(self, destination: Destination, message: Message, sent: Sent) -> None:
        """Queues a message; ``sent`` is called with None once it is confirmed, or with an error."""
        line = self._lines.get(destination)
        if line is None:
            line = self._lines[destination] = _Line()
        line.waiting.append((_encode(message), sent))
        if line.under_way < self._parallel:
            line.under_way += 1
            self._host.spawn(self._serve(destination, line), name=f"callboard publish to {destination}")

    @property
    def idle(self) -> bool:
        return not self._lines

    @property
    def waiting(self) -> int:
        """How many messages wait to be published."""
        return sum(len(line.waiting) for line in list(self._lines.values()))

    @property
    def under_way(self) -> int:
        """How many packs the broker has not confirmed yet, at most."""
        return sum(line.under_way for line in list(self._lines.values()))

    async def _serve(self, destination: Destination, line: _Line) -> None:
        most = MOST_CALLS if destination.kind is DestinationKind.ACTIVITIES else MOST_MESSAGES
        try:
            while line.waiting:
                await self._publish(destination, line.take(most))
        finally:
            line.under_way -= 1
            if not line.under_way and not line.waiting:
                self._lines.pop(destination, None)

    async def _publish(self, destination: Destination, batch: list[tuple[bytes, Sent]]) -> None:
        error: BaseException | None = None
        try:
            await self._broker.publish(destination, _join([encoded for encoded, _ in batch]), _HEADERS)
        except Exception as raised:  # noqa: BLE001 - goes to those who wait for the messages
            error = raised
        for _, sent in batch:
            sent(error)


class _Line:
    """What waits for one destination."""

    __slots__ = ("under_way", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[bytes, Sent]] = deque()
        self.under_way = 0

    def take(self, most: int) -> list[tuple[bytes, Sent]]:
        batch: list[tuple[bytes, Sent]] = []
        size = 0
        while self.waiting and len(batch) < most and (not batch or size + len(self.waiting[0][0]) <= MOST_BYTES):
            entry = self.waiting.popleft()
            size += len(entry[0])
            batch.append(entry)
        return batch
