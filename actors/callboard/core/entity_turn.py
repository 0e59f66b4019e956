"""One turn of an entity: requests in, operations carried out, one commit out.

The operations of a turn are carried out one after another, each on the state that the one before it left; one that raises leaves it as
it was, and what it sent is not sent. A turn ends early when it has gone on for long enough, or has much to commit: the requests that
are left are kept, and a message to the entity itself (`EntityYielded`) has the next turn go on.

An operation that awaits something must not hold up the turns of other instances. The turn stops before it; the next one, in which it is
carried out, runs beside them (`slow`).
"""

from __future__ import annotations

import traceback
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from callboard.core.codec import JSON, Codec, operation_place
from callboard.core.entities import Lock, Operation, Position, Request
from callboard.core.entity_context import (
    EntityCode,
    EntityContext,
    NewOrchestration,
    Signal,
    Targets,
    UnreadableStateError,
)
from callboard.core.entity_state import EntityState, event_size
from callboard.core.events import (
    EntityLocked,
    EntityOperationProcessed,
    EntityOperationSignaled,
    EntityRequestReceived,
    EntityYielded,
    ExecutionCompleted,
    ExecutionParked,
    HistoryEvent,
    NewOrchestrationStarted,
    Payload,
    RuntimeStatus,
)
from callboard.core.execution import TurnInterrupted
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord, Parked, sent_message_id
from callboard.core.messages import InstanceMessage
from callboard.core.references import is_reference
from callboard.core.state import Verdict
from callboard.core.turn import Pace, Turn, unhurried
from callboard.errors import CallboardError, PayloadRejectedError, TamperedPayloadError

#: Size of a memory that every commit carries whole, in bytes.
SMALL_MEMORY = 4_096
#: Most commits in a row that carry only what has changed in the memory.
MOST_DELTAS = 100
#: Size of what operations brought about from which on a turn carries out no further one, in bytes.
MOST_BYTES = 1_048_576
#: For how many operations ahead large inputs are fetched.
MOST_NEEDED = 16
#: Estimated memory of an entity without its state, in bytes.
BARE_SIZE = 4_096
#: Longest message of a failure that is shown with the entity, in characters.
SHOWN_MESSAGE = 500

STUCK = (
    "The operation kept its turn running too long and was interrupted. Make it `async def` if it waits for something, or start an "
    "orchestration that does the work. It was at:\n"
)


