"""Calls that are tried again: attempts and delays in history, and replay that asks nobody."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import chain, repeat
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from callboard.core import payloads
from callboard.core.effects import CallActivity, Effect
from callboard.core.events import TaskScheduled, TimerCreated
from callboard.core.execution import Execution
from callboard.core.failure import FailureDetails
from callboard.core.replay import replay
from callboard.errors import InvalidPayloadError, SubOrchestrationFailedError, TaskFailedError
from tests.core.support import DECLINED, Code, Instance, Targets, World, at, same_story, started, through_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from callboard.core.context import OrchestrationContext
    from callboard.core.retrying import RetryContext


class Delays:
    """Waits as it is told, then gives up. Refuses results that are in ``refused``. Remembers what it was asked."""

    def __init__(self, *delays: float, refused: tuple[Any, ...] = ()) -> None:
        self.delays = [timedelta(seconds=delay) for delay in delays]
        self.refused = refused
        self.asked: list[RetryContext] = []

    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        self.asked.append(attempt)
        if attempt.failure is None and attempt.result not in self.refused:
            return None
        return self.delays[attempt.attempt_number - 1] if attempt.attempt_number <= len(self.delays) else None


class Never:
    """A strategy that must not be asked."""

    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        raise AssertionError(f"asked after attempt {attempt.attempt_number}")


def paying(strategy: Any) -> Callable[..., Any]:
    async def pay(context: OrchestrationContext) -> Any:
        return await context.call_activity("pay", 5, retry=strategy)

    return pay


def attempts(instance: Instance) -> list[tuple[str, int]]:
    """What was asked for: activities and waits, with their numbers."""
    return [
        (type(event).__name__, event.event_id)
        for event in instance.history
        if isinstance(event, (TaskScheduled, TimerCreated))
    ]


@pytest.mark.parametrize("cut", [False, True])
def test_every_attempt_and_every_delay_is_in_history(cut: bool) -> None:
    strategy = Delays(1, 2)
    instance = started(paying(strategy))
    for message in (
        lambda: instance.result(0, failure=DECLINED),
        lambda: instance.timer(1),
        lambda: instance.result(2, failure=DECLINED),
        lambda: instance.timer(3),
        lambda: instance.result(4, "paid"),
    ):
        if cut:
            instance.forget()
        instance.commit(message(), after=1)
    assert instance.output == "paid"
    assert attempts(instance) == [
        ("TaskScheduled", 0), ("TimerCreated", 1), ("TaskScheduled", 2), ("TimerCreated", 3), ("TaskScheduled", 4),
    ]  # fmt: skip
    assert [(timer.retry_of, timer.attempt, timer.fire_at) for timer in instance.timers()] == [
        (0, 1, at(2)), (0, 2, at(5)),
    ]  # fmt: skip
    assert [input for _, _, input in instance.scheduled()] == [5, 5, 5]


def test_a_strategy_sees_the_orchestrations_own_times() -> None:
    strategy = Delays(1, 2)
    instance = started(paying(strategy))
    instance.commit(instance.result(0, failure=DECLINED), after=10)
    instance.commit(instance.timer(1), after=1)
    instance.commit(instance.result(2, failure=DECLINED), after=20)
    first, second = strategy.asked
    assert (first.name, first.attempt_number, first.failure) == ("activity 'pay'", 1, DECLINED)
    assert (first.total_retry_time, first.waited) == (timedelta(seconds=10), timedelta())
    assert (second.total_retry_time, second.waited) == (timedelta(seconds=31), timedelta(seconds=1))
    assert second.attempt_number == 2


def test_the_last_failure_is_raised_and_says_how_many_attempts_were_made() -> None:
    errors: list[TaskFailedError] = []

    async def pays(context: OrchestrationContext) -> None:
        try:
            await context.call_activity("pay", retry=Delays(1))
        except TaskFailedError as error:
            errors.append(error)
            raise

    instance = started(pays)
    instance.commit(instance.result(0, failure=FailureDetails(error_type="First", error_message="not this")))
    instance.commit(instance.timer(1), after=1)
    instance.commit(instance.result(2, failure=DECLINED))
    (error,) = errors
    assert (error.attempts, error.failure, error.task_id) == (2, DECLINED, 2)
    assert "failed after 2 attempts: shop.DeclinedError: card declined" in str(error)
    assert instance.failure.inner_failure == DECLINED


def test_a_result_that_is_refused_is_tried_again_and_the_last_one_returned() -> None:
    instance = started(paying(Delays(1, refused=("not yet",))))
    instance.commit(instance.result(0, "not yet"))
    instance.commit(instance.timer(1), after=1)
    instance.forget()
    instance.commit(instance.result(2, "not yet"))
    assert instance.output == "not yet"


def test_replay_asks_no_strategy() -> None:
    async def pays(context: OrchestrationContext, strategies: tuple[Any, ...]) -> Any:
        lost = 0
        try:
            await context.call_activity("pay", retry=strategies[0])
        except TaskFailedError as error:
            lost = error.attempts
        await context.call_activity("apologise", retry=strategies[1])
        await context.wait_for_external_event("end")
        return lost

    def with_(*strategies: Any) -> Callable[..., Any]:
        def pay(context: OrchestrationContext) -> Any:
            return pays(context, strategies)

        return pay

    instance = started(with_(Delays(1), Delays(1)))
    instance.commit(instance.result(0, failure=DECLINED))
    instance.commit(instance.timer(1), after=1)
    instance.commit(instance.result(2, failure=DECLINED))
    instance.commit(instance.result(3, "sorry"))
    instance.become(with_(Never(), Never()))
    instance.commit(instance.event("end"))
    assert instance.output == 2


def test_what_was_decided_stands_when_the_policy_is_changed() -> None:
    instance = started(paying(Delays(60, 60)))
    instance.commit(instance.result(0, failure=DECLINED))
    instance.become(paying(Delays()))  # gives up at once
    instance.commit(instance.timer(1), after=60)
    assert attempts(instance)[-1] == ("TaskScheduled", 2)
    instance.commit(instance.result(2, failure=DECLINED))
    assert instance.status == "Failed"


def test_a_call_that_gained_a_policy_meanwhile_is_over_where_history_says_so() -> None:
    def handles(retry: Any) -> Callable[..., Any]:
        async def pays(context: OrchestrationContext) -> str:
            try:
                await context.call_activity("pay", retry=retry)
            except TaskFailedError:
                await asyncio.sleep(1)  # the number that a retry's delay would have had
                return str(await context.wait_for_external_event("end"))
            return "paid"

        return pays

    instance = started(handles(None))
    instance.commit(instance.result(0, failure=DECLINED))
    instance.become(handles(Delays(1, 1, 1)))
    instance.commit(instance.timer(1), after=1)
    instance.commit(instance.event("end", "went on"))
    assert instance.output == "went on"


def test_cancelling_takes_back_the_delay() -> None:
    async def gives_up(context: OrchestrationContext) -> str:
        task = context.call_activity("pay", retry=Delays(60))
        await context.wait_for_external_event("enough")
        task.cancel()
        await context.wait_for_external_event("end")
        return "cancelled" if task.cancelled() else "not cancelled"

    instance = started(gives_up)
    instance.commit(instance.result(0, failure=DECLINED))
    assert instance.commit(instance.event("enough")).timers_cancelled == (1,)
    assert instance.deliver(instance.timer(1), after=60).duplicates == 1
    instance.commit(instance.event("end"))
    assert instance.output == "cancelled"
    assert attempts(instance) == [("TaskScheduled", 0), ("TimerCreated", 1)]


def test_cancelling_during_an_attempt_makes_no_other() -> None:
    async def impatient(context: OrchestrationContext) -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(context.call_activity("pay", retry=Delays(1)), 5)
        return str(await context.wait_for_external_event("end"))

    instance = started(impatient)
    instance.commit(instance.timer(1), after=5)
    assert instance.deliver(instance.result(0, failure=DECLINED)).duplicates == 1
    instance.commit(instance.event("end", "on"))
    assert instance.output == "on"
    assert attempts(instance) == [("TaskScheduled", 0), ("TimerCreated", 1)]
    assert instance.timers()[0].retry_of is None


@pytest.mark.parametrize(("delay", "fires"), [
    (timedelta(), at(0)), (timedelta(seconds=-5), at(0)), (timedelta(microseconds=1), at(0.001)),
    (timedelta.max, None),
])  # fmt: skip
def test_any_delay_can_be_set(delay: timedelta, fires: Any) -> None:
    class Once:
        def delay_after(self, attempt: RetryContext) -> timedelta | None:
            return delay if attempt.failure is not None else None

    instance = started(paying(Once()))
    instance.commit(instance.result(0, failure=DECLINED))
    (timer,) = instance.timers()
    assert timer.fire_at == fires if fires is not None else timer.fire_at.year == 9999


def test_each_attempt_sends_what_the_call_was_given() -> None:
    async def pays(context: OrchestrationContext) -> Any:
        order = {"amount": 5}
        task = context.call_activity("pay", order, retry=Delays(1))
        order["amount"] = 500
        return await task

    instance = started(pays)
    instance.commit(instance.result(0, failure=DECLINED))
    instance.commit(instance.timer(1), after=1)
    assert [input for _, _, input in instance.scheduled()] == [{"amount": 5}] * 2


def test_an_attempt_knows_its_number_and_what_the_one_before_it_reported() -> None:
    instance = started(paying(Delays(1, 1)))
    lost = msgspec.structs.replace(instance.result(0, failure=DECLINED), heartbeat_details='{"row":7}')
    instance.commit(lost)
    instance.commit(instance.timer(1), after=1)
    instance.forget()
    instance.commit(instance.result(2, failure=DECLINED))
    instance.commit(instance.timer(3), after=1)
    calls = [event for event in instance.history if isinstance(event, TaskScheduled)]
    assert [(call.attempt, call.first_attempt, call.heartbeat_details) for call in calls] == [
        (1, None, None), (2, 0, '{"row":7}'), (3, 0, None),
    ]  # fmt: skip


def test_a_result_that_does_not_fit_its_type_is_not_tried_again() -> None:
    def price() -> int:
        raise NotImplementedError

    async def asks(context: OrchestrationContext) -> str:
        with pytest.raises(InvalidPayloadError):
            await context.call_activity(price, retry=Delays(1))
        return "no more"

    instance = started(asks)
    instance.commit(instance.result(0, "dear"))
    assert instance.output == "no more"


@pytest.mark.parametrize("wrong", [3, "twice", object()])
def test_what_is_no_strategy_is_refused_at_the_call(wrong: Any) -> None:
    async def pays(context: OrchestrationContext) -> str:
        with pytest.raises(TypeError, match="RetryPolicy"):
            context.call_activity("pay", retry=wrong)
        return "refused"

    instance = started(pays)
    assert instance.output == "refused"
    assert instance.scheduled() == []


# Strategies that raise


class Broken:
    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        assert attempt.failure is not None
        return attempt.failure.inner_failure.error_type  # type: ignore[union-attr, return-value]


class WrongUnit:
    def delay_after(self, attempt: RetryContext) -> Any:
        return 5


@pytest.mark.parametrize(("strategy", "says"), [(Broken(), "AttributeError"), (WrongUnit(), "timedelta")])
def test_a_strategy_that_raises_parks_the_instance_until_it_is_put_right(strategy: Any, says: str) -> None:
    instance = started(paying(strategy))
    commit = instance.commit(instance.result(0, failure=DECLINED))
    assert commit.parked is not None
    assert "retry policy of activity 'pay'" in commit.parked.reason
    assert says in commit.parked.reason
    instance.become(paying(Delays(1)))
    instance.commit(instance.resume())
    assert attempts(instance) == [("TaskScheduled", 0), ("TimerCreated", 1)]
    instance.commit(instance.timer(1), after=1)
    instance.commit(instance.result(2, "paid"))
    assert instance.output == "paid"


# Children


def test_each_attempt_at_a_child_has_an_instance_of_its_own() -> None:
    async def mother(context: OrchestrationContext) -> Any:
        return await context.call_sub_orchestration("child", 1, retry=Delays(1))

    instance = started(mother)
    instance.commit(instance.child(0, failure=DECLINED))
    instance.commit(instance.timer(1), after=1)
    first, second = instance.children()
    assert first.instance_id != second.instance_id
    assert (first.input, second.input) == ("1", "1")
    instance.commit(instance.child(2, "grown"))
    assert instance.output == "grown"


def test_a_child_with_a_chosen_id_keeps_it_in_another_execution() -> None:
    async def mother(context: OrchestrationContext) -> Any:
        with pytest.raises(SubOrchestrationFailedError, match="after 2 attempts"):
            await context.call_sub_orchestration("child", instance_id="named", retry=Delays(1))
        return "alone"

    instance = started(mother)
    instance.commit(instance.child(0, failure=DECLINED))
    instance.commit(instance.timer(1), after=1)
    first, second = instance.children()
    assert first.instance_id == second.instance_id == "named"
    assert first.execution_id != second.execution_id
    instance.commit(instance.child(2, failure=DECLINED))
    assert instance.output == "alone"


# However a history was cut


class FlakyWorld(World):
    """An activity is called with ``[delay, failures, value]`` and fails so many times before it succeeds."""

    def _play(self, effect: Effect) -> None:
        if isinstance(effect, CallActivity):
            delay, failures, value = payloads.decode(effect.call.input, Any, "The input")
            same = [input for _, _, input in self.instance.scheduled() if input == [delay, failures, value]]
            call = msgspec.structs.replace(
                effect.call, input=payloads.encode([delay, len(same) <= failures, value], "The input")
            )
            effect = CallActivity(call)
        super()._play(effect)


class Dice:
    """Draws every delay and whether to give up from dice that all activations of an instance share: one draw too many shows."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        if attempt.failure is None:
            return None
        delay = self.random.choice((0.0, 0.5, 1.0, 1.0, 2.0, 3.0004))
        gives_up = self.random.random() < 0.2
        return None if gives_up or attempt.waited > timedelta(seconds=6) else timedelta(seconds=delay)


