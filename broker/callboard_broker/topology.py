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
#: Longest name of a foreign queue, an exchange or a routing key, in bytes (AMQP's short string).
FOREIGN_NAME_LIMIT = 255

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
        case DestinationKind.FOREIGN:
            check_foreign_name("queue", destination.name)
        case DestinationKind.TOPIC:
            check_foreign_name("exchange", destination.name)
            if len(destination.key.encode()) > FOREIGN_NAME_LIMIT:
                raise ConfigurationError(
                    f"A routing key has at most {FOREIGN_NAME_LIMIT} bytes: {destination.key[:64]!r}."
                )
        case DestinationKind.DEAD_LETTERS | DestinationKind.INGRESS | DestinationKind.REJECTED:
            pass


def check_foreign_name(what: str, name: str) -> None:
    """Refuses a name that AMQP cannot carry.

    Raises:
        ConfigurationError: it is empty, too long, or has control characters.
    """
    if not 0 < len(name.encode(errors="replace")) <= FOREIGN_NAME_LIMIT or not name.isprintable():
        raise ConfigurationError(
            f"{name[:64]!r} cannot name {'an' if what[0] in 'aeiou' else 'a'} {what}: use 1 to {FOREIGN_NAME_LIMIT} bytes of printable text."
        )


def _check(what: str, name: str, limit: int) -> None:
    if not _ALLOWED.fullmatch(name) or len(name) > limit:
        raise ConfigurationError(
            f"{what} {name[:limit]!r} is not allowed: use 1 to {limit} letters, digits, '-', '_' and '.' (ASCII)."
        )


def is_durable(destination: Destination) -> bool:
    """Whether the queue and its messages outlive the broker's restart."""
    return destination.kind is not DestinationKind.INBOX


def is_served_by_others(destination: Destination) -> bool:
    """Whether foreign programs serve an activity queue: they may have made it, in their own way."""
    return destination.kind is DestinationKind.ACTIVITIES and destination.name.startswith("json.")


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
        case DestinationKind.INGRESS:
            return f"{hub}.ingress"
        case DestinationKind.REJECTED:
            return f"{hub}.rejected"
        case DestinationKind.FOREIGN:
            return destination.name
        case DestinationKind.TOPIC:
            return destination.key


def named(hub: str, queue: str) -> Destination:
    """The destination that goes by the name of a queue: programs know the hub's own queues by their names, too."""
    kind, _, name = queue.removeprefix(f"{hub}.").partition(".") if queue.startswith(f"{hub}.") else ("", "", "")
    match kind, name:
        case "activities", name if name:
            return Destination.activities(name)
        case "ingress", "":
            return Destination.ingress()
        case "rejected", "":
            return Destination.rejected()
        case _:
            return Destination.foreign(queue)


def topic_matches(pattern: str, key: str) -> bool:
    """Whether a topic exchange leads a routing key to a binding key: ``*`` is one word, ``#`` any number of words."""
    return _matches(pattern.split("."), key.split(".") if key else [""])


def _matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(_matches(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and first in ("*", words[0]) and _matches(rest, words[1:])


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
        case (
            DestinationKind.DEAD_LETTERS | DestinationKind.INGRESS | DestinationKind.REJECTED | DestinationKind.FOREIGN
        ):
            arguments = _unlimited(version)
        case DestinationKind.TOPIC:
            raise ConfigurationError(
                f"{destination} is an exchange, not a queue: consume a foreign queue that is bound to it."
            )
    return QueueSpec(name=name, arguments={"x-queue-type": "quorum", **arguments})


def standing_queues(partitions: int) -> list[Destination]:
    """What exists for the whole life of a hub. Dead letters come first, because the others refer to them."""
    return [
        Destination.dead_letters(),
        Destination.ingress(),
        Destination.rejected(),
        *(Destination.partition(number) for number in range(partitions)),
    ]


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
