"""What a message means, in every state an instance can be in."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from callboard.core.events import (
    EventRaised,
    ExecutionResumed,
    ExecutionSuspended,
    ExecutionTerminated,
    ParentInstance,
    SubOrchestrationInstanceCompleted,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from callboard.core.instances import derived_execution_id
from callboard.core.messages import (
    ChildResult,
    ContinueExecution,
    RaiseEvent,
    Resume,
    StartExecution,
    Suspend,
    TaskResult,
    Terminate,
    TimerDue,
    Wake,
    Watch,
)
from callboard.core.state import InstanceState, Verdict
from callboard.core.turn import DEDUPE_RETENTION
from tests.core.support import DECLINED, EPOCH, Instance, at, current_commits, started

if TYPE_CHECKING:
    from collections.abc import Callable

    from callboard.core.context import OrchestrationContext
    from callboard.core.messages import InstanceMessage

EXECUTION = "e" * 32
MOTHER = ParentInstance(instance_id="mother", execution_id="f" * 32, task_scheduled_id=5)
FIRST = derived_execution_id("f" * 32, 5, "child")
UNKNOWN, DUPLICATE, NUDGE = Verdict.UNKNOWN, Verdict.DUPLICATE, Verdict.NUDGE


async def program(context: OrchestrationContext) -> None:
    """Asks for an activity (0), a child (1), a timer (2), a timer taken back (3) and a message (4)."""
    context.call_activity("work")
    context.call_sub_orchestration("small")
    context.create_timer(timedelta(seconds=9))
    context.create_timer(timedelta(seconds=9)).cancel()
    context.send_event("other", "ping")
    how = await context.wait_for_external_event("end", str)
    if how == "again":
        context.continue_as_new()
    if how == "fail":
        raise ValueError


def pending() -> Instance:
    return Instance(program, parent=MOTHER, execution_id=FIRST)


def running() -> Instance:
    return started(program, parent=MOTHER, execution_id=FIRST)


def suspended() -> Instance:
    instance = running()
    instance.commit(instance.suspend("suspend"))
    return instance


def parked() -> Instance:
    instance = Instance(None, parent=MOTHER, execution_id=FIRST)
    instance.commit(instance.start())
    return instance


def continued() -> Instance:
    instance = running()
    instance.commit(instance.event("end", "again", "again"))
    return instance


def second() -> Instance:
    instance = continued()
    instance.commit(instance.go_on())
    return instance


def completed() -> Instance:
    instance = running()
    instance.commit(instance.event("end"))
    return instance


def failed() -> Instance:
    instance = running()
    instance.commit(instance.event("end", "fail"))
    return instance


def terminated() -> Instance:
    instance = running()
    instance.commit(instance.terminate(message_id="terminate"))
    return instance


def judged(instance: Instance, message: InstanceMessage) -> object:
    """The verdict, which must be the same for a state that was folded again from what the store holds."""
    again = InstanceState.fold(instance.record, current_commits(instance.commits))
    verdict = again.judge(message)
    assert instance.loaded().state.judge(message) == verdict
    return verdict if isinstance(verdict, Verdict) else type(verdict)


def task(number: int, execution_id: str = FIRST) -> TaskResult:
    return TaskResult(instance_id="one", execution_id=execution_id, task_scheduled_id=number, at=EPOCH)


def child(number: int, execution_id: str = FIRST) -> ChildResult:
    return ChildResult(instance_id="one", execution_id=execution_id, task_scheduled_id=number, at=EPOCH)


def timer(number: int, execution_id: str = FIRST) -> TimerDue:
    return TimerDue(instance_id="one", execution_id=execution_id, timer_id=number, fire_at=at(9))


def start(execution_id: str = FIRST) -> StartExecution:
    return StartExecution(instance_id="one", execution_id=execution_id)


def follow(execution_id: str = EXECUTION) -> ContinueExecution:
    return ContinueExecution(instance_id="one", execution_id=execution_id)


def terminate(execution_id: str | None = None) -> Terminate:
    return Terminate(instance_id="one", message_id="t", at=EPOCH, execution_id=execution_id, name="program")


EVENT = RaiseEvent(instance_id="one", message_id="r", name="end", at=EPOCH)
SUSPEND = Suspend(instance_id="one", message_id="s", at=EPOCH)
RESUME = Resume(instance_id="one", message_id="u", at=EPOCH)
WAKE = Wake(instance_id="one")
WATCH = Watch(instance_id="one", reply_to="client")

LIVE: list[Callable[[], Instance]] = [pending, running, suspended, continued, second]
ENDED: list[Callable[[], Instance]] = [completed, failed, terminated]


@pytest.mark.parametrize("state", [running, suspended])
@pytest.mark.parametrize(("message", "verdict"), [
    (task(0), TaskCompleted), (child(1), SubOrchestrationInstanceCompleted), (timer(2), TimerFired),
    (timer(3), DUPLICATE),  # taken back
    (task(4), DUPLICATE),  # a message was sent there: nothing answers, and nothing ever will
    (task(5), UNKNOWN),  # not asked for, as far as is known here
    (task(1), UNKNOWN), (timer(0), UNKNOWN), (child(2), UNKNOWN),  # the wrong sort of answer
    (task(0, "x" * 32), UNKNOWN), (timer(2, EXECUTION), UNKNOWN),
])  # fmt: skip
def test_results_are_taken_once_by_who_asked(state: Callable[[], Instance], message: Any, verdict: object) -> None:
    instance = state()
    assert judged(instance, message) is verdict
    if not isinstance(verdict, Verdict):
        instance.commit(message)
        assert judged(instance, message) is DUPLICATE
        instance.forget()
        assert instance.deliver(message).duplicates == 1


@pytest.mark.parametrize("state", [pending, continued, second, parked, *ENDED])
@pytest.mark.parametrize("execution_id", ["x" * 32, EXECUTION])
@pytest.mark.parametrize("result", [task, child, timer])
def test_results_of_unknown_executions_are_never_called_duplicates(
    state: Callable[[], Instance], result: Callable[[int, str], Any], execution_id: str
) -> None:
    assert judged(state(), result(0, execution_id)) is UNKNOWN


@pytest.mark.parametrize("state", [continued, second])
@pytest.mark.parametrize("message", [task(0), child(1), timer(2), start()])
def test_messages_for_the_execution_before_cannot_be_dropped_by_a_cache(
    state: Callable[[], Instance], message: InstanceMessage
) -> None:
    assert judged(state(), message) is UNKNOWN


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("message", [task(0), EVENT, terminate(), terminate(FIRST), SUSPEND, RESUME, follow()])
def test_already_terminal_cannot_drop_a_message_by_a_cache(
    state: Callable[[], Instance], message: InstanceMessage
) -> None:
    assert judged(state(), message) is UNKNOWN


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize(("message", "event"), [
    (EVENT, EventRaised), (SUSPEND, ExecutionSuspended), (RESUME, ExecutionResumed), (terminate(), ExecutionTerminated),
])  # fmt: skip
def test_orders_reach_every_live_state_once(state: Callable[[], Instance], message: Any, event: type) -> None:
    instance = state()
    assert judged(instance, message) is event
    instance.loaded().state.accept(instance.loaded().state.judge(message), EPOCH)  # type: ignore[arg-type]
    assert instance.loaded().state.judge(message) is DUPLICATE


@pytest.mark.parametrize("state", [terminated])
def test_a_consumed_order_is_a_duplicate_for_ever(state: Callable[[], Instance]) -> None:
    assert judged(state(), msgspec.structs.replace(terminate(), message_id="terminate")) is DUPLICATE


@pytest.mark.parametrize(("state", "verdict"), [
    (pending, NUDGE), (running, DUPLICATE), (suspended, DUPLICATE), (parked, DUPLICATE), (continued, UNKNOWN),
    (second, UNKNOWN), (completed, DUPLICATE), (failed, DUPLICATE), (terminated, DUPLICATE),
])  # fmt: skip
def test_a_start_begins_a_pending_instance_only(state: Callable[[], Instance], verdict: Verdict) -> None:
    assert judged(state(), start()) is verdict
    assert judged(state(), start("x" * 32)) is UNKNOWN


def test_a_continuation_begins_the_execution_that_was_announced() -> None:
    instance = continued()
    message = instance.go_on()
    assert judged(instance, message) is NUDGE
    assert judged(instance, follow("x" * 32)) is UNKNOWN
    instance.commit(message)
    assert judged(instance, message) is DUPLICATE
    assert judged(running(), message) is UNKNOWN  # a zombie's view from before


@pytest.mark.parametrize(("state", "verdict"), [
    (pending, NUDGE), (parked, NUDGE), (continued, NUDGE), (running, DUPLICATE), (suspended, DUPLICATE), (completed, DUPLICATE),
])  # fmt: skip
def test_a_wake_up_asks_for_a_turn_where_one_could_help(state: Callable[[], Instance], verdict: Verdict) -> None:
    assert judged(state(), WAKE) is verdict
    assert judged(state(), WATCH) is DUPLICATE


@pytest.mark.parametrize("state", [pending, running, suspended, continued, second])
def test_a_parent_terminates_its_child_by_the_execution_it_started(state: Callable[[], Instance]) -> None:
    assert judged(state(), terminate(FIRST)) is ExecutionTerminated
    assert judged(state(), terminate("x" * 32)) is UNKNOWN


def test_a_failure_is_a_failure() -> None:
    message = msgspec.structs.replace(task(0), failure=DECLINED)
    assert judged(running(), message) is TaskFailed


def test_a_failure_brings_the_progress_with_it() -> None:
    message = msgspec.structs.replace(task(0), failure=DECLINED, heartbeat_details="5")
    event = running().loaded().state.judge(message)
    assert isinstance(event, TaskFailed)
    assert event.heartbeat_details == "5"


def test_a_used_id_starts_its_numbers_where_the_last_execution_ended() -> None:
    instance = Instance(program, head=41)
    state = InstanceState(instance.record)
    assert (state.n, state.first) == (41, 42)
    assert instance.commit(instance.start()).n == 42


@pytest.mark.parametrize("projected", [True, False])
def test_the_first_commit_of_an_execution_is_still_known_after_loading(projected: bool) -> None:
    instance = Instance(program, head=6, projected=projected)
    instance.commit(instance.start())
    for _ in range(3):
        instance.forget()
        instance.commit(instance.event("other"))
    assert [(commit.n, commit.first) for commit in instance.commits] == [(7, 7), (8, 7), (9, 7), (10, 7)]


# Remembered message ids


async def eternal(context: OrchestrationContext) -> None:
    await context.wait_for_external_event("n")
    context.continue_as_new()


def round_trip(instance: Instance, message_id: str, *, after: float = 0) -> None:
    instance.commit(instance.event("n", None, message_id), after=after)
    instance.commit(instance.go_on())


@pytest.mark.parametrize("cut", [False, True])
def test_consumed_messages_are_known_over_many_executions(cut: bool) -> None:
    instance = started(eternal)
    for number in range(4):
        round_trip(instance, f"m{number}")
        if cut:
            instance.forget()
    for number in range(4):
        assert instance.deliver(instance.event("n", None, f"m{number}")).duplicates == 1


def test_remembered_messages_are_bounded_by_the_retention() -> None:
    instance = started(eternal)
    day = DEDUPE_RETENTION.total_seconds()
    for number in range(20):
        round_trip(instance, f"m{number}", after=day / 4)
    assert sorted(instance.loaded().state.seen) == ["m15", "m16", "m17", "m18", "m19"]
    assert instance.deliver(instance.event("n", None, "m16")).duplicates == 1


def test_how_long_a_message_is_remembered_counts_from_its_consumption_not_from_its_sender_s_clock() -> None:
    instance = started(eternal)
    late = msgspec.structs.replace(instance.event("n", None, "late"), at=EPOCH - 3 * DEDUPE_RETENTION)
    instance.commit(late)
    instance.commit(instance.go_on())
    instance.forget()
    assert instance.deliver(late).duplicates == 1


def test_a_carried_event_is_remembered_as_long_as_it_is_carried() -> None:
    async def picks(context: OrchestrationContext) -> None:
        await asyncio.sleep(3 * 86_400)
        context.continue_as_new()

    instance = started(picks)
    event = instance.event("never waited for", None, "old")
    instance.commit(event)
    for _ in range(3):
        instance.commit(instance.timer(0), after=3 * 86_400)
        assert instance.deliver(event).duplicates == 1
        instance.commit(instance.go_on())
        instance.forget()
        assert instance.deliver(event).duplicates == 1
