"""RabbitMQ with everything that goes wrong, on a real server of our own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from callboard.errors import BrokerUnavailableError, ConfigurationError, PayloadTooLargeError, UnroutableError
from callboard.ports import Destination
from callboard.testing.broker_contract import Received
from callboard_broker.rabbitmq import RabbitMQBroker, frames
from tests.broker.rabbitmq_support import (
    ME,
    P0,
    P1,
    PATIENCE,
    WORK,
    Proxy,
    Traffic,
    eventually,
    inside,
    no_noise,
    opened,
)
from tests.servers import RabbitMQServer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["no_noise"]


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMQServer]:
    with RabbitMQServer() as server:
        yield server


# The server goes away


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_restart_of_the_server_loses_nothing(server: RabbitMQServer, hub: str, how: str) -> None:
    async with opened(server.url, hub, publish_timeout=60) as broker:
        await broker.publish(WORK, b"first")
        await settle(server)
        reconnects: list[float] = []
        letters, held = Received(ack=True), Received()
        await broker.consume(ME, letters)
        await broker.publish(P1, b"unacked")
        await broker.consume(P1, held)
        await held.wait_for(1)
        broker.on_reconnect(lambda: reconnects.append(time.monotonic()))
        async with Traffic(broker):
            await asyncio.to_thread(server.kill if how == "kill" else server.stop)
            held.deliveries[0].ack()
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
        assert (await held.wait_for(2))[1].redelivered
        await eventually(lambda: reconnects)
        await broker.publish(ME, b"letter")
        await letters.wait_for(1)


async def settle(server: RabbitMQServer) -> None:
    """Lets the server forget nothing: killed within seconds of making a quorum queue, RabbitMQ 3.10 has it without a leader ever after."""
    await asyncio.to_thread(server.restart)


async def test_a_queue_without_a_leader_troubles_nobody_else(
    server: RabbitMQServer, hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server.url, hub, publish_timeout=3, rpc_timeout=1, probe_interval=1) as broker:
        await settle(server)
        received = Received(ack=True)
        await broker.publish(WORK, b"makes the queue")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await broker.consume(P0, received)
        try:
            await broker.publish(WORK, b"")
        except BrokerUnavailableError as error:
            assert f"quorum_status {hub}.activities.work" in str(error)  # noqa: PT017  a later RabbitMQ may do better
        else:
            pytest.skip("this RabbitMQ does not lose leaders so easily")
        caplog.clear()
        consuming = asyncio.create_task(broker.consume(WORK, Received()))
        for round_ in range(3):
            attempts = [asyncio.create_task(broker.publish(WORK, b"")) for _ in range(100)]
            for number in range(10):
                await broker.publish(P0, b"%d.%d" % (round_, number))
            outcomes = await asyncio.gather(*attempts, return_exceptions=True)
            assert all(isinstance(outcome, BrokerUnavailableError) for outcome in outcomes)
        await received.wait_for_bodies({b"%d.%d" % (round_, number) for round_ in range(3) for number in range(10)})
        with pytest.raises(BrokerUnavailableError, match="Cannot consume activities work"):
            await consuming
        assert "Lost the connection" not in caplog.text


async def test_a_publish_without_a_server_says_so_in_time(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub, publish_timeout=1) as broker:
        await asyncio.to_thread(server.kill)
        try:
            began = time.monotonic()
            with pytest.raises(BrokerUnavailableError, match="not confirmed in 1 seconds: no connection"):
                await broker.publish(P0, b"")
            with pytest.raises(BrokerUnavailableError, match="Cannot consume partition 0"):
                await broker.consume(P0, Received())
            assert time.monotonic() - began < 4
            began = time.monotonic()
            await broker.aclose()
            assert time.monotonic() - began < 2
        finally:
            await asyncio.to_thread(server.start)


async def test_open_waits_for_a_server_that_is_starting(server: RabbitMQServer, hub: str) -> None:
    await asyncio.to_thread(server.stop)
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    async with opened(server.url, hub, connect_timeout=60) as broker:
        await broker.publish(P0, b"")
    await starting


async def test_connections_that_the_server_closes_are_made_again(
    server: RabbitMQServer, hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server.url, hub) as broker, Traffic(broker):
        for _ in range(2):
            await asyncio.to_thread(server.control, "close_all_connections", "because-we-can")
            await asyncio.sleep(0.3)
    said = caplog.text
    assert "Lost the connection" in said
    assert "because-we-can" in said
    assert "Reconnected to RabbitMQ 3" in said or "Reconnected to RabbitMQ 4" in said


async def test_a_server_that_falls_silent_is_noticed(server: RabbitMQServer, hub: str) -> None:
    async with Proxy(server.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        async with opened(url, hub, probe_interval=0.5, rpc_timeout=1, publish_timeout=60) as broker:
            async with Traffic(broker):
                proxy.swallow = True
                await asyncio.sleep(4)
                proxy.swallow = False
            began = time.monotonic()
            proxy.swallow = True
        assert time.monotonic() - began < 15


# Queues and channels go away


async def test_a_deleted_queue_is_made_again_under_its_consumer(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub) as broker:
        reconnected = asyncio.Event()
        broker.on_reconnect(reconnected.set)
        received, letters, other = Received(ack=True), Received(ack=True), Received()
        await broker.consume(P0, received)
        await broker.consume(ME, letters)
        await broker.consume(P1, other)
        await broker.publish(P1, b"held")
        for name, destination, consumer in ((f"{hub}.p.0", P0, received), (f"{hub}.inbox.me", ME, letters)):
            reconnected.clear()
            await delete_queue(broker, name)
            await asyncio.wait_for(reconnected.wait(), PATIENCE)
            await broker.publish(destination, b"after")
            await consumer.wait_for_bodies({b"after"})
        assert other.bodies == [b"held"]
        other.deliveries[0].ack()


async def test_a_deleted_queue_is_made_again_by_its_publisher(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub) as broker:
        await broker.publish(WORK, b"lost")
        for name in (f"{hub}.p.0", f"{hub}.activities.work"):
            await delete_queue(broker, name)
        await asyncio.gather(*(broker.publish(destination, b"%d" % n) for n in range(50) for destination in (P0, WORK)))
        for destination in (P0, WORK):
            received = Received(ack=True)
            await broker.consume(destination, received)
            await received.wait_for_bodies({b"%d" % n for n in range(50)})


async def test_a_deleted_foreign_queue_is_made_and_bound_again_and_so_is_a_deleted_exchange(
    server: RabbitMQServer, hub: str
) -> None:
    async with opened(server.url, hub) as broker:
        queue, exchange, received = f"{hub}.shop", f"{hub}.topic", Received(ack=True)
        await broker.prepare(queue, exchange=exchange, keys=["order.#"])
        await broker.consume(Destination.foreign(queue), received)
        await broker.publish(Destination.topic(exchange, "order.1"), b"1")
        await received.wait_for_bodies({b"1"})
        await delete_queue(broker, queue)
        await until_heard(broker, exchange, received, b"2")
        async with inside(broker)._publishing.wire._channel() as channel:
            await channel.exchange_delete(exchange)
        await broker.publish(Destination.topic(exchange, "order.3"), b"nobody is bound")
        await delete_queue(broker, queue)
        await until_heard(broker, exchange, received, b"4")


async def until_heard(broker: RabbitMQBroker, exchange: str, received: Received, body: bytes) -> None:
    """Publishes until it is heard: a topic keeps nothing for a queue that is not there at the moment."""
    deadline = time.monotonic() + PATIENCE
    while body not in received.bodies:
        assert time.monotonic() < deadline
        await broker.publish(Destination.topic(exchange, "order.x"), body)
        await asyncio.sleep(0.05)


async def test_a_private_queue_of_another_connection_is_not_taken(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub) as owner, opened(server.url, hub) as broker:
        await owner.consume(ME, Received())
        with pytest.raises(ConfigurationError, match="private queue of another connection"):
            await broker.prepare(f"{hub}.inbox.me")


async def delete_queue(broker: RabbitMQBroker, name: str) -> None:
    """On the consuming connection, which alone may delete the inbox."""
    async with inside(broker)._consuming.wire._channel() as channel:
        await channel.queue_delete(name)


async def test_a_consumer_whose_channel_the_server_closes_is_back(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub) as broker:
        received, other = Received(), Received()
        await broker.consume(P0, received)
        await broker.consume(P1, other)
        await broker.publish(P0, b"x")
        await broker.publish(P1, b"held")
        (delivery,) = await received.wait_for(1)
        await other.wait_for(1)
        inside(delivery)._channel.settle(frames.ack, 1_000_000)
        again = (await received.wait_for(2))[1]
        assert again.redelivered
        delivery.ack()
        again.ack()
        other.deliveries[0].ack()
        await asyncio.sleep(0.3)
        assert len(other.deliveries) == 1


async def test_a_closed_publishing_channel_is_replaced(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub) as broker, Traffic(broker):
        channel = inside(broker)._publisher.channel(P0)._channel
        inside(broker)._publishing.wire.outbox.write(frames.ack(channel.number, 1_000_000))
        await eventually(lambda: channel.is_closed)


async def test_a_consumer_that_died_silently_is_started_again(
    server: RabbitMQServer, hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server.url, hub, probe_interval=0.3) as broker:
        received = Received(ack=True)
        await broker.consume(P0, received)
        (consumer,) = inside(broker)._consumers
        channel = consumer._channel.channel
        for tag in list(channel.consumers):
            await channel.basic_cancel(tag)
        await broker.publish(P0, b"waits")
        await received.wait_for(1)
        assert "nothing was delivered while 1 messages wait" in caplog.text


async def test_a_consumer_with_nothing_to_do_is_left_alone(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub, probe_interval=0.1) as broker:
        idle, full = Received(), Received()
        await broker.consume(P0, idle)
        await broker.consume(P1, full, prefetch=1)
        for _ in range(3):
            await broker.publish(P1, b"")
        channels = [consumer._channel for consumer in inside(broker)._consumers]
        await asyncio.sleep(2.5)
        assert [consumer._channel for consumer in inside(broker)._consumers] == channels


# The server does not want our messages


async def test_a_memory_alarm_blocks_publishing_and_nothing_else(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub, publish_timeout=3, rpc_timeout=1, probe_interval=0.5) as broker:
        received = Received()
        await broker.publish(P0, b"before")
        await broker.consume(P0, received)
        (before,) = await received.wait_for(1)
        await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.0000001")
        try:
            await asyncio.sleep(2)
            with pytest.raises(BrokerUnavailableError, match="memory or disk alarm"):
                await broker.publish(P0, b"late")
            assert broker.blocked
            before.ack()
            await asyncio.sleep(3)
            assert broker.blocked, "the connection must be left alone while it is blocked"
            assert await unacked_is_none(server, f"{hub}.p.0"), "acks must not wait for the alarm's end"
            assert broker.blocked
        finally:
            await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.4")
        await eventually(lambda: not broker.blocked)
        await broker.publish(P0, b"after")
        await received.wait_for_bodies({b"late", b"after"})


async def unacked_is_none(server: RabbitMQServer, queue: str) -> bool:
    """Asks again and again: the server's numbers are some seconds old."""
    for _ in range(20):
        queues = await asyncio.to_thread(server.control, "list_queues", "name", "messages_unacknowledged")
        if f"{queue}\t0" in queues.splitlines():
            return True
    return False


