"""The faults that a memory broker makes on request; its contract is tests/contract's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from callboard.errors import BrokerUnavailableError
from callboard.ports import Destination
from callboard.testing.broker_contract import Received
from callboard_broker.memory import MemoryBroker, MemoryFaults, MemoryServer

P0, ME = Destination.partition(0), Destination.inbox("me")


async def broker_with(**faults: Any) -> MemoryBroker:
    broker = MemoryBroker(MemoryServer(MemoryFaults(seed=7, **faults)))
    await broker.open("hub", 2)
    return broker


async def publish(broker: MemoryBroker, count: int) -> int:
    """Publishes so many; returns how many were confirmed."""
    outcomes = await asyncio.gather(*(broker.publish(P0, b"%d" % n) for n in range(count)), return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, BrokerUnavailableError) for outcome in outcomes)
    return outcomes.count(None)


async def test_without_faults_messages_come_in_order_and_once() -> None:
    broker = await broker_with()
    received = Received(ack=True)
    await broker.consume(P0, received)
    assert await publish(broker, 100) == 100
    await received.wait_for(100)
    assert received.bodies == [b"%d" % n for n in range(100)]


async def test_duplicates() -> None:
    broker = await broker_with(duplicate=0.5)
    assert await publish(broker, 100) == 100
    assert 120 < await broker.depth(P0) < 180


async def test_reordering() -> None:
    broker = await broker_with(reorder=1.0)
    await publish(broker, 100)
    received = Received(ack=True)
    await broker.consume(P0, received)
    await received.wait_for(100)
    assert received.bodies != [b"%d" % n for n in range(100)]
    assert set(received.bodies) == {b"%d" % n for n in range(100)}


async def test_delay() -> None:
    broker = await broker_with(delay_seconds=0.2)
    await publish(broker, 100)
    assert await broker.depth(P0) < 10
    received = Received(ack=True)
    await broker.consume(P0, received)
    await received.wait_for(100)


async def test_lost_confirms_keep_the_message() -> None:
    broker = await broker_with(lose_confirms=0.5)
    assert 20 < await publish(broker, 100) < 80
    assert await broker.depth(P0) == 100


async def test_lost_publishes_do_not() -> None:
    broker = await broker_with(lose_publishes=0.5)
    confirmed = await publish(broker, 100)
    assert 20 < confirmed < 80
    assert await broker.depth(P0) == confirmed


async def test_the_same_seed_makes_the_same_faults() -> None:
    orders: list[list[bytes]] = []
    for _ in range(2):
        broker = await broker_with(reorder=0.5, duplicate=0.3, lose_publishes=0.2)
        await publish(broker, 50)
        received = Received(ack=True)
        await broker.consume(P0, received)
        await received.wait_for(await broker.depth(P0))
        orders.append(received.bodies)
    assert orders[0] == orders[1]


async def test_an_outage() -> None:
    broker = await broker_with()
    reconnected = asyncio.Event()
    broker.on_reconnect(reconnected.set)
    received, letters = Received(), Received(ack=True)
    await broker.consume(P0, received)
    await broker.consume(ME, letters)
    await broker.publish(P0, b"held")
    await received.wait_for(1)
    broker.server.drop_connections(outage_seconds=0.2)
    publishing = asyncio.create_task(broker.publish(ME, b"letter"))
    await asyncio.sleep(0.05)
    assert not publishing.done()
    assert not reconnected.is_set()
    await asyncio.wait_for(publishing, 5)
    assert reconnected.is_set()
    await letters.wait_for(1)
    assert (await received.wait_for(2))[1].redelivered


async def test_an_outage_that_takes_too_long() -> None:
    broker = MemoryBroker(publish_timeout_seconds=0.05)
    await broker.open("hub", 2)
    broker.server.drop_connections(outage_seconds=0.5)
    with pytest.raises(BrokerUnavailableError, match=r"Not connected for 0\.05 seconds"):
        await broker.publish(P0, b"")
    await broker.aclose()


async def test_brokers_of_one_url_share_their_queues() -> None:
    one, other, stranger = (MemoryBroker.from_url(f"memory://{name}") for name in ("a", "a", "b"))
    for broker in (one, other, stranger):
        await broker.open("hub", 2)
    await one.publish(P0, b"")
    assert [await broker.depth(P0) for broker in (one, other, stranger)] == [1, 1, 0]
