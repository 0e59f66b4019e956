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
    MessageReceived,
    MessageSent,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from callboard.core.execution import Execution
from callboard.core.instances import Commit
from callboard.errors import NonDeterminismError

ACTION_EVENTS = (
    TaskScheduled,
    SubOrchestrationInstanceCreated,
    TimerCreated,
    EventSent,
    MessageSent,
    MessageAnswered,
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
    for commit in commits:
        replayed.unfed.extend(event for event in commit.events if isinstance(event, INPUT_EVENTS))
        if not commit.ran:
            continue
        step = execution.advance(commit.at, replayed.unfed, known=len(replayed.unfed))
        replayed.unfed = []
        replayed.new_actions.update((action.id, action) for action in step.actions)
        _compare(commit, replayed.new_actions, ended=step.outcome is not None)
    execution.replaying = False
    execution.recorded_retries.clear()
    return replayed


def _compare(commit: Commit, asked: dict[int, Action], *, ended: bool) -> None:
    for event in commit.events:
        if isinstance(event, ACTION_EVENTS) and event.event_id >= 0:
            action = asked.pop(event.event_id, None)
            if action is None or not action.matches(event):
                raise NonDeterminismError(_explain(event, action, commit))
    if ended and not commit.terminal and commit.continued is None:
        raise NonDeterminismError(
            f"History goes on after commit {commit.n}, but the code has already returned there. "
            "Was a call removed from the orchestrator, or a condition changed? Put it back, or start new versions under a new name."
        )
    if not ended and (commit.terminal or commit.continued is not None):
        raise NonDeterminismError(
            f"History ends at commit {commit.n}, but the code goes on there. Was a call added to the orchestrator, or a condition "
            "changed? Take it back, or start new versions under a new name."
        )


def _explain(event: ActionEvent, action: Action | None, commit: Commit) -> str:
    asks = f"the code asks for {action}" if action is not None else "the code asks for nothing"
    return (
        f"History has {describe_event(event)} at {event.event_id} (commit {commit.n}), {asks}. "
        "The orchestrator's code was changed, or it decides by something that is not the same on replay (clock, randomness, "
        "set order, global state). Deploy code that asks for the same things in the same order, then resume the instance."
    )
