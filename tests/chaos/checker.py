"""Judges what a hub's store holds after the faults, from outside: it shares the runtime's values, and none of its decisions.

`read` takes a snapshot through the store's port; `judge` names everything in it that breaks an invariant (I1 to I20 of the reliability
reference), each with the instance and the commit. What is replayed is replayed by feeding commits to fresh code, one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from callboard.bodies import restored_all
from callboard.core.actions import Completed, Continued, Failed
from callboard.core.addressing import TO_ENTITY
from callboard.core.events import (
    ActionEvent,
    ContinuedAsNew,
    EntityLockGranted,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    InputEvent,
    MessageReceived,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from callboard.core.execution import Execution, Step
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.replay import ACTION_EVENTS, INPUT_EVENTS
from callboard.ports import Claim, InstanceFilter, Quarantined, Store, TimerRow
from callboard.registry import Registry

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
MOST = 100_000

#: Which events end what; each action must be ended by one of its own kind.
ENDS: dict[type[HistoryEvent], tuple[type[HistoryEvent], ...]] = {
    TaskScheduled: (TaskCompleted, TaskFailed),
    TimerCreated: (TimerFired,),
    SubOrchestrationInstanceCreated: (SubOrchestrationInstanceCompleted, SubOrchestrationInstanceFailed),
    EntityOperationCalled: (EntityOperationCompleted, EntityOperationFailed),
    EntityLockRequested: (EntityLockGranted,),
}


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that a hub's store holds."""

    records: dict[str, InstanceRecord]
    histories: dict[str, list[Commit]]
    unsent: list[Commit] = []
    timers: list[TimerRow] = []
    claims: list[Claim] = []
    quarantined: list[Quarantined] = []


async def read(store: Store, partitions: int) -> Snapshot:
    """Reads everything, through the store's port."""
    numbers = list(range(partitions))
    records: dict[str, InstanceRecord] = {}
    continuation: str | None = None
    while True:
        page = await store.query(InstanceFilter(), limit=1000, continuation=continuation)
        records.update((record.instance_id, record) for record in page.records)
        continuation = page.continuation
        if continuation is None:
            break
    return Snapshot(
        records=records,
        histories={known: await restored_all(store, await store.history(known)) for known in records},
        unsent=await store.unsent(numbers, before=FOREVER, limit=MOST),
        timers=await store.due_timers(numbers, until=FOREVER, limit=MOST),
        claims=await store.expired_claims(numbers, MOST),
        quarantined=await store.quarantined(MOST),
    )


def judge(snapshot: Snapshot, registry: Registry) -> list[str]:
    """Everything that is wrong with a hub where all is over and done. An empty list is the only good answer."""
    wrong: list[str] = []
    for instance_id, record in sorted(snapshot.records.items()):
        commits = snapshot.histories.get(instance_id, [])
        found = [
            *check_numbers(commits),
            *check_executions(commits),
            *check_ends(commits),
            *check_clock(commits),
            *check_messages(commits),
            *check_record(record, commits),
            *check_replay(commits, registry),
        ]
        wrong.extend(f"{instance_id}: {each}" for each in found)
    wrong.extend(check_children(snapshot))
    wrong.extend(check_leftovers(snapshot))
    return wrong


# --- One history ------------------------------------------------------------------------------------------------------


def check_numbers(commits: Sequence[Commit]) -> Iterator[str]:
    """I1: n = 0..k, each once; I13: nothing follows the end.

    Executions that were continued as new may have been trimmed: of those, any commit may be missing.
    """
    numbers = [commit.n for commit in commits]
    first = _first_of_last(commits)
    current = [number for number in numbers if number >= first]
    if numbers != sorted(set(numbers)) or current != list(range(first, first + len(current))):
        yield f"commits are numbered {numbers}, not {first} to {first + len(current) - 1}"
    for commit in commits[:-1]:
        if commit.terminal:
            yield f"commit {commit.n} is terminal, and others follow"
    tokens = Counter(commit.token for commit in commits)
    for token, times in tokens.items():
        if times > 1:
            yield f"token {token} was used by {times} commits"


