"""The small parts by themselves: batching, packs, routes, names and bindings, hubs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from callboard import App, Blueprint, OrchestrationContext, TaskHub, WorkerOptions, batching
from callboard.batching import Batcher, retrying
from callboard.core.instances import partition_of
from callboard.core.messages import ActivityCall, InstanceEnded, Message, Ping, RaiseEvent
from callboard.errors import (
    ActivityNotRegisteredError,
    ConfigurationError,
    InvalidPayloadError,
    MalformedMessageError,
    RegistrationError,
    StoreUnavailableError,
)
from callboard.hub import open_broker, open_store
from callboard.mailbox import PackAccount
from callboard.packs import MOST_BYTES, MOST_CALLS, MOST_MESSAGES, Packer, decode_pack, encode_pack, split_pack
from callboard.ports import Broker, Delivery, Destination, Lease
from callboard.registry import ActivityDefinition, Registry
from callboard.routes import Routes, Sender
from tests.runtime.support import Doom, MortalHost, eventually

if TYPE_CHECKING:
    from callboard.ports import Host

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def machine() -> AsyncGenerator[MortalHost]:
    host = MortalHost(Doom())
    yield host
    for task in host.tasks:
        task.cancel()
    await asyncio.gather(*host.tasks, return_exceptions=True)
    host.close()


# Batching


class Carrier:
    """Carries batches, one gate at a time."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.under_way = 0
        self.most = 0

    async def carry(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.gate.wait()
        self.under_way -= 1
        return [-item for item in items]


class Outcomes:
    def __init__(self) -> None:
        self.results: dict[int, Any] = {}

    def of(self, item: int) -> Callable[[Any, BaseException | None], None]:
        def done(result: Any, error: BaseException | None) -> None:
            assert item not in self.results
            self.results[item] = result if error is None else error

        return done


async def test_what_comes_while_a_call_is_under_way_goes_together_in_the_next() -> None:
    async with machine() as host:
        carrier, outcomes = Carrier(), Outcomes()
        batcher: Batcher[int, int] = Batcher(carrier.carry, host, name="test", most=3)
        batcher.submit(0, outcomes.of(0))
        await eventually(lambda: carrier.batches)
        for item in range(1, 8):
            batcher.submit(item, outcomes.of(item))
        carrier.gate.set()
        await eventually(lambda: batcher.idle)
        assert carrier.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
        assert carrier.most == 1
        assert outcomes.results == {item: -item for item in range(8)}


async def test_calls_go_in_parallel_up_to_the_limit() -> None:
    async with machine() as host:
        carrier, outcomes = Carrier(), Outcomes()
        batcher: Batcher[int, int] = Batcher(carrier.carry, host, name="test", most=1, parallel=2)
        for item in range(5):
            batcher.submit(item, outcomes.of(item))
        await eventually(lambda: carrier.under_way == 2)
        carrier.gate.set()
        await eventually(lambda: batcher.idle)
        assert carrier.most == 2
        assert len(outcomes.results) == 5


async def test_items_of_one_key_keep_their_order_and_never_overlap() -> None:
    async with machine() as host:
        running: set[int] = set()
        seen: list[int] = []

        async def carry(items: Sequence[int]) -> None:
            keys = [item % 3 for item in items]
            assert len(keys) == len(set(keys))
            assert not running.intersection(keys)
            running.update(keys)
            await asyncio.sleep(0)
            seen.extend(items)
            running.difference_update(keys)

        batcher: Batcher[int, None] = Batcher(carry, host, name="test", parallel=3, key=lambda item: item % 3)
        outcomes = Outcomes()
        for item in range(30):
            batcher.submit(item, outcomes.of(item))
        await eventually(lambda: batcher.idle)
        assert len(outcomes.results) == 30
        for key in range(3):
            mine = [item for item in seen if item % 3 == key]
            assert mine == sorted(mine)


async def test_an_error_is_that_of_the_item_it_belongs_to() -> None:
    async with machine() as host:
        calls: list[list[int]] = []

        async def carry(items: Sequence[int]) -> list[int]:
            calls.append(list(items))
            if 2 in items:
                raise ValueError("two")
            return list(items)

        batcher: Batcher[int, int] = Batcher(carry, host, name="test")
        outcomes = Outcomes()
        for item in range(4):
            batcher.submit(item, outcomes.of(item))
        await eventually(lambda: batcher.idle)
        assert calls == [[0, 1, 2, 3], [0], [1], [2], [3]]
        assert isinstance(outcomes.results.pop(2), ValueError)
        assert outcomes.results == {0: 0, 1: 1, 3: 3}


async def test_a_server_that_is_away_is_tried_again_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "FIRST_RETRY", 0.001)
    async with machine() as host:
        left = [3]

        async def carry(items: Sequence[int]) -> list[int]:
            if left[0]:
                left[0] -= 1
                raise StoreUnavailableError("away")
            return list(items)

        batcher: Batcher[int, int] = Batcher(carry, host, name="test")
        outcomes = Outcomes()
        batcher.submit(7, outcomes.of(7))
        await eventually(lambda: outcomes.results == {7: 7})
        left[0] = 1
        assert await retrying(lambda: carry([8]), host, "test") == [8]


