"""Messages within a turn: in which order they are fed, who is answered beside the commit, and who is told at the end.

An answer that a handler gives is an event, and what it brings about is an effect of the commit. What is decided here has no event: the answer
to a query, a refusal, an answer repeated. It may be sent once the turn's commit is durable; or, if there is none, once a linearizable read has
said that what the answer rests on is current.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import TypeAlias

import msgspec

from callboard.core.answers import ended_before, forgotten, not_running
from callboard.core.events import (
    AnswerReceived,
    ContinuedAsNew,
    ExecutionCompleted,
    HistoryEvent,
    InputEvent,
    MessageAnswered,
    MessageReceived,
    Payload,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from callboard.core.failure import FailureDetails
from callboard.core.messages import DeliverMessage, InstanceMessage, Query
from callboard.core.state import InstanceState, Verdict

#: What may ask for an answer.
Question: TypeAlias = DeliverMessage | Query

#: Most answers that are kept across ``continue_as_new``, the latest ones, and their size in all, in bytes.
MOST_ANSWERS, MOST_ANSWERS_BYTES = 100, 65_536

_RESULTS = (
    TaskCompleted,
    TaskFailed,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    AnswerReceived,
    TimerFired,
)


class TurnReply(msgspec.Struct, frozen=True):
    """An answer that no event stands for."""

    question: Question
    result: Payload | None = None
    failure: FailureDetails | None = None


def messages_first(inputs: list[InputEvent]) -> list[InputEvent]:
    """Puts messages before the results and timers that came in the same turn, so that handlers run before the body goes on.

    Everything else stays in its place: a message never overtakes an event or an order.
    """
    if not any(isinstance(event, MessageReceived) for event in inputs):
        return inputs
    ordered: list[InputEvent] = []
    place = 0
    for event in inputs:
        if isinstance(event, MessageReceived):
            ordered.insert(place, event)
            place += 1
        else:
            ordered.append(event)
            if not isinstance(event, _RESULTS):
                place = len(ordered)
    return ordered


def recorded(inputs: Sequence[InputEvent], refused: Collection[str], validated: Collection[str]) -> list[HistoryEvent]:
    """The inputs as history is to hold them: without what was refused."""
    if not refused and not validated:
        return list(inputs)
    events: list[HistoryEvent] = []
    for event in inputs:
        if not isinstance(event, MessageReceived):
            events.append(event)
        elif event.message_id not in refused:
            events.append(msgspec.structs.replace(event, validated=event.validated or event.message_id in validated))
    return events


def refusals(messages: Iterable[InstanceMessage], refused: dict[str, FailureDetails]) -> list[TurnReply]:
    """What those are told whose message a validator refused."""
    if not refused:
        return []
    return [
        TurnReply(message, failure=refused[message.message_id])
        for message in messages
        if isinstance(message, DeliverMessage) and message.message_id in refused
    ]


def dropped_reply(state: InstanceState, message: DeliverMessage, verdict: Verdict) -> TurnReply | None:
    """What somebody is told who asks and whose message yields no event; None, if the answer is still to come."""
    if verdict is Verdict.UNKNOWN:
        return TurnReply(message, failure=not_running(state.instance_id, state.status))
    if message.message_id in state.asked:
        return None
    answer = state.answers.get(message.message_id)
    if answer is None:
        return TurnReply(message, failure=forgotten(message.message_id))
    return TurnReply(message, answer.result, answer.failure)


def with_last_answers(
    state: InstanceState, events: list[HistoryEvent], now: datetime, *, since: datetime
) -> list[HistoryEvent]:
    """The events of a turn; if they end an execution, with what those are told who still wait for an answer.

    Args:
        state: Before this turn's answers.
        events: Of this turn.
        now: Its clock.
        since: How far back the next execution remembers answers.
    """
    match events[-1] if events else None:
        case ExecutionCompleted(orchestration_status=status) as end:
            how = "was terminated" if status == "Terminated" else status.lower()
            return [*events[:-1], *_last_answers(state, events, now, how), end]
        case ContinuedAsNew() as end:
            taken_over = {each.message_id for each in end.carried}
            answers = _last_answers(state, events, now, "went on as new", but=taken_over)
            kept = _kept_answers(state, [*events, *answers], since)
            following = msgspec.structs.replace(end.next, answers=kept)
            return [*events[:-1], *answers, msgspec.structs.replace(end, next=following)]
        case _:
            return events


def _last_answers(
    state: InstanceState, events: Sequence[HistoryEvent], now: datetime, how: str, *, but: Collection[str] = ()
) -> list[MessageAnswered]:
    done = {event.message_id for event in events if isinstance(event, MessageAnswered)}
    return [
        MessageAnswered(
            timestamp=now,
            message_id=message.message_id,
            asker=message.asker,
            failure=ended_before(state.instance_id, how),
        )
        for message in state.asked.values()
        if message.message_id not in done and message.message_id not in but
    ]


def _kept_answers(state: InstanceState, events: Sequence[HistoryEvent], since: datetime) -> tuple[MessageAnswered, ...]:
    """The latest answers, for those who ask the next execution again: a bounded number, of a bounded size."""
    given = [*state.answers.values(), *(event for event in events if isinstance(event, MessageAnswered))]
    kept: list[MessageAnswered] = []
    room = MOST_ANSWERS_BYTES
    for answer in reversed(given[-MOST_ANSWERS:]):
        size = len(msgspec.json.encode(answer))
        if answer.timestamp >= since and size <= room:
            kept.append(answer)
            room -= size
    return tuple(reversed(kept))