async def test_a_blocked_broker_can_be_closed(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub, publish_timeout=2) as broker:
        await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.0000001")
        try:
            await asyncio.sleep(2)
            publishes = [broker.publish(P0, bytes(1_000_000)) for _ in range(60)]
            outcomes = await asyncio.gather(*publishes, return_exceptions=True)
            assert all(isinstance(outcome, BrokerUnavailableError) for outcome in outcomes)
            began = time.monotonic()
            await broker.aclose()
            assert time.monotonic() - began < 10
        finally:
            await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.4")


async def test_publishes_over_the_window_wait_their_turn(server: RabbitMQServer, hub: str) -> None:
    async with opened(
        server.url, hub, publish_window=3, publish_window_per_queue=2, publish_window_bytes=1000
    ) as broker:
        received = Received(ack=True)
        await broker.consume(P0, received)
        bodies = {b"%d" % n + bytes(10 * n) for n in range(200)}
        tasks = [asyncio.create_task(broker.publish(P0, body)) for body in bodies]
        doomed = [asyncio.create_task(broker.publish(P0, b"cancelled")) for _ in range(20)]
        await asyncio.sleep(0.005)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*tasks)
        await asyncio.wait(doomed)
        await received.wait_for_bodies(bodies)


async def test_the_limit_on_messages_is_an_option(server: RabbitMQServer, hub: str) -> None:
    async with opened(f"{server.url}?message_limit=1000", hub) as broker:
        await broker.publish(P0, bytes(1000))
        with pytest.raises(PayloadTooLargeError, match="1,001"):
            await broker.publish(P0, bytes(1001))


