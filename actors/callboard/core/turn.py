"""One turn: messages in, one commit out. Decides; never carries anything out.

A turn takes everything that waits for one instance, judges it, feeds what is accepted to the code and puts all that follows
into a single commit. The activation is changed on the way, so a commit that is lost or uncertain costs the activation:
throw it away, load again, judge again.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias

import msgspec

from callboard.core.actions import Action, Completed, Continued, Failed, ScheduleTask
from callboard.core.addressing import addressed
from callboard.core.answers import not_queried
from callboard.core.calls import CallTargets
from callboard.core.codec import JSON, Codec, input_place, moved, next_input_place
from callboard.core.conversation import (
    TurnReply,
    dropped_reply,
    messages_first,
    recorded,
    refusals,
    with_last_answers,
)
from callboard.core.events import (
    TERMINAL,
    ContinuedAsNew,
    EventRaised,
    ExecutionCompleted,
    ExecutionParked,
    ExecutionStarted,
    ExecutionTerminated,
    HistoryEvent,
    InputEvent,
    MessageReceived,
    PatchApplied,
    Payload,
    RuntimeStatus,
    TerminationSent,
)
from callboard.core.execution import Execution, Orchestration, Step, TurnInterrupted, Unrunnable
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord, Parked, ParkedKind, derived_execution_id
from callboard.core.messages import DeliverMessage, InstanceMessage, Query, Resume, Wake
from callboard.core.queries import answered
from callboard.core.replay import replay
from callboard.core.retrying import StrategyFailed
from callboard.core.spans import Span, spans_of
from callboard.core.state import InstanceState, Verdict
from callboard.errors import NonDeterminismError, PayloadRejectedError

#: How long consumed message ids are remembered across ``continue_as_new``.
DEDUPE_RETENTION = timedelta(days=1)

STUCK = (
    "The orchestrator kept its turn running too long and was interrupted. It must only await what its context or asyncio gives it: "
    "move blocking or heavy work into an activity, deploy, and resume the instance. It was at:\n"
)
EXITED = (
    "The orchestrator called sys.exit({!r}), which would end the worker, not the orchestration. Return or raise instead, deploy, and "
    "resume the instance."
)


class Turn(msgspec.Struct, frozen=True):
    """What came of a turn."""

    commit: Commit | None
    """None: there was nothing to record."""
    unknown: tuple[InstanceMessage, ...]
    """Messages that fit nothing known here; to be dropped only after a linearizable read."""
    duplicates: int
    spans: tuple[Span, ...] = ()
    """What the commit brings to its end, if it is traced: to be told of once the commit is durable."""
    replies: tuple[TurnReply, ...] = ()
    """Answers beside the commit: to be sent once it is durable; without one, only after a linearizable read."""
    postponed: tuple[Query, ...] = ()
    """Queries that this activation cannot answer any more: ask the next one."""
    waiting: tuple[DeliverMessage, ...] = ()
    """Asks that are known, and whose answer is still to come: whoever asks again wants to hear it, too."""
    in_vain: bool = False
    """A parked instance was tried again, and there is nothing new to record of it."""


#: What comes of no turn at all.
NOTHING = Turn(None, (), 0)


class Known(Protocol):
    """What the runtime asks of an instance's state."""

    @property
    def instance_id(self) -> str: ...

    @property
    def execution_id(self) -> str: ...

    @property
    def n(self) -> int: ...

    @property
    def terminal(self) -> bool: ...

    @property
    def parked(self) -> Parked | None: ...


#: Asked between the parts of a turn that could be several turns: whether this one should end here.
Pace: TypeAlias = Callable[[], bool]


def unhurried() -> bool:
    """The pace of one who has time."""
    return False


class Decider(Protocol):
    """An instance in memory, and what decides its turns."""

    @property
    def state(self) -> Known: ...

    @property
    def hot(self) -> bool:
        """Whether the next turn goes on where this one stopped. If not, throw it away and load again."""
        ...

    def turn(self, messages: Sequence[InstanceMessage], *, now: datetime, token: str, pace: Pace = ...) -> Turn:
        """Takes messages in the order given. ``now`` is whole milliseconds; ``token`` is random."""
        ...

    def close(self) -> None:
        """Throws it away without running the user's code in a live context."""
        ...


class TurnRules(msgspec.Struct, frozen=True, kw_only=True):
    """What an app wants of its turns."""

    fail_on_nondeterminism: bool = False
    """Whether an instance whose code disagrees with its history fails. Else it is parked."""


