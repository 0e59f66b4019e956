"""The checker can fail: a good history passes, and each way to spoil it is noticed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from callboard.core.events import (
    EventRaised,
    ParentInstance,
    SubOrchestrationInstanceCompleted,
    TaskScheduled,
    TimerFired,
)
from callboard.core.instances import Commit, InstanceRecord, derived_execution_id
from callboard.core.messages import ChildResult, InstanceMessage, RaiseEvent, StartExecution, TaskResult, TimerDue
from callboard.core.turn import Activation
from callboard.ports import Quarantined, TimerRow
from callboard.registry import Registry
from tests.chaos import checker
from tests.chaos.checker import Snapshot
from tests.chaos.programs import Done, Ledger, make_app, worth

START = datetime(2026, 1, 1, tzinfo=UTC)
T = TypeVar("T", bound=msgspec.Struct)


def replace(value: T, **changes: Any) -> T:
    return msgspec.structs.replace(value, **changes)


class Run:
    """Turns of one instance, one after another, as a worker would run them."""

    def __init__(self, registry: Registry, record: InstanceRecord) -> None:
        self.record = record
        self.commits: list[Commit] = []
        self._registry = registry
        self._activation = Activation(record, (), registry.orchestrations[record.name], registry)

    def turn(self, *messages: InstanceMessage) -> Commit:
        number = len(self.commits)
        now = START + timedelta(seconds=number)
        turn = self._activation.turn(messages, now=now, token=f"{self.record.instance_id}-{number}")
        assert turn.commit is not None
        self.commits.append(turn.commit)
        return turn.commit

    def finished(self) -> InstanceRecord:
        last = self.commits[-1]
        assert last.completed is not None
        return replace(
            self.record,
            head=last.n,
            runtime_status=last.runtime_status,
            execution_id=last.execution_id,
            output=last.completed.result,
        )


def record_of(name: str, instance_id: str, given: object, **fields: Any) -> InstanceRecord:
    text = msgspec.json.encode(given).decode()
    plain = InstanceRecord(
        instance_id=instance_id, partition=0, execution_id="e" * 32, name=name, input=text, created_time=START, last_updated_time=START
    )  # fmt: skip
    return replace(plain, **fields)


def done(run: Run, task: int, step: int) -> TaskResult:
    seed = 7 if run.record.name == "tally" else 3
    text = msgspec.json.encode(Done(value=worth(seed, step), run=f"run-{step}")).decode()
    execution_id = run.commits[-1].execution_id
    return TaskResult(
        instance_id=run.record.instance_id, execution_id=execution_id, task_scheduled_id=task, at=START, result=text
    )


def raised(run: Run, name: str, number: int) -> RaiseEvent:
    return RaiseEvent(
        instance_id=run.record.instance_id, message_id=f"{name}-{number}", name=name, at=START, input=str(number)
    )


def an_errand(registry: Registry) -> tuple[Run, Run]:
    """An errand and its child, from beginning to end."""
    errand = Run(registry, record_of("errand", "errand-1", {"seed": 3, "nap": 0.5}))
    execution_id = errand.record.execution_id
    errand.turn(StartExecution(instance_id="errand-1", execution_id=execution_id))
    errand.turn(done(errand, 0, 1))
    errand.turn(done(errand, 1, 2), done(errand, 2, 3))
    fired = TimerDue(
        instance_id="errand-1", execution_id=execution_id, timer_id=3, fire_at=START + timedelta(seconds=2.5)
    )
    created = errand.turn(fired).events[-1]
    child_id: str = getattr(created, "instance_id")  # noqa: B009
    child_execution = derived_execution_id(execution_id, 4, "child")
    parent = ParentInstance(instance_id="errand-1", execution_id=execution_id, task_scheduled_id=4)
    child = Run(registry, record_of("detour", child_id, 3, execution_id=child_execution, parent=parent))
    child.turn(StartExecution(instance_id=child_id, execution_id=child_execution))
    child.turn(done(child, 0, 100))
    result = str(worth(3, 100) * 2)
    errand.turn(
        ChildResult(instance_id="errand-1", execution_id=execution_id, task_scheduled_id=4, at=START, result=result)
    )
    errand.turn(raised(errand, "go", 10))
    errand.turn(done(errand, 5, 4))
    errand.turn(done(errand, 6, 5))
    return errand, child


def a_tally(registry: Registry) -> Run:
    """Two rounds of one event each; the second event comes early and is carried over."""
    tally = Run(registry, record_of("tally", "tally-1", {"rounds": 2, "each": 1}))
    tally.turn(StartExecution(instance_id="tally-1", execution_id=tally.record.execution_id))
    tally.turn(raised(tally, "number", 0))
    tally.turn(raised(tally, "number", 1))
    ended = tally.turn(done(tally, 0, 0))
    assert ended.continued is not None
    tally.turn(StartExecution(instance_id="tally-1", execution_id=ended.continued.next.execution_id))
    tally.turn(done(tally, 0, 1))
    return tally


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return make_app("checked", Ledger(tmp_path / "ledger")).registry


@pytest.fixture
def good(registry: Registry) -> Snapshot:
    runs = [*an_errand(registry), a_tally(registry)]
    return Snapshot(
        records={run.record.instance_id: run.finished() for run in runs},
        histories={run.record.instance_id: run.commits for run in runs},
    )


def spoiled(good: Snapshot, instance_id: str, change: Callable[[list[Commit]], None]) -> Snapshot:
    commits = list(good.histories[instance_id])
    change(commits)
    return replace(good, histories={**good.histories, instance_id: commits})


def with_events(commit: Commit, change: Callable[[list[Any]], None]) -> Commit:
    events = list(commit.events)
    change(events)
    return replace(commit, events=tuple(events))


def test_a_good_hub_is_found_good(good: Snapshot, registry: Registry) -> None:
    assert checker.judge(good, registry) == []


def test_a_trimmed_history_is_good(good: Snapshot, registry: Registry) -> None:
    trimmed = spoiled(good, "tally-1", lambda commits: commits.__delitem__(slice(0, 4)))
    assert checker.judge(trimmed, registry) == []
    half = spoiled(good, "tally-1", lambda commits: commits.__delitem__(slice(1, 4)))
    assert checker.judge(half, registry) == []


def _drop(position: int) -> Callable[[list[Commit]], None]:
    return lambda commits: commits.__delitem__(position)


def _twice(position: int) -> Callable[[list[Commit]], None]:
    return lambda commits: commits.insert(position, commits[position])


def _event_again(commits: list[Commit]) -> None:
    """A result that arrives a second time, in a later commit."""
    commits[2] = with_events(commits[2], lambda events: events.insert(0, commits[1].events[0]))


def _event_lost(commits: list[Commit]) -> None:
    commits[2] = with_events(commits[2], lambda events: events.pop(0))


def _early(commits: list[Commit]) -> None:
    commits[3] = replace(commits[3], at=commits[2].at)


def _back_in_time(commits: list[Commit]) -> None:
    commits[4] = replace(commits[4], at=commits[3].at - timedelta(milliseconds=1))


def _other_execution(commits: list[Commit]) -> None:
    commits[3] = replace(commits[3], execution_id="f" * 32)


def _goes_on_after_the_end(commits: list[Commit]) -> None:
    last = commits[-1]
    commits.append(replace(last, n=last.n + 1, token="again", events=()))


def _other_result(commits: list[Commit]) -> None:
    commits[-1] = with_events(commits[-1], lambda events: events.append(replace(events.pop(), result="[]")))


def _other_call(commits: list[Commit]) -> None:
    def change(events: list[Any]) -> None:
        position = next(at for at, event in enumerate(events) if isinstance(event, TaskScheduled))
        events[position] = replace(events[position], name="another")

    commits[0] = with_events(commits[0], change)


def _raised_twice(commits: list[Commit]) -> None:
    event = next(event for event in commits[5].events if isinstance(event, EventRaised))
    commits[6] = with_events(commits[6], lambda events: events.insert(0, event))


def _wrong_kind(commits: list[Commit]) -> None:
    fired = TimerFired(timestamp=START, timer_id=0, fire_at=START)
    commits[1] = with_events(commits[1], lambda events: events.__setitem__(0, fired))


def _token_again(commits: list[Commit]) -> None:
    commits[1] = replace(commits[1], token=commits[0].token)


def _invented_child_result(commits: list[Commit]) -> None:
    def change(events: list[Any]) -> None:
        position = next(at for at, each in enumerate(events) if isinstance(each, SubOrchestrationInstanceCompleted))
        events[position] = replace(events[position], result="1")

    commits[4] = with_events(commits[4], change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop(2), "commits are numbered"),
        (_drop(0), "commits are numbered"),
        (_drop(-1), "the record shows commit"),
        (_twice(2), "commits are numbered"),
        (_event_again, "ended 2 times"),
        (_event_lost, "ended 0 times"),
        (_early, "fired early"),
        (_back_in_time, "before commit"),
        (_other_execution, "another execution"),
        (_goes_on_after_the_end, "is terminal, and others follow"),
        (_other_result, "replay of commit 7 ends with"),
        (_other_call, "replay of commit 0 asks for"),
        (_raised_twice, "was consumed 2 times"),
        (_wrong_kind, "has TimerFired for 0, which is TaskScheduled"),
        (_token_again, "token errand-1-0 was used by 2 commits"),
        (_invented_child_result, "a child's result that the child did not return"),
    ],
)
def test_a_spoiled_history_is_found_out(
    good: Snapshot, registry: Registry, change: Callable[[list[Commit]], None], said: str
) -> None:
    wrong = checker.judge(spoiled(good, "errand-1", change), registry)
    assert any(said in each for each in wrong), wrong


def _carried_event_lost(commits: list[Commit]) -> None:
    def change(events: list[Any]) -> None:
        events[:] = [event for event in events if not isinstance(event, EventRaised)]

    commits[4] = with_events(commits[4], change)


def _begins_twice(commits: list[Commit]) -> None:
    commits[5] = with_events(commits[5], lambda events: events.insert(0, commits[4].events[0]))


def _not_announced(commits: list[Commit]) -> None:
    for position in (4, 5):
        commits[position] = replace(commits[position], execution_id="f" * 32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_carried_event_lost, "lost events that were carried over"),
        (_begins_twice, "starts 1 executions, not 0"),
        (_not_announced, "not the announced"),
        (_drop(4), "commits are numbered"),
    ],
)
def test_a_spoiled_continuation_is_found_out(
    good: Snapshot, registry: Registry, change: Callable[[list[Commit]], None], said: str
) -> None:
    wrong = checker.judge(spoiled(good, "tally-1", change), registry)
    assert any(said in each for each in wrong), wrong


def test_a_record_that_lags_is_found_out(good: Snapshot, registry: Registry) -> None:
    record = good.records["errand-1"]
    for lagging, said in [
        (replace(record, runtime_status="Running"), "is Running"),
        (replace(record, head=record.head - 1), "the record shows commit"),
        (replace(record, output="[]"), "the record's output is"),
    ]:
        wrong = checker.judge(replace(good, records={**good.records, "errand-1": lagging}), registry)
        assert any(said in each for each in wrong), wrong


def test_a_missing_child_is_found_out(good: Snapshot, registry: Registry) -> None:
    alone = {name: record for name, record in good.records.items() if record.name != "detour"}
    wrong = checker.judge(replace(good, records=alone), registry)
    assert any("is missing, or has another parent" in each for each in wrong), wrong


def test_leftovers_are_found_out(good: Snapshot, registry: Registry) -> None:
    row = TimerRow(instance_id="errand-1", execution_id="e" * 32, timer_id=3, partition=0, fire_at=START)
    message = Quarantined(id="1", at=START, source="partition 0", reason="no JSON", body=b"", headers={})
    commit = good.histories["errand-1"][2]
    wrong = checker.judge(replace(good, unsent=[commit], timers=[row], quarantined=[message]), registry)
    assert wrong == [
        "errand-1: commit 2 is not marked sent",
        "errand-1: timer 3 is still there",
        "quarantine holds a message from partition 0: no JSON",
    ]


def test_results_are_traced_to_their_runs(good: Snapshot) -> None:
    ran: dict[tuple[str, int], list[str]] = {}
    for instance_id, commits in good.histories.items():
        for event in (event for commit in commits for event in commit.events if isinstance(event, TaskScheduled)):
            step: int = msgspec.json.decode(event.input or "{}")["step"]
            ran[instance_id, step] = ["another", f"run-{step}"]
    assert checker.check_runs(good, ran) == []
    never = {key: runs for key, runs in ran.items() if key != ("errand-1", 2)}
    assert "errand-1: step 2 never ran" in checker.check_runs(good, never)
    wrong = checker.check_runs(good, {**ran, ("errand-1", 4): ["another"]})
    assert wrong == ["errand-1: the result of step 4 is of run run-4, which nobody ran"]


def test_raised_events_and_results_are_compared(good: Snapshot) -> None:
    assert checker.check_raised(good, {"errand-1": [10], "tally-1": [1, 0]}) == []
    assert checker.check_raised(good, {"errand-1": [10, 11]}) == [
        "errand-1: events [10, 11] were raised, history has [10]"
    ]
    output = msgspec.json.decode(good.records["errand-1"].output or "null")
    assert checker.check_results(good, {"errand-1": output}) == []
    assert len(checker.check_results(good, {"errand-1": [], "errand-2": []})) == 2


def test_raised_events_of_a_trimmed_history_are_counted(good: Snapshot) -> None:
    trimmed = spoiled(good, "tally-1", lambda commits: commits.__delitem__(slice(0, 4)))
    assert checker.check_raised(trimmed, {"tally-1": [0, 1]}) == []
    assert checker.check_raised(trimmed, {"tally-1": [0, 1, 2]}) == [
        "tally-1: 3 events were raised, history knows of 2"
    ]
