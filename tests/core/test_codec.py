"""Sealed values in the hands of orchestrations: each opens where it belongs, and what does not open parks."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from callboard import App, Keys, OrchestrationContext
from callboard.codecs import CodecOptions, HubCodec
from callboard.core.codec import (
    Place,
    answer_place,
    custom_status_place,
    input_place,
    is_sealed,
    load,
    message_place,
    output_place,
    result_place,
)
from callboard.core.effects import CallActivity, StartChild, Tell, derive
from callboard.core.events import (
    AskingClient,
    ContinuedAsNew,
    EventRaised,
    EventSent,
    ExecutionParked,
    ExecutionStarted,
    MessageAnswered,
    MessageReceived,
    ParentInstance,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
)
from callboard.core.messages import ActivityCall, Answer, DeliverMessage, Query, RaiseEvent, TaskResult
from callboard.core.places import changed, event_value, message_value, resealed
from tests.core.support import EPOCH, PARTITIONS, Instance, started

CODEC = HubCodec(CodecOptions(codec="cloudpickle", allow_pickle=True), Keys({"one": b"1" * 32}))
OTHER = HubCodec(CodecOptions(codec="cloudpickle", allow_pickle=True), Keys({"two": b"2" * 32}))
VALUE = {1j, frozenset({2})}


def opened(payload: str | None, place: Place) -> Any:
    assert payload is not None
    assert is_sealed(payload)
    return load(CODEC.open(payload, place), Any, "The value")


def sealed(value: object, place: Place, codec: HubCodec = CODEC) -> str:
    payload = codec.seal(codec.encode(value, "The value"), place)
    assert payload is not None
    return payload


def result(
    instance: Instance, task_id: int, value: object, *, of: int | None = None, codec: HubCodec = CODEC
) -> TaskResult:
    place = result_place("one", instance.execution_id, task_id if of is None else of)
    message = instance.result(task_id)
    return msgspec.structs.replace(message, result=sealed(value, place, codec))


def test_every_value_is_sealed_for_its_place() -> None:
    async def program(context: OrchestrationContext, value: object) -> object:
        context.set_custom_status("asking")
        task = context.call_activity("act", value)
        context.call_sub_orchestration("child", value, instance_id="kid")
        context.send_event("two", "Ready", value)
        return await task

    instance = started(program, VALUE, codec=CODEC)
    scheduled, child, sent = (
        next(event for event in instance.history if isinstance(event, kind))
        for kind in (TaskScheduled, SubOrchestrationInstanceCreated, EventSent)
    )
    for event in (scheduled, child, sent):
        found = event_value(event, "one", instance.execution_id)
        assert found is not None
        assert opened(found[1], found[2]) == VALUE
    for effect in derive(instance.commits[0], PARTITIONS):
        match effect:
            case CallActivity(call):
                assert _carries(call) == VALUE
            case Tell(RaiseEvent() as message):
                assert _carries(message) == VALUE
            case StartChild(record):
                assert opened(record.input, input_place("kid", record.execution_id)) == VALUE
            case _:
                raise AssertionError(effect)
    assert instance.custom_status == "asking"  # JSON, for everybody
    instance.commit(result(instance, scheduled.event_id, [1j]))
    assert opened(instance.completed.result, output_place("one", instance.execution_id, None)) == [1j]


def _carries(message: ActivityCall | RaiseEvent) -> Any:
    found = message_value(message)
    assert found is not None
    return opened(found[1], found[2])


def test_a_childs_output_belongs_to_the_task_that_waits_for_it() -> None:
    async def program(context: OrchestrationContext) -> object:
        return VALUE

    parent = ParentInstance(instance_id="mother", execution_id="m" * 32, task_scheduled_id=4)
    instance = started(program, codec=CODEC, parent=parent)
    told = next(effect.message for effect in derive(instance.commits[-1], PARTITIONS) if isinstance(effect, Tell))
    found = message_value(told)
    assert found is not None
    assert found[2] == result_place("mother", "m" * 32, 4)
    assert opened(found[1], found[2]) == VALUE


def test_what_continue_as_new_hands_on_is_sealed_for_the_next_execution() -> None:
    async def program(context: OrchestrationContext, value: set[complex]) -> object:
        if len(value) > 3:
            return value
        return context.continue_as_new({*value, complex(len(value))})

    instance = started(program, VALUE, codec=CODEC)
    while instance.status == "Running":
        continued = instance.commits[-1].continued
        assert continued is not None
        place = input_place("one", continued.next.execution_id)
        assert opened(continued.next.input, place) >= VALUE
        assert continued.next.execution_id != instance.execution_id
        instance.commit(instance.go_on())
    assert opened(instance.completed.result, output_place("one", instance.execution_id, None)) == {*VALUE, 2, 3}


def test_events_wait_sealed_or_not_also_across_continue_as_new() -> None:
    async def program(context: OrchestrationContext, again: bool) -> object:
        if again:
            return context.continue_as_new(False)
        return [await context.wait_for_external_event("go"), await context.wait_for_external_event("go")]

    instance = Instance(program, True, codec=CODEC)
    event = instance.event("Go", message_id="m1")
    event = msgspec.structs.replace(event, input=sealed(VALUE, Place("one", "", "data of event 'Go' in message m1")))
    instance.commit(instance.start(), event)
    instance.commit(instance.go_on(), instance.event("go", "plain"))
    assert opened(instance.completed.result, output_place("one", instance.execution_id, None)) == [VALUE, "plain"]


async def two_steps(context: OrchestrationContext) -> object:
    try:
        return [await context.call_activity("act"), await context.call_activity("act")]
    except Exception as error:
        return repr(error)


@pytest.mark.parametrize("hot", [True, False])
def test_a_result_whose_key_is_not_known_parks_until_it_is(hot: bool) -> None:
    instance = started(two_steps, codec=CODEC)
    if not hot:
        instance.forget()
    commit = instance.commit(result(instance, 0, 1j, codec=OTHER))
    assert instance.status == "Suspended"
    parked = commit.events[-1]
    assert isinstance(parked, ExecutionParked)
    assert "The result of task 0 of instance 'one' is sealed with key 'two', which is not known here" in parked.reason
    instance.commit(instance.event("while-parked"))
    assert instance.deliver(instance.wake()).commit is None  # still not: nothing new to say
    instance.codec = HubCodec(CODEC.options, Keys({"one": b"1" * 32, "two": b"2" * 32}))
    instance.forget()
    instance.commit(instance.wake())
    assert instance.commits[-1].parked is None
    instance.commit(result(instance, 1, 2j))
    assert opened(instance.completed.result, output_place("one", instance.execution_id, None)) == [1j, 2j]


def test_a_tampered_history_parks() -> None:
    instance = started(two_steps, codec=CODEC)
    instance.commit(result(instance, 0, "for another task", of=7))
    assert instance.status == "Suspended"
    parked = instance.commits[-1].parked
    assert parked is not None
    assert "has a wrong seal" in parked.reason


def test_a_tampered_input_parks_before_the_code_begins() -> None:
    ran: list[object] = []

    async def program(context: OrchestrationContext, value: object) -> None:
        ran.append(value)

    instance = Instance(program, VALUE, codec=CODEC)
    stolen = sealed(VALUE, input_place("somebody else", instance.record.execution_id))
    instance.record = msgspec.structs.replace(instance.record, input=stolen)
    instance.commit(instance.start())
    assert (instance.status, ran) == ("Suspended", [])


def test_a_tampered_event_parks_even_if_nobody_waits_for_it() -> None:
    async def program(context: OrchestrationContext) -> None:
        await asyncio.sleep(60)

    instance = started(program, codec=CODEC)
    event = instance.event("go", message_id="m1")
    stolen = sealed(1, Place("one", "", "data of event 'go' in message m2"))
    instance.commit(msgspec.structs.replace(event, input=stolen))
    assert instance.status == "Suspended"


def test_what_cannot_be_unpickled_is_an_error_of_the_call() -> None:
    class Mine:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    instance = started(two_steps, codec=CODEC)
    instance.commit(result(instance, 0, Mine()))
    output = opened(instance.completed.result, output_place("one", instance.execution_id, None))
    assert "cannot be decoded here: ValueError" in output


def test_several_parameters_take_a_pickled_dict() -> None:
    app = App("hub")

    @app.activity
    def add(a: complex, b: complex = 1) -> complex:
        return a + b

    place = Place("one", "e", "input")
    given = CODEC.open(sealed({"a": 2j}, place), place)
    assert app.registry.activities["add"].invoke(given) == 1 + 2j
    with pytest.raises(ValueError, match=r"must be a JSON object with a, b; missing: a; not known: c"):
        app.registry.activities["add"].invoke(CODEC.open(sealed({"c": 2j}, place), place))
    with pytest.raises(ValueError, match=r"must be a dict with a, b"):
        app.registry.activities["add"].invoke(CODEC.open(sealed([2j], place), place))


def test_parts_of_an_input_are_never_envelopes() -> None:
    app = App("hub")

    @app.activity
    def both(a: Any, b: Any) -> Any:
        return a, b

    look = {"$callboard": {"codec": "json", "value": 1}}
    given = CODEC.encode({"a": look, "b": 2}, "The input", "json")
    assert app.registry.activities["both"].invoke(given) == (look, 2)


def test_a_history_is_resealed_for_another_execution() -> None:
    instance = started(two_steps, codec=CODEC)
    instance.commit(result(instance, 0, VALUE))
    old, new = instance.execution_id, "f" * 32
    for event in instance.history:
        copy = msgspec.structs.replace(event, execution_id=new) if isinstance(event, ExecutionStarted) else event
        moved = resealed(event, CODEC, "one", old, copy, "copy", new)
        found = event_value(moved, "copy", new)
        if found is not None:
            before = event_value(event, "one", old)
            assert before is not None
            assert opened(found[1], found[2]) == opened(before[1], before[2])


def test_values_of_events_are_changed_in_place_also_in_what_is_carried() -> None:
    started_ = ExecutionStarted(timestamp=EPOCH, name="n", execution_id="next", input="1")
    carried = Instance(two_steps).event("go", 2, "m1")
    raised = EventRaised(timestamp=EPOCH, message_id="m1", name="go", input=carried.input)
    event = ContinuedAsNew(timestamp=EPOCH, event_id=0, next=started_, carried=(raised,))
    seen: list[tuple[str, Place]] = []

    def change(payload: str, place: Place) -> str:
        seen.append((payload, place))
        return payload + "0"

    new = changed(event, "one", "e", change)
    assert (new.next.input, new.carried[0].input) == ("10", "20")
    assert seen == [("1", input_place("one", "next")), ("2", Place("one", "", "data of event 'go' in message m1"))]
    assert changed(raised, "one", "e", lambda payload, _: payload) is raised
    assert custom_status_place("one") == Place("one", "", "custom status")


async def keeper(context: OrchestrationContext) -> Any:
    kept: list[Any] = []

    @context.on_message
    def keep(value: Any) -> list[Any]:
        kept.append(value)
        return kept

    context.on_query("kept", lambda: kept)
    await context.wait_for_external_event("next")
    context.send("two", "keep", VALUE)
    kept.append(await context.ask("two", "keep", VALUE))
    return kept


def test_messages_queries_and_answers_are_sealed_for_their_places() -> None:
    me = AskingClient(inbox="me")
    ask = DeliverMessage(instance_id="one", message_id="m", name="keep", at=EPOCH, asker=me)
    ask = msgspec.structs.replace(ask, input=sealed(VALUE, message_place("one", "m", "keep")))
    instance = started(keeper, codec=CODEC)
    received, answered = instance.commit(ask).events
    assert isinstance(received, MessageReceived)
    assert isinstance(answered, MessageAnswered)
    assert opened(answered.result, answer_place("one", "m", me)) == [VALUE]
    for event in (received, answered):
        found = event_value(event, "one", instance.execution_id)
        assert found is not None
        opened(found[1], found[2])
    query = Query(instance_id="one", query_id="q", name="kept", asker=me)
    (reply,) = instance.deliver(query).replies
    assert opened(reply.result, answer_place("one", "q", me)) == [VALUE]
    commit = instance.commit(instance.event("next"))
    for effect in derive(commit, PARTITIONS):
        assert isinstance(effect, Tell)
        found = message_value(effect.message)
        assert found is not None
        assert opened(found[1], found[2]) == VALUE
    answer = Answer(instance_id="one", execution_id=instance.execution_id, task_scheduled_id=2, at=EPOCH)
    place = result_place("one", instance.execution_id, 2)
    instance.commit(msgspec.structs.replace(answer, result=sealed(1j, place)))
    assert opened(instance.completed.result, output_place("one", instance.execution_id, None)) == [VALUE, 1j]


def test_a_message_that_cannot_be_opened_parks_its_instance() -> None:
    instance = started(keeper, codec=CODEC)
    message = DeliverMessage(instance_id="one", message_id="m", name="keep", at=EPOCH)
    commit = instance.commit(msgspec.structs.replace(message, input=sealed(1j, message_place("one", "x", "keep"))))
    assert commit.parked is not None
    assert commit.parked.kind == "payload"
    query = Query(instance_id="one", query_id="q", name="kept", asker=AskingClient(inbox="me"))
    query = msgspec.structs.replace(query, input=sealed(1j, message_place("one", "x", "kept"), OTHER))
    (reply,) = started(keeper, codec=CODEC).deliver(query).replies
    assert reply.failure is not None
    assert "is not known here" in reply.failure.error_message
