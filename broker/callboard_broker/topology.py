"""Names and properties of the queues of a hub. Pure: a value for (hub, destination, server version), no I/O.

Messages are published to the default exchange, which is a direct exchange to which every queue is bound under its own name. An exchange of
our own would add a binding for each queue and three ways to fail (exchange deleted, binding deleted, either of other properties), would
close the publishing channel when it is missing, and would give nothing back: hubs are kept apart by virtual hosts. A message for a queue
that does not exist comes back, because everything is published ``mandatory``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from callboard.errors import ConfigurationError
from callboard.ports import Destination, DestinationKind

HUB_NAME_LIMIT = 45
QUEUE_NAME_LIMIT = 100

#: How often an activity call is delivered before the broker gives it up. A worker that it kills takes it along each time.
ACTIVITY_DELIVERY_LIMIT = 10

#: RabbitMQ 4.0 limits deliveries of every quorum queue to 20 unless told otherwise, and drops the message then.
FIRST_VERSION_WITH_DEFAULT_LIMIT = (4, 0)

_ALLOWED = re.compile(r"[A-Za-z0-9_.-]+")


class QueueSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One queue, as it is declared."""

    name: str
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Mapping[str, Any]


def check_hub(hub: str) -> None:
    """Refuses a hub name that cannot be part of queue names.

    Raises:
        ConfigurationError: it is empty, too long, has other characters, or is reserved.
    """
    _check("Hub name", hub, HUB_NAME_LIMIT)
    if hub.startswith("amq."):
        raise ConfigurationError(f"Hub name {hub!r} is not allowed: RabbitMQ reserves names that begin with 'amq.'.")


def check_destination(destination: Destination, partitions: int) -> None:
    """Refuses a destination that a hub with so many partitions cannot have.

    Raises:
        ConfigurationError: the partition is out of range, or the name is empty, too long or has other characters.
    """
    match destination.kind:
        case DestinationKind.PARTITION:
            if not destination.name.isdecimal() or int(destination.name) >= partitions:
                raise ConfigurationError(f"There is no {destination}: the hub has partitions 0 to {partitions - 1}.")
        case DestinationKind.ACTIVITIES:
            _check("Activity queue name", destination.name, QUEUE_NAME_LIMIT)
        case DestinationKind.INBOX:
            _check("Inbox name", destination.name, QUEUE_NAME_LIMIT)
        case DestinationKind.DEAD_LETTERS:
            pass


def _check(what: str, name: str, limit: int) -> None:
    if not _ALLOWED.fullmatch(name) or len(name) > limit:
        raise ConfigurationError(
            f"{what} {name[:limit]!r} is not allowed: use 1 to {limit} letters, digits, '-', '_' and '.' (ASCII)."
        )


def is_durable(destination: Destination) -> bool:
    """Whether the queue and its messages outlive the broker's restart."""
    return destination.kind is not DestinationKind.INBOX


def queue_name(hub: str, destination: Destination) -> str:
    """The queue's name, which is the routing key as well."""
    match destination.kind:
        case DestinationKind.PARTITION:
            return f"{hub}.p.{destination.name}"
        case DestinationKind.ACTIVITIES:
            return f"{hub}.activities.{destination.name}"
        case DestinationKind.INBOX:
            return f"{hub}.inbox.{destination.name}"
        case DestinationKind.DEAD_LETTERS:
            return f"{hub}.dead"


def queue_spec(hub: str, destination: Destination, version: tuple[int, ...]) -> QueueSpec:
    """The queue as this version of RabbitMQ must be asked for it."""
    name = queue_name(hub, destination)
    match destination.kind:
        case DestinationKind.INBOX:
            return QueueSpec(name=name, durable=False, exclusive=True, auto_delete=True, arguments={})
        case DestinationKind.ACTIVITIES:
            arguments = {"x-delivery-limit": ACTIVITY_DELIVERY_LIMIT, **_dead_lettering(hub)}
        case DestinationKind.PARTITION:
            arguments = _unlimited(version) and {**_unlimited(version), **_dead_lettering(hub)}
        case DestinationKind.DEAD_LETTERS:
            arguments = _unlimited(version)
    return QueueSpec(name=name, arguments={"x-queue-type": "quorum", **arguments})


def standing_queues(partitions: int) -> list[Destination]:
    """What exists for the whole life of a hub. Dead letters come first, because the others refer to them."""
    return [Destination.dead_letters(), *(Destination.partition(number) for number in range(partitions))]


def _unlimited(version: tuple[int, ...]) -> dict[str, Any]:
    """No delivery limit.

    ``-1`` says so from 4.0 on. RabbitMQ 3.10 has no limit by default, accepts ``-1``, and silently drops the message when it is first
    given back (measured), so there the argument must be left out.
    """
    return {"x-delivery-limit": -1} if version >= FIRST_VERSION_WITH_DEFAULT_LIMIT else {}


def _dead_lettering(hub: str) -> dict[str, Any]:
    """Moves what the broker gives up to the dead letters, at least once.

    At least once needs ``reject-publish``, though the queue has no length limit; without it RabbitMQ falls back to at most once.
    """
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue_name(hub, Destination.dead_letters()),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
