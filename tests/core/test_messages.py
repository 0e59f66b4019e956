"""Message handlers: what is sent, asked and queried, and what history keeps of it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from callboard.core import payloads
from callboard.core.answers import NOT_QUERIED, NOT_RUNNING, REJECTED, UNANSWERED
from callboard.core.effects import SendReply, Tell, derive
from callboard.core.events import (
    AnswerReceived,
    Asker,
    AskingClient,
    AskingTask,
    ContinuedAsNew,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    MessageAnswered,
    MessageReceived,
    MessageSent,
)
from callboard.core.failure import FailureDetails
from callboard.core.messages import Answer, DeliverMessage, Query, Reply
from callboard.errors import (
    MessageFailedError,
    MessageRejectedError,
    NonDeterminismError,
    ReadOnlyError,
    RegistrationError,
)
from tests.core.support import PARTITIONS, Instance, started, through_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from callboard.core.context import OrchestrationContext
    from callboard.core.conversation import TurnReply

ME = AskingClient(inbox="client-1")


def sent(instance: Instance, name: str, data: object = None, *, key: str | None = None) -> DeliverMessage:
    return asked(instance, name, data, key=key, asker=None)


def asked(
    instance: Instance, name: str, data: object = None, *, key: str | None = None, asker: Asker | None = ME
) -> DeliverMessage:
    return DeliverMessage(
        instance_id=instance.record.instance_id,
        message_id=key or f"{name}-{len(instance.commits)}",
        name=name,
        at=instance.now,
        input=payloads.encode(data, "The data"),
        asker=asker,
    )


def query(instance: Instance, name: str, data: object = None) -> Query:
    return Query(
        instance_id=instance.record.instance_id,
        query_id="q",
        name=name,
        asker=ME,
        input=payloads.encode(data, "The data"),
    )


def looked(instance: Instance, name: str, data: object = None) -> Any:
    """The answer to a query that commits nothing."""
    turn = instance.deliver(query(instance, name, data))
    assert turn.commit is None
    return value(turn.replies[0])


def value(reply: TurnReply | MessageAnswered | Reply) -> Any:
    assert reply.failure is None, reply.failure
    return payloads.decode(reply.result, Any, "The answer")


def failure(reply: TurnReply | MessageAnswered | Reply) -> FailureDetails:
    assert reply.failure is not None
    return reply.failure


def answers(instance: Instance) -> dict[str, MessageAnswered]:
    return {event.message_id: event for event in instance.history if isinstance(event, MessageAnswered)}


def kinds(instance: Instance) -> list[str]:
    return [type(event).__name__ for event in instance.history]


async def cart(context: OrchestrationContext) -> Any:
    """Adds things that fit, tells how much there is, and ends when it is told to."""
    things: list[str] = []
    closed = asyncio.Event()

    def has_room(thing: str) -> None:
        if len(things) >= 3:
            raise ValueError("the cart is full")

    @context.on_message(validator=has_room)
    def add(thing: str) -> int:
        things.append(thing)
        return len(things)

    context.on_message("close", closed.set)
    context.on_query("things", lambda: things)
    await closed.wait()
    return things


@pytest.fixture(params=[False, True], ids=["hot", "cold"])
def cut(request: pytest.FixtureRequest) -> Callable[[Instance], None]:
    """Forgets an instance between its turns, or does not."""
    return Instance.forget if request.param else lambda instance: None


# Telling and asking


def test_a_sent_message_is_handled_and_recorded(cut: Callable[[Instance], None]) -> None:
    instance = started(cart)
    cut(instance)
    commit = instance.commit(sent(instance, "add", "apple"))
    (received,) = commit.events
    assert isinstance(received, MessageReceived)
    assert (received.name, received.input, received.asker, received.validated) == ("add", '"apple"', None, False)
    cut(instance)
    instance.commit(sent(instance, "CLOSE"))
    assert instance.output == ["apple"]


def test_an_answer_is_recorded_and_sent_from_history(cut: Callable[[Instance], None]) -> None:
    instance = started(cart)
    cut(instance)
    commit = instance.commit(asked(instance, "add", "apple", key="a"))
    received, answered = commit.events
    assert isinstance(received, MessageReceived)
    assert received.validated
    assert isinstance(answered, MessageAnswered)
    assert value(answered) == 1
    (told,) = derive(through_json([commit])[0], PARTITIONS)
    assert told == SendReply("client-1", Reply(reply_to="a", result="1"))
    cut(instance)
    instance.commit(sent(instance, "close"))
    assert instance.output == ["apple"]


def test_a_repeated_ask_gets_the_recorded_answer(cut: Callable[[Instance], None]) -> None:
    instance = started(cart)
    instance.commit(asked(instance, "add", "apple", key="a"))
    cut(instance)
    other = AskingClient(inbox="client-2")
    turn = instance.deliver(asked(instance, "add", "apple", key="a", asker=other))
    assert turn.commit is None
    (reply,) = turn.replies
    assert value(reply) == 1
    assert reply.question.asker == other
    instance.commit(sent(instance, "close"))
    assert instance.output == ["apple"]
    turn = instance.deliver(asked(instance, "add", "apple", key="a"))
    assert (turn.commit, value(turn.replies[0])) == (None, 1), "even after its end"


def test_data_that_do_not_fit_are_refused_and_leave_no_history() -> None:
    async def counts(context: OrchestrationContext) -> None:
        context.on_message("count", lambda: None)

        @context.on_message
        def add(number: int, unit: str = "kg") -> None:
            raise AssertionError

        await context.wait_for_external_event("end")

    instance = started(counts)
    for data in ({"number": "three"}, {}, {"number": 3, "colour": "red"}):
        turn = instance.deliver(asked(instance, "add", data))
        assert turn.commit is None
        assert failure(turn.replies[0]).error_type == REJECTED
    assert "missing: number" in failure(instance.deliver(asked(instance, "add", {})).replies[0]).error_message
    assert len(instance.commits) == 1


def test_a_validator_refuses_before_history(cut: Callable[[Instance], None]) -> None:
    instance = started(cart)
    for thing in "abc":
        instance.commit(asked(instance, "add", thing, key=thing))
    cut(instance)
    turn = instance.deliver(asked(instance, "add", "d", key="d"))
    assert (turn.commit, turn.unknown, turn.duplicates) == (None, (), 0)
    refusal = failure(turn.replies[0])
    assert (refusal.error_type, refusal.error_message) == (REJECTED, "the cart is full")
    assert refusal.inner_failure is not None
    assert refusal.inner_failure.error_type == "ValueError"
    assert looked(instance, "things") == ["a", "b", "c"]
    # Nothing of it was kept: the same id is judged anew.
    assert (
        failure(instance.deliver(asked(instance, "add", "d", key="d")).replies[0]).error_message == "the cart is full"
    )


def test_messages_of_one_turn_are_validated_one_after_the_other() -> None:
    instance = started(cart)
    turn = instance.deliver(*(asked(instance, "add", thing, key=thing) for thing in "abcde"))
    assert turn.commit is not None
    assert [answer.message_id for answer in answers(instance).values()] == ["a", "b", "c"]
    assert [(reply.question.input, failure(reply).error_message) for reply in turn.replies] == [
        ('"d"', "the cart is full"),
        ('"e"', "the cart is full"),
    ]
    instance.forget()
    assert looked(instance, "things") == ["a", "b", "c"]


def test_replay_does_not_ask_validators_again() -> None:
    instance = started(cart)
    instance.commit(asked(instance, "add", "apple", key="a"))

    async def stricter(context: OrchestrationContext) -> Any:
        things: list[str] = []

        def never(thing: str) -> None:
            raise ValueError("not today")

        context.on_message("add", things.append, validator=never)
        await context.wait_for_external_event("end")
        return things

    instance.become(stricter)
    turn = instance.deliver(asked(instance, "add", "pear", key="b"))
    assert failure(turn.replies[0]).error_message == "not today"
    instance.commit(instance.event("end"))
    assert instance.output == ["apple"]


def test_a_sent_message_that_is_refused_is_told_in_history_and_does_no_harm(cut: Callable[[Instance], None]) -> None:
    instance = started(cart)
    instance.commit(*(sent(instance, "add", thing, key=thing) for thing in "abc"))
    cut(instance)
    commit = instance.commit(sent(instance, "add", "d", key="d"))
    _, answered = commit.events
    assert isinstance(answered, MessageAnswered)
    assert failure(answered).error_message == "the cart is full"
    assert derive(commit, PARTITIONS) == []
    cut(instance)
    instance.commit(sent(instance, "close"))
    assert instance.output == ["a", "b", "c"]


async def fails(context: OrchestrationContext) -> str:
    @context.on_message
    def explode(word: str) -> None:
        raise ValueError(word)

    await context.wait_for_external_event("end")
    return "fine"


def test_a_handler_that_raises_answers_with_its_error(cut: Callable[[Instance], None]) -> None:
    instance = started(fails)
    cut(instance)
    instance.commit(asked(instance, "explode", "boom", key="a"))
    answer = failure(answers(instance)["a"])
    assert (answer.error_type, answer.error_message) == ("ValueError", "boom")
    cut(instance)
    instance.commit(instance.event("end"))
    assert instance.output == "fine"


def test_a_handler_that_raises_for_a_sent_message_fails_the_orchestration() -> None:
    instance = started(fails)
    instance.commit(sent(instance, "explode", "boom"))
    assert instance.status == "Failed"
    assert (instance.failure.error_type, instance.failure.error_message) == ("ValueError", "boom")


def test_an_answer_that_cannot_be_encoded_is_a_failure() -> None:
    async def opaque(context: OrchestrationContext) -> None:
        context.on_message("get", lambda: object())
        await context.wait_for_external_event("end")

    instance = started(opaque)
    instance.commit(asked(instance, "get", key="a"))
    assert "cannot be encoded as JSON" in failure(answers(instance)["a"]).error_message


def test_an_async_handler_may_await_durable_things(cut: Callable[[Instance], None]) -> None:
    async def shop(context: OrchestrationContext) -> str:
        @context.on_message
        async def pay(amount: int) -> str:
            receipt: str = await context.call_activity("charge", amount)
            await context.create_timer(timedelta(seconds=1))
            return receipt

        await context.wait_for_external_event("end")
        return "closed"

    instance = started(shop)
    instance.commit(asked(instance, "pay", 5, key="a"))
    cut(instance)
    turn = instance.deliver(asked(instance, "pay", 5, key="a"))
    assert (turn.commit, turn.replies) == (None, ())
    assert [message.message_id for message in turn.waiting] == ["a"], "the answer is still to come"
    instance.commit(asked(instance, "pay", 6, key="b"))
    cut(instance)
    instance.commit(instance.result(1, "six"))
    instance.commit(instance.result(0, "five"))
    cut(instance)
    instance.commit(instance.timer(2), after=1)
    instance.commit(instance.timer(3))
    assert {key: value(answer) for key, answer in answers(instance).items()} == {"b": "six", "a": "five"}
    instance.commit(instance.event("end"))
    assert instance.output == "closed"


def test_generator_orchestrations_have_handlers_too() -> None:
    def program(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        @context.on_message
        def pay(amount: int) -> Generator[Any, Any, Any]:
            receipt = yield context.call_activity("charge", amount)
            return receipt

        end = yield context.wait_for_external_event("end")
        return end

    instance = started(program)
    instance.commit(asked(instance, "pay", 5, key="a"))
    instance.forget()
    instance.commit(instance.result(0, "ok"))
    assert value(answers(instance)["a"]) == "ok"


# Order


def test_handlers_run_before_the_body_goes_on(cut: Callable[[Instance], None]) -> None:
    async def program(context: OrchestrationContext) -> list[str]:
        seen: list[str] = []
        context.on_message("note", seen.append)
        seen.append(await context.call_activity("work"))
        return seen

    instance = started(program)
    cut(instance)
    instance.commit(instance.result(0, "result"), sent(instance, "note", "first"), sent(instance, "note", "2", key="x"))
    assert instance.output == ["first", "2", "result"]
    assert kinds(instance)[-4:] == ["MessageReceived", "MessageReceived", "TaskCompleted", "ExecutionCompleted"]


def test_messages_do_not_overtake_events_and_orders() -> None:
    async def program(context: OrchestrationContext) -> list[str]:
        seen: list[str] = []
        context.on_message("note", seen.append)
        work = context.call_activity("work")
        seen.append(await context.wait_for_external_event("go"))
        seen.append(await work)
        return seen

    instance = started(program)
    instance.commit(instance.event("go", "event"), instance.result(0, "result"), sent(instance, "note", "message"))
    assert instance.output == ["event", "message", "result"]


def test_messages_without_a_handler_wait_for_one_in_order(cut: Callable[[Instance], None]) -> None:
    async def late(context: OrchestrationContext) -> list[str]:
        await context.wait_for_external_event("open")
        seen: list[str] = []
        context.on_message("note", seen.append)
        await asyncio.sleep(0)
        assert seen, "handlers run before the body goes on"
        return seen

    instance = started(late)
    instance.commit(sent(instance, "note", "1", key="1"), sent(instance, "other", "x"))
    cut(instance)
    instance.commit(sent(instance, "note", "2", key="2"))
    cut(instance)
    instance.commit(sent(instance, "note", "3", key="3"), instance.event("open"))
    assert instance.output == ["1", "2", "3"]


def test_an_ask_that_waited_for_its_handler_is_validated_by_it(cut: Callable[[Instance], None]) -> None:
    async def late(context: OrchestrationContext) -> str:
        await context.wait_for_external_event("open")

        def even(number: int) -> None:
            if number % 2:
                raise ValueError("odd")

        @context.on_message(validator=even)
        def halve(number: int) -> int:
            return number // 2

        await context.wait_for_external_event("close")
        return "closed"

    instance = started(late)
    instance.commit(asked(instance, "halve", 3, key="3"), asked(instance, "halve", 4, key="4"))
    cut(instance)
    instance.commit(instance.event("open"))
    assert failure(answers(instance)["3"]).error_message == "odd"
    assert value(answers(instance)["4"]) == 2
    cut(instance)
    instance.commit(instance.event("close"))
    assert instance.output == "closed"


def test_a_message_may_come_with_the_start() -> None:
    instance = Instance(cart)
    instance.commit(asked(instance, "add", "apple", key="a"))
    assert kinds(instance) == ["ExecutionStarted", "MessageReceived", "MessageAnswered"]


def test_a_handler_may_be_replaced() -> None:
    async def program(context: OrchestrationContext) -> None:
        context.on_message("who", lambda: "first")
        await context.wait_for_external_event("next")
        context.on_message("Who", lambda: "second")
        await context.wait_for_external_event("end")

    instance = started(program)
    instance.commit(asked(instance, "who", key="a"))
    instance.commit(instance.event("next"), asked(instance, "who", key="b"))
    assert [value(answer) for answer in answers(instance).values()] == ["first", "second"]


# Ends


async def slow(context: OrchestrationContext, wait: bool) -> str:
    @context.on_message
    async def work() -> str:
        done: str = await context.call_activity("work")
        return done

    await context.wait_for_external_event("end")
    if wait:
        await context.handlers_finished()
    return "done"


def test_who_still_waits_at_the_end_is_told() -> None:
    instance = started(slow, False)
    instance.commit(
        asked(instance, "work", key="taken"), asked(instance, "nothing", key="untaken"), sent(instance, "x")
    )
    commit = instance.commit(instance.event("end"))
    assert instance.output == "done"
    assert list(answers(instance)) == ["taken", "untaken"]
    for answer in answers(instance).values():
        assert answer.event_id == -1
        assert failure(answer).error_type == UNANSWERED
    assert (
        failure(answers(instance)["taken"]).error_message == "Instance 'one' completed before a handler had answered."
    )
    assert [effect for effect in derive(commit, PARTITIONS) if isinstance(effect, SendReply)]
    again = instance.deliver(asked(instance, "work", key="taken"))
    assert failure(again.replies[0]).error_type == UNANSWERED
    late = instance.deliver(asked(instance, "work", key="late"))
    assert len(late.unknown) == 1
    assert failure(late.replies[0]).error_type == NOT_RUNNING


def test_what_comes_behind_the_end_in_its_turn_is_answered() -> None:
    instance = started(slow, False)
    commit = instance.commit(instance.event("end"), asked(instance, "work", key="late"))
    assert isinstance(commit.events[-1], ExecutionCompleted)
    assert failure(answers(instance)["late"]).error_type == UNANSWERED


@pytest.mark.parametrize("parked", [False, True])
def test_terminating_answers_those_who_wait(parked: bool) -> None:
    instance = started(slow, False)
    instance.commit(asked(instance, "work", key="a"))
    if parked:
        instance.become(None)
        instance.commit(asked(instance, "work", key="b"))
    instance.commit(asked(instance, "work", key="c"), instance.terminate())
    assert instance.status == "Terminated"
    assert set(answers(instance)) == ({"a", "b", "c"} if parked else {"a", "c"})


def test_a_failure_answers_those_who_wait() -> None:
    async def breaks(context: OrchestrationContext) -> None:
        await context.wait_for_external_event("end")
        raise ValueError("broken")

    instance = started(breaks)
    instance.commit(asked(instance, "anything", key="a"))
    instance.commit(instance.event("end"))
    assert failure(answers(instance)["a"]).error_message == "Instance 'one' failed before a handler had answered."


def test_the_body_may_wait_for_its_handlers(cut: Callable[[Instance], None]) -> None:
    instance = started(slow, True)
    instance.commit(asked(instance, "work", key="a"))
    cut(instance)
    instance.commit(instance.event("end"))
    assert instance.status == "Running"
    cut(instance)
    instance.commit(instance.result(0, "worked"))
    assert instance.output == "done"
    assert value(answers(instance)["a"]) == "worked"


async def rounds(context: OrchestrationContext, number: int) -> Any:
    def note(text: str) -> str:
        return f"{text} in round {number}"

    if number:
        context.on_message("note", note)

    @context.on_message
    async def work() -> None:
        await context.call_activity("work")

    await context.wait_for_external_event("next")
    return context.continue_as_new(number + 1)


def test_untaken_messages_survive_continue_as_new(cut: Callable[[Instance], None]) -> None:
    instance = started(rounds, 0)
    instance.commit(asked(instance, "note", "hello", key="a"), asked(instance, "work", key="w"))
    cut(instance)
    commit = instance.commit(sent(instance, "note", "told", key="b"), instance.event("next"))
    continued = commit.continued
    assert continued is not None
    assert [carried.message_id for carried in continued.carried if not isinstance(carried, EventRaised)] == ["a", "b"]
    running = next(event for event in commit.events if isinstance(event, MessageAnswered))
    assert (running.message_id, failure(running).error_message) == (
        "w",
        "Instance 'one' went on as new before a handler had answered.",
    )
    cut(instance)
    instance.commit(instance.go_on())
    assert value(answers(instance)["a"]) == "hello in round 1"
    assert kinds(instance)[:3] == ["ExecutionStarted", "MessageReceived", "MessageReceived"]


def test_answers_are_kept_across_continue_as_new(cut: Callable[[Instance], None]) -> None:
    instance = started(rounds, 1)
    instance.commit(asked(instance, "note", "hello", key="a"))
    for _ in range(2):
        instance.commit(instance.event("next"))
        cut(instance)
        again = instance.deliver(asked(instance, "note", "hello", key="a"), instance.go_on())
        assert value(again.replies[0]) == "hello in round 1"
        cut(instance)
    again = instance.deliver(asked(instance, "note", "hello", key="a"))
    assert (again.commit, value(again.replies[0])) == (None, "hello in round 1")


def test_an_answer_that_is_not_kept_is_not_made_up() -> None:
    async def wordy(context: OrchestrationContext) -> Any:
        context.on_message("essay", lambda: "x" * 70_000)
        await context.wait_for_external_event("next")
        return context.continue_as_new()

    instance = started(wordy)
    instance.commit(asked(instance, "essay", key="a"))
    instance.commit(instance.event("next"))
    instance.commit(instance.go_on())
    again = instance.deliver(asked(instance, "essay", key="a"))
    assert again.commit is None
    assert failure(again.replies[0]).error_type == UNANSWERED
    assert "its answer is not kept any more" in failure(again.replies[0]).error_message


def test_terminating_between_two_executions_answers_what_was_carried() -> None:
    instance = started(rounds, 0)
    instance.commit(asked(instance, "note", "hello", key="a"), instance.event("next"))
    assert isinstance(instance.commits[-1].events[-1], ContinuedAsNew)
    instance.commit(instance.terminate())
    assert failure(answers(instance)["a"]).error_type == UNANSWERED


# Suspended and parked


def test_a_suspended_instance_answers_once_it_is_resumed(cut: Callable[[Instance], None]) -> None:
    instance = started(cart)
    instance.commit(instance.suspend())
    instance.commit(*(asked(instance, "add", thing, key=thing) for thing in "abcd"))
    assert answers(instance) == {}
    assert looked(instance, "things") == []
    cut(instance)
    instance.commit(instance.resume())
    assert [answer.failure is None for answer in answers(instance).values()] == [True, True, True, False]
    cut(instance)
    instance.commit(sent(instance, "close"))
    assert instance.output == ["a", "b", "c"]


def test_a_parked_instance_answers_once_its_code_is_back() -> None:
    instance = started(cart)
    instance.become(None)
    instance.commit(asked(instance, "add", "a", key="a"))
    assert instance.status == "Suspended"
    turn = instance.deliver(query(instance, "things"))
    assert failure(turn.replies[0]).error_message == "Nobody knows 'program'."
    instance.become(cart)
    assert looked(instance, "things") == [], "it sees what the code saw"
    instance.commit(asked(instance, "add", "b", key="b"))
    assert [value(answer) for answer in answers(instance).values()] == [1, 2]
    instance.forget()
    assert looked(instance, "things") == ["a", "b"]


def test_code_that_answers_otherwise_than_history_is_parked() -> None:
    instance = started(cart)
    instance.commit(asked(instance, "add", "a", key="a"))

    async def deaf(context: OrchestrationContext) -> None:
        await context.wait_for_external_event("end")

    instance.become(deaf)
    commit = instance.commit(instance.event("end"))
    assert commit.parked is not None
    assert "History has the answer to message 'a' at 0 (commit 1), the code asks for nothing." in commit.parked.reason


# Queries


def test_queries_see_the_state_after_the_last_turn_and_leave_no_trace(cut: Callable[[Instance], None]) -> None:
    instance = started(cart)
    assert looked(instance, "Things") == []
    instance.commit(sent(instance, "add", "apple"))
    cut(instance)
    assert looked(instance, "things") == ["apple"]
    assert len(instance.commits) == 2


def test_a_query_sees_what_its_own_turn_commits() -> None:
    instance = started(cart)
    turn = instance.deliver(query(instance, "things"), sent(instance, "add", "apple"))
    assert turn.commit is not None
    assert value(turn.replies[0]) == ["apple"]


def test_queries_take_typed_arguments() -> None:
    async def program(context: OrchestrationContext) -> None:
        @context.on_query
        def scaled(factor: int, offset: int = 0) -> int:
            return 10 * factor + offset

        await context.wait_for_external_event("end")

    instance = started(program)
    assert looked(instance, "scaled", {"factor": 2, "offset": 1}) == 21
    turn = instance.deliver(query(instance, "scaled", {"factor": "two"}))
    assert "does not fit" in failure(turn.replies[0]).error_message


def test_an_unknown_query_names_those_that_are() -> None:
    instance = started(cart)
    turn = instance.deliver(query(instance, "nothing"))
    assert failure(turn.replies[0]).error_type == "LookupError"
    assert "There are: things" in failure(turn.replies[0]).error_message


def test_a_finished_instance_can_be_queried() -> None:
    instance = started(cart)
    instance.commit(sent(instance, "add", "apple"))
    turn = instance.deliver(query(instance, "things"), sent(instance, "close"))
    assert turn.replies == ()
    assert len(turn.postponed) == 1, "by the next activation: this one is over"
    assert looked(instance, "things") == ["apple"]
    instance.forget()
    assert looked(instance, "things") == ["apple"]


def test_a_query_lets_an_instance_begin_unless_it_is_to_start_later() -> None:
    instance = Instance(cart)
    turn = instance.deliver(query(instance, "things"))
    assert turn.commit is not None
    assert value(turn.replies[0]) == []
    later = Instance(cart)
    later.record = msgspec.structs.replace(later.record, scheduled_start_time=later.now + timedelta(hours=1))
    turn = later.deliver(query(later, "things"))
    assert turn.commit is None
    assert failure(turn.replies[0]).error_message == "The instance has not begun yet."


def test_a_query_between_two_executions_goes_to_the_next() -> None:
    async def eternal(context: OrchestrationContext, number: int) -> Any:
        context.on_query("number", lambda: number)
        await context.wait_for_external_event("next")
        return context.continue_as_new(number + 1)

    instance = started(eternal, 1)
    question = query(instance, "number")
    turn = instance.deliver(question, instance.event("next"))
    assert (turn.replies, turn.postponed) == ((), (question,))
    turn = instance.deliver(question)
    assert turn.commit is not None
    assert value(turn.replies[0]) == 2


def test_a_query_that_cannot_be_answered_says_why() -> None:
    async def changed(context: OrchestrationContext) -> None:
        await context.call_activity("other")

    instance = started(cart)
    instance.commit(asked(instance, "add", "a"))
    instance.become(changed)
    turn = instance.deliver(query(instance, "things"))
    assert turn.commit is None
    assert failure(turn.replies[0]).error_type == NOT_QUERIED
    assert "History has the answer to message" in failure(turn.replies[0]).error_message


# Only looking


LOOKERS: dict[str, Callable[[OrchestrationContext], Any]] = {
    "activity": lambda context: context.call_activity("work"),
    "child": lambda context: context.call_sub_orchestration("work"),
    "timer": lambda context: context.create_timer(timedelta(1)),
    "event": lambda context: context.wait_for_external_event("x"),
    "send event": lambda context: context.send_event("x", "y"),
    "send": lambda context: context.send("x", "y"),
    "ask": lambda context: context.ask("x", "y"),
    "status": lambda context: context.set_custom_status(1),
    "uuid": lambda context: context.new_uuid(),
    "random": lambda context: context.random.random(),
    "handler": lambda context: context.on_message("x", print),
    "query handler": lambda context: context.on_query("x", print),
    "continue": lambda context: context.continue_as_new(1),
}


@pytest.mark.parametrize("what", LOOKERS)
def test_queries_and_validators_must_not_act(what: str) -> None:
    async def program(context: OrchestrationContext) -> list[Any]:
        context.on_query("act", lambda: LOOKERS[what](context))
        context.on_message("act", lambda: None, validator=lambda: LOOKERS[what](context))
        await context.wait_for_external_event("end")
        return [str(context.new_uuid()), await context.call_activity("work")]

    instance = started(program)
    turn = instance.deliver(query(instance, "act"))
    assert failure(turn.replies[0]).error_type == "callboard.errors.ReadOnlyError"
    turn = instance.deliver(asked(instance, "act"))
    assert turn.commit is None
    assert "may only look" in failure(turn.replies[0]).error_message
    commit = instance.commit(instance.event("end"))
    assert [type(event).__name__ for event in commit.events] == ["EventRaised", "TaskScheduled"]
    assert instance.scheduled() == [(0, "work", None)], "no number was used up"
    first = instance.loaded().state.n
    instance.forget()
    instance.commit(instance.result(0))
    assert instance.commits[-1].n == first + 1
    assert instance.status == "Completed"


async def meddling(context: OrchestrationContext) -> str:
    woken = asyncio.Event()
    context.on_query("wake", woken.set)
    context.on_message("wake", lambda: None, validator=woken.set)
    await woken.wait()
    return "woken"


def test_a_query_that_wakes_the_body_is_refused_and_undone() -> None:
    instance = started(meddling)
    turn = instance.deliver(query(instance, "wake"))
    assert failure(turn.replies[0]).error_type == "callboard.errors.ReadOnlyError"
    assert instance.activation is None, "thrown away with what the query has changed"
    instance.commit(instance.event("anything"))
    assert instance.status == "Running"


def test_a_validator_that_wakes_the_body_parks_the_instance() -> None:
    instance = started(meddling)
    commit = instance.commit(asked(instance, "wake", key="a"))
    assert commit.parked is not None
    assert "A validator must only look" in commit.parked.reason


def test_handlers_that_only_look_are_plain_functions() -> None:
    async def slow_query(context: OrchestrationContext) -> None:
        async def answer() -> int:
            return 1

        context.on_query("answer", answer)

    instance = started(slow_query)
    assert instance.failure.error_type == "callboard.errors.RegistrationError"
    assert "must only look: write def" in instance.failure.error_message

    async def sneaky(context: OrchestrationContext) -> None:
        async def answer() -> int:
            return 1

        context.on_query("answer", lambda: answer())
        await context.wait_for_external_event("end")

    instance = started(sneaky)
    turn = instance.deliver(query(instance, "answer"))
    assert "must be a plain function" in failure(turn.replies[0]).error_message


# Between instances


async def asks(context: OrchestrationContext) -> Any:
    context.send("two", "note", {"a": 1})
    try:
        return await context.ask("two", "add", 3, expected=int)
    except MessageRejectedError as error:
        return f"rejected: {error.failure.error_message}"
    except MessageFailedError as error:
        return f"failed: {error}"


def test_an_orchestration_asks_another(cut: Callable[[Instance], None]) -> None:
    instance = started(asks)
    commit = instance.commits[-1]
    note, ask = (event for event in commit.events if isinstance(event, MessageSent))
    assert (note.asks, ask.asks) == (False, True)
    told, wanted = derive(commit, PARTITIONS)
    assert isinstance(told, Tell)
    assert isinstance(told.message, DeliverMessage)
    assert told.message.asker is None
    assert isinstance(wanted, Tell)
    message = wanted.message
    assert isinstance(message, DeliverMessage)
    assert (message.instance_id, message.message_id, message.input) == ("two", f"{commit.execution_id}/1", "3")
    assert message.asker == AskingTask(
        instance_id="one", execution_id=commit.execution_id, task_scheduled_id=ask.event_id
    )
    cut(instance)
    other = started(cart, instance_id="two")
    answered = other.commit(msgspec.structs.replace(message, name="add", input='"x"'))
    (reply,) = derive(answered, PARTITIONS)
    assert isinstance(reply, Tell)
    assert isinstance(reply.message, Answer)
    instance.commit(reply.message)
    assert instance.output == 1
    assert isinstance(instance.history[-2], AnswerReceived)
    again = instance.deliver(reply.message)
    assert again.commit is None


@pytest.mark.parametrize(
    ("error_type", "output"),
    [(REJECTED, "rejected: too much"), ("ValueError", "failed: Message 'add' was not answered: ValueError: too much")],
)
def test_a_refused_ask_raises_where_it_is_awaited(
    error_type: str, output: str, cut: Callable[[Instance], None]
) -> None:
    instance = started(asks)
    cut(instance)
    refusal = FailureDetails(error_type=error_type, error_message="too much")
    instance.commit(
        Answer(
            instance_id="one",
            execution_id=instance.execution_id,
            task_scheduled_id=1,
            at=instance.now,
            failure=refusal,
        )
    )
    assert instance.output == output


def test_an_answer_that_is_none_of_ours_is_not_believed() -> None:
    async def program(context: OrchestrationContext) -> Any:
        return await context.call_activity("work")

    instance = started(program)
    answer = Answer(instance_id="one", execution_id=instance.execution_id, task_scheduled_id=0, at=instance.now)
    turn = instance.deliver(answer)
    assert (turn.commit, turn.unknown) == (None, (answer,))


def test_registrations_that_cannot_be_are_errors() -> None:
    async def variadic(context: OrchestrationContext) -> None:
        @context.on_message
        def take(*things: str) -> None:
            raise AssertionError

    instance = started(variadic)
    assert instance.failure.error_type == "callboard.errors.RegistrationError"
    assert issubclass(RegistrationError, Exception)
    assert issubclass(ReadOnlyError, Exception)
    assert issubclass(NonDeterminismError, Exception)


def test_what_was_stored_before_there_were_messages_still_decodes() -> None:
    old = b'{"eventType":"ExecutionStarted","timestamp":"2026-01-01T12:00:00Z","name":"p","executionId":"e"}'
    assert msgspec.json.decode(old, type=ExecutionStarted).answers == ()
    carried = (
        b'{"eventType":"ContinuedAsNew","timestamp":"2026-01-01T12:00:00Z","eventId":1,"next":'
        + old
        + b',"carried":[{"eventType":"EventRaised","timestamp":"2026-01-01T12:00:00Z","messageId":"m","name":"n"}]}'
    )
    (event,) = msgspec.json.decode(carried, type=ContinuedAsNew).carried
    assert isinstance(event, EventRaised)


def test_a_query_that_looks_at_a_waiter_takes_no_event(cut: Callable[[Instance], None]) -> None:
    async def program(context: OrchestrationContext) -> Any:
        waiter = context.wait_for_external_event("go")
        context.on_query("come", waiter.done)
        await context.call_activity("work")
        return await waiter

    instance = started(program)
    instance.commit(instance.event("go", "hello"))
    cut(instance)
    assert looked(instance, "come") is False, "nobody has taken it"
    instance.commit(instance.result(0))
    assert instance.output == "hello"
