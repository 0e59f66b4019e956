"""Entities for these tests: counters that many signal, accounts between which orchestrations transfer money."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from callboard import App, EntityContext, EntityId, OrchestrationContext


class Counter:
    """Counts, and notices when a sender's numbers come twice or out of order."""

    total: int = 0
    last: dict[str, int] = {}  # noqa: RUF012 - each entity has its own
    wrong: int = 0

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    def follow(self, sender: str, number: int) -> None:
        """Numbers of one sender come in order, each once."""
        self.total += 1
        self.wrong += number != self.last.get(sender, -1) + 1
        self.last[sender] = number

    def pass_on(self, context: EntityContext, keys: list[str]) -> None:
        """Signals the next entity, and has it pass on to the rest."""
        self.total += 1
        if keys:
            context.signal_entity(EntityId("counter", keys[0]), "pass_on", keys[1:])


class Account:
    """Holds money."""

    balance: int = 0

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def withdraw(self, amount: int) -> int:
        if amount > self.balance:
            raise ValueError(f"only {self.balance} are left")
        self.balance -= amount
        return self.balance

    def get(self) -> int:
        return self.balance


def add_bank(app: App) -> None:
    """Registers the entities, and the orchestrations that use them."""
    app.entity(Counter)
    app.entity(Account)

    @app.orchestration
    async def transfer(context: OrchestrationContext, source: str, target: str, amount: int) -> int:
        """Moves as much of the amount as there is; returns that."""
        one, other = EntityId("account", source), EntityId("account", target)
        async with context.lock_entities(one, other):
            amount = min(amount, await context.call_entity(one, Account.get))
            await asyncio.gather(
                context.call_entity(one, Account.withdraw, amount), context.call_entity(other, Account.deposit, amount)
            )
        return amount

    @app.orchestration
    async def hold(context: OrchestrationContext, keys: list[str]) -> None:
        """Locks accounts and keeps them, until somebody ends it."""
        async with context.lock_entities(EntityId("account", key) for key in keys):
            await context.create_timer(timedelta(hours=1))

    @app.orchestration
    async def send(context: OrchestrationContext, keys: list[str], rounds: int, number: int = 0) -> None:
        """Signals each counter in every round, and goes on as a new execution after it."""
        for key in keys:
            context.signal_entity(
                EntityId("counter", key), Counter.follow, {"sender": context.instance_id, "number": number}
            )
        await context.create_timer(timedelta(milliseconds=100))
        if number + 1 < rounds:
            context.continue_as_new({"keys": keys, "rounds": rounds, "number": number + 1})
