"""Turns of entities: order, rollback, locks, timers, memory; whatever is loaded again is the same."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from callboard.core import entity_turn
from callboard.core.effects import ClearExecutionTimers, SetTimer, StartChild, projection
from callboard.core.entities import EntityId, Operation, Position, Unlock
from callboard.core.entity_context import EntityContext
from callboard.core.entity_state import EntityState
from callboard.core.events import EntityOperationProcessed, ExecutionParked, TimerCreated
from callboard.core.execution import TurnInterrupted
from callboard.core.instances import InstanceRecord
from callboard.core.messages import EntityRequest, LockGranted, OperationResult, Wake
from callboard.core.turn import Turn
from callboard.errors import InvalidEntityIdError
from tests.core.entity_support import CALLER, Code, Entity, counter
from tests.core.support import DECLINED, EPOCH, Targets, at

OTHER = "d" * 32


# Ids


def test_names_are_case_insensitive_and_keys_are_not() -> None:
    entity = EntityId("Counter", "Key")
    assert entity == EntityId("counter", "Key") != EntityId("counter", "key")
    assert entity.instance_id == str(entity) == "@counter@Key"
    assert EntityId.parse("@Counter@a@b") == EntityId("counter", "a@b")
    assert EntityId("x", "").instance_id == "@x@"
    assert msgspec.json.decode(msgspec.json.encode(entity), type=EntityId) == entity


@pytest.mark.parametrize(("name", "key"), [
    ("", "k"), ("a b", "k"), ("a@b", "k"), ("a", "k/"), ("a#", "k"), ("a", "\x00"), ("a", "\udc80"), ("n" * 101, ""), ("n", "k" * 254),
])  # fmt: skip
def test_ids_that_cannot_be_are_refused(name: str, key: str) -> None:
    with pytest.raises(InvalidEntityIdError):
        EntityId(name, key)


@pytest.mark.parametrize("text", ["", "one", "@", "@name", "@@key", "name@key"])
def test_what_is_no_entity_id_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(InvalidEntityIdError):
        EntityId.parse(text)


# Operations


def test_the_first_request_makes_the_state() -> None:
    entity = Entity()
    commit = entity.ask(entity.signal("add", 5))
    assert entity.state == 5
    assert (commit.n, commit.first, commit.runtime_status, commit.token) == (0, 0, "Running", "token-0")
    assert entity.kinds == ["EntityOperationProcessed"]
    change = projection(commit)
    assert (change.entity, change.begins, change.first) == (commit.entity, False, 0)


def test_a_turn_takes_many_requests_and_yields_one_commit() -> None:
    entity = Entity()
    entity.ask(*(entity.signal("add", number) for number in range(100)))
    assert entity.state == 4950
    assert len(entity.commits) == 1


def test_a_call_is_answered_and_a_signal_is_not() -> None:
    entity = Entity()
    entity.ask(entity.signal("add", 2), entity.call("add", 3), entity.call("get"))
    assert [(told.task_scheduled_id, told.result) for told in entity.told() if isinstance(told, OperationResult)] == [
        (0, "5"), (1, "5"),
    ]  # fmt: skip
    assert {told.instance_id for told in entity.told()} == {f"of {CALLER}"}


def test_a_request_that_comes_again_is_a_duplicate_at_any_time() -> None:
    entity = Entity()
    message = entity.message(entity.signal("add", 1))
    turn = entity.deliver(message, message)
    assert turn.duplicates == 1
    entity.forget()
    turn = entity.deliver(message)
    assert (turn.commit, turn.duplicates, turn.unknown) == (None, 1, ())
    assert entity.state == 1


def test_a_failed_operation_leaves_nothing_behind() -> None:
    def fails(context: EntityContext) -> None:
        context.set_state("half")
        context.signal_entity(EntityId("other", "x"), "never")
        context.start_new_orchestration("never")
        if context.operation_name == "fail":
            raise ValueError("no")

    entity = Entity(fails)
    entity.ask(entity.call("fail"))
    (told,) = entity.told()
    assert isinstance(told, OperationResult)
    assert told.failure is not None
    assert (told.failure.error_type, told.failure.error_message, told.result) == ("ValueError", "no", None)
    assert entity.state is None
    assert entity.kinds == ["EntityOperationProcessed"]
    view = entity.commits[-1].entity
    assert view is not None
    assert view.last_failure is not None
    assert view.last_failure.stack_trace is None
    entity.ask(entity.call("succeed"))
    assert sorted(entity.kinds) == ["EntityOperationProcessed", "EntityOperationSignaled", "NewOrchestrationStarted"]


@pytest.mark.parametrize("error", [SystemExit(3), TurnInterrupted(), ValueError()])
def test_whatever_an_operation_raises_fails_it_alone(error: BaseException) -> None:
    def raises(context: EntityContext) -> int:
        if context.operation_name == "raise":
            raise error
        context.set_state(1)
        return 1

    entity = Entity(raises)
    entity.ask(entity.call("raise"), entity.call("go on"))
    first, second = entity.told()
    assert isinstance(first, OperationResult)
    assert isinstance(second, OperationResult)
    assert first.failure is not None
    assert (second.failure, second.result) == (None, "1")


def test_a_state_or_result_that_cannot_be_encoded_fails_the_operation() -> None:
    def encodes(context: EntityContext) -> object:
        if context.operation_name == "state":
            context.set_state(object())
        return object() if context.operation_name == "result" else None

    entity = Entity(encodes)
    entity.ask(entity.call("state"), entity.call("result"), entity.signal("result"))
    failures = [told.failure for told in entity.told() if isinstance(told, OperationResult)]
    assert all(failure is not None and "JSON" in failure.error_message for failure in failures)
    processed = [event for event in entity.last if isinstance(event, EntityOperationProcessed)]
    assert processed[2].failure is None  # nobody hears of a signal's result


def test_falsy_states_are_states() -> None:
    for value in ("0", '""', "false", "[]", "{}"):
        entity = Entity(lambda context: context.set_state(context.get_input()))
        entity.ask(entity.signal("set", msgspec.json.decode(value)))
        assert entity.state == msgspec.json.decode(value)
        assert entity.commits[-1].entity is not None
        assert entity.commits[-1].entity.exists


def test_a_deleted_entity_begins_anew() -> None:
    seen: list[tuple[bool, bool, Any]] = []

    def looks(context: EntityContext) -> None:
        seen.append((context.is_newly_constructed, context.has_state, context.get_state(lambda: "new")))
        context.set_state("there")
        if context.operation_name == "delete":
            context.destruct_on_exit()
            assert not context.has_state

    entity = Entity(looks)
    entity.ask(entity.signal("set"), entity.signal("delete"), entity.signal("set"))
    assert seen == [(True, False, "new"), (False, True, "there"), (True, False, "new")]


def test_the_context_tells_and_ends_with_the_operation() -> None:
    kept: list[EntityContext] = []

    def looks(context: EntityContext) -> None:
        kept.append(context)
        assert (context.entity_name, context.entity_key, context.operation_name) == ("counter", "one", "look")
        assert context.entity_id == EntityId("counter", "one")
        assert (context.get_input(), context.current_utc_datetime) == ([1], at(7))
        context.set_result("told")

    entity = Entity(looks)
    entity.now = at(7)
    entity.ask(entity.call("look", [1]))
    (told,) = entity.told()
    assert isinstance(told, OperationResult)
    assert told.result == '"told"'
    for late in (
        lambda: kept[0].set_state(1),
        lambda: kept[0].set_result(1),
        lambda: kept[0].signal_entity(EntityId("x", "y"), "op"),
        lambda: kept[0].start_new_orchestration("x"),
    ):
        with pytest.raises(RuntimeError, match="is over"):
            late()


# Order


def test_requests_of_one_sender_are_carried_out_in_their_order_however_they_come() -> None:
    entity = Entity(lambda context: context.set_state([*context.get_state(list), context.get_input()]))
    requests = [entity.signal("op", number, sender="line") for number in range(6)]
    entity.ask(requests[3], requests[1])
    assert entity.state is None
    entity.forget()
    entity.ask(requests[4], requests[0])
    assert entity.state == [0, 1]
    entity.ask(requests[5])
    entity.ask(requests[2])
    assert entity.state == [0, 1, 2, 3, 4, 5]


def test_what_is_held_is_known_when_it_comes_again() -> None:
    entity = Entity()
    early = [entity.signal("add", number, sender="line") for number in range(2)][1]
    entity.ask(early)
    assert entity.deliver(entity.message(early)).duplicates == 1


def test_the_clock_never_runs_backwards() -> None:
    entity = Entity()
    entity.ask(entity.signal("add", 1), after=10)
    assert entity.ask(entity.signal("add", 1), after=-60).at == at(10)


# What operations send


def test_signals_of_an_entity_are_numbered_for_each_target() -> None:
    def sends(context: EntityContext) -> None:
        for key in context.get_input():
            context.signal_entity(EntityId("to", key), "op", key)

    entity = Entity(sends)
    entity.ask(entity.signal("send", ["a", "b", "a"]))
    first = [told.request.line for told in entity.told() if isinstance(told, EntityRequest)]
    entity.forget()
    entity.ask(entity.signal("send", ["a"]), after=1)
    (second,) = [told.request.line for told in entity.told() if isinstance(told, EntityRequest)]
    line = first[0].sender
    assert first == [Position(sender=line), Position(sender=line), Position(sender=line, number=1, after=EPOCH)]
    assert second == Position(sender=line, number=2, after=EPOCH)


def test_a_line_that_was_forgotten_begins_under_another_name() -> None:
    entity = Entity(lambda context: context.signal_entity(EntityId("to", "a"), "op"))
    places: list[Position] = []
    for _ in range(3):
        entity.ask(entity.signal("send"), after=3000)
        entity.ask(entity.signal("send"), after=1)
        places += [told.request.line for told in entity.told() if isinstance(told, EntityRequest)]
        entity.ask(entity.clean(), after=4000)
    assert [place.number for place in places] == [1, 1, 1]
    assert len({place.sender for place in places}) == 3


def test_an_entity_starts_orchestrations_and_hears_of_their_end() -> None:
    heard: list[Any] = []

    def starts(context: EntityContext) -> Any:
        if context.operation_name == "ended":
            heard.append(context.get_input())
            return None
        return [
            context.start_new_orchestration("work", 1, on_completed="ended"),
            context.start_new_orchestration("work", 2, instance_id="mine"),
        ]

    entity = Entity(starts)
    entity.ask(entity.call("start"))
    records = [effect.record for effect in entity.effects() if isinstance(effect, StartChild)]
    assert [(record.name, record.input) for record in records] == [("work", "1"), ("work", "2")]
    assert records[1].instance_id == "mine"
    assert records[1].parent is None
    assert records[0].parent is not None
    assert records[0].parent.instance_id == "@counter@one"
    assert len({record.execution_id for record in records}) == 2
    entity.forget()
    entity.commit(entity.ended(0, {"a": 1}))
    assert heard == [{"instanceId": records[0].instance_id, "status": "Completed", "result": {"a": 1}, "error": None}]
    assert entity.deliver(entity.ended(0)).duplicates == 1
    assert entity.deliver(entity.ended(7)).unknown != ()


def test_an_entity_hears_of_a_start_that_failed() -> None:
    def starts(context: EntityContext) -> None:
        if context.operation_name == "ended":
            context.set_state(context.get_input())
        else:
            context.start_new_orchestration("work", on_completed="ended")

    entity = Entity(starts)
    entity.ask(entity.signal("start"))
    entity.commit(entity.ended(0, failure=DECLINED))
    assert (entity.state["status"], entity.state["error"]) == ("Failed", "shop.DeclinedError: card declined")


# Timed signals


def test_a_signal_whose_time_has_not_come_waits_for_its_timer() -> None:
    entity = Entity()
    entity.ask(entity.signal("add", 1, due=10), entity.signal("add", 2, due=-1))
    assert entity.state == 2
    (timer,) = [effect for effect in entity.effects() if isinstance(effect, SetTimer)]
    assert timer.due == TimerCreated(timestamp=EPOCH, event_id=0, fire_at=at(10))
    entity.forget()
    entity.commit(entity.timer(0), after=10)
    assert entity.state == 3
    assert entity.deliver(entity.timer(0)).duplicates == 1


def test_timers_of_another_life_are_unknown() -> None:
    entity = Entity()
    entity.ask(entity.signal("add", 1))
    stranger = msgspec.structs.replace(entity.timer(0), execution_id="x" * 32)
    assert entity.deliver(stranger, entity.timer(5)).unknown == (stranger, entity.timer(5))


# Locks


def test_a_locked_entity_hears_only_its_owner() -> None:
    entity = Entity()
    entity.ask(entity.signal("add", 1), entity.lock(), entity.signal("add", 10))
    assert entity.state == 1
    assert [told.task_scheduled_id for told in entity.told() if isinstance(told, LockGranted)] == [100]
    view = entity.commits[-1].entity
    assert view is not None
    assert (view.locked_by, view.backlog) == (f"of {CALLER}", 1)
    entity.forget()
    entity.ask(entity.call("add", 100), entity.call("add", 1000, sender=OTHER))
    assert entity.state == 101
    entity.ask(entity.unlock())
    assert entity.state == 1111
    assert entity.commits[-1].entity is not None
    assert entity.commits[-1].entity.locked_by is None


def test_locks_are_given_in_order() -> None:
    entity = Entity()
    entity.ask(entity.lock(CALLER), entity.signal("add", 1), entity.lock(OTHER), entity.signal("add", 2))
    assert entity.state is None
    entity.ask(entity.unlock(CALLER))
    assert entity.state == 1
    (granted,) = [told for told in entity.told() if isinstance(told, LockGranted)]
    assert granted.execution_id == OTHER
    entity.ask(entity.unlock(OTHER))
    assert entity.state == 3


def test_an_unlock_takes_back_a_request_that_waits() -> None:
    entity = Entity()
    entity.ask(entity.lock(CALLER), entity.lock(OTHER), entity.unlock(OTHER))
    entity.ask(entity.unlock(CALLER))
    assert entity.told() == []
    entity.ask(entity.signal("add", 1))
    assert entity.state == 1


def test_an_unlock_does_not_overtake_the_lock_it_ends() -> None:
    entity = Entity()
    lock, unlock = entity.lock(), entity.unlock()
    entity.ask(unlock)
    entity.ask(lock)
    assert entity.commits[-1].entity is not None
    assert entity.commits[-1].entity.locked_by is None


def test_an_unlock_of_another_section_changes_nothing() -> None:
    entity = Entity()
    entity.ask(entity.lock(CALLER, 100))
    entity.ask(entity.unlock(CALLER, 50), entity.unlock(OTHER, 100))
    assert entity.commits[-1].entity is not None
    assert entity.commits[-1].entity.locked_by == f"of {CALLER}"


def test_calls_of_the_owner_that_are_left_stay_in_front_when_it_unlocks() -> None:
    calls: list[Any] = []
    entity = Entity(lambda context: calls.append(context.get_input()))
    entity.ask(entity.signal("op", 0), entity.lock(), entity.signal("op", 2))
    call, unlock = entity.call("op", 1), entity.unlock()
    entity.ask(unlock, call)
    assert calls == [0, 1, 2]


# Long turns


def test_a_turn_that_goes_on_for_long_enough_leaves_the_rest_to_the_next() -> None:
    asked: list[int] = []

    def pace() -> bool:
        asked.append(1)
        return len(asked) % 3 == 0

    entity = Entity()
    entity.ask(*(entity.signal("add", 1) for _ in range(10)), pace=pace)
    assert entity.state == 3
    assert entity.yielded
    assert entity.told() == [Wake(instance_id="@counter@one")]
    for state in (6, 9):
        entity.forget()
        entity.commit(entity.wake(), pace=pace)
        assert (entity.state, entity.yielded) == (state, True)
    entity.commit(entity.wake(), pace=pace)
    assert (entity.state, entity.yielded) == (10, False)
    assert entity.deliver(entity.wake()).duplicates == 1


def test_a_turn_that_brings_about_much_leaves_the_rest_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entity_turn, "MOST_BYTES", 5_000)
    entity = Entity(lambda context: "x" * 4_000)
    entity.ask(*(entity.call("op") for _ in range(5)))
    assert len(entity.told()) == 3  # two answers, and a wake
    assert entity.yielded


def test_much_that_comes_in_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entity_turn, "MOST_BYTES", 5_000)
    entity = Entity(lambda context: None)
    entity.ask(*(entity.signal("op", "x" * 4_000) for _ in range(5)))
    assert not entity.yielded


# Operations that await


async def slowly(context: EntityContext) -> int:
    await asyncio.sleep(0)
    value: int = context.get_state(int) + context.get_input(int)
    context.set_state(value)
    return value


def mixed(context: EntityContext) -> Any:
    return slowly(context) if context.operation_name == "slow" else counter(context)


async def slow_turn(entity: Entity, *messages: Any) -> Turn:
    turn = await entity.loaded().slow_turn(messages, now=entity.now, token=f"token-{len(entity.commits)}")
    if turn.commit is not None:
        entity.commits.append(turn.commit)
        entity.check()
    return turn


async def test_a_turn_stops_before_an_operation_that_awaits_and_the_next_carries_it_out_beside_the_others() -> None:
    entity = Entity(mixed, slow=frozenset({"slow"}))
    order = ("add", "slow", "slow", "add")
    entity.ask(*(entity.signal(operation, 10**place) for place, operation in enumerate(order)))
    assert (entity.state, entity.yielded, entity.loaded().slow) == (1, True, True)
    await slow_turn(entity, entity.wake())
    assert (entity.state, entity.yielded, entity.loaded().slow) == (111, True, False)
    entity.commit(entity.wake())
    assert (entity.state, entity.yielded) == (1111, False)


async def test_requests_that_come_meanwhile_are_carried_out_in_a_slow_turn_too() -> None:
    entity = Entity(mixed, slow=frozenset({"slow"}))
    entity.ask(entity.signal("slow", 1))
    await slow_turn(entity, entity.wake(), entity.message(entity.signal("slow", 2)))
    assert entity.state == 3


# Entities that cannot go on


def test_without_its_code_an_entity_keeps_what_comes() -> None:
    entity = Entity(None)
    commit = entity.ask(entity.signal("add", 1))
    assert (commit.runtime_status, commit.ran) == ("Suspended", False)
    assert commit.parked is not None
    assert "counter" in commit.parked.reason
    entity.ask(entity.signal("add", 2))
    assert entity.deliver(entity.wake()).commit is None
    entity.become(counter)
    commit = entity.commit(entity.wake())
    assert (entity.state, commit.runtime_status, commit.parked) == (3, "Running", None)


def test_a_state_that_the_code_cannot_read_parks_the_entity_and_loses_nothing() -> None:
    entity = Entity(lambda context: context.set_state("text"))
    entity.ask(entity.signal("op"))

    def needs_a_number(context: EntityContext) -> None:
        context.set_state(context.get_state(expected=int) + 1)

    entity.become(needs_a_number)
    commit = entity.ask(entity.signal("op"), entity.signal("op"))
    assert commit.parked is not None
    assert "does not fit int" in commit.parked.reason
    assert entity.commits[-1].entity is not None
    assert entity.commits[-1].entity.backlog == 2
    assert entity.state == "text"
    entity.become(lambda context: context.set_state(context.get_state() + "!"))
    entity.commit(entity.wake())
    assert entity.state == "text!!"


def test_an_entity_whose_code_hung_is_parked() -> None:
    entity = Entity()
    entity.ask(entity.signal("add", 1))
    commits = entity.commits[-1:]
    entity.activation = entity_turn.EntityActivation(entity.record, commits, Code(counter), Targets(), stuck="in C")
    commit = entity.ask(entity.signal("add", 1))
    assert commit.parked is not None
    assert commit.parked.reason.endswith("in C")
    entity.forget()
    entity.commit(entity.wake())
    assert entity.state == 2


def test_parking_is_said_once() -> None:
    entity = Entity(None)
    entity.ask(entity.signal("add", 1))
    entity.ask(entity.signal("add", 2))
    parked = [event for commit in entity.commits for event in commit.events if isinstance(event, ExecutionParked)]
    assert len(parked) == 1


# Memory


def test_a_small_memory_is_in_every_commit_and_a_large_one_is_not() -> None:
    entity = Entity(None)
    for number in range(200):
        entity.ask(entity.signal("add", number))
    whole = [commit for commit in entity.commits if commit.memory is not None]
    assert len(whole) < 40
    assert all(commit.first == commit.n for commit in whole)
    gaps = [following.n - commit.n for commit, following in pairwise(whole)]
    assert max(gaps) <= entity_turn.MOST_DELTAS + 1
    entity.become(counter)
    entity.commit(entity.wake())
    assert entity.state == sum(range(200))


def test_memory_is_carried_whole_after_enough_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entity_turn, "MOST_DELTAS", 3)
    entity = Entity(None)
    entity.ask(*(entity.signal("add", number) for number in range(200)))
    for number in range(12):
        entity.ask(entity.signal("add", number))
    assert [commit.memory is not None for commit in entity.commits[1:]] == ([False] * 3 + [True]) * 3


def test_an_entity_that_forgot_goes_on() -> None:
    entity = Entity()
    for _ in range(60):
        entity.ask(entity.signal("add", 1, sender="line"), entity.signal("add", 1), after=61)
    assert len(entity.loaded().state.memory().heard) < 40
    assert entity.state == 120


# The end


def test_an_empty_entity_ends_when_asked_to_and_not_before_it_was_idle() -> None:
    entity = Entity()
    entity.ask(entity.signal("add", 1))
    entity.ask(entity.clean(), after=100)
    assert entity.commits[-1].runtime_status == "Running"
    entity.ask(entity.signal("delete"))
    entity.ask(entity.clean(idle=60), after=30)
    assert entity.commits[-1].runtime_status == "Running"
    entity.ask(entity.signal("get"), after=1)
    commit = entity.ask(entity.clean(idle=60), after=61)
    assert commit.runtime_status == "Completed"
    assert entity.effects() == [ClearExecutionTimers()]
    assert projection(commit).completed_time == commit.at


@pytest.mark.parametrize("busy", ["lock", "timed", "held"])
def test_an_entity_with_something_to_do_does_not_end(busy: str) -> None:
    entity = Entity()
    match busy:
        case "lock":
            entity.ask(entity.lock())
        case "timed":
            entity.ask(entity.signal("add", 1, due=1e6))
        case _:
            entity.signal("add", 1, sender="line")
            entity.ask(entity.signal("add", 1, sender="line"))
    assert entity.ask(entity.clean(idle=1), after=100).runtime_status == "Running"


def test_an_entity_that_comes_back_does_not_wait_for_what_its_former_life_consumed() -> None:
    first = Entity()
    one = first.signal("add", 1, sender="line")
    two = msgspec.structs.replace(
        first.signal("add", 2, sender="line"), line=Position(sender="line", number=1, after=at(-10))
    )
    assert one.line.number == 0
    again = Entity(head=7)
    commit = again.ask(two)
    assert (commit.n, commit.first, again.state) == (8, 8, 2)


# Anything


class Anything:
    """A random life of an entity, and what it must come to."""

    def __init__(self) -> None:
        self.entity = Entity()
        self.sent: list[EntityRequest] = []
        self.total = 0

    def play(self, step: tuple[str, int]) -> None:
        what, number = step
        entity = self.entity
        match what:
            case "signal" | "call":
                sender = ("a", "b", CALLER, OTHER)[number % 4]
                make = entity.signal if what == "signal" else entity.call
                self.sent.append(entity.message(make("add", number, sender=sender)))
                self.total += number
            case "lock":
                self.sent.append(entity.message(entity.lock((CALLER, OTHER)[number % 2], number)))
                self.sent.append(entity.message(entity.unlock((CALLER, OTHER)[number % 2], number)))
            case "timed":
                self.sent.append(entity.message(entity.signal("add", number, due=1)))
                self.total += number
            case "forget":
                entity.forget()
            case "wait":
                entity.now += timedelta(seconds=number * 30)
            case _:
                self._deliver(number)

    def _deliver(self, number: int) -> None:
        """Some of what was sent, from anywhere in between, some of it again."""
        count = 1 + number % 5
        start = number % max(len(self.sent), 1)
        turn = self.entity.deliver(*self.sent[start : start + count], pace=lambda: number % 3 == 0)
        if turn.commit is not None:
            self.entity.check()

    def finish(self) -> None:
        entity = self.entity
        entity.deliver(*reversed(self.sent))
        for _ in range(20):
            timers = [effect.timer_id for commit in entity.commits for effect in _timers(entity, commit)]
            entity.deliver(*(entity.timer(timer) for timer in timers), entity.wake(), *self.sent, after=1)
        entity.check()


def _timers(entity: Entity, commit: Any) -> list[SetTimer]:
    from callboard.core.effects import derive  # noqa: PLC0415

    return [effect for effect in derive(commit, 8) if isinstance(effect, SetTimer)]


steps = st.tuples(
    st.sampled_from(["signal", "call", "lock", "timed", "forget", "wait", "deliver", "deliver", "deliver"]),
    st.integers(0, 20),
)


@given(st.lists(steps, max_size=60))
def test_every_request_is_carried_out_once_whatever_happens(life: list[tuple[str, int]]) -> None:
    anything = Anything()
    for step in life:
        anything.play(step)
    anything.finish()
    state = anything.entity.loaded().state
    assert (msgspec.json.decode(state.value) if state.value else 0) == anything.total
    assert state.lock is None
    assert state.next_request() is None
    assert state.book.held == ()


def test_a_fold_of_nothing_is_an_entity_that_does_not_exist() -> None:
    record = InstanceRecord(
        instance_id="@x@y", partition=0, execution_id="e", name="x", runtime_status="Running", created_time=EPOCH,
        last_updated_time=EPOCH,
    )  # fmt: skip
    state = EntityState.fold(record, ())
    assert (state.view.exists, state.is_empty, state.n, state.first, state.terminal) == (False, True, -1, 0, False)


def test_requests_are_stored_as_a_person_reads_them() -> None:
    entity = Entity()
    stored = msgspec.to_builtins(entity.call("add", 1))
    assert stored["kind"] == "Operation"
    assert stored["caller"]["instanceId"] == f"of {CALLER}"
    assert isinstance(msgspec.convert(stored, type=Operation | Unlock, strict=False), Operation)
