"""Code that does not fit its history: it is found out, said so that a person can act on it, and parked or failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from callboard.core.context import OrchestrationContext
from callboard.core.execution import Execution
from callboard.core.folding import folded
from callboard.core.instances import Parked
from callboard.core.replay import replay
from callboard.core.turn import Activation, TurnRules
from tests.core.support import Code, Instance, Targets, current_commits, started


async def original(context: OrchestrationContext) -> Any:
    first = await context.call_activity("one")
    timer = context.create_timer(timedelta(hours=1))
    second = await context.call_activity("two")
    timer.cancel()
    return [first, second, await context.wait_for_external_event("end")]


def parked(instance: Instance) -> Parked:
    commit = instance.commit(instance.wake() if instance.commits[-1].parked else instance.event("nudge"))
    assert commit.parked is not None
    assert commit.parked.kind == "nondeterminism"
    return commit.parked


def line_of(function: Callable[..., Any], text: str) -> str:
    """Where a text stands in a function: as a parked instance's reason names it."""
    code = function.__code__
    lines = Path(code.co_filename).read_text(encoding="utf-8").splitlines()
    number = next(n for n in range(code.co_firstlineno, len(lines) + 1) if text in lines[n - 1])
    return f"{code.co_filename}:{number}, in {function.__name__}"


async def asks_otherwise(context: OrchestrationContext) -> None:
    await context.call_activity("uno")


def generator(context: OrchestrationContext) -> Generator[Any, Any, None]:
    yield context.call_activity("eins")


async def sleeps(context: OrchestrationContext) -> None:
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("code", "text"), [(asks_otherwise, '"uno"'), (generator, '"eins"'), (sleeps, "asyncio.sleep(1)")]
)
def test_the_line_that_asks_otherwise_is_named(code: Callable[..., Any], text: str) -> None:
    instance = started(original)
    instance.become(code)
    reason = parked(instance).reason
    assert "History has activity 'one' at 0 (commit 0), the code asks for" in reason
    assert reason.endswith(f"\nIt asks at {line_of(code, text)}")


async def waits_instead(context: OrchestrationContext) -> None:
    await asyncio.gather(nested(context))


async def nested(context: OrchestrationContext) -> None:
    await context.wait_for_external_event("never")


def generator_that_waits(context: OrchestrationContext) -> Generator[Any, Any, None]:
    yield from inner_generator(context)


def inner_generator(context: OrchestrationContext) -> Generator[Any, Any, None]:
    yield context.wait_for_external_event("never")


@pytest.mark.parametrize(("code", "place", "text"), [
    (nested, nested, "wait_for_external_event"),
    (waits_instead, waits_instead, "asyncio.gather"),
    (generator_that_waits, inner_generator, "wait_for_external_event"),
])  # fmt: skip
def test_the_line_where_it_waits_instead_is_named(
    code: Callable[..., Any], place: Callable[..., Any], text: str
) -> None:
    instance = started(original)
    instance.become(code)
    assert parked(instance).reason.endswith(f"\nIt waits at {line_of(place, text)}")


async def goes_on(context: OrchestrationContext) -> None:
    await context.call_activity("one")
    await context.wait_for_external_event("more")


async def called_once(context: OrchestrationContext) -> Any:
    return await context.call_activity("one")


def test_history_that_ends_where_the_code_goes_on() -> None:
    instance = started(called_once)
    instance.commit(instance.result(0))
    execution = Execution("one", Code(goes_on), Targets())
    with pytest.raises(Exception, match="History ends at commit 1, but the code goes on there") as caught:
        replay(execution, instance.commits)
    assert str(caught.value).endswith(f"\nIt waits at {line_of(goes_on, 'more')}")


async def calls_again(context: OrchestrationContext) -> Any:
    await context.call_activity("one")
    await context.wait_for_external_event("go")
    return await context.call_activity("two")


def test_code_that_returns_where_history_goes_on() -> None:
    instance = started(calls_again)
    instance.commit(instance.result(0))
    instance.commit(instance.event("go"))
    instance.become(called_once)
    reason = parked(instance).reason
    assert reason.startswith(
        "History goes on after commit 1 with activity 'two' at 1, but the code has returned there."
    )


