"""What orchestrations ask of entities: calls, signals, critical sections, and what is left of them when they end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from callboard.core.context import OrchestrationContext
from callboard.core.effects import Tell, derive
from callboard.core.entities import EntityId, Lock, Operation, Position, Unlock
from callboard.core.events import (
    EntityLockGranted,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityUnlockSent,
)
from callboard.core.messages import EntityRequest, InstanceMessage, LockGranted, OperationResult
from callboard.core.state import Verdict
from callboard.errors import EntityOperationFailedError, LockingRulesError, NonDeterminismError
from tests.core.support import DECLINED, EPOCH, PARTITIONS, Instance, at, current_commits, started

A, B, C = EntityId("counter", "a"), EntityId("counter", "b"), EntityId("counter", "c")


class Counter:
    def get(self) -> int:
        return 0


def requests(instance: Instance) -> list[tuple[str, Any]]:
    """What the last commit asks of entities."""
    told = [effect.message for effect in derive(instance.commits[-1], PARTITIONS) if isinstance(effect, Tell)]
    return [(each.instance_id, each.request) for each in told if isinstance(each, EntityRequest)]


def answer(instance: Instance, task_id: int, result: str | None = None, failure: Any = None) -> OperationResult:
    return OperationResult(
        instance_id="one",
        execution_id=instance.execution_id,
        task_scheduled_id=task_id,
        at=instance.now,
        result=result,
        failure=failure,
    )


def grant(instance: Instance, task_id: int) -> LockGranted:
    return LockGranted(
        instance_id="one", execution_id=instance.execution_id, task_scheduled_id=task_id, at=instance.now
    )


def deliver(instance: Instance, *messages: InstanceMessage) -> None:
    """A turn of an instance that was just loaded."""
    instance.forget()
    instance.commit(*messages)


# Calls and signals


async def calls(context: OrchestrationContext) -> list[Any]:
    context.signal_entity(A, "add", 1)
    first = await context.call_entity(A, Counter.get)
    context.signal_entity(A, "add", 2, at=timedelta(seconds=9))
    context.signal_entity(A, "add", 3)
    return [first]


def test_requests_to_one_entity_are_numbered_across_turns() -> None:
    instance = started(calls)
    (_, signal), (_, call) = requests(instance)
    assert signal == Operation(
        line=Position(sender="e" * 32), sent=EPOCH, request_id=f"{'e' * 32}/0", operation="add", input="1"
    )
    assert call.line == Position(sender="e" * 32, number=1, after=EPOCH)
    assert (call.caller.instance_id, call.caller.execution_id, call.caller.task_scheduled_id) == ("one", "e" * 32, 1)
    instance.now = at(5)
    deliver(instance, answer(instance, 1, "7"))
    (_, timed), (_, last) = requests(instance)
    assert (timed.due, timed.line) == (at(14), Position(sender=f"{'e' * 32}/2"))
    assert last.line == Position(sender="e" * 32, number=2, after=EPOCH)
    assert instance.output == [7]


async def fails(context: OrchestrationContext) -> str:
    try:
        await context.call_entity(A, "pay", 5)
    except EntityOperationFailedError as error:
        return f"{error.name}: {error.failure.error_message}"
    return "no"


def test_a_failed_operation_raises_where_it_is_awaited() -> None:
    instance = started(fails)
    deliver(instance, answer(instance, 0, failure=DECLINED))
    assert instance.output == "pay of @counter@a: card declined"


def test_an_answer_is_taken_once_and_only_for_a_call() -> None:
    instance = started(calls)
    assert instance.deliver(grant(instance, 1)).unknown != ()
    assert instance.deliver(answer(instance, 9)).unknown != ()
    deliver(instance, answer(instance, 1, "7"))
    assert instance.loaded().state.judge(answer(instance, 1, "8")) is Verdict.UNKNOWN  # it has ended


def test_a_result_of_another_type_fails_where_it_is_awaited() -> None:
    instance = started(calls)
    instance.commit(answer(instance, 1, '"text"'))
    assert "does not fit int" in instance.failure.error_message


async def rounds(context: OrchestrationContext, number: int | None) -> None:
    number = number or 0
    context.signal_entity(A, "set", number)
    await context.wait_for_external_event("next")
    context.signal_entity(A, "set", number + 0.5)
    context.continue_as_new(number + 1)


def test_order_holds_across_continue_as_new() -> None:
    instance = started(rounds)
    places: list[Position] = [request.line for _, request in requests(instance)]
    for _ in range(3):
        deliver(instance, instance.event("next"))
        places += [request.line for _, request in requests(instance)]
        instance.now += timedelta(seconds=1)
        deliver(instance, instance.go_on())
        places += [request.line for _, request in requests(instance)]
    assert [place.number for place in places] == list(range(7))
    assert {place.sender for place in places} == {"e" * 32}
    assert len({commit.execution_id for commit in instance.commits}) == 4


def test_lines_that_rested_are_not_carried_on() -> None:
    instance = started(rounds)
    instance.now += timedelta(hours=2)
    instance.commit(instance.event("next"))
    instance.commit(instance.go_on(), after=7200)
    instance.commit(instance.event("next"), after=7200)
    instance.commit(instance.go_on())
    (_, request), *_ = requests(instance)
    assert request.line.sender == "e" * 32


async def asks_for_more(context: OrchestrationContext) -> None:
    await context.call_entity(A, "one")
    await context.call_entity(A, "two")


async def asks_for_other(context: OrchestrationContext) -> None:
    await context.call_entity(A, "other")


def test_replay_compares_entity_calls() -> None:
    instance = started(asks_for_more)
    instance.become(asks_for_other)
    commit = instance.commit(answer(instance, 0))
    assert commit.parked is not None
    assert "a call of 'one' of entity '@counter@a'" in commit.parked.reason
    assert "a call of 'other' of entity '@counter@a'" in commit.parked.reason
    assert NonDeterminismError.__name__ not in commit.parked.reason


# Critical sections


async def section(context: OrchestrationContext) -> str:
    async with context.lock_entities(B, A, B):
        assert context.is_locked
        await context.call_entity(A, "x")
        await context.call_entity(B, "y")
    assert not context.is_locked
    return "done"


def test_locks_are_asked_for_one_after_another_in_order_and_given_back() -> None:
    instance = started(section)
    ((target, lock),) = requests(instance)
    assert (target, type(lock)) == ("@counter@a", Lock)
    deliver(instance, grant(instance, 0))
    ((target, lock),) = requests(instance)
    assert (target, type(lock)) == ("@counter@b", Lock)
    deliver(instance, grant(instance, 1))
    assert [(target, request.operation) for target, request in requests(instance)] == [("@counter@a", "x")]
    deliver(instance, answer(instance, 2))
    deliver(instance, answer(instance, 3))
    assert [(target, type(request), request.caller.task_scheduled_id) for target, request in requests(instance)] == [
        ("@counter@a", Unlock, 0), ("@counter@b", Unlock, 1),
    ]  # fmt: skip
    assert instance.output == "done"
    assert [event.event_id for event in instance.history if isinstance(event, EntityUnlockSent)] == [4, 5]


def generator(context: OrchestrationContext) -> Any:
    with (yield context.lock_entities([A, B])):
        yield context.call_entity(A, "x")
    return "done"


def test_generators_have_critical_sections_too() -> None:
    instance = started(generator)
    deliver(instance, grant(instance, 0))
    deliver(instance, grant(instance, 1))
    deliver(instance, answer(instance, 2))
    assert instance.output == "done"
    assert [type(request) for _, request in requests(instance)] == [Unlock, Unlock]


async def fails_inside(context: OrchestrationContext) -> None:
    async with context.lock_entities(A):
        raise ValueError("no")


def test_a_section_that_fails_gives_back() -> None:
    instance = started(fails_inside)
    instance.commit(grant(instance, 0))
    assert instance.status == "Failed"
    assert [type(request) for _, request in requests(instance)] == [Unlock]


async def gives_up(context: OrchestrationContext) -> str:
    try:
        async with asyncio.timeout(10), context.lock_entities(A, B):
            return "locked"
    except TimeoutError:
        return "late"


def test_who_gives_up_waiting_takes_back_what_it_asked_for() -> None:
    instance = started(gives_up)
    instance.commit(grant(instance, 1))
    deliver(instance, instance.timer(0))
    assert instance.output == "late"
    assert [(target, type(request)) for target, request in requests(instance)] == [
        ("@counter@a", Unlock), ("@counter@b", Unlock),
    ]  # fmt: skip


async def waits_inside(context: OrchestrationContext, way: str | None) -> Any:
    async with context.lock_entities(A, B):
        await context.wait_for_external_event("go")


def unlocked(instance: Instance) -> list[str]:
    return [event.instance_id for event in instance.commits[-1].events if isinstance(event, EntityUnlockSent)]


@pytest.mark.parametrize("held", [0, 1, 2])
def test_termination_gives_back_what_was_locked_or_asked_for(held: int) -> None:
    instance = started(waits_inside)
    for task_id in range(held):
        instance.commit(grant(instance, task_id))
    deliver(instance, instance.terminate())
    assert unlocked(instance) == ["@counter@a", "@counter@b"][: held + 1]
    assert [event.event_id for event in instance.commits[-1].events if isinstance(event, EntityUnlockSent)] == (
        [-1] * min(held + 1, 2)
    )
    assert instance.completed is instance.commits[-1].events[-1]
    assert len({request.line for target, request in requests(instance) if target == "@counter@a"}) == 1


async def leaves_it_locked(context: OrchestrationContext, way: str) -> Any:
    section = context.lock_entities(A)
    await section
    if way == "continue" and context.execution_id == "e" * 32:
        return context.continue_as_new(way)
    if way == "fail":
        raise ValueError
    if way == "replace":
        await context.wait_for_external_event("never")
    return way


@pytest.mark.parametrize("way", ["return", "continue", "fail"])
def test_whatever_ends_an_execution_gives_its_locks_back(way: str) -> None:
    instance = started(leaves_it_locked, way)
    deliver(instance, grant(instance, 0))
    assert unlocked(instance) == ["@counter@a"]
    ((_, request),) = requests(instance)
    assert (request.line.number, request.caller.task_scheduled_id) == (1, 0)
    if way == "continue":
        deliver(instance, instance.go_on())
        ((_, request),) = requests(instance)
        assert (type(request), request.line.number) == (Lock, 2)
        deliver(instance, grant(instance, 0))
        assert unlocked(instance) == ["@counter@a"]


def test_a_history_with_an_end_that_the_code_did_not_ask_for_replays() -> None:
    instance = started(leaves_it_locked, "fail")
    instance.commit(grant(instance, 0))
    events = [event for commit in current_commits(instance.commits) for event in commit.events]
    assert [type(event) for event in events if not isinstance(event, EntityOperationCalled)][1:4] == [
        EntityLockRequested, EntityLockGranted, EntityUnlockSent,
    ]  # fmt: skip


# What a section does not allow


async def breaks_rules(context: OrchestrationContext, rule: str) -> Any:
    async with context.lock_entities(A, B):
        match rule:
            case "nested":
                async with context.lock_entities(C):
                    pass
            case "foreign call":
                context.call_entity(C, "x")
            case "two calls":
                context.call_entity(A, "x")
                context.call_entity(A, "x")
            case "signal":
                context.signal_entity(A, "x")
            case "child":
                context.call_sub_orchestration("child")
            case "retried child":
                context.call_sub_orchestration("child", instance_id="c")
            case _:
                with context.lock_entities(C):
                    pass


@pytest.mark.parametrize("rule", ["nested", "foreign call", "two calls", "signal", "child", "retried child", "reentry"])
def test_what_could_wait_for_itself_is_refused(rule: str) -> None:
    instance = started(breaks_rules, rule)
    instance.commit(grant(instance, 0))
    instance.commit(grant(instance, 1))
    assert instance.failure.error_type == "callboard.errors.LockingRulesError"
    assert unlocked(instance) == ["@counter@a", "@counter@b"]


async def keeps_rules(context: OrchestrationContext) -> list[Any]:
    async with context.lock_entities(A, B):
        context.signal_entity(C, "x")
        got: list[Any] = [*await asyncio.gather(context.call_entity(A, "x"), context.call_entity(B, "x"))]
        got.append(await context.call_entity(A, "x"))
    async with context.lock_entities(A):
        pass
    return got


def test_one_call_of_each_at_a_time_is_allowed_and_sections_may_follow_each_other() -> None:
    instance = started(keeps_rules)
    deliver(instance, grant(instance, 0))
    deliver(instance, grant(instance, 1))
    deliver(instance, answer(instance, 3, "1"))
    deliver(instance, answer(instance, 4, "2"))
    deliver(instance, answer(instance, 5, "3"))
    deliver(instance, grant(instance, 8))
    assert instance.output == [1, 2, 3]


async def locks_nothing(context: OrchestrationContext) -> None:
    with pytest.raises(LockingRulesError):
        context.lock_entities()


def test_a_section_needs_an_entity() -> None:
    assert started(locks_nothing).status == "Completed"


def test_a_grant_that_nobody_waits_for_is_kept_in_history_and_ignored() -> None:
    instance = started(gives_up)
    instance.commit(grant(instance, 1), instance.timer(0))
    assert instance.output == "late"
    kinds = [type(event) for event in instance.history]
    assert EntityLockGranted in kinds
    assert EntityOperationCompleted not in kinds