def random_calls(seed: int, strategy: Any) -> Callable[..., Any]:
    random = Random(seed)
    plan = [
        (random.choice(("one", "all", "timeout", "race")), random.randrange(4), random.randrange(4), number * 10)
        for number in range(random.randrange(1, 5))
    ]

    async def program(context: OrchestrationContext, trace: list[Any]) -> list[Any]:
        def call(delay: int, failures: int, value: int) -> Any:
            return context.call_activity("work", [delay, failures, value], retry=strategy)

        for what, delay, failures, value in plan:
            try:
                match what:
                    case "one":
                        outcome: Any = await call(delay, failures, value)
                    case "all":
                        calls = [call(delay, failures, value + n) for n in range(3)]
                        outcome = [str(each) for each in await asyncio.gather(*calls, return_exceptions=True)]
                    case "timeout":
                        async with asyncio.timeout(delay + failures):
                            outcome = await call(delay, failures, value)
                    case _:
                        first, second = call(delay, failures, value), call(failures, delay, value + 1)
                        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
                        outcome = [first.done() and str(first.exception()), first.cancel(), second.cancel()]
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            trace.append((context.current_utc_datetime, outcome))
        return trace

    return program


def noting(program: Callable[..., Any], trace: list[Any]) -> Code:
    def orchestration(context: OrchestrationContext) -> Any:
        return program(context, trace)

    return Code(orchestration)


