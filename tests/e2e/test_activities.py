"""Activities, end to end: progress, limits and cancellation, on both backends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path

from callboard import ActivityContext, App, OrchestrationContext, TaskFailedError
from tests.e2e.stage import Stage, ended, until

LONG = 30.0


class Play:
    def __init__(self, hub: str) -> None:
        self.app = App(hub, partitions=4)
        self.stopped = asyncio.Event()
        self.running = self.most = 0
        self.app.activity(self.patient)
        self.app.activity(timeout=0.2)(self.hurried)
        self.app.activity(queue="few", hub_concurrency=2)(self.few)
        self.app.orchestration(self.waits)
        self.app.orchestration(self.is_hurried)
        self.app.orchestration(self.nobody_serves)
        self.app.orchestration(self.many)

    async def patient(self, context: ActivityContext) -> None:
        try:
            while True:
                context.heartbeat("still here")
                await asyncio.sleep(0.01)
        finally:
            self.stopped.set()

    async def hurried(self) -> None:
        await asyncio.sleep(LONG)

    async def few(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.02)
        self.running -= 1

    async def waits(self, context: OrchestrationContext) -> None:
        await context.call_activity(self.patient)

    async def is_hurried(self, context: OrchestrationContext) -> str:
        try:
            await context.call_activity(self.hurried)
        except TaskFailedError as error:
            return error.failure.error_type
        return "in time"

    async def nobody_serves(self, context: OrchestrationContext) -> str:
        try:
            await context.call_activity("anything", queue="nobody", schedule_to_start=0.2)
        except TaskFailedError as error:
            return error.failure.error_type
        return "in time"

    async def many(self, context: OrchestrationContext) -> str:
        await asyncio.gather(*(context.call_activity(self.few) for _ in range(8)))
        return "all"


async def test_a_terminated_orchestration_stops_its_activity(stage: Stage) -> None:
    play = Play(stage.hub)
    async with stage.playing(play.app) as client, stage.connected(play.app) as hub:
        started = await client.start("waits")
        claims = await until(lambda: hub.store.claims(started.instance_id), bool)
        assert (claims[0].details, claims[0].call.name) == ('"still here"', "patient")
        await client.terminate(started.instance_id)
        async with asyncio.timeout(LONG):
            await play.stopped.wait()
        await until(lambda: hub.store.claims(started.instance_id), lambda left: not left)


async def test_limits_of_time_and_number_hold(stage: Stage) -> None:
    play = Play(stage.hub)
    async with stage.playing(play.app) as client, stage.worker(play.app):
        started = [await client.start(name) for name in ("is_hurried", "nobody_serves", "many")]
        outputs = [(await ended(client, each.instance_id)).output for each in started]
        assert outputs == ["ActivityTimedOut", "ActivityTimedOut", "all"]
        assert play.most == 2


PROGRAM = """
    import asyncio, sys
    from pathlib import Path
    from callboard import ActivityContext, App, OrchestrationContext, TaskHub, Worker, WorkerOptions

    hub, broker, store, folder = sys.argv[1:]
    app = App(hub, partitions=4)

    @app.activity
    async def count(context: ActivityContext) -> int:
        began = context.heartbeat_details(int) or 0
        with (Path(folder) / "began").open("a") as file:
            file.write(f"{began}\\n")
        if began:
            return began
        for number in range(1, 1_000_000):
            context.heartbeat(number)
            await asyncio.sleep(0.01)
        return -1

    @app.orchestration
    async def counts(context: OrchestrationContext) -> int:
        return await context.call_activity(count)

    async def main() -> None:
        async with TaskHub.from_urls(hub, broker=broker, store=store) as opened:
            worker = Worker(app, opened, WorkerOptions())
            worker.activities.claims.ttl = 2.0
            async with worker:
                await asyncio.Event().wait()

    asyncio.run(main())
"""


async def test_a_long_activity_goes_on_elsewhere_after_kill_9(stage: Stage, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    arguments = (str(program), stage.hub, stage.broker, stage.store, str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    async with stage.client() as client, stage.connected() as hub:
        first = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)
        second: asyncio.subprocess.Process | None = None
        try:
            started = await client.start("counts")
            claims = await until(
                lambda: hub.store.claims(started.instance_id), lambda found: found and int(found[0].details or 0) > 1
            )
            first.send_signal(signal.SIGKILL)
            await first.wait()
            second = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)
            output = (await ended(client, started.instance_id)).output
        finally:
            for process in (first, second):
                if process is not None and process.returncode is None:
                    process.kill()
                    await process.wait()
        began = [int(line) for line in (tmp_path / "began").read_text(encoding="utf-8").split()]
        assert began == [0, output]
        assert output >= int(claims[0].details or 0)
