"""Durable Functions' ways: task_all and task_any, the input from the context, its own names, and a logger that does not repeat itself."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from callboard.core.context import DurableTask
from callboard.errors import InvalidPayloadError, TaskFailedError
from tests.core.support import DECLINED, started

if TYPE_CHECKING:
    from collections.abc import Generator

    from callboard.core.context import OrchestrationContext
    from callboard.core.retrying import RetryContext


# task_all


def test_all_results_come_in_the_order_of_the_tasks() -> None:
    def fans_out(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        results = yield context.task_all([context.call_activity("work", number) for number in range(3)])
        return results

    instance = started(fans_out)
    for number in (2, 0, 1):
        instance.forget()
        instance.commit(instance.result(number, number * 10))
    assert instance.output == [0, 10, 20]


def test_all_of_nothing_is_an_empty_list() -> None:
    def fans_out(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        return [(yield context.task_all([])), (yield context.task_all(iter(())))]

    assert started(fans_out).output == [[], []]


def test_all_waits_for_the_others_and_then_raises_the_failure_that_came_first() -> None:
    def fans_out(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        calls = [context.call_activity("work", number) for number in range(3)]
        try:
            yield context.task_all(calls)
        except TaskFailedError as error:
            return [error.task_id, [call.done() for call in calls]]

    instance = started(fans_out)
    instance.commit(instance.result(2, failure=DECLINED))
    instance.commit(instance.result(0, failure=DECLINED))
    assert instance.status == "Running"
    instance.forget()
    instance.commit(instance.result(1, "fine"))
    assert instance.output == [2, [True] * 3]


def test_all_takes_anything_that_can_be_awaited() -> None:
    async def twice(context: OrchestrationContext, number: int) -> int:
        first: int = await context.call_activity("work", number)
        second: int = await context.call_activity("work", first)
        return second

    async def fans_out(context: OrchestrationContext) -> Any:
        inner = context.task_all([context.call_activity("work", 0)])
        return await context.task_all(
            [twice(context, 1), asyncio.gather(inner), asyncio.create_task(twice(context, 2))]
        )

    instance = started(fans_out)
    for number in range(5):
        instance.commit(instance.result(number, number))
    assert instance.output == [4, [[0]], 3]


def test_cancelling_all_cancels_each() -> None:
    async def gives_up(context: OrchestrationContext) -> Any:
        timers = [context.create_timer(timedelta(seconds=number)) for number in (5, 6)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(context.task_all(timers), 1)
        await context.wait_for_external_event("end")
        return [timer.cancelled() for timer in timers]

    instance = started(gives_up)
    assert instance.commit(instance.timer(2), after=1).timers_cancelled == (0, 1)
    instance.commit(instance.event("end"))
    assert instance.output == [True, True]


def test_all_with_a_cancelled_task_is_cancelled_in_the_end() -> None:
    async def fans_out(context: OrchestrationContext) -> Any:
        timer, call = context.create_timer(timedelta(seconds=5)), context.call_activity("work")
        everything = context.task_all([timer, call])
        timer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await everything
        return call.done()

    instance = started(fans_out)
    instance.commit(instance.result(1))
    assert instance.output is True


# task_any


def test_any_gives_the_task_that_ended_first_and_the_others_go_on() -> None:
    def races(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        calls = [context.call_activity("work", number) for number in range(3)]
        first: DurableTask[Any] = yield context.task_any(calls)
        rest = [call for call in calls if call is not first]
        return [first.result(), (yield context.task_all(rest))]

    instance = started(races)
    instance.commit(instance.result(1, "one"))
    instance.forget()
    instance.commit(instance.result(0, "zero"))
    instance.commit(instance.result(2, "two"))
    assert instance.output == ["one", ["zero", "two"]]


def test_any_gives_a_task_that_failed_too() -> None:
    def races(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        call = context.call_activity("work")
        winner = yield context.task_any([call, context.create_timer(timedelta(days=1))])
        assert winner is call
        try:
            winner.result()
        except TaskFailedError as error:
            return error.failure.error_type

    instance = started(races)
    instance.commit(instance.result(0, failure=DECLINED))
    assert instance.output == DECLINED.error_type


def test_any_of_nothing_is_an_error() -> None:
    async def races(context: OrchestrationContext) -> str:
        with pytest.raises(ValueError, match="at least one"):
            context.task_any([])
        return "refused"

    assert started(races).output == "refused"


def test_the_loser_of_a_race_swallows_no_event() -> None:
    """Durable Functions' own sample of a time limit, in a loop."""

    def approves(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        for day in range(3):
            approval = context.wait_for_external_event("approval")
            timer = context.create_timer(context.current_utc_datetime + timedelta(days=1))
            winner = yield context.task_any([approval, timer])
            if winner == approval:
                timer.cancel()
                return [day, approval.result()]
        return "nobody"

    instance = started(approves)
    instance.commit(instance.timer(0), after=86_400)
    instance.commit(instance.timer(1), after=86_400)
    instance.commit(instance.event("approval", "yes"))
    assert instance.output == [2, "yes"]


def test_any_of_two_that_are_there_takes_one() -> None:
    async def takes(context: OrchestrationContext) -> Any:
        await context.call_activity("prepare")
        winner = await context.task_any([context.wait_for_external_event(name) for name in ("a", "b")])
        return [winner.result(), await context.wait_for_external_event("b")]

    instance = started(takes)
    instance.commit(instance.event("b", 2), instance.event("a", 1))
    instance.commit(instance.result(0))
    assert instance.output == [1, 2]


def test_a_task_may_be_in_several_races() -> None:
    async def races(context: OrchestrationContext) -> Any:
        shared = context.call_activity("work")
        both = [context.task_any([shared, context.call_activity("slow")]) for _ in range(2)]
        winners = await context.task_all([*both, context.task_all([shared, shared])])
        return [winner is shared for winner in winners[:2]], winners[2]

    instance = started(races)
    instance.commit(instance.result(0, "done"))
    assert instance.output == [[True, True], ["done", "done"]]


def test_leaving_a_race_cancels_nobody() -> None:
    async def races(context: OrchestrationContext) -> Any:
        timer = context.create_timer(timedelta(seconds=5))
        context.task_any([timer]).cancel()
        await timer
        return "still there"

    instance = started(races)
    instance.commit(instance.timer(0), after=5)
    assert instance.output == "still there"


@pytest.mark.parametrize("how", ["task_all", "task_any"])
def test_what_cannot_be_awaited_is_refused(how: str) -> None:
    async def composes(context: OrchestrationContext) -> str:
        with pytest.raises(TypeError, match="no task"):
            getattr(context, how)(["work"])
        return "refused"

    assert started(composes).output == "refused"


# Its own names


class Order(msgspec.Struct):
    amount: int


def test_the_input_can_be_had_from_the_context() -> None:
    def pays(context: OrchestrationContext) -> Any:
        order: Order = context.get_input(Order)
        with pytest.raises(InvalidPayloadError):
            context.get_input(list[int])
        return [order.amount, context.get_input()]

    assert started(pays, {"amount": 5}).output == [5, {"amount": 5}]


def test_an_execution_knows_that_it_will_begin_anew() -> None:
    async def again(context: OrchestrationContext, round_: int | None) -> Any:
        before = context.will_continue_as_new
        if round_ is None:
            context.continue_as_new(1)
        return [before, context.will_continue_as_new]

    instance = started(again)
    instance.commit(instance.go_on())
    assert instance.output == [False, False]


class Once:
    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        return timedelta(seconds=1) if attempt.failure is not None and attempt.attempt_number == 1 else None


def test_the_names_for_calls_that_are_tried_again() -> None:
    def calls(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        return [
            (yield context.call_activity_with_retry("pay", Once(), 5)),
            (yield context.call_sub_orchestrator("child", 6, "named")),
            (yield context.call_sub_orchestrator_with_retry("child", Once(), 7, version="2")),
        ]

    instance = started(calls)
    instance.commit(instance.result(0, failure=DECLINED))
    instance.commit(instance.timer(1), after=1)
    instance.commit(instance.result(2, "paid"))
    instance.commit(instance.child(3, "grown"))
    instance.commit(instance.child(4, failure=DECLINED))
    instance.commit(instance.timer(5), after=1)
    instance.commit(instance.child(6, "grown again"))
    assert instance.output == ["paid", "grown", "grown again"]
    assert [(child.instance_id == "named", child.input, child.version) for child in instance.children()] == [
        (True, "6", None), (False, "7", "2"), (False, "7", "2"),
    ]  # fmt: skip


# The logger


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_logged_is_logged_once_and_says_whose_it_is(cut: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def works(context: OrchestrationContext) -> None:
        context.logger.info("begins with %s", "nothing")
        await context.call_activity("work")
        own = context.create_replay_safe_logger(logging.getLogger("shop"))
        own.warning("half way", extra={"step": 1})
        await context.call_activity("work")
        context.logger.log(logging.ERROR, "done")

    caplog.set_level(logging.INFO)
    instance = started(works)
    for number in range(2):
        if cut:
            instance.forget()
        instance.commit(instance.result(number))
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        (__name__, "INFO", "begins with nothing"), ("shop", "WARNING", "half way"), (__name__, "ERROR", "done"),
    ]  # fmt: skip
    for record in caplog.records:
        marks: Any = record
        assert (marks.instance_id, marks.execution_id, marks.orchestration) == ("one", "e" * 32, "program")
    assert caplog.records[1].__dict__["step"] == 1
    assert caplog.records[0].funcName == "works"


def test_an_activation_that_is_thrown_away_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def cleans_up(context: OrchestrationContext) -> None:
        try:
            await context.wait_for_external_event("end")
        finally:
            context.logger.error("cleaned up")

    caplog.set_level(logging.INFO)
    instance = started(cleans_up)
    instance.forget()
    assert caplog.records == []
    instance.commit(instance.event("end"))
    assert len(caplog.records) == 1


def test_a_level_that_is_off_is_off(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[bool] = []

    async def works(context: OrchestrationContext) -> None:
        logger = context.create_replay_safe_logger(logging.getLogger("shop"))
        seen.extend(logger.isEnabledFor(level) for level in (logging.DEBUG, logging.INFO))
        await context.call_activity("work")

    caplog.set_level(logging.INFO, logger="shop")
    instance = started(works)
    instance.forget()
    instance.commit(instance.result(0))
    assert seen == [False, True, False, False]
