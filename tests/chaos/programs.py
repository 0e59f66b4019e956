"""What runs while things are being killed: orchestrations whose results can be told in advance, activities that leave a trace.

Every run of an activity writes a line to the ledger, a file beside the store, before it returns. Its result carries the number of
that line's run, so that a result in history can be traced to the one run that made it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import TypedDict

from callboard import App, OrchestrationContext
from tests.chaos.bank import add_bank

#: How long the errand's timer takes, in seconds.
NAP = 0.7


class Order(TypedDict):
    """What an activity is asked to do, and by whom."""

    instance: str
    step: int
    seed: int


class Done(TypedDict):
    """What an activity did, and in which run."""

    value: int
    run: str


class Errand(TypedDict):
    """The input of an errand."""

    seed: int
    nap: float


def worth(seed: int, step: int) -> int:
    """What a step of an errand yields."""
    return seed * 1_000 + step * step


def errand_result(seed: int, event: int) -> list[int]:
    """What an errand returns, if nothing goes wrong."""
    return [*(worth(seed, step) for step in range(1, 6)), worth(seed, 100) * 2, event]


def tally_result(rounds: int, each: int) -> int:
    """What a tally returns that got the numbers 0, 1, 2 … as events, ``each`` of them in every round."""
    return sum(range(rounds * each)) + sum(worth(7, done) for done in range(rounds))


class Ledger:
    """Says which activities ran, how often. Lines are appended in one write each, which is atomic."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def enter(self, order: Order) -> str:
        run = secrets.token_hex(6)
        line = f"{order['instance']}\t{order['step']}\t{run}\n".encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
        return run

    def runs(self) -> dict[tuple[str, int], list[str]]:
        """All runs, by instance and step."""
        found: dict[tuple[str, int], list[str]] = defaultdict(list)
        text = self._path.read_text(encoding="ascii") if self._path.exists() else ""
        for line in text.splitlines():
            instance, step, run = line.split("\t")
            found[instance, int(step)].append(run)
        return found


def make_app(hub: str, ledger: Ledger, *, partitions: int | None = None) -> App:
    """The app that every worker of these tests runs."""
    app = App(hub, partitions=partitions)
    add_bank(app)

    @app.activity
    async def step(order: Order) -> Done:
        run = ledger.enter(order)
        await asyncio.sleep(0.02 * (order["seed"] % 11))
        return Done(value=worth(order["seed"], order["step"]), run=run)

    @app.activity
    def step_in_thread(order: Order) -> Done:
        return Done(value=worth(order["seed"], order["step"]), run=ledger.enter(order))

    @app.activity(queue="special")
    async def special_step(order: Order) -> Done:
        return Done(value=os.getpid(), run=ledger.enter(order))

    @app.orchestration
    async def detour(context: OrchestrationContext, seed: int) -> int:
        order = Order(instance=context.instance_id, step=100, seed=seed)
        done = await context.call_activity(step, order)
        return done["value"] * 2

    @app.orchestration
    async def errand(context: OrchestrationContext, errand: Errand) -> list[int]:
        seed = errand["seed"]
        orders = [Order(instance=context.instance_id, step=number, seed=seed) for number in range(1, 6)]
        first = await context.call_activity(step, orders[0])
        second, third = await asyncio.gather(
            context.call_activity(step, orders[1]), context.call_activity(step_in_thread, orders[2])
        )
        await context.create_timer(timedelta(seconds=errand["nap"]))
        child = await context.call_sub_orchestration(detour, seed)
        event = await context.wait_for_external_event("go", int)
        fourth = await context.call_activity(step, orders[3])
        fifth = await context.call_activity(step_in_thread, orders[4])
        return [*(done["value"] for done in (first, second, third, fourth, fifth)), child, event]

    @app.orchestration
    async def tally(context: OrchestrationContext, rounds: int, each: int, done: int = 0, total: int = 0) -> int:
        """Takes some events and an activity in each round, and goes on as a new execution after it."""
        for _ in range(each):
            total += await context.wait_for_external_event("number", int)
        order = Order(instance=context.instance_id, step=done, seed=7)
        total += (await context.call_activity(step, order))["value"]
        done += 1
        if done < rounds:
            context.continue_as_new({"rounds": rounds, "each": each, "done": done, "total": total})
        return total

    @app.orchestration
    async def specials(context: OrchestrationContext, count: int) -> list[int]:
        orders = [Order(instance=context.instance_id, step=number, seed=1) for number in range(count)]
        done = await asyncio.gather(*(context.call_activity(special_step, order) for order in orders))
        return [each["value"] for each in done]

    return app