def check_executions(commits: Sequence[Commit]) -> Iterator[str]:
    """Each execution begins with its start, once, and only a ``ContinuedAsNew`` begins the next (I17)."""
    announced: ExecutionStarted | None = None
    carried: Sequence[EventRaised | MessageReceived] = ()
    previous: Commit | None = None
    for commit in (commit for execution in by_execution(commits) for commit in execution):
        if previous is not None and previous.n + 1 != commit.n:  # what was in between is trimmed
            previous, announced, carried = None, None, ()
        started = [event for event in commit.events if isinstance(event, ExecutionStarted)]
        begins = previous is None or previous.continued is not None
        if len(started) != begins:
            yield f"commit {commit.n} starts {len(started)} executions, not {int(begins)}"
        if commit.first != (commit.n if begins or previous is None else previous.first):
            yield f"commit {commit.n} says that its execution begins at {commit.first}"
        if previous is not None and not begins and commit.execution_id != previous.execution_id:
            yield f"commit {commit.n} belongs to another execution, and none was announced"
        if begins and announced is not None:
            if commit.execution_id != announced.execution_id:
                yield f"commit {commit.n} begins execution {commit.execution_id}, not the announced {announced.execution_id}"
            taken = (event for event in commit.events if isinstance(event, EventRaised | MessageReceived))
            if [event.message_id for event in taken][: len(carried)] != [event.message_id for event in carried]:
                yield f"commit {commit.n} lost events that were carried over"
        continued = commit.continued
        announced, carried = (continued.next, continued.carried) if continued else (None, ())
        previous = commit


def check_ends(commits: Sequence[Commit]) -> Iterator[str]:
    """I3: every call has exactly one end, of its kind, after it; no end is without its call."""
    for execution in by_execution(commits):
        actions: dict[int, HistoryEvent] = {}
        ended: Counter[int] = Counter()
        for commit in execution:
            for event in commit.events:
                if isinstance(event, tuple(ENDS)):
                    number: int = getattr(event, "event_id")  # noqa: B009 - all of these have one
                    if number in actions:
                        yield f"commit {commit.n} asks for number {number} a second time"
                    actions[number] = event
                elif (ending := _number_ended(event)) is not None:
                    action = actions.get(ending)
                    if action is None or not isinstance(event, ENDS[type(action)]):
                        yield f"commit {commit.n} has {type(event).__name__} for {ending}, which is {type(action).__name__}"
                    ended[ending] += 1
            ended.update(number for number in (*commit.timers_cancelled, *commit.tasks_cancelled) if number in actions)
        killed = execution[-1].runtime_status == "Terminated"
        for number, action in actions.items():
            if ended[number] > 1 or not (ended[number] or killed):
                yield f"{type(action).__name__} {number} of execution {execution[0].execution_id} ended {ended[number]} times"


def check_clock(commits: Sequence[Commit]) -> Iterator[str]:
    """I6: no timer fired early; I14: time does not run backwards."""
    due: dict[tuple[str, int], datetime] = {}
    for before, commit in zip([None, *commits], commits, strict=False):
        if before is not None and commit.at < before.at:
            yield f"commit {commit.n} is of {commit.at}, before commit {before.n} of {before.at}"
        for event in commit.events:
            if isinstance(event, TimerCreated):
                due[commit.execution_id, event.event_id] = event.fire_at
            elif isinstance(event, TimerFired) and commit.at < due.get(
                (commit.execution_id, event.timer_id), commit.at
            ):
                yield f"timer {event.timer_id} fired early, in commit {commit.n}"


def check_messages(commits: Sequence[Commit]) -> Iterator[str]:
    """I7: a message is consumed once; one that is carried over appears again in the next execution, and once there."""
    kept = [commit for execution in by_execution(commits) for commit in execution]
    consumed = Counter(event.message_id for event in _events(kept) if isinstance(event, EventRaised | MessageReceived))
    for event in _events(kept):
        if isinstance(event, ContinuedAsNew):
            consumed.subtract(carried.message_id for carried in event.carried)
    for message_id, times in consumed.items():
        if times != 1:
            yield f"message {message_id} was consumed {times} times"


def check_record(record: InstanceRecord, commits: Sequence[Commit]) -> Iterator[str]:
    """I10: the record shows what the last commit says; I20: it is over."""
    if not record.terminal:
        yield f"is {record.runtime_status}"
    if not commits:
        yield "has no history"
        return
    last = commits[-1]
    if (
        record.head != last.n
        or record.runtime_status != last.runtime_status
        or record.execution_id != last.execution_id
    ):
        yield (
            f"the record shows commit {record.head}, {record.runtime_status}, of {record.execution_id}; the last is commit {last.n}, "
            f"{last.runtime_status}, of {last.execution_id}"
        )
    completed = last.completed
    if record.terminal and completed is None:
        yield "is over, but its last commit does not end it"
    elif completed is not None and completed.failure is None and record.output != completed.result:
        yield f"the record's output is {record.output}, its history's {completed.result}"


