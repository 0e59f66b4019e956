"""Retry policies: Durable Functions' parameters and tenacity's strategies, asked directly and through a worker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
import tenacity

from callboard import App, OrchestrationContext, RetryContext, RetryPolicy, TaskFailedError
from callboard.core.events import TaskFailed, TaskScheduled, TimerCreated, TimerFired
from callboard.core.failure import FailureDetails
from callboard.errors import ConfigurationError
from tests.runtime.support import Stage

second = timedelta(seconds=1)


class OrderError(Exception):
    pass


class StockError(OrderError):
    pass


def attempt(
    number: int = 1,
    failure: FailureDetails | BaseException | None = None,
    *,
    result: Any = None,
    since: float = 0,
    waited: float = 0,
) -> RetryContext:
    if failure is None and result is None:
        failure = OSError("down")
    if isinstance(failure, BaseException):
        failure = FailureDetails.from_exception(failure)
    return RetryContext(
        name="activity 'pay'",
        attempt_number=number,
        failure=failure,
        result=result,
        total_retry_time=timedelta(seconds=since),
        waited=timedelta(seconds=waited),
    )


def delays(policy: RetryPolicy, attempts: int) -> list[float | None]:
    found = [policy.delay_after(attempt(number)) for number in range(1, attempts + 1)]
    return [None if delay is None else delay.total_seconds() for delay in found]


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


# Durable Functions' parameters


def test_delays_grow_by_the_coefficient_up_to_the_longest() -> None:
    policy = RetryPolicy(
        first_retry_interval=2 * second, max_number_of_attempts=6, backoff_coefficient=3, max_retry_interval=40
    )
    assert delays(policy, 6) == [2, 6, 18, 40, 40, None]


def test_a_coefficient_of_one_keeps_the_delay() -> None:
    assert delays(RetryPolicy(first_retry_interval=0.5, max_number_of_attempts=3), 3) == [0.5, 0.5, None]


def test_one_attempt_is_no_retry() -> None:
    assert delays(RetryPolicy(first_retry_interval=second, max_number_of_attempts=1), 1) == [None]


def test_delays_beyond_all_numbers_are_the_longest_there_is() -> None:
    policy = RetryPolicy(first_retry_interval=second, max_number_of_attempts=10_000, backoff_coefficient=10)
    assert policy.delay_after(attempt(5_000)) == timedelta.max


def test_the_timeout_is_compared_when_an_attempt_has_failed() -> None:
    policy = RetryPolicy(first_retry_interval=5 * second, retry_timeout=timedelta(seconds=10))
    assert policy.delay_after(attempt(1, since=9.999)) == 5 * second  # the attempt after it may begin later than that
    assert policy.delay_after(attempt(2, since=10)) is None


def test_handle_decides_by_the_failure() -> None:
    policy = RetryPolicy(
        first_retry_interval=second, max_number_of_attempts=3, handle=lambda failure: "down" in failure.error_message
    )
    assert policy.delay_after(attempt(1, OSError("down"))) == second
    assert policy.delay_after(attempt(1, OSError("full"))) is None


@pytest.mark.parametrize(("wanted", "error", "final"), [
    ("OrderError", OrderError(), True),
    (f"{__name__}.OrderError", OrderError(), True),
    ("other.OrderError", OrderError(), False),
    (OrderError, OrderError(), True),
    (OrderError, StockError(), True),  # a subclass that is known here
    ("OrderError", StockError(), False),  # a name is only a name
    (StockError, OrderError(), False),
    (OSError, ConnectionError(), True),
    (OrderError, caused(ConnectionError(), OrderError()), False),  # the cause of a failure is not the failure
    (OrderError, TaskFailedError("ship", 0, FailureDetails.from_exception(OrderError())), True),  # passed on by a child
])  # fmt: skip
def test_classes_of_failures_that_are_final(wanted: Any, error: BaseException, final: bool) -> None:
    policy = RetryPolicy(first_retry_interval=second, max_number_of_attempts=3, non_retriable=["Nothing", wanted])
    assert (policy.delay_after(attempt(1, error)) is None) == final


def test_a_failure_that_says_it_is_final_is() -> None:
    policy = RetryPolicy(stop=tenacity.stop_never, retry=tenacity.retry_always)
    final = FailureDetails.from_exception(OSError(), non_retriable=True)
    assert policy.delay_after(attempt(1, final)) is None
    assert policy.delay_after(attempt(1, TaskFailedError("ship", 0, final))) is None
    assert policy.delay_after(attempt(1, OSError())) == timedelta()


def test_successes_are_none_of_its_business() -> None:
    policy = RetryPolicy(first_retry_interval=second, max_number_of_attempts=3)
    assert policy.delay_after(attempt(1, result="paid")) is None


# Configuration


@pytest.mark.parametrize(("options", "says"), [
    ({}, "how long to wait"),
    ({"max_number_of_attempts": 3}, "how long to wait"),
    ({"first_retry_interval": second}, "when to give up"),
    ({"wait": tenacity.wait_fixed(1)}, "stop_never"),
    ({"first_retry_interval": timedelta(), "max_number_of_attempts": 3}, "first_retry_interval must be over 0"),
    ({"first_retry_interval": float("nan"), "max_number_of_attempts": 3}, "over 0"),
    ({"first_retry_interval": 1, "max_number_of_attempts": 0}, "counts the first"),
    ({"first_retry_interval": 1, "retry_timeout": -1}, "retry_timeout must be over 0"),
    ({"first_retry_interval": 1, "max_number_of_attempts": 3, "max_retry_interval": 0}, "max_retry_interval"),
    ({"first_retry_interval": 1, "max_number_of_attempts": 3, "backoff_coefficient": 0.5}, "at least 1"),
    ({"first_retry_interval": 1, "stop": tenacity.stop_never, "wait": tenacity.wait_none()}, "not with both"),
    ({"wait": tenacity.wait_none(), "stop": tenacity.stop_never, "max_number_of_attempts": 3}, "not with both"),
    ({"stop": tenacity.stop_never, "retry": tenacity.retry_always, "handle": bool}, "not with both"),
    ({"stop": 3}, "strategy of tenacity"),
    ({"first_retry_interval": 1, "max_number_of_attempts": 3, "non_retriable": "OrderError"}, "collection"),
    ({"first_retry_interval": 1, "max_number_of_attempts": 3, "non_retriable": OrderError}, "collection"),
])  # fmt: skip
def test_a_policy_that_cannot_be_meant_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        RetryPolicy(**options)


def test_a_strategy_that_must_be_awaited_is_refused() -> None:
    async def stop(state: tenacity.RetryCallState) -> Any:
        return True

    class Wait:
        async def __call__(self, state: tenacity.RetryCallState) -> float:
            return 1

    with pytest.raises(ConfigurationError, match="plain function"):
        RetryPolicy(stop=cast(Any, stop))
    with pytest.raises(ConfigurationError, match="plain function"):
        RetryPolicy(stop=tenacity.stop_never, wait=cast(Any, Wait()))


def test_a_policy_cannot_be_changed() -> None:
    policy = RetryPolicy(first_retry_interval=1, max_number_of_attempts=3)
    with pytest.raises(AttributeError):
        policy.max_number_of_attempts = 4  # type: ignore[misc]


# tenacity's strategies


def sevenfold(state: tenacity.RetryCallState) -> float:
    return state.attempt_number * 7


def minus_one(_state: tenacity.RetryCallState) -> float:
    return -1


STRATEGIES: list[tuple[Any, Any, list[float | None]]] = [
    (tenacity.stop_after_attempt(3), tenacity.wait_fixed(2), [2, 2, None]),
    (tenacity.stop_after_attempt(4), tenacity.wait_exponential(multiplier=1, max=3), [1, 2, 3, None]),
    (tenacity.stop_after_attempt(4), tenacity.wait_incrementing(1, 5), [1, 6, 11, None]),
    (tenacity.stop_after_attempt(4), tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9)), [1, 9, 9, None]),
    (tenacity.stop_after_attempt(3), tenacity.wait_fixed(1) + tenacity.wait_fixed(timedelta(minutes=1)), [61, 61, None]),
    (tenacity.stop_after_attempt(2), None, [0, None]),
    (tenacity.stop_never, sevenfold, [7, 14, 21]),
    (tenacity.stop_after_attempt(2) | tenacity.stop_never, minus_one, [0, None]),
]  # fmt: skip


@pytest.mark.parametrize(("stop", "wait", "expected"), STRATEGIES)
def test_stop_and_wait_strategies(stop: Any, wait: Any, expected: list[float | None]) -> None:
    assert delays(RetryPolicy(stop=stop, wait=wait), len(expected)) == expected


def test_random_waits_lie_within_their_bounds() -> None:
    policy = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_exponential_jitter(max=100, jitter=1))
    found = [policy.delay_after(attempt(4)) for _ in range(50)]
    assert all(delay is not None and 8 <= delay.total_seconds() <= 9 for delay in found)
    assert len(set(found)) > 10


def test_stop_after_delay_counts_from_the_first_attempt() -> None:
    policy = RetryPolicy(stop=tenacity.stop_after_delay(0.3), wait=tenacity.wait_fixed(0.1))
    assert policy.delay_after(attempt(1, since=0.2)) is not None
    assert policy.delay_after(attempt(1, since=0.3)) is None


def test_stop_before_delay_sees_the_delay_to_come() -> None:
    policy = RetryPolicy(stop=tenacity.stop_before_delay(10), wait=tenacity.wait_fixed(4))
    assert policy.delay_after(attempt(1, since=5.9)) == 4 * second
    assert policy.delay_after(attempt(1, since=6)) is None
    mixed = RetryPolicy(stop=tenacity.stop_before_delay(10), first_retry_interval=4)
    assert mixed.delay_after(attempt(1, since=6)) is None


def test_a_strategy_sees_all_of_the_call_state() -> None:
    seen: list[tenacity.RetryCallState] = []

    def stop(state: tenacity.RetryCallState) -> bool:
        seen.append(state)
        return False

    policy = RetryPolicy(stop=stop, wait=tenacity.wait_fixed(4))
    policy.delay_after(attempt(3, OSError("down"), since=30, waited=8))
    (state,) = seen
    assert isinstance(state, tenacity.RetryCallState)
    assert (state.attempt_number, state.seconds_since_start, state.idle_for, state.upcoming_sleep) == (3, 30, 8, 4)
    assert state.outcome is not None
    assert state.outcome.failed
    assert (state.outcome.attempt_number, str(state.outcome.exception())) == (3, "down")
    assert state.get_fn_name()
    assert repr(state)


@pytest.mark.parametrize(("strategy", "error", "again"), [
    (tenacity.retry_if_exception_type(ConnectionError), ConnectionResetError("x"), True),
    (tenacity.retry_if_exception_type(ConnectionError), ValueError("x"), False),
    (tenacity.retry_if_exception_type((OrderError, KeyError)), StockError("x"), True),
    (tenacity.retry_if_exception_type(TaskFailedError), StockError("x"), True),
    (tenacity.retry_if_exception_type(), StockError("x"), True),
    (tenacity.retry_if_not_exception_type(OrderError), StockError("x"), False),
    (tenacity.retry_unless_exception_type(OrderError), ValueError("x"), True),
    (tenacity.retry_if_exception(lambda error: isinstance(error, OrderError)), OrderError("x"), True),
    (tenacity.retry_if_exception_message(match="card .*ed"), OrderError("card declined"), True),
    (tenacity.retry_if_exception_message(message="x"), OrderError("y"), False),
    (tenacity.retry_if_exception_cause_type(KeyError), caused(OrderError("x"), caused(OSError(), KeyError())), True),
    (tenacity.retry_if_exception_cause_type(KeyError), OrderError("x"), False),
    (tenacity.retry_never, OrderError("x"), False),
    (tenacity.retry_never, tenacity.TryAgain(), True),
])  # fmt: skip
def test_retry_strategies_see_the_class_that_was_raised(strategy: Any, error: BaseException, again: bool) -> None:
    policy = RetryPolicy(stop=tenacity.stop_never, retry=strategy)
    assert (policy.delay_after(attempt(1, error)) is not None) == again


def test_retry_strategies_may_refuse_results() -> None:
    policy = RetryPolicy(stop=tenacity.stop_after_attempt(2), retry=tenacity.retry_if_result(lambda r: r == "pending"))
    assert policy.delay_after(attempt(1, result="pending")) == timedelta()
    assert policy.delay_after(attempt(1, result="done")) is None
    assert policy.delay_after(attempt(2, result="pending")) is None
    assert policy.delay_after(attempt(1, OSError())) is None


def test_a_wait_that_is_no_number_is_an_error() -> None:
    policy = RetryPolicy(stop=tenacity.stop_never, wait=lambda _: float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        policy.delay_after(attempt(1))


def test_a_wait_may_depend_on_the_exception() -> None:
    def after(error: BaseException) -> float:
        assert isinstance(error, TaskFailedError)
        return 5.0 if error.failure.is_caused_by(KeyError) else 1.0

    policy = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_exception(after))
    assert policy.delay_after(attempt(1, caused(OSError(), KeyError()))) == 5 * second
    assert policy.delay_after(attempt(1, OSError())) == second


# Through a worker


def flaky_app(policy: RetryPolicy, fails: int) -> tuple[App, list[int]]:
    app = App("stage")
    calls: list[int] = []

    @app.activity
    def pay(amount: int) -> str:
        calls.append(amount)
        if len(calls) <= fails:
            raise ConnectionError(f"attempt {len(calls)}")
        return f"paid {amount}"

    @app.orchestration
    async def buy(context: OrchestrationContext, amount: int) -> str:
        return await context.call_activity(pay, amount, retry=policy)

    return app, calls


@pytest.mark.usefixtures("fast")
async def test_a_random_delay_survives_the_worker_that_drew_it() -> None:
    policy = RetryPolicy(
        stop=tenacity.stop_after_attempt(4),
        wait=tenacity.wait_random(0.05, 0.1),
        retry=tenacity.retry_if_exception_type(ConnectionError),
    )
    app, calls = flaky_app(policy, 3)
    async with Stage() as stage:
        worker = await stage.worker(app, memory=0)  # no activation stays: every turn replays
        client = await stage.client(app)
        handle = await client.start("buy", 7)
        assert await handle.result(timeout=20) == "paid 7"
        assert calls == [7] * 4
        assert worker.worker.turns.statistics.evictions >= 6
        history = await stage.exact(handle.instance_id)
        kinds = [
            type(event) for event in history if isinstance(event, (TaskScheduled, TaskFailed, TimerCreated, TimerFired))
        ]
        assert kinds == [TaskScheduled, TaskFailed, TimerCreated, TimerFired] * 3 + [TaskScheduled]
        waits = [event for event in history if isinstance(event, TimerCreated)]
        assert [(wait.retry_of, wait.attempt) for wait in waits] == [(0, 1), (0, 2), (0, 3)]
        assert all(0.05 <= (wait.fire_at - wait.timestamp).total_seconds() <= 0.102 for wait in waits)


@pytest.mark.usefixtures("fast")
async def test_the_end_of_all_attempts_is_told_with_the_last_failure() -> None:
    app, calls = flaky_app(RetryPolicy(first_retry_interval=0.01, max_number_of_attempts=3), 9)
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start("buy", 7)
        status = await client.wait(handle.instance_id, timeout=20)
        assert status.runtime_status == "Failed"
        assert status.failure is not None
        assert "failed after 3 attempts: ConnectionError: attempt 3" in status.failure.error_message
        assert status.failure.inner_failure is not None
        assert status.failure.inner_failure.error_message == "attempt 3"
        assert len(calls) == 3
