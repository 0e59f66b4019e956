"""Entities, end to end."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from callboard import App, EntityContext, EntityId, EntityOperationFailedError, OrchestrationContext
from tests.e2e.stage import Stage, ended, until

app = App("entities", partitions=4)


@app.entity
class Counter:
    value: int = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def get(self) -> int:
        return self.value

    async def add_slowly(self, amount: int) -> int:
        await asyncio.sleep(0.01)
        return self.add(amount)

    def fail(self, context: EntityContext) -> None:
        self.value = -1
        context.signal_entity(EntityId("counter", "never"), "add", 1)
        raise ValueError("no")


@app.entity
def account(context: EntityContext) -> Any:
    balance = context.get_state(lambda: 0)
    if context.operation_name == "deposit":
        context.set_state(balance + context.get_input(int))
    elif context.operation_name == "withdraw":
        context.set_state(balance - context.get_input(int))
    elif context.operation_name == "delete":
        context.delete_state()
    return balance


@app.orchestration
async def count(context: OrchestrationContext, key: str) -> list[Any]:
    entity = EntityId("Counter", key)
    for number in range(10):
        context.signal_entity(entity, "add", number)
    first = await context.call_entity(entity, Counter.get)
    problem = ""
    try:
        await context.call_entity(entity, "fail")
    except EntityOperationFailedError as error:
        problem = error.failure.error_message
    second = await context.call_entity(entity, Counter.add_slowly, 5)
    return [first, problem, second, await context.call_entity(entity, "get")]


@app.orchestration
async def transfer(context: OrchestrationContext, source: str, target: str, amount: int) -> bool:
    one, other = EntityId("account", source), EntityId("account", target)
    async with context.lock_entities(one, other):
        if await context.call_entity(one, "get") < amount:
            return False
        await asyncio.gather(
            context.call_entity(one, "withdraw", amount), context.call_entity(other, "deposit", amount)
        )
        return True


async def test_calls_and_signals_of_an_orchestration_keep_their_order(stage: Stage) -> None:
    async with stage.playing(app) as client:
        started = await client.start(count, "a")
        assert (await ended(client, started.instance_id)).output == [45, "no", 50, 50]
        never = await client.read_entity_state(EntityId("counter", "never"))
        assert not never.entity_exists


async def test_signals_of_clients_are_carried_out_once_each(stage: Stage) -> None:
    entity = EntityId("counter", "b")
    async with stage.playing(app) as client:
        await asyncio.gather(*(client.signal_entity(entity, "add", number) for number in range(100)))
        found = await until(lambda: client.read_entity_state(entity), lambda seen: seen.entity_state == {"value": 4950})
        assert found.entity_exists


async def test_transfers_between_locked_accounts_conserve_money(stage: Stage) -> None:
    keys = "abcd"
    async with stage.playing(app) as client:
        for key in keys:
            await client.signal_entity(EntityId("account", key), "deposit", 100)
        started = [
            await client.start(transfer, {"source": a, "target": b, "amount": 60}) for a in keys for b in keys if a != b
        ]
        for handle in started:
            await ended(client, handle.instance_id)
        states = [(await client.read_entity_state(EntityId("account", key))).entity_state for key in keys]
        assert sum(states) == 400
        assert min(states) >= 0
        for key in keys:
            look = functools.partial(client.get_entity, EntityId("account", key))
            await until(look, lambda seen: seen is not None and seen.locked_by is None)
