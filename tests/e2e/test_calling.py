"""Retries, trees of children, fire and forget, and events with time limits, end to end."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import tenacity

from callboard import (
    App,
    FailureDetails,
    InstanceStatus,
    OrchestrationContext,
    RetryPolicy,
    SubOrchestrationFailedError,
    TaskFailedError,
)
from tests.e2e.stage import Stage, ended, until
from tests.web import Asked, Says, WebServer

app = App("calling", partitions=4)
attempts: Counter[str] = Counter()

QUICK = RetryPolicy(first_retry_interval=0.05, max_number_of_attempts=3, backoff_coefficient=2)
JITTERED = RetryPolicy(
    stop=tenacity.stop_after_attempt(4),
    wait=tenacity.wait_exponential_jitter(multiplier=0.05, jitter=0.05),
    retry=tenacity.retry_if_exception_type(ConnectionError) | tenacity.retry_if_result(lambda result: result == "busy"),
)


class DeclinedError(Exception):
    non_retriable = True


@app.activity
def pay(order: dict[str, Any]) -> str:
    """Fails as often as the order says, then is busy once if it says so."""
    key = order["key"]
    attempts[key] += 1
    if attempts[key] <= order["failures"]:
        raise ConnectionError(f"attempt {attempts[key]}")
    if order.get("declined"):
        raise DeclinedError("no funds")
    return "busy" if order.get("busy") and attempts[key] == order["failures"] + 1 else "paid"


@app.orchestration
async def buy(context: OrchestrationContext, order: dict[str, Any]) -> Any:
    try:
        return await context.call_activity(pay, order, retry=JITTERED if order["jitter"] else QUICK)
    except TaskFailedError as error:
        return [error.attempts, error.failure.error_message]


@app.orchestration
async def leaf(context: OrchestrationContext, how: str) -> str:
    if how == "fail":
        await context.call_activity(pay, {"key": context.instance_id, "failures": 0, "declined": True})
    return await context.wait_for_external_event("go", str)


@app.orchestration
async def branch(context: OrchestrationContext, how: str) -> str:
    return await context.call_sub_orchestration(leaf, how)


@app.orchestration
async def tree(context: OrchestrationContext, how: str) -> list[str]:
    context.start_new_orchestration("leaf", "wait", instance_id=f"{context.instance_id}-apart", tags={"apart": "yes"})
    calls = [context.call_sub_orchestration(branch, how, instance_id=f"{context.instance_id}-{n}") for n in range(2)]
    return await context.task_all(calls)


@app.orchestration
async def stubborn(context: OrchestrationContext, key: str) -> Any:
    """Its child has a chosen id, so each attempt takes the id of the one before."""
    policy = RetryPolicy(first_retry_interval=0.01, max_number_of_attempts=3)
    return await context.call_sub_orchestration(buy_or_fail, key, instance_id=f"{key}-child", retry=policy)


@app.orchestration
async def buy_or_fail(context: OrchestrationContext, key: str) -> str:
    return await context.call_activity(pay, {"key": key, "failures": 2})


@app.orchestration
async def approval(context: OrchestrationContext, seconds: float) -> list[Any]:
    late = await context.wait_for_external_event("approve", str, timeout=seconds, default="nobody")
    asked: Any = None
    try:
        asked = await context.wait_for_external_event("APPROVE", str, timeout=timedelta(hours=1))
    except TimeoutError as error:
        asked = str(error)
    return [late, asked]


@app.orchestration
async def report(context: OrchestrationContext, url: str) -> list[Any]:
    response = await context.call_http("POST", f"{url}/reports", {"n": 1}, retry=QUICK, status_codes_to_retry=[503])
    return [response.status_code, response.json()]


def chain(failure: FailureDetails | None) -> list[str]:
    types: list[str] = []
    while failure is not None:
        types.append(failure.error_type.rpartition(".")[2])
        failure = failure.inner_failure
    return types


async def test_retries_until_it_succeeds_or_the_attempts_are_used_up(stage: Stage) -> None:
    cases: list[tuple[dict[str, Any], Any, int]] = [
        ({"failures": 2, "jitter": False}, "paid", 3),
        ({"failures": 9, "jitter": False}, [3, "attempt 3"], 3),
        ({"failures": 2, "jitter": True, "busy": True}, "paid", 4),
        ({"failures": 9, "jitter": True}, [4, "attempt 4"], 4),
        ({"failures": 1, "jitter": True, "declined": True}, [2, "no funds"], 2),
    ]
    async with stage.playing(app) as client:
        for number, (order, _, _) in enumerate(cases):
            order["key"] = f"{stage.hub}-{number}"
            await client.start(buy, order, instance_id=order["key"])
        for order, output, made in cases:
            assert (await ended(client, order["key"])).output == output, order
            assert attempts[order["key"]] == made, order


async def test_a_delay_outlives_the_worker(stage: Stage) -> None:
    key = f"{stage.hub}-moved"
    async with stage.client(app) as client:
        async with stage.worker(app):
            await client.start(buy, {"key": key, "failures": 1, "jitter": False}, instance_id=key)
            await until(lambda: _attempted(key), bool)
        async with stage.worker(app):
            assert (await ended(client, key)).output == "paid"


async def _attempted(key: str) -> bool:
    await asyncio.sleep(0)
    return attempts[key] > 0


async def test_failures_are_nested_through_the_tree(stage: Stage) -> None:
    async with stage.playing(app) as client:
        await client.start(tree, "fail", instance_id="root")
        status = await ended(client, "root")
        assert status.runtime_status == "Failed"
        assert chain(status.failure) == ["SubOrchestrationFailedError"] * 2 + ["TaskFailedError", "DeclinedError"]
        assert status.failure is not None
        assert status.failure.is_caused_by("DeclinedError")
        assert SubOrchestrationFailedError.__name__ in status.failure.error_type
        await client.raise_event("root-apart", "go", "on its own")
        assert (await ended(client, "root-apart")).output == "on its own"


async def test_terminating_reaches_the_whole_tree_but_not_what_was_started_apart(stage: Stage) -> None:
    async with stage.playing(app) as client:
        await client.start(tree, "wait", instance_id="root", tags={"team": "a"})

        async def tree_() -> list[InstanceStatus]:
            return [*(await client.list_instances()).instances]

        await until(tree_, lambda seen: [each.runtime_status for each in seen] == ["Running"] * 6)
        everyone = {each.instance_id for each in await tree_()}
        await client.terminate("root", "enough")
        for instance_id in everyone - {"root-apart"}:
            status = await ended(client, instance_id)
            assert (status.runtime_status, status.output, status.tags) == ("Terminated", "enough", {"team": "a"})
        apart = await client.get_status("root-apart")
        assert (apart.runtime_status, apart.tags) == ("Running", {"team": "a", "apart": "yes"})
        assert await client.purge("root") == 5
        await client.raise_event("root-apart", "go", "still here")
        assert (await ended(client, "root-apart")).output == "still here"


async def test_what_is_started_apart_leaves_a_running_instance_of_its_id_alone(stage: Stage) -> None:
    async with stage.playing(app) as client:
        await client.start(leaf, "wait", instance_id="root-apart")
        await client.start(tree, "fail", instance_id="root")
        assert (await ended(client, "root")).runtime_status == "Failed"
        await client.raise_event("root-apart", "go", "mine")
        status = await ended(client, "root-apart")
        assert (status.output, status.tags or {}) == ("mine", {})


async def test_a_child_with_a_chosen_id_is_tried_again_under_it(stage: Stage) -> None:
    async with stage.playing(app) as client:
        key = f"{stage.hub}-stubborn"
        await client.start(stubborn, key, instance_id=key)
        assert (await ended(client, key)).output == "paid"
        assert attempts[key] == 3
        assert (await client.get_status(f"{key}-child")).output == "paid"


async def test_events_with_time_limits(stage: Stage) -> None:
    async with stage.playing(app) as client:
        await client.start(approval, 0.05, instance_id="slow")
        await client.start(approval, 3600, instance_id="quick")

        async def timers() -> list[str]:
            return [type(event).__name__ for commit in await client.history("slow") for event in commit.events]

        await until(timers, lambda seen: seen.count("TimerCreated") == 2)
        await client.raise_event("slow", "Approve", "yes")
        for word in ("first", "second"):
            await client.raise_event("quick", "approve", word)
        assert (await ended(client, "slow")).output == ["nobody", "yes"]
        assert sorted((await ended(client, "quick")).output) == ["first", "second"]


async def test_http_calls_outlive_the_worker_that_polls(stage: Stage) -> None:
    states = iter([Says(503), Says(202, {"Location": "/status", "Retry-After": "0"})])
    done = False

    def answer(asked: Asked) -> Says:
        if asked.path == "/reports":
            return next(states)
        return Says(body=b'{"pages":7}') if done else Says(202, {"Location": "/status", "Retry-After": "0.01"})

    async with WebServer(answer) as server, stage.client(app) as client:

        async def polls() -> int:
            await asyncio.sleep(0)
            return sum(asked.path == "/status" for asked in server.asked)

        async with stage.worker(app):
            await client.start(report, server.url, instance_id="report")
            await until(polls, lambda seen: seen > 2)
        done = True
        async with stage.worker(app):
            assert (await ended(client, "report")).output == [200, {"pages": 7}]
        assert [asked.method for asked in server.asked[:3]] == ["POST", "POST", "GET"]
