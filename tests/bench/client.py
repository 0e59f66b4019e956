"""A client process: `python -m tests.bench.client ORDER FILE` does what the order says and writes what it measured."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import uvloop
from examples.hello_sequence import hello_sequence

from callboard import Client, TaskHub, Worker
from callboard.ownership import LEASE

from .app import chain, fan_out, make_app
from .measuring import Measured, Meter, Order, Steps

CITIES = ["Tokyo", "Seattle", "London"]
GREETINGS = ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]
#: How many steps at each end of a chain are compared.
ENDS = 100


async def hello(client: Client, order: Order) -> float:
    """Run one hello_sequence; return how long that took."""
    started = time.perf_counter()
    handle = await client.start(hello_sequence, CITIES)
    output = await handle.result(order.timeout)
    if output != GREETINGS:
        raise RuntimeError(f"hello_sequence returned {output!r}.")
    return time.perf_counter() - started


async def many(client: Client, order: Order, count: int) -> list[float]:
    """Run many, some at a time; return how long each took."""
    latencies: list[float] = []
    numbers = iter(range(count))

    async def lane() -> None:
        for _ in numbers:
            latencies.append(await hello(client, order))  # noqa: PERF401 - lanes share the list

    async with asyncio.TaskGroup() as lanes:
        for _ in range(min(order.in_flight, count)):
            lanes.create_task(lane())
    return latencies


async def measure_hello(client: Client, order: Order) -> Measured:
    meter = Meter(order)
    latencies = await many(client, order, order.count)
    return await meter.stop(order.count, latencies=latencies)


async def measure_fan_out(client: Client, order: Order) -> Measured:
    meter = Meter(order)
    total = await (await client.start(fan_out, order.count)).result(order.timeout)
    if total != sum(number * number for number in range(order.count)):
        raise RuntimeError(f"fan_out returned {total!r}.")
    return await meter.stop(order.count)


async def measure_chain(client: Client, order: Order) -> Measured:
    meter = Meter(order)
    stamps = await (await client.start(chain, order.count)).result(order.timeout)
    return await meter.stop(order.count, steps=Steps.of(stamps, min(ENDS, order.count // 2), workers=order.workers))


MEASURES: dict[str, Callable[[Client, Order], Coroutine[None, None, Measured]]] = {
    "latency": measure_hello,
    "hello": measure_hello,
    "embedded": measure_hello,
    "fan-out": measure_fan_out,
    "chain": measure_chain,
}


async def settle(hub: TaskHub, workers: int) -> None:
    """Wait until the workers share the partitions evenly."""
    while True:
        view = await hub.store.view(ttl=LEASE)
        owners = Counter(lease.owner for lease in view.leases)
        everyone = len(owners) == min(workers, hub.partitions) and None not in owners
        if everyone and max(owners.values()) - min(owners.values()) <= 1:
            return
        await asyncio.sleep(0.05)


async def measure(order: Order) -> list[Measured]:
    """Warm up, then measure."""
    app = make_app(order.hub)
    async with contextlib.AsyncExitStack() as stack:
        hub = await stack.enter_async_context(TaskHub.from_urls(order.hub, broker=order.broker, store=order.store))
        if order.part == "embedded":
            await stack.enter_async_context(Worker(app, hub))
        client = await stack.enter_async_context(Client(hub, app))
        async with asyncio.timeout(order.timeout):
            await settle(hub, order.workers)
        if order.warmup:
            await many(client, order, order.warmup)
        return [await MEASURES[order.part](client, order) for _ in range(order.repeat)]


def main(order: str, file: str) -> None:
    uvloop.install()
    measured = asyncio.run(measure(msgspec.json.decode(order, type=Order)))
    Path(file).write_bytes(msgspec.json.encode(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