async def test_a_closed_batcher_forgets() -> None:
    async with machine() as host:
        carrier, outcomes = Carrier(), Outcomes()
        batcher: Batcher[int, int] = Batcher(carrier.carry, host, name="test")
        batcher.submit(1, outcomes.of(1))
        await eventually(lambda: carrier.batches)
        await batcher.aclose()
        batcher.submit(2, outcomes.of(2))
        carrier.gate.set()
        await asyncio.sleep(0)
        assert (carrier.batches, outcomes.results) == ([[1]], {})


async def test_those_whom_nobody_waits_for_linger_for_company() -> None:
    async with machine() as host:
        carrier, outcomes = Carrier(), Outcomes()
        carrier.gate.set()
        batcher: Batcher[int, int] = Batcher(carrier.carry, host, name="test", linger=0.02)
        batcher.submit(1, outcomes.of(1))
        await asyncio.sleep(0)
        batcher.submit(2, outcomes.of(2))
        await eventually(lambda: batcher.idle)
        assert carrier.batches == [[1, 2]]


# Packs


class Post:
    """A broker that takes what is published, when the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.sent: list[tuple[Destination, bytes]] = []
        self.fails = False

    async def publish(self, destination: Destination, body: bytes, headers: object = None) -> None:
        self.sent.append((destination, body))
        await self.gate.wait()
        if self.fails:
            raise StoreUnavailableError("no")


def call(number: int, size: int = 0) -> ActivityCall:
    text = "x" * size
    return ActivityCall(instance_id="a", execution_id="e", task_scheduled_id=number, name="n", input=f'"{text}"')


def event(number: int) -> RaiseEvent:
    return RaiseEvent(instance_id="a", message_id=str(number), name="go", at=NOW)


async def packed(messages: Sequence[Message], destination: Destination) -> list[tuple[Message, ...]]:
    async with machine() as host:
        post = Post()
        packer = Packer(cast("Broker", post), host)
        confirmed: list[BaseException | None] = []
        for message in messages:
            packer.send(destination, message, confirmed.append)
        await eventually(lambda: post.sent)
        assert not confirmed
        post.gate.set()
        await eventually(lambda: packer.idle)
        assert confirmed == [None] * len(messages)
        packs = [decode_pack(body) for _, body in post.sent]
        assert sorted(map(str, (each for pack in packs for each in pack))) == sorted(map(str, messages))
        return packs


async def test_packs_are_bounded_in_number() -> None:
    packs = await packed([event(number) for number in range(600)], Destination.partition(0))
    assert max(map(len, packs)) == MOST_MESSAGES
    packs = await packed([call(number) for number in range(60)], Destination.activities("default"))
    assert max(map(len, packs)) == MOST_CALLS


async def test_packs_are_bounded_in_bytes_and_one_large_message_goes_alone() -> None:
    packs = await packed([call(number, 200_000) for number in range(8)], Destination.activities("default"))
    assert max(sum(len(encode_pack([each])) for each in pack) for pack in packs) <= MOST_BYTES + 1000
    packs = await packed([call(1, 900_000), call(2), call(3)], Destination.partition(0))
    assert any(len(pack) == 1 for pack in packs)


async def test_whoever_sent_hears_of_the_failure_of_the_pack() -> None:
    async with machine() as host:
        post = Post()
        post.fails = True
        post.gate.set()
        packer = Packer(cast("Broker", post), host)
        heard: list[BaseException | None] = []
        for number in range(3):
            packer.send(Destination.partition(0), event(number), heard.append)
        await eventually(lambda: len(heard) == 3)
        assert all(isinstance(error, StoreUnavailableError) for error in heard)
        assert packer.idle


def test_a_pack_is_plain_json_and_comes_back() -> None:
    messages: list[Message] = [event(1), call(2), InstanceEnded(instance_id="a", execution_id="e"), Ping()]
    body = encode_pack(messages)
    assert list(decode_pack(body)) == messages
    assert msgspec.json.decode(body)["v"] == 1
    assert [list(decode_pack(part)) for part in split_pack(body)] == [[each] for each in messages]
    assert split_pack(b"?") == split_pack(body.replace(b'"v":1', b'"v":2')) == []
    with pytest.raises(MalformedMessageError):
        decode_pack(body[:-1])


@dataclass
class Parcel:
    """A delivery that remembers what became of it."""

    acked: int = 0
    rejected: int = 0

    def ack(self) -> None:
        self.acked += 1

    def reject(self) -> None:
        self.rejected += 1


def test_a_pack_is_acked_once_when_all_are_settled_and_given_back_when_one_is_not() -> None:
    parcel = Parcel()
    account = PackAccount(cast("Delivery", parcel), 3)
    account.settle()
    account.settle()
    assert parcel.acked == 0
    account.settle()
    assert (parcel.acked, parcel.rejected) == (1, 0)
    parcel = Parcel()
    account = PackAccount(cast("Delivery", parcel), 2)
    account.settle()
    account.abandon()
    assert (parcel.acked, parcel.rejected) == (0, 1)


# Routes


def lease(partition: int, owner: str | None, *, expired: bool = False) -> Lease:
    return Lease(partition=partition, owner=owner, epoch=1, expired=expired)


def test_all_that_goes_to_one_owner_goes_through_one_of_its_queues() -> None:
    routes = Routes(6)
    own = [routes.own_queue(number) for number in range(6)]
    assert [routes.via(number) for number in range(6)] == own
    routes.update(
        [lease(0, "x"), lease(1, "y"), lease(2, "x"), lease(3, None), lease(4, "y", expired=True), lease(5, "y")]
    )
    assert [routes.via(number).name for number in range(6)] == ["0", "1", "0", "3", "4", "1"]
    routes.update([lease(number, "z") for number in range(8)])
    assert {routes.via(number).name for number in range(6)} == {"0"}
    routes.update([])
    assert [routes.via(number) for number in range(6)] == own


async def test_messages_are_told_to_the_owner_and_forwarded_to_the_partition() -> None:
    async with machine() as host:
        post = Post()
        post.gate.set()
        routes = Routes(4)
        sender = Sender(Packer(cast("Broker", post), host), routes)
        routes.update([lease(number, "x") for number in range(4)])
        instance_id = next(name for name in "abcdefgh" if partition_of(name, 4) == 3)
        message = RaiseEvent(instance_id=instance_id, message_id="m", name="go", at=NOW)
        for send in (sender.tell, sender.forward):
            send(message, lambda _error: None)
        sender.call(call(1), lambda _error: None)
        await eventually(lambda: len(post.sent) == 3)
        assert [str(destination) for destination, _ in post.sent] == [
            "partition 0",
            "partition 3",
            "activities default",
        ]


def test_partitions_are_computed_alike_everywhere() -> None:
    assert partition_of("123456789", 2**32) == 0xCBF43926  # the check value of CRC-32
    assert partition_of("123456789", 32) == 6


# Names and bindings


@dataclass
class Point:
    x: int
    y: int = 0


def test_one_parameter_takes_the_input_as_it_is() -> None:
    def f(point: Point) -> int:
        return point.x + point.y

    definition = ActivityDefinition("f", f, "default")
    assert definition.invoke('{"x": 1, "y": 2}') == 3
    with pytest.raises(InvalidPayloadError, match="The input of activity 'f' does not fit Point"):
        definition.invoke('{"y": 2}')


def test_several_parameters_take_an_object_by_name() -> None:
    def f(left: int, right: Point, scale: float = 1.0) -> float:
        return (left + right.x) * scale

    definition = ActivityDefinition("f", f, "default")
    assert definition.invoke('{"left": 1, "right": {"x": 2}}') == 3
    assert definition.invoke('{"left": 1, "right": {"x": 2}, "scale": 2}') == 6
    with pytest.raises(
        InvalidPayloadError, match="must be a JSON object with left, right, scale; missing: right; not known: up"
    ):
        definition.invoke('{"left": 1, "up": 2}')
    with pytest.raises(InvalidPayloadError, match="The input of activity 'f', 'left', does not fit int"):
        definition.invoke('{"left": "one", "right": {"x": 2}}')
    with pytest.raises(InvalidPayloadError, match="The input of activity 'f'"):
        definition.invoke("[1, 2]")


def test_no_parameter_ignores_the_input_and_a_default_stands_in_for_none() -> None:
    assert ActivityDefinition("f", lambda: 7, "default").invoke('"ignored"') == 7

    def f(number: int = 5) -> int:
        return number

    definition = ActivityDefinition("f", f, "default")
    assert (definition.invoke(None), definition.invoke("6")) == (5, 6)


def test_what_cannot_be_bound_is_refused_when_it_is_registered() -> None:
    blueprint = Blueprint()

    def takes_anything(*args: int) -> None: ...

    with pytest.raises(RegistrationError, match="has a \\*args parameter: name each parameter"):
        blueprint.activity(name="f")(takes_anything)
    with pytest.raises(RegistrationError, match="takes no parameter, but needs one for its context"):
        blueprint.orchestration(name="f")(lambda: None)

    def unresolved(value: int) -> None: ...

    unresolved.__annotations__["value"] = "Missing"
    with pytest.raises(
        RegistrationError, match=r"cannot be resolved: name 'Missing' is not defined.*import them always"
    ):
        blueprint.activity(unresolved)


@pytest.mark.parametrize("name", ["", "x" * 101, "a b", "a/b", "a\\b", "a#b", "a?b", "a@b", "a\n", "\u200b"])
def test_names_that_are_not_allowed(name: str) -> None:
    blueprint = Blueprint()
    if name:
        with pytest.raises(RegistrationError, match="cannot name an activity: use 1 to 100 characters"):
            blueprint.activity(name=name)(lambda: None)
    with pytest.raises(RegistrationError, match="cannot name an activity queue: use 1 to 100"):
        blueprint.activity(name="fine", queue=name)(lambda: None)


def test_two_functions_of_one_name_are_refused_and_the_same_one_twice_is_not() -> None:
    app, other = App("stage"), Blueprint()

    def f() -> None: ...

    app.activity(f)
    app.activity(f)
    other.activity(name="f")(lambda: None)
    with pytest.raises(
        RegistrationError, match=r"Two functions are registered as activity 'f': .*Give one another name"
    ):
        app.include(other)


def test_functions_are_found_by_themselves_and_by_name() -> None:
    app = App("stage")

    @app.activity(name="other", queue="gpu")
    async def f(number: int) -> int:
        return number

    registry = app.registry
    assert registry.activity(f) is registry.activity("other")
    assert (registry.activity(f).name, registry.activity(f).queue, registry.queues()) == (
        "other",
        "gpu",
        ("builtin", "gpu"),
    )
    assert registry.activity("elsewhere").queue == "default"
    with pytest.raises(
        RegistrationError, match=r"is not registered as an activity of this app: decorate it with @app.activity"
    ):
        registry.activity(print)
    with pytest.raises(ActivityNotRegisteredError, match="none are registered; decorate a function"):
        Registry().require_activity("f")


def test_a_blueprint_brings_its_functions() -> None:
    app, blueprint = App("stage"), Blueprint()

    @blueprint.orchestration
    async def run(context: OrchestrationContext) -> None: ...

    app.include(blueprint)
    assert app.registry.require_orchestration("run").function is run


# Hubs


@pytest.mark.parametrize("name", ["", "1st", "a b", "a.b", "x" * 46, "ä"])
def test_hub_names_that_are_not_allowed(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a task hub: use letters"):
        App(name)


@pytest.mark.parametrize("partitions", [0, -1, 1025])
def test_numbers_of_partitions_that_are_not_possible(partitions: int) -> None:
    with pytest.raises(ConfigurationError, match="is not possible: use 1 to 1024"):
        App("stage", partitions=partitions)


def test_adapters_are_found_by_scheme() -> None:
    assert type(open_broker("memory://x")).__name__ == "MemoryBroker"
    assert type(open_broker("amqp://localhost")).__name__ == "RabbitMQBroker"
    assert type(open_store("sqlite://")).__name__ == "SQLiteStore"
    assert isinstance(TaskHub.from_urls("stage", broker="memory://x", store="sqlite://"), TaskHub)


@pytest.mark.parametrize(
    ("url", "named"),
    [("kafka://x", "'kafka'"), ("localhost", "'a URL without a scheme'"), ("", "'a URL without a scheme'")],
)
def test_an_unknown_scheme_says_which_there_are(url: str, named: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"No broker adapter for {named}.*amqp://, amqps://, memory://, sqlite://"
    ):
        open_broker(url)
    with pytest.raises(ConfigurationError, match=r"No store adapter for .*mongodb://, mongodb\+srv://, sqlite://"):
        open_store(url)


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"prefetch": 0}, {"heartbeat": 8.0}, {"heartbeat": 0.0}, {"queues": ("a b",)}]
)
def test_options_that_are_not_possible(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        WorkerOptions(**options)


def test_the_machine_is_what_the_port_says() -> None:
    host = MortalHost(Doom())
    _: Host = host
    assert len(host.token()) == 32
    assert host.token() != host.token()
    assert 0 <= host.random() < 1
    assert host.now().microsecond % 1000 == 0
    host.close()
