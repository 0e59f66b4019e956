"""What every broker must do: the promises of ``callboard.ports.Broker`` as tests.

Subclass, and run with any runner that awaits ``async def`` tests::

    class TestMyBroker(BrokerContract):
        def make_broker(self) -> Broker:
            return MyBroker.from_url("my://server")
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import unittest
import uuid
from collections.abc import AsyncGenerator, Generator, Mapping

import msgspec

from callboard.errors import BrokerUnavailableError, ConfigurationError, PayloadTooLargeError, UnroutableError
from callboard.ports import NO_PROPERTIES, Broker, Delivery, Destination, Properties, Subscription

#: Seconds until something that must happen counts as not happening.
PATIENCE = 20.0
#: Seconds in which something that must not happen would show.
SILENCE = 0.3


class Received:
    """A consumer for tests: keeps deliveries, in order of arrival."""

    def __init__(self, *, ack: bool = False) -> None:
        self.deliveries: list[Delivery] = []
        self._ack = ack
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._ack:
            delivery.ack()
        self._arrived.set()

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    async def wait_for(self, count: int) -> list[Delivery]:
        """Waits until so many have arrived."""
        deadline = time.monotonic() + PATIENCE
        while len(self.deliveries) < count:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), deadline - time.monotonic())
            except TimeoutError:
                raise AssertionError(
                    f"{len(self.deliveries)} of {count} messages arrived: {self.bodies[:10]}"
                ) from None
        return self.deliveries

    async def wait_for_bodies(self, bodies: set[bytes]) -> None:
        """Waits until all these have arrived, each at least once."""
        while not bodies <= set(self.bodies):
            await self.wait_for(len(self.deliveries) + 1)


@contextlib.contextmanager
def raises(kind: type[Exception]) -> Generator[None]:
    """Passes if the block raises that."""
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def silence() -> None:
    """Gives what must not happen the time to happen."""
    await asyncio.sleep(SILENCE)


class BrokerContract:
    """The suite. Every test uses a hub of its own.

    Attributes:
        message_limit: Bytes that a message may have.
        delivery_limit: How often an activity call comes back before it is a dead letter; None if the broker never gives up.
    """

    message_limit: int = 16 * 1024 * 1024
    delivery_limit: int | None = 10

    def make_broker(self) -> Broker:
        """Makes a broker that is not open yet. All brokers of one test must reach the same server."""
        raise NotImplementedError

    async def settled_depth(self, broker: Broker, destination: Destination, expected: int) -> None:
        """Waits until the depth is as expected: it may be a moment old."""
        deadline = time.monotonic() + PATIENCE
        while (depth := await broker.depth(destination)) != expected:
            assert time.monotonic() < deadline, f"{depth} messages wait at {destination}, not {expected}"
            await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def opened(self, hub: str | None = None, partitions: int = 2) -> AsyncGenerator[Broker]:
        """A broker, open until the end of the block."""
        broker = self.make_broker()
        await broker.open(hub or new_hub(), partitions)
        try:
            yield broker
        finally:
            await broker.aclose()

    # Messages

    async def test_a_message_arrives_whether_its_consumer_was_there_before_or_not(self) -> None:
        async with self.opened() as broker:
            received = Received(ack=True)
            await broker.publish(P0, b"before")
            await broker.consume(P0, received)
            await broker.publish(P0, b"after")
            await received.wait_for_bodies({b"before", b"after"})

    async def test_bodies_are_bytes_of_any_kind_and_size(self) -> None:
        bodies = {b"", bytes(range(256)), "Grüße ✓".encode(), b"\x00" * 131_072, b"\xce" * 1_500_000}
        async with self.opened() as broker:
            received = Received(ack=True)
            await broker.consume(P0, received)
            for body in bodies:
                await broker.publish(P0, body)
            await received.wait_for(len(bodies))
            assert set(received.bodies) == bodies
            assert all(type(body) is bytes for body in received.bodies)

    async def test_headers_come_with_the_message(self) -> None:
        headers: list[Mapping[str, str] | None] = [
            None,
            {},
            {"traceparent": "00-1-2-01", "ключ": "значение ✓", "empty": ""},
        ]
        async with self.opened() as broker:
            received = Received(ack=True)
            await broker.consume(P0, received)
            for number, each in enumerate(headers):
                await broker.publish(P0, b"%d" % number, each)
            await received.wait_for(3)
            assert {one.body: dict(one.headers) for one in received.deliveries} == {
                b"%d" % number: dict(each or {}) for number, each in enumerate(headers)
            }

    async def test_destinations_and_hubs_are_apart(self) -> None:
        async with self.opened() as one, self.opened() as other:
            destinations = [P0, P1, ACTIVITIES, Destination.activities("other"), Destination.dead_letters()]
            received = {destination: Received(ack=True) for destination in destinations}
            elsewhere = Received()
            for destination in destinations:
                await one.consume(destination, received[destination])
                await other.consume(destination, elsewhere)
            for destination in destinations:
                await one.publish(destination, str(destination).encode())
            for destination in destinations:
                await received[destination].wait_for(1)
            await silence()
            assert {where: what.bodies for where, what in received.items()} == {
                where: [str(where).encode()] for where in destinations
            }
            assert elsewhere.bodies == []

    async def test_a_thousand_publishes_may_be_under_way(self) -> None:
        bodies = {b"%d" % number for number in range(1000)}
        async with self.opened() as broker:
            received = Received(ack=True)
            await broker.consume(ACTIVITIES, received)
            await asyncio.gather(*(broker.publish(ACTIVITIES, body) for body in bodies))
            await received.wait_for_bodies(bodies)

    async def test_deliveries_come_in_the_event_loop(self) -> None:
        async with self.opened() as broker:
            loops: list[asyncio.AbstractEventLoop] = []
            done = asyncio.Event()

            def on_delivery(delivery: Delivery) -> None:
                loops.append(asyncio.get_running_loop())
                delivery.ack()
                done.set()

            await broker.consume(P0, on_delivery)
            await broker.publish(P0, b"")
            await asyncio.wait_for(done.wait(), PATIENCE)
            assert loops == [asyncio.get_running_loop()]

    async def test_a_publish_that_is_cancelled_harms_no_other(self) -> None:
        async with self.opened() as broker:
            received = Received(ack=True)
            await broker.consume(P0, received)
            tasks = [asyncio.create_task(broker.publish(P0, b"%d" % number)) for number in range(20)]
            gone = [asyncio.create_task(broker.publish(Destination.inbox("nobody"), b"")) for _ in range(20)]
            await asyncio.sleep(0)
            for task in (*tasks[::2], *gone):
                task.cancel()
            await asyncio.gather(*tasks[1::2])
            await asyncio.wait({*tasks, *gone})
            await received.wait_for_bodies({b"%d" % number for number in range(1, 20, 2)})
            await broker.publish(P0, b"later")
            await received.wait_for_bodies({b"later"})

    async def test_a_message_over_the_limit_is_not_sent(self) -> None:
        async with self.opened() as broker:
            with raises(PayloadTooLargeError):
                await broker.publish(P0, bytes(self.message_limit + 1))
            received = Received(ack=True)
            await broker.consume(P0, received)
            await broker.publish(P0, b"small")
            await received.wait_for(1)
            assert received.bodies == [b"small"]

    # Acks

    async def test_what_is_acked_is_gone_and_what_is_not_comes_again(self) -> None:
        async with self.opened() as broker:
            received = Received()
            subscription = await broker.consume(P0, received)
            for body in (b"a", b"b", b"c"):
                await broker.publish(P0, body)
            await received.wait_for(3)
            assert [delivery.redelivered for delivery in received.deliveries] == [False] * 3
            next(each for each in received.deliveries if each.body == b"b").ack()
            await subscription.aclose()
            again = Received(ack=True)
            await broker.consume(P0, again)
            await again.wait_for(2)
            await silence()
            assert sorted(again.bodies) == [b"a", b"c"]
            assert all(delivery.redelivered for delivery in again.deliveries)

    async def test_all_acks_given_before_the_end_of_a_subscription_count(self) -> None:
        async with self.opened() as broker:
            received = Received()
            subscription = await broker.consume(P0, received, prefetch=200)
            await asyncio.gather(*(broker.publish(P0, b"%d" % number) for number in range(100)))
            for delivery in await received.wait_for(100):
                delivery.ack()
            await subscription.aclose()
            assert await broker.depth(P0) == 0

    async def test_ack_and_reject_may_be_called_again(self) -> None:
        async with self.opened() as broker:
            received = Received()
            await broker.consume(P0, received)
            await broker.publish(P0, b"1")
            (first,) = await received.wait_for(1)
            first.ack()
            first.ack()
            first.reject()
            await broker.publish(P0, b"2")
            second = (await received.wait_for(2))[1]
            second.reject()
            second.ack()
            second.reject()
            third = (await received.wait_for(3))[2]
            third.ack()
            await silence()
            assert received.bodies == [b"1", b"2", b"2"]
            await self.settled_depth(broker, P0, 0)

    async def test_reject_gives_the_message_back(self) -> None:
        async with self.opened() as broker:
            received = Received()
            await broker.consume(P0, received)
            await broker.publish(P0, b"x", {"k": "v"})
            (await received.wait_for(1))[0].reject()
            again = (await received.wait_for(2))[1]
            assert again.redelivered
            assert (again.body, dict(again.headers).get("k")) == (b"x", "v")

    async def test_ack_after_the_end_does_nothing(self) -> None:
        hub = new_hub()
        received = Received()
        async with self.opened(hub) as broker:
            subscription = await broker.consume(P0, received)
            await broker.publish(P0, b"x")
            await received.wait_for(1)
            await subscription.aclose()
            received.deliveries[0].ack()
            received.deliveries[0].reject()
            await broker.consume(P0, received)
            await received.wait_for(2)
        received.deliveries[1].ack()
        received.deliveries[1].reject()
        async with self.opened(hub) as broker:
            await broker.consume(P0, received)
            assert (await received.wait_for(3))[2].redelivered

    async def test_a_mailbox_never_gives_up(self) -> None:
        async with self.opened() as broker:
            received = Received()
            await broker.consume(P0, received)
            await broker.publish(P0, b"patience")
            for count in range(1, 40):
                (await received.wait_for(count))[-1].reject()
            (await received.wait_for(40))[-1].ack()

    async def test_an_activity_call_that_comes_back_too_often_is_a_dead_letter(self) -> None:
        if self.delivery_limit is None:
            raise unittest.SkipTest("this broker never gives up")
        async with self.opened() as broker:
            received, dead = Received(), Received(ack=True)
            await broker.consume(Destination.dead_letters(), dead)
            await broker.consume(ACTIVITIES, received)
            await broker.publish(ACTIVITIES, b"poison", {"k": "v"})
            for count in range(1, self.delivery_limit + 2):
                (await received.wait_for(count))[-1].reject()
            await dead.wait_for(1)
            assert dead.bodies == [b"poison"]
            assert dead.deliveries[0].headers["k"] == "v"

    # Consumers

    async def test_prefetch_bounds_what_is_unacked(self) -> None:
        async with self.opened() as broker:
            received = Received()
            await broker.consume(P0, received, prefetch=3)
            for number in range(10):
                await broker.publish(P0, b"%d" % number)
            await received.wait_for(3)
            await silence()
            assert len(received.deliveries) == 3
            await self.settled_depth(broker, P0, 7)
            received.deliveries[0].ack()
            await received.wait_for(4)
            await silence()
            assert len(received.deliveries) == 4

    async def test_consumers_compete(self) -> None:
        async with self.opened() as broker:
            one, other = Received(), Received()
            subscription = await broker.consume(ACTIVITIES, one, prefetch=10)
            await broker.consume(ACTIVITIES, other, prefetch=10)
            for number in range(20):
                await broker.publish(ACTIVITIES, b"%d" % number)
            await one.wait_for(10)
            await other.wait_for(10)
            assert len({*one.bodies, *other.bodies}) == 20
            for delivery in other.deliveries:
                delivery.ack()
            await subscription.aclose()
            await other.wait_for(20)
            assert set(other.bodies[10:]) == set(one.bodies)

    async def test_a_closed_subscription_has_given_everything_back(self) -> None:
        async with self.opened() as broker, asyncio.timeout(60):
            for _ in range(10):
                received = Received()
                subscription = await broker.consume(P0, received)
                await asyncio.gather(*(broker.publish(P0, b"%d" % number) for number in range(20)))
                await received.wait_for(20)
                await subscription.aclose()
                await subscription.aclose()
                again = Received(ack=True)
                other = await broker.consume(P0, again)
                await again.wait_for_bodies(set(received.bodies))
                await other.aclose()

    async def test_nothing_is_delivered_after_the_subscription_is_closed(self) -> None:
        async with self.opened() as broker:
            received = Received(ack=True)
            subscription = await broker.consume(P0, received, prefetch=5)
            burst = asyncio.gather(*(broker.publish(P0, b"%d" % number) for number in range(200)))
            await received.wait_for(1)
            await subscription.aclose()
            count = len(received.deliveries)
            await burst
            await broker.publish(P0, b"later")
            await silence()
            assert len(received.deliveries) == count
            rest = Received(ack=True)
            await broker.consume(P0, rest)
            await rest.wait_for_bodies({b"%d" % number for number in range(200)} - set(received.bodies))

    async def test_a_consumer_may_be_closed_by_its_own_delivery(self) -> None:
        async with self.opened() as broker:
            closing: list[asyncio.Task[None]] = []
            subscriptions: list[Subscription] = []

            def on_delivery(delivery: Delivery) -> None:
                delivery.ack()
                closing.append(asyncio.get_running_loop().create_task(subscriptions[0].aclose()))

            subscriptions.append(await broker.consume(P0, on_delivery, prefetch=1))
            await broker.publish(P0, b"")
            deadline = time.monotonic() + PATIENCE
            while not closing or not closing[0].done():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            await self.settled_depth(broker, P0, 0)

    # Inboxes

    async def test_an_inbox_lives_as_long_as_its_subscription(self) -> None:
        hub = new_hub()
        async with self.opened(hub) as owner, self.opened(hub) as stranger:
            inbox = Destination.inbox("me")
            with raises(UnroutableError):
                await stranger.publish(inbox, b"early")
            for _ in range(3):
                received = Received()
                subscription = await owner.consume(inbox, received)
                await stranger.publish(inbox, b"hello")
                await received.wait_for(1)
                await stranger.publish(inbox, b"kept by nobody")
                await subscription.aclose()
                with raises(UnroutableError):
                    await stranger.publish(inbox, b"late")
                assert {b"hello"} <= set(received.bodies) <= {b"hello", b"kept by nobody"}
                assert not any(delivery.redelivered for delivery in received.deliveries)

    async def test_an_inbox_goes_with_its_broker(self) -> None:
        hub = new_hub()
        async with self.opened(hub) as stranger:
            async with self.opened(hub) as owner:
                await owner.consume(Destination.inbox("me"), Received())
                await stranger.publish(Destination.inbox("me"), b"hello")
            with raises(UnroutableError):
                await stranger.publish(Destination.inbox("me"), b"late")

    async def test_many_publishes_of_which_some_are_unroutable(self) -> None:
        async with self.opened() as broker:
            received = Received(ack=True)
            await broker.consume(Destination.inbox("me"), received, prefetch=500)
            outcomes = await asyncio.gather(
                *(broker.publish(Destination.inbox("me" if n % 2 else "nobody"), b"%d" % n) for n in range(200)),
                return_exceptions=True,
            )
            assert [isinstance(outcome, UnroutableError) for outcome in outcomes] == [n % 2 == 0 for n in range(200)]
            assert [outcome for outcome in outcomes[1::2] if outcome is not None] == []
            await received.wait_for(100)

    # Opening and closing

    async def test_messages_outlive_the_brokers(self) -> None:
        hub = new_hub()
        destinations = [P0, P1, ACTIVITIES, Destination.dead_letters()]
        async with self.opened(hub) as broker:
            for destination in destinations:
                await broker.publish(destination, b"kept")
        async with self.opened(hub) as broker:
            for destination in destinations:
                received = Received(ack=True)
                await broker.consume(destination, received)
                await received.wait_for(1)

    async def test_a_closing_broker_gives_everything_back(self) -> None:
        hub = new_hub()
        async with self.opened(hub) as survivor:
            async with self.opened(hub) as broker:
                received = Received()
                await broker.consume(P0, received)
                for number in range(5):
                    await survivor.publish(P0, b"%d" % number)
                await received.wait_for(5)
                await broker.aclose()
            again = Received(ack=True)
            await survivor.consume(P0, again)
            await again.wait_for_bodies({b"%d" % number for number in range(5)})

    async def test_depth_counts_what_waits(self) -> None:
        async with self.opened() as broker:
            assert await broker.depth(P0) == 0
            assert await broker.depth(Destination.activities("nobody-asked-for-it")) == 0
            for _ in range(3):
                await broker.publish(P0, b"")
            await self.settled_depth(broker, P0, 3)
            await self.settled_depth(broker, P1, 0)

    async def test_names_that_cannot_be_are_refused(self) -> None:
        for hub in ("", "with space", "with/slash", "x" * 46, "ünïcode"):
            with raises(ConfigurationError):
                await self.make_broker().open(hub, 2)
        async with self.opened(partitions=2) as broker:
            for destination in (Destination.partition(2), Destination.activities(""), Destination.activities("a b")):
                with raises(ConfigurationError):
                    await broker.publish(destination, b"")
                with raises(ConfigurationError):
                    await broker.consume(destination, Received())

    async def test_a_broker_that_is_not_open_says_so(self) -> None:
        broker = self.make_broker()
        for _ in range(2):
            with raises(BrokerUnavailableError):
                await broker.publish(P0, b"")
            with raises(BrokerUnavailableError):
                await broker.consume(P0, Received())
            await broker.aclose()

    async def test_closing_twice_is_closing(self) -> None:
        broker = self.make_broker()
        await broker.open(new_hub(), 2)
        subscription = await broker.consume(P0, Received())
        await broker.aclose()
        await broker.aclose()
        await subscription.aclose()

    # Foreign queues and topics

    async def test_what_a_message_says_of_itself_comes_with_it(self) -> None:
        about = Properties(
            message_id="m-1", correlation_id="c ✓", reply_to="replies", content_type="application/json", type="order"
        )
        async with self.opened() as broker:
            queue, received = new_hub(), Received(ack=True)
            await broker.consume(Destination.foreign(queue), received)
            await broker.publish(Destination.foreign(queue), b"1", {"a": "b"}, about)
            await broker.publish(Destination.foreign(queue), b"2")
            first, second = await received.wait_for(2)
            assert (first.properties, dict(first.headers)) == (about, {"a": "b"})
            assert msgspec.structs.replace(second.properties, message_id=None) == NO_PROPERTIES

    async def test_our_own_messages_may_say_something_too(self) -> None:
        async with self.opened() as broker:
            received = Received()
            about = Properties(correlation_id="c", content_type="application/json", reply_to="r", type="t")
            await broker.publish(ACTIVITIES, b"1", None, about)
            subscription = await broker.consume(ACTIVITIES, received)
            await received.wait_for(1)
            await subscription.aclose()
            await broker.consume(ACTIVITIES, received)
            deliveries = await received.wait_for(2)
            for delivery in deliveries:
                assert msgspec.structs.replace(delivery.properties, message_id=None) == about

    async def test_hubs_share_foreign_queues(self) -> None:
        async with self.opened() as one, self.opened() as other:
            queue, received = new_hub(), Received(ack=True)
            await one.prepare(queue)
            await other.publish(Destination.foreign(queue), b"hello")
            await one.consume(Destination.foreign(queue), received)
            await received.wait_for(1)

    async def test_a_foreign_queue_that_is_not_there_takes_nothing(self) -> None:
        async with self.opened() as broker:
            queue, received = new_hub(), Received()
            await broker.publish(Destination.foreign(queue), b"nobody")
            await broker.consume(Destination.foreign(queue), received)
            await broker.publish(Destination.foreign(queue), b"somebody")
            await received.wait_for(1)
            assert received.bodies == [b"somebody"]

    async def test_a_foreign_queue_keeps_what_is_not_acked(self) -> None:
        async with self.opened() as broker:
            queue, received = Destination.foreign(new_hub()), Received()
            subscription = await broker.consume(queue, received)
            await broker.publish(queue, b"again")
            (delivery,) = await received.wait_for(1)
            delivery.reject()
            await received.wait_for(2)
            await subscription.aclose()
            await self.settled_depth(broker, queue, 1)
            await broker.consume(queue, acked := Received(ack=True))
            await acked.wait_for(1)
            await self.settled_depth(broker, queue, 0)

    async def test_topics_reach_the_queues_that_are_bound_to_them(self) -> None:
        async with self.opened() as broker:
            exchange = new_hub()
            await broker.publish(Destination.topic(exchange, "order.paid"), b"nobody is bound")
            received = {key: Received(ack=True) for key in ("order.*", "#.failed", "order.paid.#")}
            for number, (key, each) in enumerate(received.items()):
                queue = f"{exchange}.{number}"
                await broker.prepare(queue, exchange=exchange, keys=[key, key])
                await broker.consume(Destination.foreign(queue), each)
            about = Properties(message_id="x", content_type="application/json")
            for key in ("order.paid", "order.failed", "failed", "order.paid.late", "order"):
                await broker.publish(Destination.topic(exchange, key), key.encode(), None, about)
            expected = {
                "order.*": {b"order.paid", b"order.failed"},
                "#.failed": {b"order.failed", b"failed"},
                "order.paid.#": {b"order.paid", b"order.paid.late"},
            }
            for key, each in received.items():
                await each.wait_for_bodies(expected[key])
            await silence()
            assert {key: sorted(each.bodies) for key, each in received.items()} == {
                key: sorted(bodies) for key, bodies in expected.items()
            }
            assert received["order.*"].deliveries[0].properties == about

    async def test_a_queue_bound_to_two_topics_hears_both_and_each_message_once(self) -> None:
        async with self.opened() as broker:
            one, other, received = new_hub(), new_hub(), Received(ack=True)
            await broker.prepare(one, exchange=one, keys=["a", "#"])
            await broker.prepare(one, exchange=other, keys=["b"])
            await broker.consume(Destination.foreign(one), received)
            for exchange, key in ((one, "a"), (one, "c"), (other, "b"), (other, "c")):
                await broker.publish(Destination.topic(exchange, key), f"{key}".encode())
            await received.wait_for(3)
            await silence()
            assert sorted(received.bodies) == [b"a", b"b", b"c"]

    async def test_the_hubs_own_queues_can_be_reached_by_their_names(self) -> None:
        hub = new_hub()
        async with self.opened(hub) as broker:
            for name, destination in (
                (f"{hub}.ingress", Destination.ingress()),
                (f"{hub}.rejected", Destination.rejected()),
                (f"{hub}.activities.work", ACTIVITIES),
            ):
                received = Received(ack=True)
                await broker.consume(destination, received)
                await broker.publish(Destination.foreign(name), b"from within")
                await received.wait_for(1)

    async def test_what_cannot_be_prepared_is_explained(self) -> None:
        async with self.opened() as broker:
            for queue, exchange in (("", ""), ("x" * 256, ""), ("a\nb", ""), ("fine", "x" * 256)):
                with raises(ConfigurationError):
                    await broker.prepare(queue, exchange=exchange, keys=["#"])
            for destination in (Destination.foreign(""), Destination.topic("", "x"), Destination.topic("x", "y" * 256)):
                with raises(ConfigurationError):
                    await broker.publish(destination, b"")
            with raises(ConfigurationError):
                await broker.consume(Destination.topic("x", "y"), Received())

    # Broken connections


class ConnectedBrokerContract(BrokerContract):
    """The contract of a broker whose connections can break."""

    async def break_connections(self) -> None:
        """Breaks the connections of all open brokers; they may be made again at once."""
        raise NotImplementedError

    async def test_after_a_broken_connection_consumers_and_inboxes_are_back(self) -> None:
        async with self.opened() as broker:
            reconnected = asyncio.Event()
            broker.on_reconnect(reconnected.set)
            received, letters = Received(), Received(ack=True)
            await broker.consume(P0, received)
            await broker.consume(Destination.inbox("me"), letters)
            await broker.publish(P0, b"unacked")
            (old,) = await received.wait_for(1)
            await self.break_connections()
            await asyncio.wait_for(reconnected.wait(), PATIENCE)
            new = (await received.wait_for(2))[1]
            assert (new.body, new.redelivered) == (b"unacked", True)
            old.ack()
            old.reject()
            await broker.publish(Destination.inbox("me"), b"letter")
            await letters.wait_for(1)
            new.ack()
            await broker.publish(P0, b"goes on")
            await received.wait_for_bodies({b"goes on"})

    async def test_publishing_goes_on_over_broken_connections(self) -> None:
        async with self.opened() as broker:
            received = Received(ack=True)
            await broker.consume(P0, received)
            published: set[bytes] = set()

            async def publish(number: int) -> None:
                await broker.publish(P0, b"%d" % number)
                published.add(b"%d" % number)

            async with asyncio.TaskGroup() as group:
                for round_ in range(3):
                    for number in range(100):
                        group.create_task(publish(round_ * 100 + number))
                    await self.break_connections()
            assert len(published) == 300
            await received.wait_for_bodies(published)

    async def test_foreign_queues_and_their_bindings_survive_a_broken_connection(self) -> None:
        async with self.opened() as broker:
            queue, exchange, received = new_hub(), new_hub(), Received(ack=True)
            await broker.prepare(queue, exchange=exchange, keys=["a.#"])
            await broker.consume(Destination.foreign(queue), received)
            await broker.publish(Destination.topic(exchange, "a.1"), b"before")
            await received.wait_for_bodies({b"before"})
            await self.break_connections()
            await broker.publish(Destination.topic(exchange, "a.2"), b"after")
            await received.wait_for_bodies({b"before", b"after"})


P0, P1 = Destination.partition(0), Destination.partition(1)
ACTIVITIES = Destination.activities("work")


def new_hub() -> str:
    """A hub name that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}"
