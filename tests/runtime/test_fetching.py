"""Large values on their way to turns."""

from __future__ import annotations

import asyncio

from callboard import App, OrchestrationContext
from callboard.core.references import LARGE
from tests.runtime.support import Stage


async def test_no_turn_is_lost_whose_values_are_fetched_while_others_run() -> None:
    app = App("stage", max_payload=2 * LARGE)

    @app.orchestration
    async def measure(context: OrchestrationContext, text: str) -> int:
        return len(text)

    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        lengths = [LARGE + 1000 if number % 3 else 10 for number in range(24)]
        handles = await asyncio.gather(*(client.start(measure, "x" * length) for length in lengths))
        assert [await handle.result(timeout=60) for handle in handles] == lengths
