"""What is measured, beside the hello example."""

from __future__ import annotations

import asyncio
import time

from examples import hello_sequence

from callboard import App, OrchestrationContext


def make_app(hub: str) -> App:
    """Return an app with everything that is measured, for a hub of its own."""
    app = App(hub)
    app.include(hello_sequence.app)
    app.activity(square)
    app.activity(stamp)
    app.orchestration(fan_out)
    app.orchestration(chain)
    return app


async def square(number: int) -> int:
    return number * number


async def stamp(step: int) -> tuple[float, float]:
    """Return the time by the clock that all processes of the machine share, and this process's CPU time."""
    return time.monotonic(), time.process_time()


async def fan_out(context: OrchestrationContext, count: int) -> int:
    """Run many activities at once."""
    return sum(await asyncio.gather(*(context.call_activity(square, number) for number in range(count))))


async def chain(context: OrchestrationContext, count: int) -> list[tuple[float, float]]:
    """Run many activities one after another."""
    return [await context.call_activity(stamp, step) for step in range(count)]
