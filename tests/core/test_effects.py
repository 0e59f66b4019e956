"""What must happen because of a commit, and what its instance's record says."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from callboard.core.effects import (
    CallActivity,
    CancelActivities,
    ClearExecutionTimers,
    ClearTimer,
    Effect,
    LimitStart,
    SetTimer,
    StartChild,
    Tell,
    child_failed,
    derive,
    projection,
)
from callboard.core.events import ParentInstance, TaskScheduled
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, derived_execution_id, partition_of
from callboard.core.messages import ActivitiesCancelled, ChildResult, ContinueExecution, RaiseEvent, Terminate
from tests.core.support import DECLINED, PARTITIONS, Instance, at, started, through_json

if TYPE_CHECKING:
    from callboard.core.context import OrchestrationContext

MOTHER = ParentInstance(instance_id="mother", execution_id="f" * 32, task_scheduled_id=5)


def effects(commit: Commit) -> list[Effect]:
    """The effects, which must be the same derived again, elsewhere, from what was stored."""
    derived = derive(commit, PARTITIONS)
    assert derive(commit, PARTITIONS) == derived
    assert derive(through_json([commit])[0], PARTITIONS) == derived
    return derived


def cancelled(*tasks: int) -> CancelActivities:
    return CancelActivities(ActivitiesCancelled(instance_id="one", execution_id="e" * 32, tasks=tasks))


async def everything(context: OrchestrationContext) -> str:
    context.call_activity("work", {"a": 1}, queue="slow")
    context.call_sub_orchestration("small", 2, version="3", tags={"t": "u"})
    context.create_timer(timedelta(seconds=3))
    context.create_timer(timedelta(seconds=4)).cancel()
    timer = context.create_timer(timedelta(seconds=5))
    context.send_event("other", "ping", 6)
    await context.wait_for_external_event("go")
    timer.cancel()
    if await context.wait_for_external_event("end") == "again":
        context.continue_as_new(8)
    return "done"


def test_each_action_has_one_effect_with_an_identity_of_its_own() -> None:
    instance = started(everything)
    activity, child, near, far, told = effects(instance.commits[0])
    assert isinstance(activity, CallActivity)
    call = activity.call
    assert (call.instance_id, call.execution_id, call.task_scheduled_id) == ("one", "e" * 32, 0)
    assert (call.name, call.input, call.queue, call.resent) == ("work", '{"a":1}', "slow", False)
    assert isinstance(child, StartChild)
    record = child.record
    assert record.instance_id == "e" * 32 + ":0001"
    assert record.execution_id == derived_execution_id("e" * 32, 1, "child")
    assert record.partition == partition_of(record.instance_id, PARTITIONS)
    assert record.runtime_status == "Pending"
    assert (record.name, record.input, record.version, record.tags) == ("small", "2", "3", {"t": "u"})
    assert record.parent == ParentInstance(instance_id="one", execution_id="e" * 32, task_scheduled_id=1)
    assert (record.created_time, record.head, record.first) == (at(0), -1, 0)
    assert isinstance(near, SetTimer)
    assert isinstance(far, SetTimer)
    assert [(near.timer_id, near.due.fire_at), (far.timer_id, far.due.fire_at)] == [(2, at(3)), (4, at(5))]
    assert told == Tell(RaiseEvent(instance_id="other", message_id="e" * 32 + "/5", name="ping", at=at(0), input="6"))


async def with_limits(context: OrchestrationContext) -> None:
    context.call_activity("work", timeout=timedelta(minutes=2), schedule_to_start=3.5, heartbeat_timeout=10)
    await context.wait_for_external_event("go")


def test_a_call_carries_its_time_limits() -> None:
    instance = started(with_limits)
    activity, limit = effects(instance.commits[0])
    assert isinstance(activity, CallActivity)
    assert (activity.call.start_to_close, activity.call.heartbeat_timeout) == (120, 10)
    assert activity.call.start_by == at(3.5)
    assert limit == LimitStart(0, at(3.5))
    (event,) = (event for event in instance.history if isinstance(event, TaskScheduled))
    assert (event.start_to_close, event.schedule_to_start, event.heartbeat_timeout) == (120, 3.5, 10)


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("failure", [None, DECLINED])
def test_the_end_of_an_activity_lifts_the_limit_of_its_start(failure: FailureDetails | None, *, cold: bool) -> None:
    instance = started(with_limits)
    if cold:
        instance.forget()
    commit = instance.commit(instance.result(0, failure=failure))
    assert commit.start_limits_over == (0,)
    assert effects(commit) == [ClearTimer(0)]
    assert instance.commit(instance.event("other")).start_limits_over == ()


def test_a_cancelled_activity_has_no_limit_any_more() -> None:
    async def changes_its_mind(context: OrchestrationContext) -> None:
        context.call_activity("never sent", schedule_to_start=1).cancel()
        call = context.call_activity("work", schedule_to_start=1)
        await context.wait_for_external_event("go")
        call.cancel()
        await context.wait_for_external_event("end")

    instance = started(changes_its_mind)
    assert [type(effect) for effect in effects(instance.commits[0])] == [CallActivity, LimitStart]
    assert effects(instance.commit(instance.event("go"))) == [ClearTimer(1), cancelled(1)]
    assert instance.commit(instance.event("other")).start_limits_over == ()


def test_a_limit_is_rounded_up_to_what_stores_keep() -> None:
    async def brief(context: OrchestrationContext) -> None:
        await context.call_activity("work", schedule_to_start=0.0001)

    activity, limit = effects(started(brief).commits[0])
    assert isinstance(activity, CallActivity)
    assert limit == LimitStart(0, at(0.001))
    assert activity.call.start_by == at(0.001)


def test_a_later_attempt_carries_what_the_first_one_left() -> None:
    event = TaskScheduled(
        timestamp=at(0), event_id=7, name="work", attempt=3, first_attempt=2, heartbeat_details='{"row":5}'
    )
    commit = msgspec.structs.replace(started(with_limits).commits[0], events=(event,))
    (activity,) = effects(commit)
    assert isinstance(activity, CallActivity)
    call = activity.call
    assert (call.attempt, call.first_attempt, call.heartbeat_details) == (3, 2, '{"row":5}')
    assert (call.start_to_close, call.heartbeat_timeout, call.start_by) == (None, None, None)


def test_a_timer_taken_back_is_cleared_where_it_was_set() -> None:
    instance = started(everything)
    assert ClearTimer(3) not in effects(instance.commits[0])
    assert effects(instance.commit(instance.event("go"))) == [ClearTimer(4)]


def test_a_turn_that_only_takes_in_has_no_effects() -> None:
    instance = started(everything)
    assert effects(instance.commit(instance.event("x"), instance.result(0))) == []


@pytest.mark.parametrize("how", ["done", "failed", "terminated"])
def test_the_end_clears_the_timers_and_tells_the_parent(how: str) -> None:
    async def child(context: OrchestrationContext) -> int:
        await context.call_activity("work")
        return 7

    instance = started(child, parent=MOTHER)
    message = (
        instance.terminate("enough")
        if how == "terminated"
        else instance.result(0, failure=DECLINED if how == "failed" else None)
    )
    clear, told, *others = effects(instance.commit(message, after=2))
    assert clear == ClearExecutionTimers()
    assert others == ([cancelled(0)] if how == "terminated" else [])
    assert isinstance(told, Tell)
    result = told.message
    assert isinstance(result, ChildResult)
    assert (result.instance_id, result.execution_id, result.task_scheduled_id) == ("mother", "f" * 32, 5)
    assert result.at == at(2)
    if how == "done":
        assert (result.result, result.failure) == ("7", None)
        return
    assert result.result is None
    assert result.failure is not None
    if how == "failed":
        assert result.failure.inner_failure == DECLINED
    else:
        assert result.failure.error_type == "Terminated"
        assert "enough" in result.failure.error_message
        assert result.failure.is_non_retriable


async def changes_its_mind(context: OrchestrationContext) -> str:
    first, second = context.call_activity("first"), context.call_activity("second")
    context.call_activity("never sent").cancel()
    await context.wait_for_external_event("go")
    first.cancel()
    return str(await second)


@pytest.mark.parametrize("cold", [False, True])
def test_a_cancelled_activity_is_told_so_once_and_its_late_result_means_nothing(*, cold: bool) -> None:
    instance = started(changes_its_mind)
    assert instance.commits[0].tasks_cancelled == (2,)
    called = [effect.call.name for effect in effects(instance.commits[0]) if isinstance(effect, CallActivity)]
    assert called == ["first", "second"]
    if cold:
        instance.forget()
    commit = instance.commit(instance.event("go"))
    assert commit.tasks_cancelled == (0,)
    assert effects(commit) == [cancelled(0)]
    if cold:
        instance.forget()
    late = instance.deliver(instance.result(0, "late"))
    assert (late.commit, late.duplicates, late.unknown) == (None, 1, ())
    end = instance.commit(instance.result(1, "done"))
    assert (end.tasks_cancelled, instance.output) == ((), "done")


def test_an_activity_that_ended_in_the_turn_that_cancels_it_is_not_told() -> None:
    async def races(context: OrchestrationContext) -> None:
        task = context.call_activity("work")
        await context.wait_for_external_event("go")
        task.cancel()
        await context.wait_for_external_event("never")

    instance = started(races)
    commit = instance.commit(instance.event("go"), instance.result(0))
    assert commit.tasks_cancelled == ()


async def gives_up(context: OrchestrationContext) -> str:
    try:
        async with asyncio.timeout(5):
            await context.call_activity("slow")
    except TimeoutError:
        return "too slow"
    return "in time"


def test_a_timeout_cancels_what_it_waited_for() -> None:
    instance = started(gives_up)
    commit = instance.commit(instance.timer(0), after=5)
    assert instance.output == "too slow"
    assert commit.tasks_cancelled == (1,)


@pytest.mark.parametrize("how", ["parked", "suspended"])
def test_what_does_not_run_cancels_nothing_but_by_its_end(how: str) -> None:
    instance = started(changes_its_mind)
    if how == "parked":
        instance.become(None)
    else:
        instance.commit(instance.suspend())
    assert instance.commit(instance.event("go")).tasks_cancelled == ()
    assert instance.commit(instance.terminate()).tasks_cancelled == (0, 1)


def test_an_orphan_tells_nobody() -> None:
    instance = started(everything)
    instance.commit(instance.event("go"))
    cancel = cancelled(0)
    assert effects(instance.commit(instance.event("end"))) == [ClearExecutionTimers(), cancel]


def test_continue_as_new_clears_the_timers_and_goes_on() -> None:
    instance = started(everything, parent=MOTHER)
    instance.commit(instance.event("go"))
    commit = instance.commit(instance.event("end", "again"))
    follow = derived_execution_id("e" * 32, 2, "continued")
    assert effects(commit) == [
        ClearExecutionTimers(),
        Tell(ContinueExecution(instance_id="one", execution_id=follow)),
        cancelled(0),
    ]


def test_termination_reaches_the_child_by_its_execution_with_an_id_of_its_own() -> None:
    instance = started(everything)
    (child,) = instance.children()
    *_, terminate = [e.message for e in effects(instance.commit(instance.terminate("enough"))) if isinstance(e, Tell)]
    assert terminate == Terminate(
        instance_id=child.instance_id,
        message_id=f"{'e' * 32}/terminate/{child.execution_id}",
        at=at(0),
        reason='"enough"',
        recurse=True,
        execution_id=child.execution_id,
        name="small",
    )


def test_ids_of_effects_never_repeat_in_a_history() -> None:
    async def chatty(context: OrchestrationContext, number: int) -> None:
        for _ in range(3):
            context.send_event("other", "ping")
            context.call_activity("work")
        await context.wait_for_external_event("n")
        context.send_event("other", "ping")
        context.continue_as_new(number + 1)

    instance = started(chatty, 0)
    for _ in range(3):
        instance.commit(instance.event("n"))
        instance.commit(instance.go_on())
    ids: list[object] = []
    for commit in instance.commits:
        for effect in effects(commit):
            if isinstance(effect, CallActivity):
                ids.append((effect.call.execution_id, effect.call.task_scheduled_id))
            elif isinstance(effect, Tell) and isinstance(effect.message, RaiseEvent):
                ids.append(effect.message.message_id)
    assert len(ids) == 3 * 7 + 6
    assert len(set(ids)) == len(ids)


def test_a_child_that_could_not_start_is_a_failure_of_the_parent_s_task() -> None:
    instance = started(everything)
    start = effects(instance.commits[0])[1]
    assert isinstance(start, StartChild)
    message = child_failed(start.record, DECLINED)
    assert message is not None
    instance.commit(message)
    assert child_failed(instance.record, DECLINED) is None


# The record


def test_the_projection_of_a_running_instance() -> None:
    instance = started(everything, 1)
    change = projection(instance.commits[0])
    assert (change.instance_id, change.n, change.first, change.runtime_status) == ("one", 0, 0, "Running")
    assert change.execution_id == change.next_execution_id == "e" * 32
    assert (change.begins, change.input, change.completed_time) == (True, "1", None)
    later = projection(instance.commit(instance.event("x"), after=3))
    assert (later.begins, later.last_updated_time, later.n, later.first) == (False, at(3), 1, 0)


def test_the_projection_of_a_continued_instance_names_the_next_execution() -> None:
    instance = started(everything, 1)
    instance.commit(instance.event("go"))
    commit = instance.commit(instance.event("end", "again"))
    change = projection(commit)
    assert (change.execution_id, change.next_execution_id) == ("e" * 32, instance.go_on().execution_id)
    assert (change.generation, change.next_generation, change.first) == (0, 1, 3)
    assert (change.begins, change.input, change.runtime_status) == (True, "8", "Running")
    begun = projection(instance.commit(instance.go_on()))
    assert (begun.generation, begun.first, begun.begins, begun.input) == (1, 3, True, "8")


def test_an_execution_that_begins_suspended_still_shows_its_input() -> None:
    instance = started(everything, 1)
    instance.commit(instance.event("go"))
    suspended = projection(instance.commit(instance.event("end", "again"), instance.suspend()))
    assert suspended.runtime_status == "Suspended"
    begun = projection(instance.commit(instance.go_on()))
    assert (begun.begins, begun.input, begun.runtime_status) == (True, "8", "Suspended")


def test_the_projection_of_an_ended_instance() -> None:
    async def child(context: OrchestrationContext) -> int:
        await context.call_activity("work")
        return 7

    instance = started(child)
    change = projection(instance.commit(instance.result(0), after=1))
    assert (change.runtime_status, change.output, change.completed_time) == ("Completed", "7", at(1))
    instance = started(child)
    change = projection(instance.commit(instance.result(0, failure=DECLINED)))
    assert change.failure is not None
    assert change.output == (
        "\"callboard.errors.TaskFailedError: Activity 'work' (task 0) failed: shop.DeclinedError: card declined\""
    )
    instance = started(child)
    change = projection(instance.commit(instance.terminate({"why": 1})))
    assert (change.runtime_status, change.output, change.failure) == ("Terminated", '{"why":1}', None)


def test_the_projection_of_a_parked_instance() -> None:
    instance = Instance(None)
    change = projection(instance.commit(instance.start()))
    assert change.runtime_status == "Suspended"
    assert change.parked is not None
    instance.become(everything)
    assert projection(instance.commit(instance.wake())).parked is None