class EntityActivation:
    """An entity in memory: its state, and its code if this worker knows it. One kind of `callboard.core.turn.Decider`."""

    def __init__(
        self,
        record: InstanceRecord,
        commits: Sequence[Commit],
        code: EntityCode | None,
        targets: Targets,
        codec: Codec = JSON,
        *,
        stuck: str | None = None,
    ) -> None:
        """Loads an entity.

        Args:
            record: Not terminal.
            commits: The last one that has the memory whole, and those that followed.
            code: None: not known here.
            targets: Resolves orchestrations that operations start.
            codec: Opens and seals values.
            stuck: Where an operation hung that could not be interrupted.
        """
        self.state = EntityState.fold(record, commits)
        self._code = code
        self._targets = targets
        self._codec = codec
        self._stuck = stuck
        self._values: dict[Payload, Payload] = {}
        """Large inputs of the next operations, by the references to them."""

    @property
    def hot(self) -> bool:
        return True

    @property
    def size(self) -> int:
        """Estimated memory, in bytes."""
        return BARE_SIZE + 2 * len(self.state.value or "") + self.state.memory_size

    @property
    def slow(self) -> bool:
        """Whether the next operation awaits something: then use `slow_turn`, in the event loop."""
        return self._is_slow(self.state.next_request())

    def needs(self) -> list[Payload]:
        """References to large inputs that the next operations need and that are not at hand."""
        coming = (_payload(request) for request in self.state.upcoming(MOST_NEEDED))
        return [payload for payload in coming if is_reference(payload) and payload not in self._values]

    def supply(self, values: Mapping[Payload, Payload | None]) -> None:
        """Large inputs by the references to them; one that could not be had is a reference still."""
        self._values.update((reference, value or reference) for reference, value in values.items())

    def turn(self, messages: Sequence[InstanceMessage], *, now: datetime, token: str, pace: Pace = unhurried) -> Turn:
        """Takes messages in the order given, and carries out operations until one awaits something."""
        return _at_once(self._turn(messages, now, token, pace, slow=False))

    async def slow_turn(
        self, messages: Sequence[InstanceMessage], *, now: datetime, token: str, pace: Pace = unhurried
    ) -> Turn:
        """Takes messages in the order given, and carries out operations that await something until one does not."""
        return await self._turn(messages, now, token, pace, slow=True)

    def close(self) -> None:
        """Nothing of the user's is left between turns."""

    async def _turn(
        self, messages: Sequence[InstanceMessage], now: datetime, token: str, pace: Pace, *, slow: bool
    ) -> Turn:
        state = self.state
        now = max(now, state.at or now)
        progress = _Progress(self.state, now, self._codec)
        unknown: list[InstanceMessage] = []
        duplicates, nudged = 0, False
        for message in messages:
            judged = state.judge(message, now)
            if judged is Verdict.UNKNOWN:
                unknown.append(message)
            elif judged is Verdict.DUPLICATE:
                duplicates += 1
            elif judged is Verdict.NUDGE:
                nudged = True
            else:
                progress.add(judged)
        commit = None
        if progress.events or nudged or slow:
            commit = await self._decide(progress, token, pace, nudged=nudged, slow=slow)
        in_vain = nudged and commit is None and state.parked is not None
        return Turn(commit, tuple(unknown), duplicates, in_vain=in_vain)

    async def _decide(self, progress: _Progress, token: str, pace: Pace, *, nudged: bool, slow: bool) -> Commit | None:
        parked = self.state.parked
        found = parked is not None and parked.kind == "unrunnable" and self._code is not None
        if parked is None or nudged or found:
            trouble = self._trouble(progress.now) or await self._carry_out(progress, pace, slow=slow)
            parked = self._parked(progress, trouble) if trouble else None
        if not progress.events:
            return None
        status: RuntimeStatus = "Running" if parked is None else "Suspended"
        if parked is None and self._may_end(progress.now):
            progress.add(ExecutionCompleted(timestamp=progress.now, orchestration_status="Completed"))
            status = "Completed"
        return self._commit(progress, token, status, parked)

    def _trouble(self, now: datetime) -> Parked | None:
        """Why no operation can be carried out."""
        if self._stuck is not None:
            place, self._stuck = self._stuck, None
            return Parked(reason=STUCK + place, at=now, kind="stuck")
        if self._code is None and self.state.next_request() is not None:
            return Parked(
                reason=f"No worker that is alive knows the entity {self.state.entity_id.name!r}. Deploy one that registers it; the entity "
                "then goes on by itself.",
                at=now,
            )
        return None

    def _parked(self, progress: _Progress, trouble: Parked) -> Parked:
        already = self.state.parked
        if already is not None and already.reason == trouble.reason and not progress.events:
            return already
        progress.add(ExecutionParked(timestamp=progress.now, reason=trouble.reason))
        return trouble

    def _may_end(self, now: datetime) -> bool:
        state = self.state
        if state.clean_up is None or not state.is_empty:
            return False
        return state.last_operation is None or (now - state.last_operation).total_seconds() >= state.clean_up

    # Carrying out

    async def _carry_out(self, progress: _Progress, pace: Pace, *, slow: bool) -> Parked | None:
        """Carries out what waits, in order; returns why it cannot go on, if it cannot."""
        first = True
        while (request := self.state.next_request()) is not None:
            if isinstance(request, Lock):
                progress.add(EntityLocked(timestamp=progress.now, caller=request.caller))
                continue
            assert isinstance(request, Operation)
            missing = is_reference(payload := _payload(request)) and payload not in self._values
            enough = not first and (pace() or progress.produced > MOST_BYTES)
            if missing or enough or self._is_slow(request) != slow:
                progress.add(EntityYielded(timestamp=progress.now))
                return None
            first = False
            try:
                await self._operate(request, progress)
            except UnreadableStateError as error:
                return Parked(
                    reason=f"{error} Deploy code that reads it, or repair it.", at=progress.now, kind="payload"
                )
            except PayloadRejectedError as error:
                return Parked(reason=str(error), at=progress.now, kind="payload")
        return None

    async def _operate(self, request: Operation, progress: _Progress) -> None:
        state, code = self.state, self._code
        assert code is not None
        whole, refused = self._whole(request)
        if refused is not None:
            progress.processed(request, None, refused)
            return
        context = EntityContext(
            state.entity_id,
            whole,
            state.value,
            now=progress.now,
            execution_id=state.execution_id,
            numbers=state.numbers,
            targets=self._targets,
            codec=self._codec,
            codec_name=code.codec,
        )
        failure: FailureDetails | None = None
        result: str | None = None
        try:
            await code.run(context)
            done = context.outcome()
        except UnreadableStateError:
            raise
        except TamperedPayloadError as error:
            failure = FailureDetails.from_exception(error)
        except PayloadRejectedError:
            raise
        except TurnInterrupted as interrupted:
            failure = _stuck(interrupted)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it was, it belongs to the operation
            failure = FailureDetails.from_exception(error)
        else:
            state.value, result = done.state, done.result
            for started in done.started:
                progress.start(started, request)
            for signal in done.signals:
                progress.signal(signal, request)
        finally:
            context.close()
        progress.processed(request, result, failure)

    def _whole(self, request: Operation) -> tuple[Operation, FailureDetails | None]:
        """The request with its input, or why it cannot be carried out."""
        reference = _payload(request)
        if request.refused is not None or not is_reference(reference):
            return request, request.refused
        value = self._values.pop(reference)
        if is_reference(value):
            lost = f"The input of operation {request.operation!r} is too large to be carried, and is not in the store any more."
            return request, FailureDetails(error_type="callboard.LostInputError", error_message=lost)
        if request.ended is not None:
            ended = msgspec.structs.replace(request.ended, result=value)
            return msgspec.structs.replace(request, ended=ended), None
        return msgspec.structs.replace(request, input=value), None

    def _is_slow(self, request: object) -> bool:
        return isinstance(request, Operation) and self._code is not None and self._code.is_async(request.operation)

    # What is committed

    def _commit(self, progress: _Progress, token: str, status: RuntimeStatus, parked: Parked | None) -> Commit:
        state, now = self.state, progress.now
        state.age(now)
        more = state.next_request() is not None and parked is None
        if more and not any(isinstance(event, EntityYielded) for event in progress.events):
            progress.add(EntityYielded(timestamp=now))  # requests that had waited for others in vain
        small = state.memory_size <= max(SMALL_MEMORY, state.since_memory + progress.size)
        whole = small or state.at is None or state.deltas >= MOST_DELTAS
        events = [event for event in progress.events if _lasts(event)] if whole else progress.events
        commit = Commit(
            instance_id=state.instance_id,
            n=state.n + 1,
            execution_id=state.execution_id,
            first=state.n + 1 if whole else state.first,
            partition=state.partition,
            token=token,
            at=now,
            ran=parked is None,
            runtime_status=status,
            events=tuple(events),
            parked=parked,
            entity=state.view,
            memory=state.memory() if whole else None,
        )
        state.committed(commit, progress.size)
        return commit


