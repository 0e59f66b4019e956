"""What an entity is: its id, what is asked of it, and what its commits carry.

An entity is an actor like an orchestration, with the instance id ``@name@key`` (Durable Functions' form). It has no code that waits: each
request to it is carried out at once, in order, one at a time. Its commits therefore need no history to go on from: each carries the
state, and the memory beside it, whole or as what has changed since the commit that had it whole.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

from callboard.core.failure import FailureDetails
from callboard.core.tracing import TraceContext
from callboard.errors import InvalidEntityIdError

#: Longest name of an entity, in characters.
MAX_ENTITY_NAME = 100
#: Longest instance id, in characters (Durable Functions' limit).
MAX_LENGTH = 256
_FORBIDDEN = frozenset("/\\#?")


class EntityId(msgspec.Struct, frozen=True, order=True):
    r"""Which entity: the name it is registered under, which is case-insensitive, and its key, which is not.

    Raises:
        InvalidEntityIdError: the name is empty or holds ``@`` or whitespace, or one of both holds ``/ \ # ?`` or a control character, or
            ``@name@key`` is longer than 256 characters.
    """

    name: str
    key: str

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "name", self.name.lower())
        text = f"@{self.name}@{self.key}"
        if not self.name or len(self.name) > MAX_ENTITY_NAME:
            raise InvalidEntityIdError(text, f"its name has {len(self.name)} characters, not 1 to {MAX_ENTITY_NAME}")
        if any(character.isspace() or character == "@" for character in self.name):
            raise InvalidEntityIdError(text, "its name contains '@' or whitespace")
        if len(text) > MAX_LENGTH:
            raise InvalidEntityIdError(text, f"it has {len(text)} characters, more than {MAX_LENGTH}")
        for character in text:
            if character in _FORBIDDEN or _is_control(ord(character)):
                raise InvalidEntityIdError(text, f"it contains {character!r}")

    @property
    def instance_id(self) -> str:
        """``@name@key``."""
        return f"@{self.name}@{self.key}"

    @classmethod
    def parse(cls, instance_id: str) -> EntityId:
        """The entity of an instance id; raises InvalidEntityIdError if it is none's."""
        name, separator, key = instance_id[1:].partition("@")
        if not instance_id.startswith("@") or not separator:
            raise InvalidEntityIdError(instance_id, "it has not the form @name@key")
        return cls(name, key)

    def __str__(self) -> str:
        return self.instance_id


def is_entity(instance_id: str) -> bool:
    """Whether an instance id is an entity's: no orchestration's begins so."""
    return instance_id.startswith("@")


def _is_control(code: int) -> bool:
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000


# --- Requests ---------------------------------------------------------------------------------------------------------


class _Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class Position(_Value, frozen=True, kw_only=True):
    """Where a request stands among those of its sender to the same entity: its identity, and what it comes after."""

    sender: str
    """A line: an execution, or a part of its requests to one entity; a client; or for a foreign message its id."""
    number: int = 0
    """Counts up from 0 within the line, without gaps."""
    after: datetime | None = None
    """When the one before it was sent, which it must not overtake; None: it waits for none."""

    def __str__(self) -> str:
        return f"{self.sender}/{self.number}"


class Caller(_Value, frozen=True, kw_only=True):
    """The orchestration that waits for an answer, and the number of its action."""

    instance_id: str
    execution_id: str
    task_scheduled_id: int


class _Request(_Value, frozen=True, kw_only=True, tag_field="kind", tag=True):
    line: Position
    sent: datetime


class Ended(_Value, frozen=True, kw_only=True):
    """How an orchestration ended that an entity started."""

    number: int
    instance_id: str
    result: str | None = None
    """Encoded."""
    failure: FailureDetails | None = None


class Operation(_Request, frozen=True, kw_only=True):
    """Asks for an operation: a call if somebody waits for its result, a signal if not."""

    request_id: str
    """By which its sender and people know it; a sealed input belongs to it."""
    operation: str
    input: str | None = None
    """Encoded."""
    caller: Caller | None = None
    ended: Ended | None = None
    """For an entity's own: which orchestration that it started has ended."""
    refused: FailureDetails | None = None
    """Why it must not be carried out: its input is forged."""
    due: datetime | None = None
    """When it is to be carried out; None: at once."""
    trace: TraceContext | None = None
    """Where it was asked for."""


class Lock(_Request, frozen=True, kw_only=True):
    """Asks for the entity on behalf of an orchestration's critical section."""

    caller: Caller


class Unlock(_Request, frozen=True, kw_only=True):
    """Ends a lock, or takes back the request for it: the one whose caller is the same."""

    caller: Caller


class CleanUp(_Request, frozen=True, kw_only=True):
    """Ends an entity that has no state and nothing to do, if its last operation was long enough ago."""

    idle: float
    """In seconds."""


#: What may be asked of an entity. Identity: its position in its line.
Request: TypeAlias = Operation | Lock | Unlock | CleanUp


# --- What commits carry -----------------------------------------------------------------------------------------------


class EntityView(_Value, frozen=True, kw_only=True):
    """An entity for people: in each of its commits, and in its record."""

    state: str | None = None
    """JSON text; None: the entity does not exist."""
    locked_by: str | None = None
    """The orchestration that holds it locked."""
    backlog: int = 0
    """How many requests wait."""
    last_operation: datetime | None = None
    last_failure: FailureDetails | None = None
    """Why the latest operation that failed did."""

    @property
    def exists(self) -> bool:
        return self.state is not None


class Heard(_Value, frozen=True, kw_only=True):
    """What has been consumed of one line of requests."""

    sender: str
    ranges: tuple[tuple[int, int], ...] = ()
    """From each first number up to, not including, each second one; ascending, apart from each other."""
    sent: datetime
    """When the latest was sent."""
    stamp: int
    """When the latest came, by the entity's own clock."""


class SentLine(_Value, frozen=True, kw_only=True):
    """How far the requests of one sender to one entity have got."""

    target: str
    sender: str
    next: int
    sent: datetime
    """When the latest was sent."""


class Timed(_Value, frozen=True, kw_only=True):
    """A signal whose time has not come."""

    timer_id: int
    request: Operation


class Started(_Value, frozen=True, kw_only=True):
    """An orchestration that the entity started, and of whose end it wants to be told."""

    number: int
    instance_id: str
    operation: str


class EntityMemory(_Value, frozen=True, kw_only=True):
    """All that an entity must not forget beside its state."""

    queue: tuple[Request, ...] = ()
    urgent: tuple[Request, ...] = ()
    """Calls of the orchestration that holds the lock."""
    timed: tuple[Timed, ...] = ()
    held: tuple[Request, ...] = ()
    """Requests that came before the one before them."""
    lock: Caller | None = None
    heard: tuple[Heard, ...] = ()
    """The least recently heard first."""
    lines: tuple[SentLine, ...] = ()
    """The least recently used first."""
    started: tuple[Started, ...] = ()
    clock: int = 0
    horizon: datetime | None = None
    """What was sent up to then may have been forgotten."""
    numbers: int = 0
    """The next number of a timer or of an orchestration to start."""
