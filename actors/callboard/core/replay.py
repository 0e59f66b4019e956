"""Repeats an execution's past, and compares what its code asks for with what history holds."""

from __future__ import annotations

from collections.abc import Sequence

from callboard.core.actions import Action, describe_event
from callboard.core.events import (
    ActionEvent,
    AnswerReceived,
    EntityLockGranted,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityOperationSignaled,
    EntityUnlockSent,
    EventRaised,
    EventSent,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    InputEvent,
    MessageAnswered,
    MessagePublished,
    MessageReceived,
    MessageSent,
    PatchApplied,
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
from callboard.core.instances import Commit
from callboard.errors import NonDeterminismError

ACTION_EVENTS = (
    TaskScheduled,
    SubOrchestrationInstanceCreated,
    TimerCreated,
    EventSent,
    MessageSent,
    MessageAnswered,
    MessagePublished,
    EntityOperationCalled,
    EntityOperationSignaled,
    EntityLockRequested,
    EntityUnlockSent,
)
INPUT_EVENTS = (
    ExecutionStarted,
    TaskCompleted,
    TaskFailed,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    TimerFired,
    EventRaised,
    MessageReceived,
    AnswerReceived,
    ExecutionSuspended,
    ExecutionResumed,
    ExecutionTerminated,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityLockGranted,
)


#: The same whatever disagrees.
WHAT_TO_DO = (
    "The orchestrator's code was changed, or it decides by something that is not the same on replay (clock, randomness, set order, global "
    "state). Deploy code that asks for the same things in the same order, with changes behind context.patched(…) or as a new version; the "
    "instance then goes on by itself."
)


class Replayed:
    """What replay leaves for the next turn."""

    def __init__(self) -> None:
        self.unfed: list[InputEvent] = []
        """Events in history that the code has not seen: it could not run when they came."""
        self.new_actions: dict[int, Action] = {}
        """Actions that history does not hold: the code was extended at its end. They belong to the next commit."""


def replay(execution: Execution, commits: Sequence[Commit]) -> Replayed:
    """Feeds a history to fresh code.

    Args:
        execution: Just made.
        commits: All of one execution, in order.

    Raises:
        NonDeterminismError: the code asks for something else than history holds; says what and where.
        TurnInterrupted: the watchdog struck.
    """
    replayed = Replayed()
    execution.replaying = True
    execution.recorded_retries = {
        (event.retry_of, event.attempt): event.fire_at
        for commit in commits
        for event in commit.events
        if isinstance(event, TimerCreated) and event.retry_of is not None
    }
    for position, commit in enumerate(commits):
        replayed.unfed.extend(event for event in commit.events if isinstance(event, INPUT_EVENTS))
        if not commit.ran:
            continue
        for event in commit.events:
            if isinstance(event, PatchApplied):
                execution.patches.recorded(event.patch)
        step = execution.advance(commit.at, replayed.unfed, known=len(replayed.unfed))
        replayed.unfed = []
        replayed.new_actions.update((action.id, action) for action in step.actions)
        _compare(execution, commit, step, replayed.new_actions)
        if step.outcome is not None and not commit.terminal and commit.continued is None:
            raise NonDeterminismError(_ended_early(commit, commits[position + 1 :]))
    execution.replaying = False
    execution.recorded_retries.clear()
    execution.asked_at.clear()
    return replayed


def _compare(execution: Execution, commit: Commit, step: Step, asked: dict[int, Action]) -> None:
    if execution.patches.disagreement is not None:
        raise NonDeterminismError(f"{execution.patches.disagreement} (commit {commit.n}).")
    for event in commit.events:
        if isinstance(event, ACTION_EVENTS) and event.event_id >= 0:
            action = asked.pop(event.event_id, None)
            if action is None or not action.matches(event):
                raise NonDeterminismError(_explain(execution, event, action, commit))
    ended = step.outcome is not None
    if not ended and (commit.terminal or commit.continued is not None):
        line = _line("It waits at", execution.waits_at())
        raise NonDeterminismError(f"History ends at commit {commit.n}, but the code goes on there. {WHAT_TO_DO}{line}")
    if not ended:
        _compare_cancelled(execution, commit, step)


def _compare_cancelled(execution: Execution, commit: Commit, step: Step) -> None:
    """What history took back never comes: code that still waits for it would wait for ever."""
    timers = sorted(set(commit.timers_cancelled).difference(step.timers_cancelled))
    tasks = sorted(set(commit.tasks_cancelled).difference(step.tasks_cancelled))
    if timers or tasks:
        what = f"timer {timers[0]}" if timers else f"task {tasks[0]}"
        line = _line("It waits at", execution.waits_at())
        raise NonDeterminismError(
            f"History takes {what} back at commit {commit.n}, the code goes on waiting for it. {WHAT_TO_DO}{line}"
        )


def _explain(execution: Execution, event: ActionEvent, action: Action | None, commit: Commit) -> str:
    if action is None:
        asks, line = "nothing", _line("It waits at", execution.waits_at())
    else:
        asks, line = str(action), _line("It asks at", execution.asked_at.get(action.id))
    return f"History has {describe_event(event)} at {event.event_id} (commit {commit.n}), the code asks for {asks}. {WHAT_TO_DO}{line}"


def _ended_early(commit: Commit, following: Sequence[Commit]) -> str:
    actions = (event for each in following for event in each.events if isinstance(event, ACTION_EVENTS))
    later = next((event for event in actions if event.event_id >= 0), None)
    goes_on = f" with {describe_event(later)} at {later.event_id}" if later is not None else ""
    return f"History goes on after commit {commit.n}{goes_on}, but the code has returned there. {WHAT_TO_DO}"


def _line(what: str, line: str | None) -> str:
    """On a line of its own: what goes to strangers ends before it."""
    return f"\n{what} {line}" if line is not None else ""