class _Progress:
    """What a turn has brought about so far."""

    def __init__(self, state: EntityState, now: datetime, codec: Codec) -> None:
        self._state = state
        self._codec = codec
        self.now = now
        self.events: list[HistoryEvent] = []
        self.size = 0
        self.produced = 0
        """Of the size, what is not requests that came."""

    def add(self, event: HistoryEvent) -> None:
        """Records an event, and takes it into account."""
        self._state.record(event)
        self.events.append(event)
        size = event_size(event)
        self.size += size
        if not isinstance(event, EntityRequestReceived):
            self.produced += size

    def processed(self, request: Operation, result: str | None, failure: FailureDetails | None) -> None:
        state = self._state
        state.last_operation = self.now
        if failure is not None:
            state.last_failure = FailureDetails(
                error_type=failure.error_type, error_message=failure.error_message[:SHOWN_MESSAGE]
            )
        self.add(
            EntityOperationProcessed(
                timestamp=self.now,
                request_id=request.request_id,
                operation=request.operation,
                caller=request.caller,
                trace=request.trace,
                result=result,
                failure=failure,
            )
        )

    def signal(self, signal: Signal, cause: Operation) -> None:
        state, number = self._state, self._state.numbers
        if signal.due is None:
            position = state.lines.next(signal.instance_id, f"{state.execution_id}/{state.n + 1}", self.now)
        else:  # it comes when its time has come, not in line
            position = Position(sender=f"{state.execution_id}/timed/{number}")
        place = operation_place(signal.instance_id, sent_message_id(state.execution_id, number), signal.operation)
        self.add(
            EntityOperationSignaled(
                timestamp=self.now,
                event_id=number,
                instance_id=signal.instance_id,
                operation=signal.operation,
                input=self._codec.seal(signal.input, place),
                scheduled_time=signal.due,
                line=position,
                trace=cause.trace,
            )
        )

    def start(self, started: NewOrchestration, cause: Operation) -> None:
        self.add(
            NewOrchestrationStarted(
                timestamp=self.now,
                number=started.number,
                name=started.name,
                instance_id=started.instance_id,
                execution_id=started.execution_id,
                input=started.input,
                version=started.version,
                tags=started.tags,
                operation=started.on_completed,
                trace=cause.trace,
            )
        )


def _payload(request: Request) -> Payload:
    """The value that an operation brings; empty if it brings none."""
    if not isinstance(request, Operation):
        return ""
    return request.input or (request.ended.result if request.ended is not None else None) or ""


def _lasts(event: HistoryEvent) -> bool:
    """Whether a commit that has the memory whole still needs the event: requests are in the memory, or carried out."""
    return not isinstance(event, EntityRequestReceived) or event.timer_id is not None


def _stuck(interrupted: TurnInterrupted) -> FailureDetails:
    place = "".join(traceback.format_tb(interrupted.__traceback__)[-3:])
    return FailureDetails(error_type="callboard.OperationStuckError", error_message=STUCK + place)


def _at_once(turn: Coroutine[Any, Any, Turn]) -> Turn:
    """Runs a turn none of whose operations awaits anything."""
    try:
        turn.send(None)
    except StopIteration as stop:
        returned: Turn = stop.value
        return returned
    turn.close()
    raise CallboardError("An operation that is no `async def` has suspended its turn.")