# --- Replay -----------------------------------------------------------------------------------------------------------


def check_replay(commits: Sequence[Commit], registry: Registry) -> Iterator[str]:
    """I2: fresh code, fed this history, asks for the same things at the same places and ends in the same way."""
    for execution in by_execution(commits):
        started = next((event for event in _events(execution) if isinstance(event, ExecutionStarted)), None)
        if started is None or started.name not in registry.orchestrations:
            yield f"execution {execution[0].execution_id} cannot be replayed"
            continue
        code = Execution(execution[0].instance_id, registry.orchestrations[started.name], registry)
        try:
            yield from _compare(code, execution)
        finally:
            code.close()


def _compare(code: Execution, execution: Sequence[Commit]) -> Iterator[str]:
    waiting: list[InputEvent] = []
    code.replaying = True
    for commit in execution:
        waiting.extend(event for event in commit.events if isinstance(event, INPUT_EVENTS))
        if not commit.ran:
            continue
        step = code.advance(commit.at, waiting, known=len(waiting))
        waiting = []
        asked = [action.to_event(commit.at) for action in step.actions]
        recorded = [
            _as_asked(event) for event in commit.events if isinstance(event, ACTION_EVENTS) and event.event_id >= 0
        ]
        if asked != recorded:
            yield f"replay of commit {commit.n} asks for {asked}, history has {recorded}"
        if step.timers_cancelled != commit.timers_cancelled:
            yield f"replay of commit {commit.n} cancels timers {step.timers_cancelled}, history {commit.timers_cancelled}"
        if _ending(step) != _recorded_ending(commit):
            yield f"replay of commit {commit.n} ends with {_ending(step)}, history with {_recorded_ending(commit)}"


def _as_asked(event: ActionEvent) -> ActionEvent:
    """A request's position in its line is the commit's affair, not the code's."""
    return msgspec.structs.replace(event, line=None) if isinstance(event, TO_ENTITY) else event


def _ending(step: Step) -> tuple[str, Any] | None:
    match step.outcome:
        case None:
            return None
        case Completed(result=result):
            return "Completed", result
        case Failed(failure=failure):
            return "Failed", (failure.error_type, failure.error_message)
        case Continued(input=value):
            return "Continued", value


def _recorded_ending(commit: Commit) -> tuple[str, Any] | None:
    match commit.events[-1] if commit.events else None:
        case ContinuedAsNew(next=following):
            return "Continued", following.input
        case ExecutionCompleted(orchestration_status="Completed", result=result):
            return "Completed", result
        case ExecutionCompleted(orchestration_status="Failed", failure=failure) if failure is not None:
            return "Failed", (failure.error_type, failure.error_message)
        case _:
            return None


# --- Between instances ------------------------------------------------------------------------------------------------


def check_children(snapshot: Snapshot) -> Iterator[str]:
    """I11: a parent gets its child's own result, and knows the child it gets it from."""
    for instance_id, commits in sorted(snapshot.histories.items()):
        created: dict[tuple[str, int], SubOrchestrationInstanceCreated] = {}
        for commit in commits:
            for event in commit.events:
                if isinstance(event, SubOrchestrationInstanceCreated):
                    created[commit.execution_id, event.event_id] = event
                elif isinstance(event, SubOrchestrationInstanceCompleted):
                    child = created.get((commit.execution_id, event.task_scheduled_id))
                    ended = snapshot.histories.get(child.instance_id if child else "", [])
                    result = ended[-1].completed if ended else None
                    if result is None or result.result != event.result:
                        yield f"{instance_id}: commit {commit.n} has a child's result that the child did not return"
        for event in created.values():
            record = snapshot.records.get(event.instance_id)
            if record is None or record.parent is None or record.parent.instance_id != instance_id:
                yield f"{instance_id}: its child {event.instance_id} is missing, or has another parent"


def check_leftovers(snapshot: Snapshot) -> Iterator[str]:
    """I5: every effect is confirmed, and nothing is left that would still do something."""
    for commit in snapshot.unsent:
        yield f"{commit.instance_id}: commit {commit.n} is not marked sent"
    for timer in snapshot.timers:
        yield f"{timer.instance_id}: timer {timer.timer_id} is still there"
    for claim in snapshot.claims:
        yield f"{claim.call.instance_id}: the claim on {claim.call.task_scheduled_id} is still there"
    for message in snapshot.quarantined:
        yield f"quarantine holds a message from {message.source}: {message.reason}"


