"""Queue names and properties, for each version of RabbitMQ."""

from __future__ import annotations

import pytest

from callboard.errors import ConfigurationError
from callboard.ports import Destination
from callboard_broker.topology import (
    check_destination,
    check_hub,
    is_durable,
    queue_name,
    queue_spec,
    standing_queues,
)

V3, V4 = (3, 10, 8), (4, 1, 0)
DEAD_LETTERING = {
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": "hub.dead",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


@pytest.mark.parametrize(
    ("destination", "name"),
    [
        (Destination.partition(31), "hub.p.31"),
        (Destination.activities("mail"), "hub.activities.mail"),
        (Destination.inbox("worker-1"), "hub.inbox.worker-1"),
        (Destination.dead_letters(), "hub.dead"),
    ],
)
def test_names(destination: Destination, name: str) -> None:
    assert queue_name("hub", destination) == name
    assert queue_spec("hub", destination, V3).name == name


def test_no_two_destinations_share_a_name() -> None:
    destinations = [*standing_queues(32), *(make("p.1") for make in (Destination.activities, Destination.inbox))]
    names = [queue_name("hub", destination) for destination in destinations]
    assert len(set(names)) == len(names) == 37


def test_dead_letters_are_made_before_the_queues_that_refer_to_them() -> None:
    assert standing_queues(2)[0] == Destination.dead_letters()
    assert standing_queues(2)[1:] == [
        Destination.ingress(),
        Destination.rejected(),
        Destination.partition(0),
        Destination.partition(1),
    ]


def test_a_partition_has_no_limit_argument_before_4() -> None:
    """RabbitMQ 3.10 takes x-delivery-limit -1 for a limit, and drops the message at its first requeue."""
    for version in ((3, 10, 8), (3, 13, 7)):
        assert queue_spec("hub", Destination.partition(0), version).arguments == {"x-queue-type": "quorum"}
        assert queue_spec("hub", Destination.dead_letters(), version).arguments == {"x-queue-type": "quorum"}


def test_a_partition_is_unlimited_from_4_on() -> None:
    """RabbitMQ 4 gives up after 20 deliveries unless told otherwise."""
    for version in ((4, 0, 0), (4, 3, 7), (5, 0, 0)):
        unlimited = {"x-queue-type": "quorum", "x-delivery-limit": -1}
        assert queue_spec("hub", Destination.partition(0), version).arguments == {**unlimited, **DEAD_LETTERING}
        assert queue_spec("hub", Destination.dead_letters(), version).arguments == unlimited


@pytest.mark.parametrize("version", [V3, V4])
def test_activity_calls_are_given_up_into_the_dead_letters(version: tuple[int, ...]) -> None:
    spec = queue_spec("hub", Destination.activities("mail"), version)
    assert spec.arguments == {"x-queue-type": "quorum", "x-delivery-limit": 10, **DEAD_LETTERING}


@pytest.mark.parametrize("version", [V3, V4])
def test_what_is_durable(version: tuple[int, ...]) -> None:
    for destination in (Destination.partition(0), Destination.activities("a"), Destination.dead_letters()):
        spec = queue_spec("hub", destination, version)
        assert (spec.durable, spec.exclusive, spec.auto_delete) == (True, False, False)
        assert is_durable(destination)
    inbox = queue_spec("hub", Destination.inbox("me"), version)
    assert (inbox.durable, inbox.exclusive, inbox.auto_delete) == (False, True, True)
    assert not is_durable(Destination.inbox("me"))


@pytest.mark.parametrize("hub", ["trips", "A-b_c.9", "x" * 45])
def test_hub_names_that_are_allowed(hub: str) -> None:
    check_hub(hub)


@pytest.mark.parametrize("hub", ["", "a b", "a/b", "a\n", "ä", "x" * 46, "amq.mine"])
def test_hub_names_that_are_refused(hub: str) -> None:
    with pytest.raises(ConfigurationError, match="Hub name"):
        check_hub(hub)


@pytest.mark.parametrize(
    "destination",
    [Destination.partition(0), Destination.partition(3), Destination.activities("x" * 100), Destination.dead_letters()],
)
def test_destinations_that_are_allowed(destination: Destination) -> None:
    check_destination(destination, 4)


@pytest.mark.parametrize(
    "destination",
    [
        Destination.partition(4),
        Destination.partition(-1),
        Destination.activities(""),
        Destination.activities("x" * 101),
        Destination.activities("a b"),
        Destination.inbox("a/b"),
    ],
)
def test_destinations_that_are_refused(destination: Destination) -> None:
    with pytest.raises(ConfigurationError):
        check_destination(destination, 4)
