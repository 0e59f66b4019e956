"""The orchestrations whose traces are looked at."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from opentelemetry import baggage, trace

from callboard import App, OrchestrationContext

app = App("traced", partitions=4)
log = logging.getLogger("tests.telemetry.programs")


@app.activity
async def say_hello(city: str) -> str:
    return f"Hello {city}!"


@app.activity
def work_in_a_thread(what: str) -> str:
    """Traces on its own, in the thread that it runs in."""
    with trace.get_tracer("user").start_as_current_span(f"inner {what}"):
        log.warning("working on %s", what)
        trace.get_current_span().set_attribute("who", str(baggage.get_baggage("who")))
        return what.upper()


@app.activity
async def work_in_the_loop(what: str) -> str:
    trace.get_current_span().set_attribute("what", what)
    await asyncio.gather(*(_inner(f"{what}.{n}") for n in range(2)))
    return what


async def _inner(what: str) -> None:
    with trace.get_tracer("user").start_as_current_span(f"inner {what}"):
        await asyncio.sleep(0)


@app.activity
async def decline(order: str) -> None:
    raise ValueError(f"{order} is declined")


@app.orchestration
async def hello_sequence(context: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await context.call_activity(say_hello, city) for city in cities]


@app.orchestration
async def nesting(context: OrchestrationContext, what: str) -> str:
    log.warning("nesting %s", what)
    first = await context.call_activity(work_in_a_thread, what)
    return await context.call_activity(work_in_the_loop, first)


@app.orchestration
async def parent(context: OrchestrationContext) -> list[str]:
    children = [context.call_sub_orchestration(hello_sequence, [city]) for city in ("Tokyo", "London")]
    return [greeting for greetings in await asyncio.gather(*children) for greeting in greetings]


@app.orchestration
async def waiting(context: OrchestrationContext) -> str:
    await asyncio.sleep(0.05)
    name: str = await context.wait_for_external_event("name", str)
    context.send_event(await context.wait_for_external_event("whom", str), "name", name)
    return name


@app.orchestration
async def failing(context: OrchestrationContext) -> None:
    await context.call_activity(decline, "order 1")


@app.orchestration
async def eternal(context: OrchestrationContext, left: int) -> str:
    await context.call_activity(say_hello, str(left))
    if left:
        return str(context.continue_as_new(left - 1))
    return "done"


@app.orchestration
async def lingering(context: OrchestrationContext) -> str:
    context.call_activity(say_hello, "nobody")
    await context.call_sub_orchestration(waiting, instance_id=f"{context.instance_id}-child")
    return "never"


@app.activity
async def step(folder: str, number: int) -> int:
    with (Path(folder) / "steps").open("a", encoding="utf-8") as log_of_runs:
        log_of_runs.write(f"{number}\n")
    return number


@app.orchestration
async def long_way(context: OrchestrationContext, folder: str, steps: int) -> int:
    return sum([await context.call_activity(step, {"folder": folder, "number": n}) for n in range(steps)])


@app.activity
async def hold(folder: str) -> str:
    """Waits for leave, once it has said that it has begun."""
    place = Path(folder)
    (place / f"begun-{os.getpid()}").touch()
    while not (place / "leave").exists():
        await asyncio.sleep(0.02)
    return "held"


@app.orchestration
async def stubborn(context: OrchestrationContext, folder: str) -> str:
    await context.call_activity(say_hello, "Tokyo")
    held = await context.call_activity(hold, folder)
    await context.call_activity(say_hello, "London")
    return held