def check_runs(snapshot: Snapshot, runs: Mapping[tuple[str, int], Sequence[str]]) -> list[str]:
    """Every activity ran at least once, and its result in history is that of one of its runs.

    Args:
        snapshot: Of a hub whose activities are those of `tests.chaos.programs`.
        runs: What the ledger says, by instance and step.
    """
    wrong: list[str] = []
    for instance_id, commits in sorted(snapshot.histories.items()):
        asked: dict[tuple[str, int], int] = {}
        kept = {commit.n for commit in commits}
        for commit in commits:
            if commit.first not in kept:
                continue  # what is left of an execution that was trimmed, until it is trimmed again: the calls are gone
            for event in commit.events:
                if isinstance(event, TaskScheduled):
                    asked[commit.execution_id, event.event_id] = msgspec.json.decode(event.input or "{}")["step"]
                elif isinstance(event, TaskCompleted):
                    step = asked.get((commit.execution_id, event.task_scheduled_id), -1)
                    run = msgspec.json.decode(event.result or "{}").get("run")
                    if run not in runs.get((instance_id, step), ()):
                        wrong.append(f"{instance_id}: the result of step {step} is of run {run}, which nobody ran")
        wrong.extend(
            f"{instance_id}: step {step} never ran" for step in asked.values() if not runs.get((instance_id, step))
        )
    return wrong


def check_raised(snapshot: Snapshot, raised: Mapping[str, Sequence[int]]) -> list[str]:
    """I8: every event whose raising was confirmed is in its instance's history, once.

    Args:
        snapshot: Of the hub.
        raised: The data of the events that were raised, by instance.
    """
    wrong: list[str] = []
    for instance_id, expected in sorted(raised.items()):
        commits = snapshot.histories.get(instance_id, [])
        found = {event.message_id: event.input for event in _events(commits) if isinstance(event, EventRaised)}
        if commits and len(commits) <= commits[-1].n:  # trimmed: what was consumed before is known by its id
            started = (event for event in _events(commits) if isinstance(event, ExecutionStarted))
            known = found.keys() | {seen.message_id for event in started for seen in event.seen}
            if len(known) != len(expected):
                wrong.append(f"{instance_id}: {len(expected)} events were raised, history knows of {len(known)}")
            continue
        got = Counter(msgspec.json.decode(data or "null") for data in found.values())
        if got != Counter(expected):
            wrong.append(f"{instance_id}: events {sorted(expected)} were raised, history has {sorted(got.elements())}")
    return wrong


def check_results(snapshot: Snapshot, results: Mapping[str, object]) -> list[str]:
    """Every instance that was started is there, and returned what it must."""
    wrong: list[str] = []
    for instance_id, expected in sorted(results.items()):
        record = snapshot.records.get(instance_id)
        output = msgspec.json.decode(record.output or "null") if record else None
        if record is None or record.runtime_status != "Completed" or output != expected:
            wrong.append(
                f"{instance_id}: returned {output!r} ({record.runtime_status if record else 'missing'}), not {expected!r}"
            )
    return wrong


# --- Reading ----------------------------------------------------------------------------------------------------------


def by_execution(commits: Sequence[Commit]) -> list[list[Commit]]:
    """The executions that are there as a whole, and the last one in any case: of the others, some commits may have been trimmed."""
    first = _first_of_last(commits)
    current = [commit for commit in commits if commit.n >= first]
    earlier: dict[int, list[Commit]] = defaultdict(list)
    for commit in commits:
        if commit.n < first:
            earlier[commit.first].append(commit)
    whole = [each for each in earlier.values() if each[-1].continued and len(each) == each[-1].n - each[0].first + 1]
    return [*whole, current] if current else whole


def _first_of_last(commits: Sequence[Commit]) -> int:
    return commits[-1].first if commits and commits[-1].generation else 0


def _events(commits: Sequence[Commit]) -> Iterator[HistoryEvent]:
    for commit in commits:
        yield from commit.events


def _number_ended(event: HistoryEvent) -> int | None:
    match event:
        case TaskCompleted() | TaskFailed() | SubOrchestrationInstanceCompleted() | SubOrchestrationInstanceFailed():
            return event.task_scheduled_id
        case EntityOperationCompleted() | EntityOperationFailed() | EntityLockGranted():
            return event.task_scheduled_id
        case TimerFired():
            return event.timer_id
        case _:
            return None
