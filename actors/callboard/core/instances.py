"""What an instance is: its id, its record, and the commits that make up its history."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from callboard.core.entities import EntityMemory, EntityView
from callboard.core.events import (
    TERMINAL,
    ContinuedAsNew,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    ParentInstance,
    Payload,
    RuntimeStatus,
)
from callboard.core.failure import FailureDetails
from callboard.core.tracing import TraceContext
from callboard.errors import InvalidInstanceIdError, InvalidPayloadError

#: Longest instance id, in characters (Durable Functions' limit).
MAX_INSTANCE_ID = 256
#: Length of a worker's id, in hex digits.
WORKER_ID = 16
_IN_QUEUE_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_FORBIDDEN = frozenset("/\\#?")


def check_instance_id(instance_id: str) -> str:
    r"""Returns the id unchanged when it is allowed.

    Raises:
        InvalidInstanceIdError: empty, over 256 characters, starting with ``@``, or holding one of ``/ \ # ?``
            or a control character.
    """
    if not instance_id:
        raise InvalidInstanceIdError(instance_id, "it is empty")
    if len(instance_id) > MAX_INSTANCE_ID:
        raise InvalidInstanceIdError(instance_id, f"it has {len(instance_id)} characters, more than {MAX_INSTANCE_ID}")
    if instance_id.startswith("@"):
        raise InvalidInstanceIdError(instance_id, "it starts with '@', which is kept for entities")
    for character in instance_id:
        if (
            character in _FORBIDDEN
            or ord(character) < 0x20
            or 0x7F <= ord(character) < 0xA0
            or 0xD800 <= ord(character) < 0xE000
        ):
            raise InvalidInstanceIdError(instance_id, f"it contains {character!r}")
    return instance_id


def check_queue_name(name: str) -> str:
    """Returns the name of an activity queue unchanged when every broker can carry it.

    Raises:
        InvalidPayloadError: empty, over 100 characters, or with others than ASCII letters, digits, ``-``, ``_`` and ``.``.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not _IN_QUEUE_NAME.issuperset(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidPayloadError(
            f"{str(name)[:64]!r} cannot name an activity queue: use 1 to 100 letters, digits, '-', '_' and '.' (ASCII)."
        )
    return name


def partition_of(instance_id: str, partitions: int) -> int:
    """The partition that owns an instance: CRC-32 of its UTF-8 bytes, modulo their number.

    Any client in any language can compute it; Python's own ``hash`` differs from process to process.
    """
    return zlib.crc32(instance_id.encode()) % partitions


def child_instance_id(execution_id: str, task_id: int) -> str:
    """The id of a child that was given none: it does not grow with nesting, and differs in each execution."""
    return f"{execution_id}:{task_id:04x}"


def derived_execution_id(execution_id: str, task_id: int, purpose: str) -> str:
    """An execution id that replay and retries derive again: 32 hex digits from the parent's execution and action number."""
    return hashlib.sha256(f"{execution_id}/{task_id}/{purpose}".encode()).hexdigest()[:32]


def sent_message_id(execution_id: str, event_id: int) -> str:
    """The identity of an event that an orchestration sends."""
    return f"{execution_id}/{event_id}"


#: What keeps an instance's code from running: no live worker has it, it disagrees with history, it never awaits, it exits, a value
#: that it needs cannot be opened, its retry strategy raises.
ParkedKind: TypeAlias = Literal["unrunnable", "nondeterminism", "stuck", "exited", "payload", "strategy"]


class Parked(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Why an instance's code cannot run at present."""

    reason: str
    at: datetime
    kind: ParkedKind = "unrunnable"


class Commit(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """All that one turn decided. Its insert, unique on (instance, n), is the linearisation point of the turn.

    Effects (messages to send, timers to set, the projection) are derived from it (`callboard.core.effects`), never
    stored beside it.
    """

    instance_id: str
    n: int
    """Number of the commit, from 0 without gaps for as long as the instance id is known; executions do not restart it."""
    execution_id: str
    first: int
    """Number of the execution's first commit."""
    partition: int
    token: str
    """Random: tells our own insert, repeated after a lost reply, from another owner's. It begins with its author's worker id."""
    at: datetime
    """Time of the turn (``OrchestratorStarted``): the orchestration's clock."""
    ran: bool = True
    """Whether the code ran in this turn. If not (suspended, parked), its inputs are fed by the next commit that did."""
    runtime_status: RuntimeStatus
    custom_status: Payload | None = None
    events: tuple[HistoryEvent, ...] = ()
    timers_cancelled: tuple[int, ...] = ()
    """Timers of this execution that need not fire any more (history has no event for it)."""
    tasks_cancelled: tuple[int, ...] = ()
    """Activities of this execution whose results nobody waits for any more (history has no event for it)."""
    start_limits_over: tuple[int, ...] = ()
    """Activities that had a ``schedule_to_start`` limit, and have ended."""
    generation: int = 0
    """How often the instance had been continued as new before this execution."""
    awaited_events: tuple[str, ...] = ()
    """External events that the code waits for since; history says nothing of a waiting that has not ended."""
    body: str | None = None
    """Key of the payload that holds ``events``, where they were too large to be stored here."""
    parked: Parked | None = None
    trace: TraceContext | None = None
    """The execution's own span, under which all hangs that this commit brings about."""
    entity: EntityView | None = None
    """An entity's state after this commit."""
    memory: EntityMemory | None = None
    """What else an entity remembers then. None: what the commit with the number ``first`` says, and the events since."""

    @property
    def terminal(self) -> bool:
        return self.runtime_status in TERMINAL

    @property
    def continued(self) -> ContinuedAsNew | None:
        """The event that ends this execution and begins the next, if this commit holds it."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, ContinuedAsNew) else None

    @property
    def completed(self) -> ExecutionCompleted | None:
        """The event that ends the instance, if this commit holds it."""
        for event in reversed(self.events):
            if isinstance(event, ExecutionCompleted):
                return event
        return None


def version_of(record: InstanceRecord, commits: Sequence[Commit]) -> str | None:
    """The version of the execution that runs, or is about to. The record, which may lag behind, tells it only before the first commit.

    Args:
        record: The instance's record.
        commits: All of its current execution, or the last one of the execution before.
    """
    for commit in commits:
        if commit.continued is not None:
            return commit.continued.next.version
        for event in commit.events:
            if isinstance(event, ExecutionStarted):
                return event.version
    return record.version


def author_of(commit: Commit) -> str:
    """The worker that made a commit."""
    return commit.token[:WORKER_ID]


class CommitKey(msgspec.Struct, frozen=True):
    """Which commit: an instance and its number."""

    instance_id: str
    n: int


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The record of an instance: its start while Pending (authoritative), a projection of its commits afterwards."""

    instance_id: str
    partition: int
    execution_id: str
    name: str
    runtime_status: RuntimeStatus = "Pending"
    version: str | None = None
    tags: dict[str, str] | None = None
    input: Payload | None = None
    output: Payload | None = None
    failure: FailureDetails | None = None
    custom_status: Payload | None = None
    created_time: datetime
    last_updated_time: datetime
    completed_time: datetime | None = None
    scheduled_start_time: datetime | None = None
    parent: ParentInstance | None = None
    trace: TraceContext | None = None
    """What led to it: the span that its own hangs under."""
    generation: int = 0
    head: int = -1
    """Number of the last commit that this record reflects; kept when the instance id is used again."""
    first: int = 0
    """Number of the first commit of ``execution_id``."""
    parked: Parked | None = None
    entity: EntityView | None = None
    """An entity's state; orchestrations have none."""

    @property
    def terminal(self) -> bool:
        return self.runtime_status in TERMINAL


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit changes in the record of its instance; never creates a record.

    Applied only while the record's ``head`` is below ``n``, and the record is in ``execution_id`` or, lagging behind a
    ``continue_as_new``, in a lower generation.
    """

    instance_id: str
    n: int
    execution_id: str
    """The commit's execution."""
    generation: int
    """Its generation."""
    next_execution_id: str
    """The execution after the commit: differs only for ``continue_as_new``."""
    next_generation: int
    first: int
    runtime_status: RuntimeStatus
    custom_status: Payload | None
    last_updated_time: datetime
    parked: Parked | None = None
    begins: bool = False
    """Whether the commit begins an execution, or announces the next: only then ``input`` and ``version`` are written."""
    input: Payload | None = None
    version: str | None = None
    output: Payload | None = None
    failure: FailureDetails | None = None
    completed_time: datetime | None = None
    entity: EntityView | None = None
