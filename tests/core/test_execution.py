"""What orchestration code may ask for, and what it is told."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from callboard.core.events import EventSent, ParentInstance, TimerFired
from callboard.core.instances import child_instance_id, derived_execution_id
from callboard.errors import (
    InvalidInstanceIdError,
    InvalidPayloadError,
    PayloadTooLargeError,
    SubOrchestrationFailedError,
    TaskFailedError,
)
from tests.core.support import DECLINED, EPOCH, Instance, World, at, started

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from callboard.core.context import DurableTask, OrchestrationContext


class Order(msgspec.Struct):
    item: str
    price: int


def book(order: Order) -> Order:
    raise NotImplementedError


# Shapes of orchestrators


def test_a_coroutine_function_awaits_one_call_after_the_other() -> None:
    async def hello(context: OrchestrationContext, cities: list[str]) -> list[str]:
        return [await context.call_activity("say_hello", city) for city in cities]

    instance = started(hello, ["Tokyo", "Seattle"])
    assert instance.scheduled() == [(0, "say_hello", "Tokyo")]
    instance.commit(instance.result(0, "Hello Tokyo!"))
    instance.commit(instance.result(1, "Hello Seattle!"))
    assert instance.scheduled() == [(0, "say_hello", "Tokyo"), (1, "say_hello", "Seattle")]
    assert instance.status == "Completed"
    assert instance.output == ["Hello Tokyo!", "Hello Seattle!"]


def test_a_generator_function_is_sent_results_and_errors() -> None:
    def old_style(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        first = yield context.call_activity("one")
        try:
            yield context.call_activity("two")
        except TaskFailedError as error:
            return [first, error.failure.error_message]

    instance = started(old_style)
    instance.commit(instance.result(0, 1))
    instance.commit(instance.result(1, failure=DECLINED))
    assert instance.output == [1, "card declined"]


def test_a_generator_is_thrown_the_cancellation_of_what_it_yielded() -> None:
    def old_style(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        timer = context.create_timer(timedelta(hours=1))
        timer.cancel()
        try:
            yield timer
        except asyncio.CancelledError:
            return "cancelled"

    assert started(old_style).output == "cancelled"


def test_a_generator_that_yields_something_else_is_told_so() -> None:
    def old_style(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        try:
            yield [context.call_activity("one")]
        except TypeError as error:
            return str(error)

    assert "await" in started(old_style).output


@pytest.mark.parametrize("value", [None, 7, {"a": [1, 2]}])
def test_a_plain_function_completes_at_once(value: object) -> None:
    def plain(context: OrchestrationContext) -> object:
        return value

    instance = started(plain)
    assert instance.output == value
    assert len(instance.commits) == 1


def test_a_plain_function_may_return_a_task() -> None:
    def plain(context: OrchestrationContext) -> DurableTask[Any]:
        return context.call_activity("one")

    instance = started(plain)
    instance.commit(instance.result(0, "done"))
    assert instance.output == "done"


def test_siblings_are_scheduled_in_one_turn_and_may_end_in_any_order() -> None:
    async def fan_out(context: OrchestrationContext) -> Any:
        return await asyncio.gather(*(context.call_activity("square", n) for n in range(3)))

    instance = started(fan_out)
    assert [name for _, name, _ in instance.scheduled()] == ["square"] * 3
    for number in (2, 0, 1):
        instance.commit(instance.result(number, number * number))
    assert instance.output == [0, 1, 4]


def test_an_orchestration_completes_when_it_returns_whatever_is_still_open() -> None:
    async def careless(context: OrchestrationContext) -> str:
        context.call_activity("audit")
        context.create_timer(timedelta(days=1))
        left = asyncio.create_task(asyncio.sleep(3600))
        assert not left.done()
        return "done"

    instance = started(careless)
    assert instance.output == "done"
    assert instance.scheduled() == [(0, "audit", None)]


def test_what_code_asks_after_its_end_is_not_done() -> None:
    async def aside(context: OrchestrationContext) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        context.call_activity("too late")
        context.set_custom_status("too late")

    async def main(context: OrchestrationContext) -> None:
        left = asyncio.create_task(aside(context))
        assert not left.done()

    instance = started(main)
    assert instance.scheduled() == []
    assert instance.custom_status is None


# Identity and time


def test_the_context_says_who_runs() -> None:
    seen: list[Any] = []

    async def who(context: OrchestrationContext) -> None:
        seen.extend(
            (context.instance_id, context.execution_id, context.name, context.parent_instance_id, context.version)
        )

    parent = ParentInstance(instance_id="mother", execution_id="f" * 32, task_scheduled_id=4)
    started(who, parent=parent)
    assert seen == ["one", "e" * 32, "program", "mother", None]


def test_the_clock_stands_still_in_a_turn_and_repeats_on_replay() -> None:
    times: list[datetime] = []

    async def clock(context: OrchestrationContext) -> None:
        times.append(context.current_utc_datetime)
        await context.call_activity("one")
        times.append(context.current_utc_datetime)
        await context.call_activity("two")
        times.append(context.current_utc_datetime)
        assert asyncio.get_running_loop().time() == times[-1].timestamp()

    instance = started(clock)
    instance.commit(instance.result(0), after=5)
    instance.forget()
    instance.commit(instance.result(1), after=5)
    assert times == [at(0), at(5), at(0), at(5), at(10)]


def test_is_replaying_tells_the_past_from_the_present() -> None:
    flags: list[bool] = []

    async def looks(context: OrchestrationContext) -> None:
        flags.append(context.is_replaying)
        await context.call_activity("one")
        flags.append(context.is_replaying)

    instance = started(looks)
    instance.forget()
    instance.commit(instance.result(0))
    assert flags == [False, True, False]


def test_uuids_and_random_numbers_repeat_on_replay_and_differ_elsewhere() -> None:
    async def draws(context: OrchestrationContext) -> Any:
        one = [str(context.new_uuid()), str(context.new_guid()), context.random.random()]
        await context.call_activity("one")
        return [*one, str(context.new_uuid()), context.random.random()]

    def run(cut: bool, **options: Any) -> list[Any]:
        instance = started(draws, **options)
        if cut:
            instance.forget()
        instance.commit(instance.result(0))
        output: list[Any] = instance.output
        return output

    drawn = run(cut=False)
    assert run(cut=True) == drawn
    assert len(set(drawn)) == 5
    assert uuid.UUID(drawn[0]).version == 5
    assert not set(drawn) & set(run(cut=False, execution_id="f" * 32))


def test_uuids_are_durable_functions_own() -> None:
    async def draw(context: OrchestrationContext) -> str:
        return str(context.new_uuid())

    name = f"one_{'e' * 32}_{EPOCH.isoformat()}_0"
    assert started(draw).output == str(uuid.uuid5(uuid.UUID("9e952958-5e33-4daf-827f-2fa12937b875"), name))


# Activities


def test_results_are_decoded_into_the_declared_type() -> None:
    async def typed(context: OrchestrationContext) -> str:
        order = await context.call_activity(book, Order("tea", 3))
        assert isinstance(order, Order)
        return order.item

    instance = started(typed)
    assert instance.scheduled() == [(0, "book", {"item": "tea", "price": 3})]
    instance.commit(instance.result(0, {"item": "milk", "price": 1}))
    assert instance.output == "milk"


def test_a_result_that_does_not_fit_is_an_error_where_it_is_awaited() -> None:
    async def typed(context: OrchestrationContext) -> str:
        try:
            await context.call_activity(book)
        except InvalidPayloadError as error:
            return str(error)
        return "fits"

    instance = started(typed)
    instance.commit(instance.result(0, {"item": "milk"}))
    assert "'book'" in instance.output
    assert "price" in instance.output


CARELESS: list[Callable[[Any], object]] = [
    lambda context: context.call_activity("one", object()),
    lambda context: context.call_sub_orchestration("one", object()),
    lambda context: context.send_event("other", "name", object()),
    lambda context: context.continue_as_new(object()),
    lambda context: context.set_custom_status(object()),
    lambda context: context.call_activity("one", queue=7),
    lambda context: context.call_sub_orchestration("one", version=2),
    lambda context: context.call_sub_orchestration("one", tags={"a": 1}),
    lambda context: context.send_event("other", 5),
    lambda context: context.send_event("other", "\ud800"),
]


@pytest.mark.parametrize("ask", CARELESS)
def test_what_history_could_not_hold_is_refused_at_the_call_and_costs_no_number(ask: Callable[[Any], object]) -> None:
    async def careless(context: OrchestrationContext) -> str:
        try:
            ask(context)
        except InvalidPayloadError as error:
            context.call_activity("next")
            return str(error)
        return "accepted"

    instance = started(careless)
    assert instance.output != "accepted"
    assert instance.scheduled() == [(0, "next", None)]


def test_a_result_that_cannot_be_encoded_fails_the_orchestration() -> None:
    async def returns_object(context: OrchestrationContext) -> object:
        return object()

    instance = started(returns_object)
    assert instance.status == "Failed"
    assert instance.failure.error_type == "callboard.errors.InvalidPayloadError"
    assert "'program'" in instance.failure.error_message


def test_inputs_over_the_limit_are_refused() -> None:
    async def large(context: OrchestrationContext) -> str:
        with pytest.raises(PayloadTooLargeError):
            context.call_activity("one", "x" * 1_048_577)
        return "refused"

    assert started(large).output == "refused"


# Failures


def test_a_failed_activity_raises_where_it_is_awaited_with_its_own_details() -> None:
    async def pays(context: OrchestrationContext) -> Any:
        try:
            await context.call_activity("pay")
        except TaskFailedError as error:
            return [error.name, error.task_id, error.failure.error_type, str(error)]

    instance = started(pays)
    instance.commit(instance.result(0, failure=DECLINED))
    assert instance.output == [
        "pay",
        0,
        "shop.DeclinedError",
        "Activity 'pay' (task 0) failed: shop.DeclinedError: card declined",
    ]


def test_a_failure_carries_the_progress_that_was_reported() -> None:
    async def tries(context: OrchestrationContext) -> str | None:
        try:
            await context.call_activity("pay")
        except TaskFailedError as error:
            return error.heartbeat_details
        return "not failed"

    instance = started(tries)
    failed = msgspec.structs.replace(instance.result(0, failure=DECLINED), heartbeat_details='{"row":5}')
    instance.commit(failed)
    assert instance.output == '{"row":5}'


def test_an_uncaught_failure_keeps_the_original_details_inside() -> None:
    async def pays(context: OrchestrationContext) -> None:
        try:
            await context.call_activity("pay")
        except TaskFailedError as error:
            raise ValueError("no order") from error

    instance = started(pays)
    instance.commit(instance.result(0, failure=DECLINED))
    assert instance.status == "Failed"
    failure = instance.failure
    assert (failure.error_type, failure.error_message) == ("ValueError", "no order")
    assert failure.inner_failure is not None
    assert failure.inner_failure.error_type == "callboard.errors.TaskFailedError"
    assert failure.inner_failure.inner_failure == DECLINED
    assert failure.is_caused_by("DeclinedError")
    assert "pays" in (failure.stack_trace or "")


def test_a_task_group_fails_with_what_failed_in_it() -> None:
    async def grouped(context: OrchestrationContext) -> None:
        async with asyncio.TaskGroup() as group:
            for name in ("pay", "ship"):
                group.create_task(_call(context, name))

    instance = started(grouped)
    instance.commit(instance.result(1, failure=DECLINED))
    assert instance.failure.error_type == "ExceptionGroup"
    assert instance.failure.is_caused_by("DeclinedError")


async def _call(context: OrchestrationContext, name: str) -> Any:
    return await context.call_activity(name)


def test_a_failed_child_raises_its_own_kind_of_error() -> None:
    async def mother(context: OrchestrationContext) -> str:
        with pytest.raises(SubOrchestrationFailedError) as caught:
            await context.call_sub_orchestration("child")
        assert caught.value.failure == DECLINED
        return str(caught.value)

    instance = started(mother)
    instance.commit(instance.child(0, failure=DECLINED))
    assert instance.output.startswith("Sub-orchestration 'child'")


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()])
def test_code_that_raises_fails_the_instance(error: BaseException) -> None:
    async def raises(context: OrchestrationContext) -> None:
        raise error

    instance = started(raises)
    assert instance.status == "Failed"


# Sub-orchestrations


def test_children_have_ids_of_their_own_that_do_not_grow() -> None:
    async def mother(context: OrchestrationContext) -> None:
        context.call_activity("one")
        context.call_sub_orchestration("child", 1, version="2", tags={"a": "b"})
        context.call_sub_orchestration("child", 2, instance_id="named")
        await context.wait_for_external_event("end")

    instance = started(mother)
    first, second = instance.children()
    assert first.instance_id == child_instance_id("e" * 32, 1) == "e" * 32 + ":0001"
    assert first.execution_id == derived_execution_id("e" * 32, 1, "child")
    assert (first.version, first.tags, first.input) == ("2", {"a": "b"}, "1")
    assert (second.instance_id, second.event_id) == ("named", 2)
    assert second.execution_id != first.execution_id
    assert len(second.execution_id) == 32


def test_tags_changed_after_the_call_change_nothing() -> None:
    async def mother(context: OrchestrationContext) -> None:
        tags = {"a": "b"}
        context.call_sub_orchestration("child", tags=tags)
        tags["a"] = "c"
        await context.wait_for_external_event("end")

    assert started(mother).children()[0].tags == {"a": "b"}


@pytest.mark.parametrize(("child", "error"), [
    ("one", ValueError), ("mother", ValueError), ("@one", InvalidInstanceIdError), ("a/b", InvalidInstanceIdError),
    ("", InvalidInstanceIdError),
])  # fmt: skip
def test_a_child_cannot_have_an_id_that_deadlocks_or_is_not_allowed(child: str, error: type[Exception]) -> None:
    async def mother(context: OrchestrationContext) -> str:
        with pytest.raises(error):
            context.call_sub_orchestration("child", instance_id=child)
        return "refused"

    parent = ParentInstance(instance_id="mother", execution_id="f" * 32, task_scheduled_id=0)
    assert started(mother, parent=parent).output == "refused"


# Timers


@pytest.mark.parametrize(("due", "fire_at"), [
    (timedelta(seconds=2), at(2)),
    (timedelta(microseconds=1), at(0.001)),
    (timedelta(microseconds=1001), at(0.002)),
    (timedelta(0), at(0)),
    (timedelta(seconds=-5), at(-5)),
    (at(9), at(9)),
    (at(9).astimezone(timezone(timedelta(hours=5))), at(9)),
    (datetime.max.replace(tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)),
])  # fmt: skip
def test_timers_are_rounded_up_to_milliseconds_and_kept_in_utc(due: datetime | timedelta, fire_at: datetime) -> None:
    async def sleeps(context: OrchestrationContext) -> None:
        await context.create_timer(due)

    (timer,) = started(sleeps).timers()
    assert timer.fire_at == fire_at
    assert timer.fire_at.utcoffset() == timedelta(0)
    assert started(sleeps).status == "Running"


@pytest.mark.parametrize("seconds", [0.0001, 0.0015, 0.1, 1 / 3, 2.0, 86_400.123])
def test_asyncio_sleeps_never_end_early(seconds: float) -> None:
    async def sleeps(context: OrchestrationContext) -> None:
        await asyncio.sleep(seconds)

    (timer,) = started(sleeps).timers()
    late = (timer.fire_at - EPOCH) - timedelta(seconds=seconds)
    assert timedelta(0) <= late < timedelta(milliseconds=1)
    assert timer.fire_at.microsecond % 1000 == 0


@pytest.mark.parametrize("forever", [float("inf"), 1e18])
def test_sleeping_for_ever_is_a_timer_in_the_last_year_or_none(forever: float) -> None:
    async def sleeps(context: OrchestrationContext) -> None:
        await asyncio.sleep(forever)

    instance = started(sleeps)
    assert instance.status == "Running"
    assert [timer.fire_at.year for timer in instance.timers()] in ([], [9999])


def test_a_naive_time_is_refused() -> None:
    async def sleeps(context: OrchestrationContext) -> str:
        with pytest.raises(ValueError, match="aware"):
            context.create_timer(datetime(2030, 1, 1))  # noqa: DTZ001
        return "refused"

    assert started(sleeps).output == "refused"


def test_a_cancelled_timer_is_taken_back_and_its_late_coming_ignored() -> None:
    async def gives_up(context: OrchestrationContext) -> str:
        timer = context.create_timer(timedelta(seconds=5))
        await context.wait_for_external_event("go")
        assert timer.cancel()
        assert not timer.cancel()
        await context.wait_for_external_event("end")
        return "end"

    instance = started(gives_up)
    due = instance.timer(0)
    assert instance.commit(instance.event("go")).timers_cancelled == (0,)
    assert instance.deliver(due).commit is None
    instance.commit(instance.event("end"))
    assert instance.output == "end"


def test_a_timeout_interrupts_and_an_early_end_takes_its_timer_back() -> None:
    async def impatient(context: OrchestrationContext) -> str:
        try:
            async with asyncio.timeout(5):
                return str(await context.wait_for_external_event("go"))
        except TimeoutError:
            return "late"

    instance = started(impatient)
    assert instance.timers()[0].fire_at == at(5)
    instance.commit(instance.timer(0), after=5)
    assert instance.output == "late"

    async def twice(context: OrchestrationContext) -> None:
        await impatient(context)
        await context.wait_for_external_event("end")

    instance = started(twice)
    assert instance.commit(instance.event("go")).timers_cancelled == (0,)


def test_a_timer_fires_once() -> None:
    async def sleeps(context: OrchestrationContext) -> str:
        await context.create_timer(timedelta(seconds=1))
        await context.wait_for_external_event("end")
        return "end"

    instance = started(sleeps)
    turn = instance.deliver(instance.timer(0), instance.timer(0), after=1)
    assert turn.duplicates == 1
    assert sum(isinstance(event, TimerFired) for event in instance.history) == 1


# External events


def test_events_nobody_waits_for_are_kept_in_order_whatever_their_case() -> None:
    async def doorman(context: OrchestrationContext) -> list[int]:
        await context.call_activity("open")
        return [await context.wait_for_external_event("Door", int) for _ in range(3)]

    instance = started(doorman)
    instance.commit(instance.event("DOOR", 1), instance.event("bell", 0), instance.event("door", 2))
    instance.forget()
    instance.commit(instance.result(0))
    instance.commit(instance.event("dOOr", 3))
    assert instance.output == [1, 2, 3]


def test_the_first_waiter_gets_the_first_event() -> None:
    async def waits(context: OrchestrationContext) -> list[Any]:
        return await asyncio.gather(*(context.wait_for_external_event("n") for _ in range(3)))

    instance = started(waits)
    for number in range(3):
        instance.commit(instance.event("N", number))
    assert instance.output == [0, 1, 2]


@pytest.mark.parametrize("abandon", ["cancel", "timeout"])
def test_a_waiter_that_gave_up_swallows_no_event(abandon: str) -> None:
    async def waits(context: OrchestrationContext) -> Any:
        if abandon == "cancel":
            first = context.wait_for_external_event("n")
            first.cancel()
            await context.create_timer(timedelta(seconds=1))
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(context.wait_for_external_event("n"), 1)
        return await context.wait_for_external_event("n")

    instance = started(waits)
    instance.commit(instance.timer(0), after=1)
    instance.commit(instance.event("n", "heard"))
    assert instance.output == "heard"


def test_event_data_that_do_not_fit_are_an_error_for_their_waiter_only() -> None:
    async def waits(context: OrchestrationContext) -> Any:
        with pytest.raises(InvalidPayloadError, match="'n'"):
            await context.wait_for_external_event("n", int)
        return await context.wait_for_external_event("n", int)

    instance = started(waits)
    instance.commit(instance.event("n", "not a number"), instance.event("n", 2))
    assert instance.output == 2


def test_a_type_whose_own_hook_raises_anything_does_not_break_the_turn() -> None:
    class Picky(msgspec.Struct):
        name: str

        def __post_init__(self) -> None:
            raise KeyError(self.name)

    async def waits(context: OrchestrationContext) -> str:
        with pytest.raises(InvalidPayloadError, match="Picky"):
            await context.wait_for_external_event("n", Picky)
        return "survived"

    instance = started(waits)
    instance.commit(instance.event("n", {"name": "x"}))
    assert instance.output == "survived"


def test_events_are_sent_with_their_own_number() -> None:
    async def sends(context: OrchestrationContext) -> None:
        context.send_event("other", "ping", {"n": 1})
        with pytest.raises(InvalidInstanceIdError):
            context.send_event("a/b", "ping")
        await context.call_activity("next")

    instance = started(sends)
    (sent,) = (event for event in instance.history if isinstance(event, EventSent))
    assert (sent.event_id, sent.instance_id, sent.name, sent.input) == (0, "other", "ping", '{"n":1}')
    assert instance.scheduled() == [(1, "next", None)]


# Custom status


def test_the_last_custom_status_of_a_turn_shows_and_none_clears_it() -> None:
    async def reports(context: OrchestrationContext) -> None:
        context.set_custom_status(1)
        context.set_custom_status({"done": 2})
        await context.call_activity("one")
        await context.call_activity("two")
        context.set_custom_status(None)
        await context.call_activity("three")

    instance = started(reports)
    assert instance.custom_status == {"done": 2}
    instance.forget()
    instance.commit(instance.result(0))
    assert instance.custom_status == {"done": 2}
    instance.commit(instance.result(1))
    assert instance.custom_status is None


def test_a_custom_status_over_16_kib_is_refused_and_the_old_one_stays() -> None:
    async def reports(context: OrchestrationContext) -> None:
        context.set_custom_status("x" * 16_382)
        with pytest.raises(PayloadTooLargeError):
            context.set_custom_status("x" * 16_383)

    assert len(started(reports).custom_status) == 16_382


# Beginning again


async def countdown(context: OrchestrationContext, left: int) -> Any:
    context.set_custom_status(f"{left} left")
    await context.call_activity("tick")
    if left:
        return context.continue_as_new(left - 1)
    return "lift-off"


def test_continue_as_new_begins_again_with_a_new_execution_and_an_empty_history() -> None:
    instance = started(countdown, 1)
    stale = instance.result(0)
    commit = instance.commit(stale)
    assert commit.runtime_status == "Running"
    assert commit.continued is not None
    follow = instance.go_on()
    assert follow.execution_id == derived_execution_id("e" * 32, 1, "continued") != "e" * 32
    assert instance.commit(follow).execution_id == follow.execution_id
    assert instance.history[0].input == "0"  # type: ignore[union-attr]
    assert instance.scheduled() == [(0, "tick", None)]
    assert instance.custom_status == "0 left"
    assert instance.deliver(stale).unknown == (stale,)  # a result for the execution before
    instance.commit(instance.result(0))
    assert instance.output == "lift-off"


@pytest.mark.parametrize("cut", [False, True])
def test_a_custom_status_is_kept_over_continue_as_new(cut: bool) -> None:
    async def reports_once(context: OrchestrationContext, again: bool | None) -> None:
        if again is None:
            context.set_custom_status("from before")
        await context.wait_for_external_event("n")
        context.continue_as_new(True)

    instance = started(reports_once)
    for message in (instance.event("n"), None, instance.event("x"), instance.event("y")):
        if cut:
            instance.forget()
        instance.commit(message or instance.go_on())
        assert instance.custom_status == "from before"


def test_an_error_after_continue_as_new_fails_the_instance() -> None:
    async def raises(context: OrchestrationContext) -> None:
        context.continue_as_new(1)
        raise ValueError

    assert started(raises).status == "Failed"


async def collects(context: OrchestrationContext, seen: list[int] | None) -> Any:
    seen = [*(seen or []), await context.wait_for_external_event("n")]
    return seen if len(seen) == 4 else context.continue_as_new(seen)


@pytest.mark.parametrize("cut", [False, True])
def test_unclaimed_events_are_carried_over_in_order(cut: bool) -> None:
    instance = started(collects)
    instance.commit(*(instance.event("n", number) for number in range(3)), instance.event("other", "x"))
    carried = instance.commits[-1].continued
    assert carried is not None
    assert [event.input for event in carried.carried] == ["1", "2", '"x"']
    if cut:
        instance.forget()
    instance.commit(instance.event("n", 3))  # comes before the message that continues, and must still come last
    while instance.status == "Running":
        if cut:
            instance.forget()
        instance.commit(instance.go_on())
    assert instance.output == [0, 1, 2, 3]


def test_events_held_back_while_suspended_are_carried_over_too() -> None:
    instance = started(collects)
    instance.commit(instance.suspend())
    instance.commit(*(instance.event("n", number) for number in range(3)))
    instance.commit(instance.resume())
    carried = instance.commits[-1].continued
    assert carried is not None
    assert [event.input for event in carried.carried] == ["1", "2"]


def test_an_action_and_the_end_of_an_execution_have_different_numbers() -> None:
    async def leaves_work(context: OrchestrationContext) -> None:
        context.call_activity("audit")
        context.call_activity("audit")
        context.continue_as_new()

    continued = started(leaves_work).commits[-1].continued
    assert continued is not None
    assert continued.event_id == 2


# A whole world


def test_children_timers_and_activities_end_in_their_own_time() -> None:
    async def mixed(context: OrchestrationContext) -> list[str]:
        names: dict[Any, str] = {
            context.call_activity("work", [3, False, "a"]): "activity",
            context.call_sub_orchestration("small", [1, False, "b"]): "child",
            context.create_timer(timedelta(seconds=2)): "timer",
        }
        order: list[str] = []
        while names:
            done, _ = await asyncio.wait(names, return_when=asyncio.FIRST_COMPLETED)
            order.extend(names.pop(task) for task in done)
        return order

    instance = World(Instance(mixed)).run()
    assert instance.output == ["child", "timer", "activity"]
    assert instance.now == at(3)
