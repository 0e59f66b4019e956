"""One turn: messages in, one commit out, whatever state the instance and its code are in."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from callboard.core.events import (
    EventRaised,
    ExecutionCompleted,
    ExecutionParked,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    ParentInstance,
    TaskCompleted,
    TerminationSent,
)
from callboard.core.execution import Execution, TurnInterrupted
from callboard.core.instances import derived_execution_id
from callboard.core.replay import replay
from callboard.core.turn import Activation
from callboard.errors import NonDeterminismError
from tests.core.support import Code, Instance, Targets, at, current_commits, started

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from callboard.core.context import OrchestrationContext

MOTHER = ParentInstance(instance_id="mother", execution_id="f" * 32, task_scheduled_id=5)


async def two_steps(context: OrchestrationContext) -> list[Any]:
    return [await context.call_activity("one"), await context.call_activity("two")]


async def waits(context: OrchestrationContext) -> Any:
    return await context.wait_for_external_event("end")


async def eternal(context: OrchestrationContext, rounds: int | None) -> Any:
    await context.wait_for_external_event("n")
    context.continue_as_new((rounds or 0) + 1)


def kinds(instance: Instance) -> list[str]:
    return [type(event).__name__ for event in instance.history]


# What a commit says


def test_a_turn_takes_all_messages_and_yields_one_commit() -> None:
    instance = Instance(two_steps)
    commit = instance.commit(instance.start(), instance.event("a"), instance.event("b"))
    assert [type(event).__name__ for event in commit.events] == [
        "ExecutionStarted", "EventRaised", "EventRaised", "TaskScheduled",
    ]  # fmt: skip
    assert (commit.instance_id, commit.n, commit.first, commit.partition) == ("one", 0, 0, 3)
    assert (commit.at, commit.token, commit.runtime_status, commit.ran) == (at(0), "token-0", "Running", True)


def test_any_message_starts_a_pending_instance() -> None:
    instance = Instance(waits)
    instance.commit(instance.event("end", 1))
    assert instance.output == 1
    assert kinds(instance)[:2] == ["ExecutionStarted", "EventRaised"]


def test_nothing_new_means_no_commit() -> None:
    instance = started(two_steps)
    message = instance.result(0)
    turn = instance.deliver(message, message)
    assert turn.commit is not None
    assert turn.duplicates == 1
    again = instance.deliver(message, instance.start(), instance.wake())
    assert (again.commit, again.duplicates, again.unknown) == (None, 3, ())


def test_what_fits_nothing_known_is_handed_back_beside_the_commit() -> None:
    instance = started(two_steps)
    stranger = msgspec.structs.replace(instance.result(0), execution_id="x" * 32)
    turn = instance.deliver(stranger, instance.result(0), stranger)
    assert turn.commit is not None
    assert turn.unknown == (stranger, stranger)


def test_numbers_have_no_gaps_and_never_restart() -> None:
    instance = started(eternal, 0, head=7)
    for _ in range(3):
        instance.commit(instance.event("n"))
        instance.commit(instance.go_on())
    instance.commit(instance.terminate())
    assert [commit.n for commit in instance.commits] == list(range(8, 16))
    assert len({commit.execution_id for commit in instance.commits}) == 4
    assert [commit.first for commit in instance.commits] == [8, 8, 10, 10, 12, 12, 14, 14]
    assert [commit.generation for commit in instance.commits] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_id_that_is_used_again_counts_on() -> None:
    before = started(waits)
    before.commit(before.terminate())
    again = Instance(waits, head=before.commits[-1].n, execution_id="a" * 32)
    commit = again.commit(again.start())
    assert (commit.n, commit.first, commit.execution_id) == (2, 2, "a" * 32)


def test_the_clock_never_runs_backwards() -> None:
    instance = started(waits)
    instance.commit(instance.event("a"), after=10)
    assert instance.commit(instance.event("b"), after=-60).at == at(10)
    instance.forget()
    assert instance.commit(instance.event("c")).at == at(10)


def test_the_clock_does_not_run_backwards_over_continue_as_new() -> None:
    instance = started(eternal)
    instance.commit(instance.event("n"), after=10)
    instance.forget()
    assert instance.commit(instance.go_on(), after=-60).at == at(10)


def test_a_hot_activation_never_replays_and_a_loaded_one_does_once() -> None:
    instance = started(eternal)
    activation = instance.loaded()
    for _ in range(3):
        instance.commit(instance.event("n"))
        instance.commit(instance.go_on())
    assert instance.loaded() is activation
    assert activation.replays == 0
    instance.forget()
    instance.commit(instance.event("x"))
    instance.commit(instance.event("y"))
    assert instance.loaded().replays == 1


# Suspension


@pytest.mark.parametrize("cut", [False, True])
def test_a_suspended_instance_keeps_its_inputs_and_goes_on_with_them(cut: bool) -> None:
    def go(*messages: Any) -> None:
        if cut:
            instance.forget()
        instance.commit(*messages)

    instance = started(two_steps)
    go(instance.suspend())
    go(instance.suspend(), instance.result(0, 1))
    go(instance.event("x"))
    assert instance.scheduled() == [(0, "one", None)]
    go(instance.resume())
    assert [commit.runtime_status for commit in instance.commits] == ["Running", *["Suspended"] * 3, "Running"]
    assert [name for _, name, _ in instance.scheduled()] == ["one", "two"]
    go(instance.result(1, 2))
    assert instance.output == [1, 2]


def test_resuming_in_the_same_batch_runs_the_code_once_in_order() -> None:
    instance = started(two_steps)
    instance.commit(instance.suspend(), instance.result(0, 1), instance.resume(), instance.event("x"))
    assert instance.status == "Running"
    assert len(instance.scheduled()) == 2


@pytest.mark.parametrize("cut", [False, True])
def test_suspension_outlives_continue_as_new(cut: bool) -> None:
    runs: list[int] = []

    async def counts(context: OrchestrationContext, number: int | None) -> None:
        runs.append(number or 0)
        await eternal(context, number)

    instance = started(counts)
    instance.commit(instance.event("n"), instance.suspend())
    assert instance.status == "Suspended"
    for message in (instance.go_on(), instance.event("n")):
        if cut:
            instance.forget()
        instance.commit(message)
        assert instance.status == "Suspended"
    assert set(runs) == {0}
    if cut:
        instance.forget()
    instance.commit(instance.resume())
    assert set(runs) == {0, 1}
    assert instance.commits[-1].continued is not None
    assert kinds(instance)[:2] == ["ExecutionSuspended", "ExecutionStarted"]


# Termination


async def mother(context: OrchestrationContext) -> None:
    context.call_sub_orchestration("ends")
    context.call_sub_orchestration("stays", instance_id="stays")
    context.call_sub_orchestration("stays too")
    await context.call_activity("forever")


@pytest.mark.parametrize("cut", [False, True])
def test_terminate_ends_without_running_code_and_tells_the_open_children(cut: bool) -> None:
    instance = started(mother, parent=MOTHER)
    if cut:
        instance.forget()
    commit = instance.commit(instance.child(0), instance.terminate("enough"), instance.event("late"))
    assert commit.runtime_status == "Terminated"
    assert not commit.ran
    assert [type(event) for event in commit.events[:3]].count(ExecutionTerminated) == 1
    told = [event for event in commit.events if isinstance(event, TerminationSent)]
    _, second, third = instance.children()
    assert [(event.instance_id, event.execution_id, event.name, event.reason) for event in told] == [
        ("stays", second.execution_id, "stays", '"enough"'),
        (third.instance_id, third.execution_id, "stays too", '"enough"'),
    ]
    assert commit.completed == ExecutionCompleted(
        timestamp=at(0), orchestration_status="Terminated", result='"enough"', parent=MOTHER
    )


def test_terminate_can_spare_the_children() -> None:
    instance = started(mother)
    instance.commit(instance.terminate(recurse=False))
    assert "TerminationSent" not in kinds(instance)


def _park(instance: Instance) -> None:
    instance.become(None)
    instance.commit(instance.start())


STATES: list[Callable[[Instance], object]] = [
    lambda instance: None,
    lambda instance: instance.commit(instance.start(), instance.suspend()),
    lambda instance: instance.become(None),
    _park,
]


@pytest.mark.parametrize("prepare", STATES)
def test_terminate_works_in_every_state(prepare: Callable[[Instance], object]) -> None:
    instance = Instance(waits)
    prepare(instance)
    commit = instance.commit(instance.terminate("enough"))
    assert commit.runtime_status == "Terminated"
    assert commit.parked is None
    assert any(isinstance(event, ExecutionStarted) for event in instance.history)
    late = instance.event("end")
    assert instance.deliver(late).unknown == (late,)


def test_terminate_in_the_batch_of_other_messages_leaves_them_in_history() -> None:
    instance = started(two_steps)
    instance.commit(instance.result(0, 1), instance.terminate())
    assert [type(event) for event in instance.history][2:] == [TaskCompleted, ExecutionTerminated, ExecutionCompleted]
    assert instance.scheduled() == [(0, "one", None)]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_continued_child_is_terminated_by_its_first_execution(cut: bool, begun: bool) -> None:
    first = derived_execution_id("f" * 32, 5, "child")
    instance = started(eternal, parent=MOTHER, execution_id=first)
    for _ in range(2):
        instance.commit(instance.event("n"))
        if begun:
            instance.commit(instance.go_on())
        elif instance.commits[-1].continued is None:
            break
        if cut:
            instance.forget()
    instance.commit(instance.terminate(execution_id=first))
    assert instance.status == "Terminated"
    assert instance.completed.parent == MOTHER


def test_the_parent_hears_of_the_last_execution_only() -> None:
    async def once_more(context: OrchestrationContext, again: bool | None) -> str | None:
        if again is None:
            context.continue_as_new(False)
        return "done"

    instance = started(once_more, parent=MOTHER)
    assert instance.commits[-1].completed is None
    instance.commit(instance.go_on())
    assert instance.completed.parent == MOTHER


# Code that cannot run


@pytest.mark.parametrize("cut", [False, True])
def test_an_instance_whose_code_is_missing_keeps_its_inputs_until_it_is_deployed(cut: bool) -> None:
    instance = Instance(None)
    commit = instance.commit(instance.start())
    assert (commit.runtime_status, commit.ran) == ("Suspended", False)
    assert commit.parked is not None
    assert "'program'" in commit.parked.reason
    for number in range(2):
        commit = instance.commit(instance.event("end", number))
        assert not commit.ran
        assert commit.parked is not None
    instance.become(waits)
    if not cut:
        instance.loaded()
    instance.commit(instance.event("x"))  # whatever comes first
    assert instance.output == 0


def test_trying_again_in_vain_writes_nothing() -> None:
    instance = Instance(None)
    instance.commit(instance.start())
    for _ in range(3):
        assert instance.deliver(instance.wake()).commit is None
    assert len(instance.commits) == 1


async def swapped(context: OrchestrationContext) -> list[Any]:
    return [await context.call_activity("two"), await context.call_activity("one")]


async def shortened(context: OrchestrationContext) -> None:
    return


async def timed(context: OrchestrationContext) -> None:
    await context.create_timer(timedelta(seconds=1))


async def silent(context: OrchestrationContext) -> None:
    await context.wait_for_external_event("never")


@pytest.mark.parametrize(("changed", "says"), [
    (swapped, "History has activity 'one' at 0 (commit 0), the code asks for activity 'two'."),
    (timed, "History has activity 'one' at 0 (commit 0), the code asks for a timer."),
    (silent, "History has activity 'one' at 0 (commit 0), the code asks for nothing."),
    (shortened, "History has activity 'one' at 0 (commit 0), the code asks for nothing."),
])  # fmt: skip
@pytest.mark.parametrize("order", ["resume", "wake"])
def test_code_that_asks_for_something_else_parks_and_goes_on_when_it_is_right_again(
    changed: Callable[..., Any], says: str, order: str
) -> None:
    instance = started(two_steps)
    instance.become(changed)
    commit = instance.commit(instance.result(0, 1))
    assert (commit.runtime_status, commit.ran) == ("Suspended", False)
    assert commit.parked is not None
    assert commit.parked.reason.startswith(says)
    assert isinstance(commit.events[-1], ExecutionParked)
    instance.commit(instance.event("kept"))
    assert "ExecutionCompleted" not in kinds(instance)
    instance.become(two_steps)
    commit = instance.commit(getattr(instance, order)())
    assert (commit.runtime_status, commit.parked) == ("Running", None)
    instance.forget()
    instance.commit(instance.result(1, 2))
    assert instance.output == [1, 2]


def test_code_that_ends_where_history_goes_on_is_told_so() -> None:
    async def careful(context: OrchestrationContext) -> None:
        await context.wait_for_external_event("end")

    instance = started(careful)
    instance.commit(instance.event("x"))
    instance.become(shortened)
    commit = instance.commit(instance.event("y"))
    assert commit.parked is not None
    assert commit.parked.reason.startswith("History goes on after commit 0")


def test_a_recorded_history_of_code_that_goes_on_where_it_ended_does_not_replay() -> None:
    instance = started(shortened)
    with pytest.raises(NonDeterminismError, match="History ends at commit 0"):
        replay(Execution("one", Code(waits), Targets()), instance.commits)
    replay(Execution("one", Code(shortened), Targets()), instance.commits)


def test_code_that_was_extended_at_its_end_goes_on() -> None:
    async def one(context: OrchestrationContext) -> Any:
        context.call_activity("one")
        return await context.wait_for_external_event("end")

    async def two(context: OrchestrationContext) -> Any:
        context.call_activity("one")
        context.call_activity("two")
        return await context.wait_for_external_event("end")

    instance = started(one)
    instance.become(two)
    instance.commit(instance.event("x"))
    assert [name for _, name, _ in instance.scheduled()] == ["one", "two"]
    instance.forget()
    instance.commit(instance.result(1))
    instance.commit(instance.event("end", 1))
    assert instance.output == 1
    assert len(instance.scheduled()) == 2


@pytest.mark.parametrize("shape", ["coroutine", "generator", "task"])
def test_a_turn_that_was_interrupted_parks_its_inputs(shape: str) -> None:
    stuck = [True]

    def strike(context: OrchestrationContext) -> None:
        context.call_activity("never")
        context.set_custom_status("never")
        if stuck:
            raise TurnInterrupted("orders.py:7")

    async def coroutine(context: OrchestrationContext) -> Any:
        data = await context.wait_for_external_event("go")
        try:
            strike(context)
        except Exception:
            return "eaten"
        return data

    def generator(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        data = yield context.wait_for_external_event("go")
        strike(context)
        return data

    async def task(context: OrchestrationContext) -> Any:
        return await asyncio.gather(asyncio.create_task(coroutine(context)), return_exceptions=True)

    instance = started({"coroutine": coroutine, "generator": generator, "task": task}[shape])
    commit = instance.commit(instance.event("go", 5))
    assert (commit.runtime_status, commit.ran, commit.custom_status) == ("Suspended", False, None)
    assert [type(event) for event in commit.events] == [EventRaised, ExecutionParked]
    assert commit.parked is not None
    assert commit.parked.reason.endswith("orders.py:7")
    stuck.clear()
    instance.commit(instance.resume())
    assert instance.output in (5, [5])


def test_an_orchestrator_that_calls_exit_ends_no_worker() -> None:
    async def leaves(context: OrchestrationContext) -> None:
        raise SystemExit(3)

    commit = started(leaves).commits[0]
    assert commit.parked is not None
    assert "sys.exit(3)" in commit.parked.reason


def test_ctrl_c_goes_through() -> None:
    async def interrupted(context: OrchestrationContext) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(interrupted)


def test_parked_and_suspended_are_two_things() -> None:
    instance = Instance(None)
    instance.commit(instance.start())
    instance.commit(instance.event("end", 1), instance.suspend())
    instance.become(two_steps)
    commit = instance.commit(instance.wake())
    assert (commit.runtime_status, commit.parked) == ("Suspended", None)  # no longer parked, still suspended
    instance.commit(instance.result(0, 1))
    assert len(instance.scheduled()) == 1
    instance.commit(instance.resume())
    assert len(instance.scheduled()) == 2


# Lost and evicted activations


def test_a_turn_whose_commit_was_lost_is_judged_again_from_what_the_store_holds() -> None:
    ours, theirs = started(two_steps), started(two_steps)
    message = ours.result(0, "first")
    theirs.commit(theirs.result(0, "second"))
    assert ours.deliver(message).commit is not None  # never stored
    loaded = Activation(theirs.record, current_commits(theirs.commits), Code(two_steps), Targets())
    assert loaded.turn([message], now=at(0), token="x").duplicates == 1


@pytest.mark.parametrize("shape", ["coroutine", "nested", "task", "generator", "context manager"])
def test_evicting_an_activation_does_not_act_on_what_finally_blocks_ask(shape: str) -> None:
    ran: list[str] = []
    keep: list[OrchestrationContext] = []

    async def clean(context: OrchestrationContext) -> None:
        ran.append("finally")
        context.send_event("other", "cleanup")
        context.set_custom_status("cleaned")
        context.continue_as_new()
        await context.call_activity("cleanup")
        ran.append("after the call")

    async def coroutine(context: OrchestrationContext) -> None:
        keep.append(context)
        try:
            await context.wait_for_external_event("end")
        finally:
            await clean(context)

    async def nested(context: OrchestrationContext) -> None:
        await coroutine(context)

    async def task(context: OrchestrationContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(coroutine(context))

    def generator(context: OrchestrationContext) -> Generator[Any, Any, None]:
        try:
            yield context.wait_for_external_event("end")
        finally:
            ran.append("finally")
            yield context.call_activity("cleanup")
            ran.append("after the call")

    async def manager(context: OrchestrationContext) -> None:
        async with asyncio.timeout(10):
            await coroutine(context)

    functions = {
        "coroutine": coroutine,
        "nested": nested,
        "task": task,
        "generator": generator,
        "context manager": manager,
    }
    instance = started(functions[shape])
    before = list(instance.commits)
    activation = instance.loaded()
    instance.forget()
    assert ran == ["finally"]
    assert not activation.hot
    assert instance.commits == before
    commit = instance.commit(instance.event("x"))  # a fresh one, which asks for nothing either
    assert [type(event) for event in commit.events] == [EventRaised]
    for context in keep[:1]:  # a context that outlived its activation goes nowhere
        context.call_activity("zombie")
        context.send_event("other", "zombie")
        context.set_custom_status("zombie")
    commit = instance.commit(instance.event("y"))
    assert [type(event) for event in commit.events] == [EventRaised]
    assert commit.custom_status is None
    instance.forget()


def test_a_closed_execution_takes_no_requests() -> None:
    keep: list[OrchestrationContext] = []

    async def cleans_up(context: OrchestrationContext) -> None:
        keep.append(context)
        try:
            await context.create_timer(timedelta(seconds=1))
        finally:
            context.set_custom_status("from finally")

    instance = started(cleans_up)
    execution = Execution("one", Code(cleans_up), Targets())
    replay(execution, instance.commits)
    execution.close()
    keep[-1].set_custom_status("zombie")
    keep[-1].create_timer(timedelta(0)).cancel()
    keep[-1].call_activity("zombie")
    assert execution.custom_status is None
    assert execution._actions == []  # pyright: ignore[reportPrivateUsage]
    assert execution._timers_cancelled == []  # pyright: ignore[reportPrivateUsage]


def test_closing_twice_is_closing_once() -> None:
    instance = started(waits)
    activation = instance.loaded()
    activation.close()
    activation.close()
    assert not activation.hot


@pytest.mark.parametrize("order", [ExecutionSuspended, ExecutionResumed])
def test_suspending_twice_and_resuming_twice_change_nothing_more(order: type) -> None:
    instance = started(two_steps)
    make = instance.suspend if order is ExecutionSuspended else instance.resume
    instance.commit(make())
    instance.commit(make())
    instance.commit(instance.resume())
    instance.commit(instance.result(0, 1))
    instance.commit(instance.result(1, 2))
    assert instance.output == [1, 2]
