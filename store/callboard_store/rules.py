"""What every store decides in the same way. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from callboard.core.instances import Commit, InstanceRecord, Projection
from callboard.errors import ConfigurationError, CorruptHistoryError, InvalidInstanceIdError

DEFAULT_PARTITIONS = 32
MAX_PARTITIONS = 4096
#: How long the number of a trimmed or purged commit stays taken. An owner that was asleep for less than this, and goes on where
#: it was, loses its race as if the commit were still there.
TAKEN_SECONDS = 3600.0
#: How long a payload that nothing refers to is kept by ``trim``: its commit may be on the way.
PAYLOAD_GRACE_SECONDS = 3600.0
#: Quarantined bodies are cut to this, so that one always fits a document.
MAX_QUARANTINED = 4 * 1024 * 1024

_HUB = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,44}")
_WHOLE_PAYLOAD_KEY = re.compile(r"[^/]+/[0-9a-f]{64}")
_PAYLOAD_KEY = re.compile(rb"/([0-9a-f]{64})(?![0-9a-f])")


def check_hub(hub: str) -> str:
    """Returns the name unchanged when it is allowed.

    Raises:
        ConfigurationError: it is not.
    """
    if not _HUB.fullmatch(hub):
        raise ConfigurationError(
            f"Task hub name {hub[:64]!r} is not allowed. Use 1 to 45 letters, digits, '-' and '_', the first a letter."
        )
    return hub


def check_partitions(partitions: int | None) -> int | None:
    """Returns the number unchanged when it is allowed.

    Raises:
        ConfigurationError: it is not.
    """
    if partitions is not None and not 1 <= partitions <= MAX_PARTITIONS:
        raise ConfigurationError(f"A task hub has 1 to {MAX_PARTITIONS} partitions, not {partitions}.")
    return partitions


def key_start(instance_id: str) -> str:
    """What the keys of everything that belongs to an instance begin with, and nobody else's do.

    Raises:
        InvalidInstanceIdError: the id contains the slash that ends it here.
    """
    if "/" in instance_id:
        raise InvalidInstanceIdError(instance_id, "it contains '/'")
    return f"{instance_id}/"


def key_end(instance_id: str) -> str:
    """The first text after all keys of an instance ('0' follows '/')."""
    return f"{instance_id}0"


def is_payload_key(key: str) -> bool:
    """Whether a text has the form of a payload's key: instance id, slash, SHA-256."""
    return _WHOLE_PAYLOAD_KEY.fullmatch(key) is not None


def prefix_end(prefix: str) -> str | None:
    """The first text, by code points, after all that begin with a prefix; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[at]) + 1
        if 0xD800 <= following < 0xE000:  # surrogates are no characters
            following = 0xE000
        if following <= 0x10FFFF:
            return prefix[:at] + chr(following)
    return None


def continuation(record: InstanceRecord) -> str:
    """Where the page after this record begins."""
    return base64.urlsafe_b64encode(msgspec.json.encode((record.created_time, record.instance_id))).decode()


def parse_continuation(token: str) -> tuple[datetime, str]:
    """The creation time and id that the next page comes after.

    Raises:
        ValueError: it is no continuation token.
    """
    try:
        decoded = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        created, instance_id = msgspec.json.decode(decoded, type=tuple[datetime, str])
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"{token[:64]!r} is no continuation token of this store") from error
    if created.tzinfo is None:
        raise ValueError(f"{token[:64]!r} is no continuation token of this store")
    return created, instance_id


def entity_continuation(record: InstanceRecord) -> str:
    """Where the page of entities after this record begins."""
    return base64.urlsafe_b64encode(msgspec.json.encode(record.instance_id)).decode()


def parse_entity_continuation(token: str) -> str:
    """The id that the next page of entities comes after.

    Raises:
        ValueError: it is no continuation token.
    """
    try:
        instance_id = msgspec.json.decode(base64.b64decode(token.encode(), altchars=b"-_", validate=True), type=str)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"{token[:64]!r} is no continuation token of this store") from error
    if not instance_id.startswith("@"):
        raise ValueError(f"{token[:64]!r} is no continuation token of this store")
    return instance_id


def current_execution(record: InstanceRecord, commits: Sequence[Commit]) -> tuple[Commit, ...]:
    """What ``load`` returns of an instance, given its commits in order from the one before ``record.first`` on.

    Raises:
        CorruptHistoryError: one of them is missing.
    """
    last = commits[-1] if commits else None
    if last is None:
        return ()
    if last.n < record.first:  # the end of what was before: it counts if it announces the record's execution
        return (last,) if not last.terminal else ()
    if last.continued is not None:
        return (last,)
    current = tuple(commit for commit in commits if commit.n >= last.first)
    for expected, commit in enumerate(current, start=last.first):
        if commit.n != expected:
            raise CorruptHistoryError(record.instance_id, missing=expected)
    return current


def applies(record: InstanceRecord, projection: Projection) -> bool:
    """Whether a projection may change a record."""
    return record.head < projection.n and (
        record.execution_id == projection.execution_id or record.generation < projection.generation
    )


def projected(record: InstanceRecord, projection: Projection) -> InstanceRecord:
    """The record after a projection that applies."""
    return msgspec.structs.replace(
        record,
        execution_id=projection.next_execution_id,
        generation=projection.next_generation,
        runtime_status=projection.runtime_status,
        custom_status=projection.custom_status,
        last_updated_time=projection.last_updated_time,
        completed_time=projection.completed_time,
        parked=projection.parked,
        input=projection.input if projection.begins else record.input,
        version=projection.version if projection.begins else record.version,
        output=projection.output,
        failure=projection.failure,
        head=projection.n,
        first=projection.first,
        entity=projection.entity,
    )


def payload_hashes(values: Iterable[Commit | InstanceRecord | bytes]) -> set[str]:
    """The hashes in all payload keys that occur anywhere in these values."""
    return {found.decode() for value in values for found in _PAYLOAD_KEY.findall(_bytes(value))}


def _bytes(value: Commit | InstanceRecord | bytes) -> bytes:
    return value if isinstance(value, bytes) else msgspec.json.encode(value)
