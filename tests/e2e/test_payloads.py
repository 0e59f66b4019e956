"""Values that are more than JSON, end to end."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pydantic
import pytest

from callboard import (
    ActivityContext,
    App,
    Client,
    Keys,
    OrchestrationContext,
    OrchestrationFailedError,
    RetryPolicy,
    TaskFailedError,
    WorkerOptions,
)
from callboard.codecs import HubCodec
from callboard.core.codec import is_sealed, result_place
from callboard.core.instances import partition_of
from callboard.core.messages import ActivityCall, ChildResult, RaiseEvent, TaskResult
from callboard.errors import ConfigurationError, PayloadRejectedError
from callboard.packs import encode_pack
from callboard.ports import Destination, Quarantined
from tests.e2e.stage import DEADLINE, Stage, ended, until

KEYS = Keys({"one": b"1" * 32})


class Item(pydantic.BaseModel):
    name: str
    price: int = pydantic.Field(gt=0)


class Order(pydantic.BaseModel):
    order_id: str = pydantic.Field(alias="orderId")
    items: list[Item]


class Grid:
    """No JSON, and no equality either: what comes back is compared by its cells."""

    def __init__(self, cells: dict[tuple[int, int], complex]) -> None:
        self.cells = cells

    def turned(self) -> Grid:
        return Grid({(y, x): value for (x, y), value in self.cells.items()})


def same(value: complex) -> complex:
    return value


async def test_pydantic_models_travel_everywhere(stage: Stage) -> None:
    app = App("shop")

    @app.activity
    async def price_of(order: Order) -> dict[str, Item]:
        return {item.name: item for item in order.items}

    @app.activity
    def total(items: list[Item], discount: Item | None = None) -> int:
        return sum(item.price for item in items) - (discount.price if discount else 0)

    @app.orchestration
    async def bundle(context: OrchestrationContext, items: list[Item]) -> Item | Order:
        return Item(
            name="+".join(item.name for item in items), price=await context.call_activity(total, {"items": items})
        )

    @app.orchestration
    async def buy(context: OrchestrationContext, order: Order) -> list[Item]:
        more = await context.wait_for_external_event("more", Item)
        priced = await context.call_activity(price_of, order)
        assert all(type(item) is Item for item in (more, *priced.values()))
        bundled = await context.call_sub_orchestration(bundle, [more, *priced.values()])
        assert isinstance(bundled, Item)
        return [bundled, *order.items]

    async with stage.playing(app) as client:
        started = await client.start(buy, Order(orderId="7", items=[Item(name="tea", price=2)]))
        await client.raise_event(started.instance_id, "more", Item(name="cup", price=5))
        assert await started.result(DEADLINE) == [Item(name="cup+tea", price=7), Item(name="tea", price=2)]
        wrong = await client.start("buy", {"orderId": "8", "items": [{"name": "tea", "price": 0}]})
        with pytest.raises(OrchestrationFailedError, match="greater than 0"):
            await wrong.result(DEADLINE)


def grids(**options: Any) -> App:
    """An app whose values are pickles, except where JSON will do."""
    chosen: dict[str, Any] = {"codec": "cloudpickle", "allow_pickle": True, "keys": KEYS, "partitions": 4, **options}
    app = App("grids", **chosen)

    @app.activity
    async def turn(grid: Grid) -> Grid:
        return grid.turned()

    @app.activity(codec="json")
    def name(number: int) -> str:
        return f"grid {number}"

    @app.orchestration
    async def turn_twice(context: OrchestrationContext, grid: Grid) -> Grid:
        return (await context.call_activity(turn, await context.call_activity(turn, grid))).turned()

    @app.orchestration
    async def tour(context: OrchestrationContext, grid: Grid) -> Any:
        if (1, 0) in grid.cells:
            return context.continue_as_new(await context.call_sub_orchestration(turn_twice, grid))
        context.set_custom_status({"cells": len(grid.cells)})
        factor = await context.wait_for_external_event("factor")
        label = await context.call_activity(name, len(grid.cells))
        return {"label": label, "grid": Grid({cell: factor(value) for cell, value in grid.cells.items()})}

    return app


@pytest.mark.parametrize("encrypt", [False, True], ids=["signed", "encrypted"])
async def test_pickles_travel_everywhere_sealed(stage: Stage, encrypt: bool) -> None:
    app = grids(encrypt=encrypt)
    async with stage.playing(app) as client:
        started = await client.start("tour", Grid({(1, 0): 1j, (2, 0): 2j}))
        twice = 2

        def doubled(value: complex) -> complex:
            return value * twice

        await client.raise_event(started.instance_id, "Factor", doubled)
        done = await started.result(DEADLINE)
        assert (done["label"], done["grid"].cells) == ("grid 2", {(0, 1): 2j, (0, 2): 4j})
        status = await client.get_status(started.instance_id)
        assert status.custom_status == {"cells": 2}
        assert status.output["$callboard"]["codec"] == "cloudpickle"
        await sealed_in_store(client, started.instance_id, encrypt=encrypt)
        again = await client.restart(started.instance_id)  # with the input that continue_as_new gave it last
        await client.raise_event(again.instance_id, "factor", same)
        assert (await again.result(DEADLINE))["grid"].cells == {(0, 1): 1j, (0, 2): 2j}


async def sealed_in_store(client: Client, instance_id: str, *, encrypt: bool) -> None:
    record = (await client.hub.store.records([instance_id]))[instance_id]
    stored = msgspec.json.encode([record, await client.history(instance_id)]).decode()
    assert is_sealed(str(record.input))
    assert is_sealed(str(record.output))
    assert ("grid 2" in stored) is not encrypt
    assert ("aes-256-gcm" in stored) is encrypt


async def test_encrypted_json_is_shown_to_those_who_have_the_keys(stage: Stage) -> None:
    app = App("letters", encrypt=True, keys=KEYS)

    @app.orchestration
    async def keep(context: OrchestrationContext, secret: str) -> str:
        context.set_custom_status(f"keeping {secret}")
        return f"{secret}!"

    @app.activity
    async def note(secret: str, activity: ActivityContext) -> str:
        if activity.attempt > 1:
            return activity.heartbeat_details(str) or "nothing"
        activity.heartbeat(f"{secret} 1")
        raise ConnectionError

    @app.orchestration
    async def noted_twice(context: OrchestrationContext, secret: str) -> str:
        return await context.call_activity(
            note, secret, retry=RetryPolicy(first_retry_interval=0.01, max_number_of_attempts=2)
        )

    async with stage.playing(app) as client:
        started = await client.start(keep, "iban")
        assert await started.result(DEADLINE) == "iban!"
        noted = await client.start(noted_twice, "iban")
        assert await noted.result(DEADLINE) == "iban 1"
        assert "iban" not in msgspec.json.encode(await client.history(noted.instance_id)).decode()
        status = await started.status()
        assert (status.input, status.output, status.custom_status) == ("iban", "iban!", "keeping iban")
        history = msgspec.json.encode(await client.readable_history(started.instance_id)).decode()
        assert "iban!" in history
        raw = await client.history(started.instance_id)
        assert "iban" not in msgspec.json.encode(raw).decode()
        async with stage.client() as stranger:
            assert (await stranger.get_status(started.instance_id)).output["$callboard"]["cipher"] == "aes-256-gcm"


async def test_a_worker_that_is_not_set_up_for_pickles_says_so_at_once(stage: Stage) -> None:
    for options, says in (({"keys": None}, "needs keys"), ({"allow_pickle": False}, r"allow it with App\(")):
        with pytest.raises(ConfigurationError, match=says):
            async with stage.worker(grids(**options)):
                pass


async def test_old_values_are_read_after_the_keys_changed(stage: Stage) -> None:
    grid = Grid({(0, 1): 1j})
    async with stage.playing(grids()) as client:
        started = await client.start("tour", grid)
        await until(lambda: client.get_status(started.instance_id), lambda status: status.custom_status is not None)
    rotated = grids(keys=Keys({"two": b"2" * 32, "one": b"1" * 32}))
    async with stage.playing(rotated) as client:
        await client.raise_event(started.instance_id, "factor", same)
        assert (await ended(client, started.instance_id)).output["$callboard"]["key"] == "two"
    async with stage.client(grids(keys=Keys({"three": b"3" * 32}))) as client:
        record = (await client.hub.store.records([started.instance_id]))[started.instance_id]
        with pytest.raises(PayloadRejectedError, match="sealed with key 'two', which is not known here"):
            await client.output_of(record, Any)


# What is forged


def chasing() -> App:
    app = App("chase", codec="cloudpickle", allow_pickle=True, keys=KEYS, partitions=4)

    @app.activity(queue="nobody-serves")
    async def far(value: complex) -> complex:
        return value

    @app.orchestration
    async def wait(context: OrchestrationContext) -> object:
        try:
            return await context.call_activity(far, 1j)
        except TaskFailedError as error:
            return error.failure.error_type, error.failure.error_message

    @app.orchestration
    async def listen(context: OrchestrationContext) -> object:
        return await context.wait_for_external_event("go")

    return app


async def quarantined(client: Client) -> list[Quarantined]:
    return await until(lambda: client.hub.store.quarantined(10), len)


async def send(client: Client, message: TaskResult | ChildResult | RaiseEvent) -> None:
    partition = partition_of(message.instance_id, client.hub.partitions)
    await client.hub.broker.publish(Destination.partition(partition), encode_pack([message]))


async def test_a_forged_result_is_kept_for_a_person_and_fails_the_call(stage: Stage) -> None:
    app = chasing()
    async with stage.playing(app, WorkerOptions(queues=("default",))) as client:
        started = await client.start("wait")
        await until(lambda: client.history(started.instance_id), len)
        execution_id = (await started.status()).execution_id
        place = result_place(started.instance_id, execution_id, 1)  # of another task: stolen
        codec = HubCodec(app.codec_options, KEYS)
        stolen = codec.seal(codec.encode(2j, "The result"), place)
        now = (await started.status()).created_time
        await send(
            client,
            TaskResult(
                instance_id=started.instance_id, execution_id=execution_id, task_scheduled_id=0, at=now, result=stolen
            ),
        )
        failed, why = cast("tuple[str, str]", await started.result(DEADLINE))
        assert failed == "callboard.errors.TamperedPayloadError"
        assert "The result of task 0" in why
        (kept,) = await quarantined(client)
        assert "has a wrong seal" in kept.reason
        assert stolen is not None
        assert msgspec.json.encode(stolen) in kept.body


async def test_a_forged_event_is_kept_for_a_person_and_nothing_else_happens(stage: Stage) -> None:
    app = chasing()
    async with stage.playing(app) as client:
        started = await client.start("listen")
        forged = '{"$callboard":{"codec":"cloudpickle","key":"one","data":"gASVBQAAAAAAAABLAS4="}}'
        now = (await started.status()).created_time
        await send(client, RaiseEvent(instance_id=started.instance_id, message_id="m", name="go", at=now, input=forged))
        (kept,) = await quarantined(client)
        assert "is not signed" in kept.reason
        await client.raise_event(started.instance_id, "go", 3j)
        assert await started.result(DEADLINE) == 3j


async def test_a_forged_call_is_kept_for_a_person_and_fails(stage: Stage) -> None:
    app = chasing()
    async with stage.playing(app, WorkerOptions(queues=("default",))) as client:
        started = await client.start("wait")
        await until(lambda: client.history(started.instance_id), len)
        execution_id = (await started.status()).execution_id
        forged = '{"$callboard":{"codec":"cloudpickle","key":"one","mac":"AAAA","data":"gASVBQAAAAAAAABLAS4="}}'
        call = ActivityCall(
            instance_id=started.instance_id,
            execution_id=execution_id,
            task_scheduled_id=0,
            name="far",
            queue="default",
            input=forged,
        )
        await client.hub.broker.publish(Destination.activities("default"), encode_pack([call]))
        failed, why = cast("tuple[str, str]", await started.result(DEADLINE))
        assert failed == "callboard.errors.TamperedPayloadError"
        assert "The input of task 0" in why
        (kept,) = await quarantined(client)
        assert "has a wrong seal" in kept.reason


async def test_an_instance_whose_key_is_missing_parks_and_goes_on_with_it(stage: Stage) -> None:
    grid = Grid({(0, 1): 1j})
    async with stage.client(grids()) as client:
        started = await client.start("tour", grid)
    async with stage.playing(grids(keys=Keys({"two": b"2" * 32}))) as client:
        parked = await until(lambda: client.get_status(started.instance_id), lambda status: status.parked)
        assert parked.parked is not None
        assert "sealed with key 'one', which is not known here: add it to CALLBOARD_KEYS" in parked.parked.reason
        await client.raise_event(started.instance_id, "factor", same)
    both = grids(keys=Keys({"two": b"2" * 32, "one": b"1" * 32}))
    async with stage.playing(both) as client, asyncio.timeout(DEADLINE):
        await client.wait(started.instance_id)
        record = (await client.hub.store.records([started.instance_id]))[started.instance_id]
        assert (await client.output_of(record, Any))["grid"].cells == {(0, 1): 1j}