class Decision(msgspec.Struct):
    """What a turn adds to the accepted inputs."""

    events: list[HistoryEvent]
    status: RuntimeStatus
    ran: bool = True
    timers_cancelled: tuple[int, ...] = ()
    tasks_cancelled: tuple[int, ...] = ()
    parked: Parked | None = None
    refused: dict[str, FailureDetails] = {}  # msgspec makes each its own
    """Messages that are not to be in history."""
    idle: bool = False
    """Whether the code was given nothing but what it refused."""


class Activation:
    """An orchestration in memory: its state, and its code while that can run. One kind of `Decider`."""

    def __init__(
        self,
        record: InstanceRecord,
        commits: Sequence[Commit],
        orchestration: Orchestration | Unrunnable,
        targets: CallTargets,
        codec: Codec = JSON,
        rules: TurnRules = TurnRules(),  # noqa: B008 - it never changes
    ) -> None:
        self._rules = rules
        self.state = InstanceState.fold(record, commits)
        self.replays = 0
        self._commits: Sequence[Commit] | None = commits
        self._orchestration = orchestration
        self._targets = targets
        self._codec = codec
        self._execution: Execution | None = None
        self._unfed: list[InputEvent] = []
        self._new_actions: tuple[Action, ...] = ()

    def turn(self, messages: Sequence[InstanceMessage], *, now: datetime, token: str, pace: Pace = unhurried) -> Turn:
        """Takes messages in the order given. ``now`` is whole milliseconds; ``token`` is random."""
        state = self.state
        state.closed.clear()
        now = max(now, state.at or now)
        inputs: list[InputEvent] = []
        unknown: list[InstanceMessage] = []
        replies: list[TurnReply] = []
        waiting: list[DeliverMessage] = []
        queries = [message for message in messages if isinstance(message, Query)]
        duplicates, nudged = 0, bool(queries) and state.due(now)
        for message in messages:
            judged = state.judge(message)
            if isinstance(judged, Verdict):
                nudged = nudged or judged is Verdict.NUDGE
                duplicates += judged is Verdict.DUPLICATE
                if judged is Verdict.UNKNOWN:
                    unknown.append(message)
                if isinstance(message, DeliverMessage) and message.asker is not None:
                    told = dropped_reply(state, message, judged)
                    waiting.append(message) if told is None else replies.append(told)
            else:
                inputs.append(judged)
                state.accept(judged, now)
        commit, in_vain = None, False
        if inputs or nudged:
            retry = any(isinstance(message, (Resume, Wake)) for message in messages)
            commit, refused = self._decide(messages_first(inputs), now, token, retry=retry)
            replies.extend(refusals(messages, refused))
            in_vain = retry and commit is None and state.parked is not None
        spans = tuple(spans_of(commit, state)) if commit is not None else ()
        answers, postponed = self._answer(queries, continued=commit is not None and commit.continued is not None)
        everything = (*replies, *answers)
        return Turn(commit, tuple(unknown), duplicates, spans, everything, postponed, tuple(waiting), in_vain)

    @property
    def hot(self) -> bool:
        return self._execution is not None or self._commits is not None

    def close(self) -> None:
        """Throws the activation away without running the user's code in a live context."""
        if self._execution is not None:
            self._execution.close()
            self._execution = None

    def _decide(
        self, inputs: list[InputEvent], now: datetime, token: str, *, retry: bool
    ) -> tuple[Commit | None, dict[str, FailureDetails]]:
        state = self.state
        fresh = len(inputs)
        inputs = [*state.begin(now), *inputs]
        if any(isinstance(event, ExecutionTerminated) for event in inputs):
            decision = self._terminate(inputs, now)
        elif state.parked is not None and not retry and not self._found(state.parked):
            decision = Decision(events=list(inputs), status="Suspended", ran=False, parked=state.parked)
        else:
            decision = self._run(inputs, now, fresh=fresh)
        state.unaccept(decision.refused)
        if not decision.events and not decision.ran and state.parked is not None:
            return None, {}  # asked to try again, and it still cannot run
        if decision.idle and state.parked is None:
            return None, decision.refused
        events = with_last_answers(state, decision.events, now, since=now - DEDUPE_RETENTION)
        commit = Commit(
            instance_id=state.instance_id,
            n=state.n + 1,
            execution_id=state.execution_id,
            first=state.first,
            partition=state.partition,
            token=token,
            at=now,
            ran=decision.ran,
            runtime_status=decision.status,
            custom_status=self._execution.custom_status if self._execution else state.custom_status,
            events=addressed(state, events, now),
            timers_cancelled=decision.timers_cancelled,
            tasks_cancelled=decision.tasks_cancelled,
            start_limits_over=state.start_limits_over(decision.tasks_cancelled),
            parked=decision.parked,
            generation=state.generation,
            awaited_events=self._awaited_events(decision),
            trace=state.span,
        )
        state.apply(commit)
        self._commits = () if self._goes_on(commit) else None
        if commit.terminal or commit.continued is not None:
            self.close()
        return commit, decision.refused

    def _goes_on(self, commit: Commit) -> bool:
        """Whether the same code runs the next execution, of which there are no commits so far."""
        return commit.continued is not None and commit.continued.next.version == self.state.version

    def _awaited_events(self, decision: Decision) -> tuple[str, ...]:
        if decision.status in TERMINAL or (decision.events and isinstance(decision.events[-1], ContinuedAsNew)):
            return ()
        return self._execution.awaited_events() if self._execution and decision.ran else self.state.awaited_events

    def _found(self, parked: Parked) -> bool:
        """Whether all that was missing is there now."""
        return parked.kind == "unrunnable" and not isinstance(self._orchestration, Unrunnable)

    # Running the code

    def _run(self, inputs: list[InputEvent], now: datetime, *, fresh: int) -> Decision:
        if isinstance(self._orchestration, Unrunnable):
            return self._without_code(inputs, now, self._orchestration)
        try:
            execution = self._activate(self._orchestration)
            pending = [*self._unfed, *inputs]
            step = execution.advance(now, pending, known=len(pending) - fresh)
        except NonDeterminismError as error:
            if self._rules.fail_on_nondeterminism:
                return self._fail(inputs, now, "NonDeterminism", str(error))
            return self._park(inputs, now, "nondeterminism", str(error))
        except PayloadRejectedError as error:
            return self._park(inputs, now, "payload", str(error))
        except StrategyFailed as error:
            return self._park(inputs, now, "strategy", str(error))
        except TurnInterrupted as interrupted:
            return self._park(inputs, now, "stuck", STUCK + _place(interrupted))
        except SystemExit as exit_:
            return self._park(inputs, now, "exited", EXITED.format(exit_.code))
        self._unfed = []
        return self._conclude(execution, inputs, pending[step.fed :], step, now)

    def _activate(self, orchestration: Orchestration) -> Execution:
        if self._execution is None:
            self._execution = execution = Execution(self.state.instance_id, orchestration, self._targets, self._codec)
            commits = [commit for commit in self._commits or () if commit.execution_id == self.state.execution_id]
            execution.custom_status = commits[0].custom_status if commits else self.state.custom_status
            if commits:
                self.replays += 1
                replayed = replay(execution, commits)
                self._unfed, self._new_actions = replayed.unfed, tuple(replayed.new_actions.values())
        return self._execution

    def _without_code(self, inputs: list[InputEvent], now: datetime, code: Unrunnable) -> Decision:
        if not code.fails:
            return self._park(inputs, now, "unrunnable", code.reason)
        return self._fail(inputs, now, "VersionMismatch", code.reason)

    def _fail(self, inputs: list[InputEvent], now: datetime, kind: str, reason: str) -> Decision:
        """Ends the instance for want of code that can run it."""
        self.close()
        failure = FailureDetails(error_type=kind, error_message=reason, is_non_retriable=True)
        events: list[HistoryEvent] = [*inputs, self._failed(now, failure)]
        return Decision(events=events, status="Failed", ran=False, tasks_cancelled=self._open_tasks(()))

    def _park(self, inputs: list[InputEvent], now: datetime, kind: ParkedKind, reason: str) -> Decision:
        """Keeps the inputs, in history, for when the code can run again."""
        self.close()
        events: list[HistoryEvent] = list(inputs)
        already = self.state.parked
        if already is None or already.reason != reason or inputs:
            events.append(ExecutionParked(timestamp=now, reason=reason))
        return Decision(events=events, status="Suspended", ran=False, parked=Parked(kind=kind, reason=reason, at=now))

    def _conclude(
        self, execution: Execution, inputs: list[InputEvent], unfed: list[InputEvent], step: Step, now: datetime
    ) -> Decision:
        refused = step.refused
        events = recorded(inputs, refused, step.validated)
        events.extend(PatchApplied(timestamp=now, patch=patch) for patch in step.patches)
        actions = (*self._new_actions, *step.actions)
        self._new_actions = ()
        events.extend(action.to_event(now) for action in actions)
        match step.outcome:
            case None:
                status: RuntimeStatus = "Suspended" if self.state.suspended else "Running"
                timers = step.timers_cancelled
                open_tasks = self._open_tasks(actions) if step.tasks_cancelled else ()
                tasks = tuple(task for task in step.tasks_cancelled if task in open_tasks)
                idle = bool(refused) and len(refused) == step.fed and not (actions or timers or tasks or step.patches)
                return Decision(
                    events=events,
                    status=status,
                    timers_cancelled=timers,
                    tasks_cancelled=tasks,
                    refused=refused,
                    idle=idle,
                )
            case Completed(result=result):
                events.append(self._completed(now, "Completed", result=result))
                return self._ended(Decision(events=events, status="Completed", refused=refused), actions)
            case Failed(failure=failure):
                events.append(self._failed(now, failure))
                return self._ended(Decision(events=events, status="Failed", refused=refused), actions)
            case Continued() as outcome:
                highest = max((action.id for action in actions), default=self.state.highest)
                events.append(self._continued(execution, outcome, unfed, now, event_id=highest + 1))
                status = "Suspended" if self.state.suspended else "Running"
                return self._ended(Decision(events=events, status=status, refused=refused), actions)

    def _ended(self, decision: Decision, actions: Sequence[Action] = ()) -> Decision:
        """What is still under way when an execution ends is waited for by nobody."""
        decision.tasks_cancelled = self._open_tasks(actions)
        return decision

    def _open_tasks(self, actions: Sequence[Action]) -> tuple[int, ...]:
        """Activities without an end, counting those that are called in this turn."""
        called = (action.id for action in actions if isinstance(action, ScheduleTask))
        return tuple(sorted({*self.state.open_tasks(), *called}))

    # Queries

    def _answer(self, queries: Sequence[Query], *, continued: bool) -> tuple[list[TurnReply], tuple[Query, ...]]:
        """Answers from what the code holds now. What has become impossible in this very turn is left to the next activation."""
        replies: list[TurnReply] = []
        for position, query in enumerate(queries):
            if continued or not self.hot:
                return replies, tuple(queries[position:])
            if self.state.start is not None:
                replies.append(TurnReply(query, failure=not_queried("The instance has not begun yet.")))
            else:
                replies.append(self._answer_one(query))
        if self.state.parked is not None:
            self.close()  # what comes while it is parked is not fed to this activation
        return replies, ()

    def _answer_one(self, query: Query) -> TurnReply:
        if isinstance(self._orchestration, Unrunnable):
            return TurnReply(query, failure=not_queried(self._orchestration.reason))
        try:
            execution = self._activate(self._orchestration)
        except (NonDeterminismError, StrategyFailed, TurnInterrupted, SystemExit) as error:
            self.close()
            return TurnReply(query, failure=not_queried(f"The orchestration's code cannot run: {error}"))
        reply = answered(execution, query)
        if execution.meddled:
            self.close()
        return reply

    def _completed(
        self, now: datetime, status: Literal["Completed", "Terminated"], *, result: Payload | None
    ) -> ExecutionCompleted:
        return ExecutionCompleted(timestamp=now, orchestration_status=status, result=result, parent=self.state.parent)

    def _failed(self, now: datetime, failure: FailureDetails) -> ExecutionCompleted:
        parent = self.state.parent
        return ExecutionCompleted(timestamp=now, orchestration_status="Failed", failure=failure, parent=parent)

    def _continued(
        self,
        execution: Execution,
        outcome: Continued,
        unfed: Sequence[InputEvent],
        now: datetime,
        *,
        event_id: int,
    ) -> ContinuedAsNew:
        state = self.state
        execution_id = derived_execution_id(state.execution_id, state.n + 1, "continued")
        handed_on = next_input_place(state.instance_id, state.execution_id)
        value = moved(self._codec, outcome.input, handed_on, input_place(state.instance_id, execution_id))
        late = tuple(event for event in unfed if isinstance(event, EventRaised | MessageReceived))
        return ContinuedAsNew(
            timestamp=now,
            event_id=event_id,
            next=ExecutionStarted(
                timestamp=now,
                name=state.name,
                execution_id=execution_id,
                input=value,
                parent=state.parent,
                version=state.version if outcome.version is None else outcome.version,
                tags=state.tags,
                trace=state.trace,
                generation=state.generation + 1,
                seen=state.recently_seen(now - DEDUPE_RETENTION),
            ),
            carried=execution.unclaimed_events() + late,
            suspended=state.suspended,
        )

    def _terminate(self, inputs: list[InputEvent], now: datetime) -> Decision:
        """Ends the execution without running its code; what came in the same turn stays in history."""
        order = next(event for event in inputs if isinstance(event, ExecutionTerminated))
        events: list[HistoryEvent] = list(inputs)
        if order.recurse:
            events.extend(
                TerminationSent(
                    timestamp=now,
                    instance_id=child.instance_id,
                    execution_id=child.execution_id,
                    name=child.name,
                    reason=order.input,
                )
                for child in self.state.open_children()
            )
        events.append(self._completed(now, "Terminated", result=order.input))
        return self._ended(Decision(events=events, status="Terminated", ran=False))


def _place(interrupted: TurnInterrupted) -> str:
    """Where the code was: what the interrupt says of itself, or the last frames of its traceback."""
    return str(interrupted) or "".join(traceback.format_tb(interrupted.__traceback__)[-3:])
