"""How versions compare, which code runs which, and what becomes of an instance that none runs."""

from __future__ import annotations

from typing import Any

import pytest

from callboard.core.context import OrchestrationContext
from callboard.core.effects import projection
from callboard.core.events import ContinuedAsNew, ExecutionStarted
from callboard.core.execution import Unrunnable
from callboard.core.instances import version_of
from callboard.core.versions import Chosen, VersionRule, compare, newest
from tests.core.support import Instance, started


@pytest.mark.parametrize(("older", "newer"), [
    (None, "0"), ("", "0.1"), ("1", "2"), ("1.9", "1.10"), ("1.0", "1.0.1"), ("2.0", "10.0"), ("v1.2", "1.3"),
    ("alpha", "Beta"), ("1.0", "1.0rc1"), ("2026-01", "2026-02"),
])  # fmt: skip
def test_an_older_version_is_less(older: str | None, newer: str) -> None:
    assert compare(older, newer) < 0 < compare(newer, older)


@pytest.mark.parametrize(("one", "other"), [
    (None, ""), (None, None), ("1", "1.0.0"), ("v2", "2"), ("V2.0", "2"), ("Beta", "beta"), ("1.a", "1.A"), ("٣.٠", "3"),
])  # fmt: skip
def test_the_same_version_in_another_spelling_is_equal(one: str | None, other: str | None) -> None:
    assert compare(one, other) == 0 == compare(other, one)


def test_the_newest_of_several() -> None:
    assert newest(["1.9", None, "1.10", "1.2"]) == "1.10"
    assert newest([None]) is None


@pytest.mark.parametrize(("match", "admitted"), [
    ("none", {None, "1.0", "2", "2.0", "3.0"}),
    ("strict", {"2", "2.0"}),
    ("current_or_older", {None, "1.0", "2", "2.0"}),
])  # fmt: skip
def test_the_match_strategy_says_what_code_without_a_version_runs(match: Any, admitted: set[str | None]) -> None:
    rule = VersionRule(default="2.0", match=match)
    assert {version for version in (None, "1.0", "2", "2.0", "3.0") if rule.admits(version)} == admitted


def test_without_a_default_version_only_the_strategies_differ() -> None:
    assert VersionRule().admits("7")
    assert not VersionRule(match="strict").admits("7")
    assert VersionRule(match="strict").admits(None)
    assert not VersionRule(match="current_or_older").admits("7")


def test_code_for_a_version_runs_that_version_whatever_the_strategy() -> None:
    rule = VersionRule(default="3.0", match="strict")
    assert rule.choose([None, "1.0"], "1") == Chosen("1.0")
    assert rule.choose([None, "1.0"], "3.0") == Chosen(None)
    assert rule.choose([None, "1.0"], "2.0") is None
    assert rule.choose(["1.0", "2.0"], None) is None
    assert VersionRule(default="3.0", match="none").choose(["1.0", "2.0"], "3.0") is None
    assert rule.choose([], "3.0") is None


@pytest.mark.parametrize(("default", "registered", "expected"), [
    (None, [], None), ("2.0", [], "2.0"), (None, [None], None), ("2.0", [None, "1.0"], "2.0"),
    ("2.0", ["1.0", "2"], "2.0"), ("2.0", ["1.9", "1.10"], "1.10"), (None, ["1.9", "1.10"], "1.10"), (None, [None, "1.0"], None),
])  # fmt: skip
def test_what_is_started_without_a_version_gets_one_that_there_is_code_for(
    default: str | None, registered: list[str | None], expected: str | None
) -> None:
    assert (
        VersionRule(default=default, match="current_or_older" if default else "none").default_for(registered)
        == expected
    )


# In an instance


async def waits(context: OrchestrationContext) -> Any:
    return await context.wait_for_external_event("end")


def test_an_instance_that_no_code_may_run_fails_where_the_strategy_says_so() -> None:
    instance = Instance(None, version="2.0")
    instance.code = Unrunnable("Only 1.0 is here.", fails=True)
    commit = instance.commit(instance.start(), instance.event("end"))
    failure = instance.completed.failure
    assert failure is not None
    assert (failure.error_type, failure.error_message) == ("VersionMismatch", "Only 1.0 is here.")
    assert failure.is_non_retriable
    assert (commit.runtime_status, commit.ran, commit.parked) == ("Failed", False, None)
    assert projection(commit).failure == failure


def test_one_that_runs_already_fails_too_and_keeps_what_came_in() -> None:
    instance = started(waits)
    instance.code = Unrunnable("Gone.", fails=True)
    instance.forget()
    commit = instance.commit(instance.event("end", 7))
    assert [type(event).__name__ for event in commit.events] == ["EventRaised", "ExecutionCompleted"]


async def upgrades(context: OrchestrationContext, generation: int) -> Any:
    if generation < 2:
        return context.continue_as_new(generation + 1, version=None if generation else "2.0")
    return context.version


def test_continue_as_new_keeps_the_version_or_takes_another() -> None:
    instance = Instance(upgrades, 0, version="1.0")
    commit = instance.commit(instance.start())
    assert isinstance(event := commit.events[-1], ContinuedAsNew)
    assert event.next.version == "2.0"
    assert instance.activation is None, "other code may run it from here: it is loaded anew"
    assert instance.record.version == "2.0"
    instance.commit(instance.go_on())
    assert instance.activation is not None, "the same code goes on"
    instance.commit(instance.go_on())
    assert (instance.output, instance.record.version) == ("2.0", "2.0")


def test_the_version_of_an_execution_is_what_its_history_says() -> None:
    instance = Instance(upgrades, 0, version="1.0", projected=False)
    assert version_of(instance.record, ()) == "1.0"
    instance.commit(instance.start())
    assert version_of(instance.record, instance.commits[-1:]) == "2.0"
    commit = instance.commit(instance.go_on())
    begun = [event for event in commit.events if isinstance(event, ExecutionStarted)]
    assert [event.version for event in begun] == ["2.0"]
    assert version_of(instance.record, [commit]) == "2.0"


async def calls_children(context: OrchestrationContext) -> None:
    context.call_sub_orchestration("child")
    context.call_sub_orchestration("child", version="1.0")
    await context.wait_for_external_event("end")


def test_a_childs_version_is_its_own_and_another_one_later_is_no_contradiction() -> None:
    instance = started(calls_children, version="9")
    assert [child.version for child in instance.children()] == [None, "1.0"]

    async def later(context: OrchestrationContext) -> None:
        context.call_sub_orchestration("child", version="2.0")
        context.call_sub_orchestration("child")
        await context.wait_for_external_event("end")

    instance.become(later)
    assert instance.commit(instance.event("end")).runtime_status == "Completed"