def test_strangers_see_no_paths() -> None:
    instance = started(original)
    instance.become(asks_otherwise)
    parked(instance)
    entry = folded(instance.commits)[-1]
    assert entry["EventType"] == "ExecutionParked"
    assert __file__ not in str(entry)
    assert "context.patched" in entry["Reason"]


# What history takes back


async def keeps_the_timer(context: OrchestrationContext) -> Any:
    first = await context.call_activity("one")
    timer = context.create_timer(timedelta(hours=1))
    second = await context.call_activity("two")
    await timer
    return [first, second]


async def cancels_the_activity(context: OrchestrationContext) -> Any:
    task = context.call_activity("one")
    await context.wait_for_external_event("go")
    task.cancel()
    return await context.wait_for_external_event("end")


async def keeps_the_activity(context: OrchestrationContext) -> Any:
    task = context.call_activity("one")
    await context.wait_for_external_event("go")
    return await task


def test_code_that_waits_for_a_timer_that_was_taken_back_would_wait_for_ever() -> None:
    instance = started(original)
    instance.commit(instance.result(0))
    instance.commit(instance.result(2))
    assert instance.commits[-1].timers_cancelled == (1,)
    instance.become(keeps_the_timer)
    reason = parked(instance).reason
    assert reason.startswith("History takes timer 1 back at commit 2, the code goes on waiting for it.")
    assert reason.endswith(f"\nIt waits at {line_of(keeps_the_timer, 'await timer')}")
    instance.become(original)
    instance.commit(instance.wake())
    instance.commit(instance.event("end"))
    assert instance.status == "Completed"


def test_so_it_is_with_an_activity() -> None:
    instance = started(cancels_the_activity)
    instance.commit(instance.event("go"))
    assert instance.commits[-1].tasks_cancelled == (0,)
    instance.become(keeps_the_activity)
    assert parked(instance).reason.startswith("History takes task 0 back at commit 1")


def test_taking_back_more_than_history_does_no_harm() -> None:
    instance = started(keeps_the_timer)
    instance.commit(instance.result(0))
    instance.commit(instance.result(2, "b"))
    instance.become(original)
    instance.commit(instance.timer(1), after=3600)
    instance.commit(instance.event("end", "e"))
    assert instance.output == [None, "b", "e"]


# As a setting


def test_where_the_app_says_so_it_fails() -> None:
    instance = started(original)
    activation = Activation(
        instance.record,
        current_commits(instance.commits),
        Code(asks_otherwise),
        Targets(),
        rules=TurnRules(fail_on_nondeterminism=True),
    )
    commit = activation.turn([instance.event("nudge", 1)], now=instance.now, token="t").commit
    assert commit is not None
    assert commit.completed is not None
    failure = commit.completed.failure
    assert failure is not None
    assert (commit.runtime_status, commit.ran, failure.error_type) == ("Failed", False, "NonDeterminism")
    assert failure.error_message.startswith("History has activity 'one' at 0")
    assert failure.is_non_retriable
    assert commit.tasks_cancelled == (0,), "nobody waits for it any more"
    assert [type(event).__name__ for event in commit.events] == ["EventRaised", "ExecutionCompleted"]


def test_what_does_not_depend_on_inputs_is_compared_and_the_rest_is_not() -> None:
    async def first(context: OrchestrationContext) -> Any:
        context.call_activity("one", {"a": 1}, queue="default")
        context.create_timer(timedelta(hours=1))
        context.call_sub_orchestration("child", 1, instance_id="c", version="1.0", tags={"a": "b"})
        context.send_event("other", "e", 1)
        return await context.wait_for_external_event("end")

    async def other_values(context: OrchestrationContext) -> Any:
        context.call_activity("one", {"a": 2}, queue="gpu")
        context.create_timer(timedelta(hours=2))
        context.call_sub_orchestration("child", 2, instance_id="c", version="2.0", tags={})
        context.send_event("other", "e", 2)
        return await context.wait_for_external_event("end")

    instance = started(first)
    instance.become(other_values)
    instance.commit(instance.event("end"))
    assert instance.status == "Completed"