# Others


async def test_permissions_that_are_missing(server: RabbitMQServer, hub: str) -> None:
    await asyncio.to_thread(server.control, "add_user", f"u{hub}", "secret")
    await asyncio.to_thread(server.control, "set_permissions", f"u{hub}", "^nothing$", ".*", ".*")
    with pytest.raises(BrokerUnavailableError, match=r"set_permissions"):
        await RabbitMQBroker.from_url(f"amqp://u{hub}:secret@127.0.0.1:{server.port}/").open(hub, 2)


async def test_an_inbox_that_somebody_else_has(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub) as owner, opened(server.url, hub, publish_timeout=2) as other:
        subscription = await owner.consume(ME, Received())
        with pytest.raises(BrokerUnavailableError, match="Cannot consume inbox me"):
            await other.consume(ME, Received())
        assert await other.depth(ME) == 0
        waiting = asyncio.create_task(other.consume(ME, Received()))
        await asyncio.sleep(0.5)
        await subscription.aclose()
        await (await waiting).aclose()
        with pytest.raises(UnroutableError):
            await owner.publish(ME, b"")


async def test_a_consume_that_is_cancelled_leaves_no_consumer_behind(server: RabbitMQServer, hub: str) -> None:
    async with opened(server.url, hub) as broker:
        abandoned = Received()
        for step in range(40):
            task = asyncio.create_task(broker.consume(P0, abandoned))
            await asyncio.sleep(step * 0.0003)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).aclose()
        await broker.publish(P0, b"for the living")
        received = Received(ack=True)
        await broker.consume(P0, received)
        await received.wait_for(1)
        assert abandoned.bodies == []