def flaky(seed: int, strategy: Any, traces: list[list[Any]] | None = None) -> FlakyWorld:
    program = random_calls(seed, strategy)

    def orchestration(context: OrchestrationContext) -> Any:
        trace: list[Any] = []
        if traces is not None:
            traces.append(trace)
        return program(context, trace)

    return FlakyWorld(Instance(orchestration))


thorough = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 2**32)


@thorough
@given(seeds)
def test_an_instance_cut_at_every_commit_draws_alike(seed: int) -> None:
    whole = flaky(seed, Dice(seed)).run().commits
    assert flaky(seed, Dice(seed)).run(cut=lambda turn: True).commits == whole


@thorough
@given(seeds)
def test_an_instance_cut_at_any_one_commit_draws_alike(seed: int) -> None:
    world = flaky(seed, Dice(seed))
    whole = world.run().commits
    for place in range(min(world.turns, 15)):
        assert flaky(seed, Dice(seed)).run(cut=place.__eq__).commits == whole


@thorough
@given(seeds)
def test_every_beginning_of_a_history_replays_without_asking(seed: int) -> None:
    traces: list[list[Any]] = []
    commits = flaky(seed, Dice(seed), traces).run().commits
    live = traces[0]
    program = random_calls(seed, Never())
    trace: list[Any] = []
    for length in range(1, len(commits) + 1):
        trace = []
        execution = Execution("one", noting(program, trace), Targets())
        replayed = replay(execution, through_json(commits[:length]))
        assert replayed.new_actions == {}
        assert trace == live[: len(trace)]
        assert execution.recorded_retries == {}
        execution.close()
    assert trace == live


@thorough
@given(seeds, st.lists(st.integers(1, 4), max_size=12), st.sets(st.integers(0, 20)))
def test_batches_and_duplicates_change_nothing(seed: int, sizes: list[int], again: set[int]) -> None:
    strategy = Delays(1, 0, 2)
    once = flaky(seed, strategy).run().commits
    twice = flaky(seed, strategy).run(
        sizes=chain(sizes, repeat(1_000)), repeated=again.__contains__, cut=again.__contains__
    )
    same_story(once, twice.commits)
