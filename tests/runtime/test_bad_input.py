"""Bad input: each gives an error that says what happened and what to do, and nothing else is disturbed."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from callboard import App, OrchestrationContext, TaskHub
from callboard.core.events import TaskFailed
from callboard.core.messages import ActivityCall, ChildResult, StartExecution, TaskResult, WorkersChanged
from callboard.core.payloads import MAX_PAYLOAD
from callboard.errors import (
    HubMismatchError,
    InstanceNotFoundError,
    InstanceNotRunningError,
    InvalidInstanceIdError,
    InvalidPayloadError,
    OrchestrationFailedError,
    OrchestrationNotRegisteredError,
    PayloadTooLargeError,
    RegistrationError,
    StoreUnavailableError,
)
from callboard.packs import decode_pack, encode_pack
from callboard.ports import Destination
from callboard_broker.memory import MemoryBroker
from callboard_store.sqlite import SQLiteStore
from tests.runtime.support import PARTITIONS, Failing, Stage, eventually

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Opaque:
    """Has no JSON form."""


@app.activity
async def echo(value: Any) -> Any:
    return value


@app.activity
async def typed(number: int) -> int:
    return number


@app.activity
async def opaque() -> Any:
    return Opaque()


@app.activity
async def huge() -> str:
    return "x" * (MAX_PAYLOAD + 1)


@app.orchestration
async def quick(context: OrchestrationContext, value: int) -> Any:
    return await context.call_activity(echo, value)


@app.orchestration
async def waits(context: OrchestrationContext) -> Any:
    return await context.wait_for_external_event("go")


@app.orchestration
async def calls(context: OrchestrationContext, name: str) -> Any:
    return await context.call_activity(name)


@app.orchestration
async def does(context: OrchestrationContext, what: str) -> Any:  # noqa: C901
    match what:
        case "opaque input":
            await context.call_activity(echo, Opaque())
        case "huge input":
            await context.call_activity(echo, "x" * (MAX_PAYLOAD + 1))
        case "opaque result":
            return Opaque()
        case "huge result":
            return "x" * (MAX_PAYLOAD + 1)
        case "opaque status":
            context.set_custom_status(Opaque())
        case "huge status":
            context.set_custom_status("x" * 20_000)
        case "opaque event":
            context.send_event("other", "go", Opaque())
        case "bad queue":
            await context.call_activity(echo, 1, queue="no such: queue")
        case "wrong type":
            await context.call_activity(typed, "three")
        case "bad child id":
            await context.call_sub_orchestration(waits, instance_id="a/b")
        case "own id":
            await context.call_sub_orchestration(waits, instance_id=context.instance_id)
        case "bad name":
            await context.call_activity("no name?")
        case _:
            raise AssertionError(what)
    return None


# Names


async def test_an_unknown_orchestrator_name_is_refused_by_the_client() -> None:
    async with Stage() as stage:
        client = await stage.client(app)
        with pytest.raises(
            OrchestrationNotRegisteredError,
            match=r"No orchestration is registered as 'nope'. Orchestrations that are: calls",
        ):
            await client.start("nope")
        with pytest.raises(RegistrationError, match="is not registered as an orchestration of this app: decorate it"):
            await client.start(Opaque)
        nameless = await stage.client()
        with pytest.raises(RegistrationError, match="cannot name an orchestration: use 1 to 100 characters"):
            await nameless.start("no name?")


async def test_an_unknown_activity_is_a_failure_that_says_so() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(calls, "nope", instance_id="a")
        with pytest.raises(
            OrchestrationFailedError, match=r"No activity is registered as 'nope'. Activities that are: echo"
        ):
            await handle.result(5)
        (failed,) = (event for event in await stage.exact("a") if isinstance(event, TaskFailed))
        assert failed.failure.error_type == "callboard.errors.ActivityNotRegisteredError"
        assert failed.failure.is_non_retriable
        status = await client.get_status("a")
        assert status.failure is not None
        assert status.failure.is_caused_by("ActivityNotRegisteredError")


# Ids


@pytest.mark.parametrize(
    "instance_id", ["", "x" * 257, "@cart", "a/b", "a\\b", "a#b", "a?b", "a\nb", "a\x7fb", "\ud800"]
)
async def test_ids_that_are_not_allowed(instance_id: str) -> None:
    async with Stage() as stage:
        client = await stage.client(app)
        for attempt in (
            lambda: client.start(quick, 1, instance_id=instance_id),
            lambda: client.get_status(instance_id),
            lambda: client.raise_event(instance_id, "go"),
            lambda: client.terminate(instance_id),
            lambda: client.purge(instance_id),
        ):
            with pytest.raises(InvalidInstanceIdError, match=r"is not allowed: .*Use 1 to 256 characters"):
                await attempt()


async def test_ids_that_are_allowed() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        for instance_id in ("x" * 256, "a b", "a:b", "$set", "{'$ne': 1}", "..", "Ünïcode-🙂", "a@b", "0"):
            assert await (await client.start(quick, 1, instance_id=instance_id)).result(5) == 1


async def test_unknown_and_finished_instances() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await (await client.start(quick, 1, instance_id="done")).result(5)
        for attempt in (client.terminate, client.suspend, client.resume):
            with pytest.raises(InstanceNotFoundError, match="No instance 'nobody' exists"):
                await attempt("nobody")
            with pytest.raises(InstanceNotRunningError, match="'done' is Completed: it is finished"):
                await attempt("done")
        with pytest.raises(InstanceNotRunningError):
            await client.raise_event("done", "go")
        with pytest.raises(InstanceNotFoundError):
            await client.wait("nobody", 1)
        assert await client.find("nobody") is None


# Payloads


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("opaque input", "The input of activity 'echo' cannot be encoded as JSON: .*Use JSON types"),
        ("huge input", "The input of activity 'echo' is 1,048,5.. bytes when encoded, more than the limit"),
        ("opaque result", "The result of orchestration 'does' cannot be encoded as JSON"),
        ("huge result", "The result of orchestration 'does' is .*Keep large data elsewhere"),
        ("opaque status", "The custom status cannot be encoded as JSON"),
        ("huge status", "The custom status is 20,002 bytes when encoded"),
        ("opaque event", "The data of event 'go' cannot be encoded as JSON"),
        ("bad queue", "'no such: queue' cannot name an activity queue: use 1 to 100 letters"),
        ("wrong type", "The input of activity 'typed' does not fit int"),
        ("bad child id", "Instance id 'a/b' is not allowed"),
        ("own id", "cannot have the id of its parent"),
        ("bad name", "'no name\\?' cannot name an activity"),
    ],
)
async def test_what_an_orchestrator_may_not_give_fails_it_where_it_does(what: str, error: str) -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        with pytest.raises(OrchestrationFailedError, match=error):
            await (await client.start(does, what, instance_id="a")).result(5)
        await stage.exact("a")
        assert await (await client.start(quick, 7)).result(5) == 7


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("opaque", "InvalidPayloadError: The result of activity 'opaque' cannot be encoded as JSON"),
        ("huge", "PayloadTooLargeError: The result of activity 'huge' is"),
    ],
)
async def test_what_an_activity_may_not_return_is_its_failure(name: str, error: str) -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        with pytest.raises(OrchestrationFailedError, match=error):
            await (await client.start(calls, name)).result(5)


async def test_what_a_client_may_not_give_is_refused_where_it_does() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        with pytest.raises(InvalidPayloadError, match="The input of orchestration 'quick' cannot be encoded"):
            await client.start(quick, Opaque(), instance_id="a")
        with pytest.raises(PayloadTooLargeError, match="The input of orchestration 'quick' is"):
            await client.start(quick, "x" * (MAX_PAYLOAD + 1), instance_id="a")
        assert await client.find("a") is None
        await client.start(waits, instance_id="b")
        with pytest.raises(InvalidPayloadError, match="The data of event 'go' cannot be encoded"):
            await client.raise_event("b", "go", Opaque())
        with pytest.raises(PayloadTooLargeError, match="The data of event 'go' is"):
            await client.raise_event("b", "go", "x" * (MAX_PAYLOAD + 1))
        with pytest.raises(InvalidPayloadError, match="not JSON"):
            await client.raise_event_encoded("b", "go", "{not json")
        with pytest.raises(PayloadTooLargeError, match="The name of an event is 1,025"):
            await client.raise_event("b", "x" * 1025)
        with pytest.raises(InvalidPayloadError, match="not JSON"):
            await client.start_encoded("quick", "{not json")


async def test_an_input_that_does_not_fit_fails_the_instance_and_says_how() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        with pytest.raises(OrchestrationFailedError, match="The input of orchestration 'quick' does not fit int"):
            await (await client.start("quick", "seven")).result(5)


async def test_payloads_of_the_largest_size_go_through() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        largest = "\u0001" * ((MAX_PAYLOAD - 2) // 6)  # six bytes each in JSON, seven in JSON in JSON
        handle = await client.start(waits, instance_id="a")
        await client.raise_event("a", "go", largest)
        assert await handle.result(10) == largest


# Malformed messages


def pack(*messages: dict[str, Any], version: int = 1) -> bytes:
    return msgspec.json.encode({"v": version, "messages": messages})


def raised(**fields: Any) -> dict[str, Any]:
    return {"type": "RaiseEvent", "instanceId": "a", "messageId": "m", "name": "go", "at": NOW, **fields}


def called(**fields: Any) -> dict[str, Any]:
    return {
        "type": "ActivityCall",
        "instanceId": "a",
        "executionId": "e",
        "taskScheduledId": 1,
        "name": "echo",
        **fields,
    }


BAD = {
    "not JSON": (b"\x80\x04pickled", "not a pack of messages"),
    "not an object": (b"[1, 2]", "not a pack of messages: Expected `object`, got `array`"),
    "empty": (b"", "not a pack of messages"),
    "another version": (pack(version=9), "wire version 9 is not known here"),
    "unknown type": (pack({"type": "Explode"}), "Invalid value 'Explode'"),
    "missing field": (pack({"type": "StartExecution", "instanceId": "a"}), "missing required field `executionId`"),
    "wrong field": (pack(raised(name=7)), "Expected `str`, got `int`"),
}
BAD_HERE = {
    "for others": (encode_pack([WorkersChanged(worker_id="w")]), "WorkersChanged is no message for an instance"),
    "a call": (pack(called()), "ActivityCall is no message for an instance"),
    "slash in id": (pack(raised(instanceId="a/b")), "instance id 'a/b' is not allowed"),
    "empty id": (pack(raised(instanceId="")), "instance id '' is not allowed"),
    "entity id": (pack(raised(instanceId="@cart@1")), "instance id '@cart@1' is not allowed"),
    "long id": (pack(raised(instanceId="x" * 300)), "is not allowed"),
    "long event name": (pack(raised(name="x" * 1025)), "the name of RaiseEvent for a is too long"),
    "long message id": (pack(raised(messageId="x" * 1025)), "the message id of RaiseEvent for a is too long"),
    "payload is no JSON": (pack(raised(input="{")), "the payload of RaiseEvent for a is not JSON"),
    "result is no JSON": (
        encode_pack([TaskResult(instance_id="a", execution_id="e", task_scheduled_id=0, at=NOW, result="nan,")]),
        "the payload of TaskResult for a is not JSON",
    ),
    "child's result is no JSON": (
        encode_pack([ChildResult(instance_id="a", execution_id="e", task_scheduled_id=0, at=NOW, result="'")]),
        "the payload of ChildResult for a is not JSON",
    ),
}
BAD_CALLS = {
    "for others": (
        encode_pack([StartExecution(instance_id="a", execution_id="e")]),
        "StartExecution is no activity call",
    ),
    "slash in id": (pack(called(instanceId="a/b")), "instance id 'a/b' is not allowed"),
    "progress is no JSON": (pack(called(heartbeatDetails="{")), "the input of activity 'echo' for a is not JSON"),
    "time without zone": (pack(called(startBy="2026-01-01T00:00:00")), "has a time without a time zone"),
    "input is no JSON": (pack(called(input="{")), "the input of activity 'echo' for a is not JSON"),
}
CASES = [
    *((Destination.partition(2), *case) for case in (*BAD.values(), *BAD_HERE.values())),
    *((Destination.activities("default"), *case) for case in (*BAD.values(), *BAD_CALLS.values())),
    *((Destination.dead_letters(), *case) for case in (*BAD.values(), *BAD_CALLS.values())),
]


async def test_malformed_messages_go_to_quarantine_with_the_reason_and_disturb_nothing() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        for source, body, _ in CASES:
            await stage.publish_bytes(source, body)
        assert await (await client.start(quick, 7)).result(5) == 7
        await eventually(lambda: _kept(stage, len(CASES)), "all are in quarantine")
        await eventually(lambda: worker.broker.unacked() == 0)
        kept = {(message.source, message.body): message for message in await stage.store.quarantined(1000)}
        for source, body, reason in CASES:
            message = kept[str(source), body]
            assert reason in message.reason
        for source in {case[0] for case in CASES}:
            assert await stage.depth(source) == 0


async def _kept(stage: Stage, count: int) -> bool:
    return len(await stage.store.quarantined(1000)) == count


async def test_one_bad_message_does_not_take_its_pack_with_it() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(waits, instance_id="a")
        good, bad = raised(input='"hello"'), raised(instanceId="b", input="{")
        await stage.publish_bytes(stage.queue_of("a"), pack(bad, good, {"type": "Explode"}))
        assert await handle.result(5) == "hello"
        await eventually(lambda: _kept(stage, 2))
        await eventually(lambda: worker.broker.unacked() == 0)
        reasons = sorted(message.reason for message in await stage.store.quarantined(10))
        assert reasons[1] == "the payload of RaiseEvent for b is not JSON"
        for message in await stage.store.quarantined(10):
            assert b'"messages":[{' in message.body
        call = called(instanceId="c", input="1")
        await stage.publish_bytes(Destination.activities("default"), pack(called(input="{"), call))
        await eventually(lambda: _kept(stage, 3))
        await eventually(lambda: worker.worker.activities.executed == 1)


async def test_a_quarantine_that_fails_is_tried_again_before_the_message_is_acked() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        away = worker.store.before["quarantine"] = Failing(StoreUnavailableError("away"), times=1)
        await stage.publish_bytes(Destination.partition(0), b"?")
        await eventually(lambda: away.raised)
        assert worker.broker.unacked() == 1
        await eventually(lambda: _kept(stage, 1))
        await eventually(lambda: worker.broker.unacked() == 0)


async def test_an_empty_pack_is_acked() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        for source in (Destination.partition(0), Destination.activities("default"), Destination.dead_letters()):
            await stage.publish(source)
            await eventually(lambda: worker.broker.inner._consumers and worker.broker.unacked() == 0)
        assert not await stage.store.quarantined(10)


async def test_a_message_of_the_wrong_kind_for_its_task_is_dropped() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app, only="orchestrations")
        client = await stage.client(app)
        await client.start(quick, 1, instance_id="a")
        await eventually(lambda: stage.events("a"))
        (first,) = await stage.commits("a")
        wrong = ChildResult(instance_id="a", execution_id=first.execution_id, task_scheduled_id=0, at=NOW, result="1")
        await stage.publish(stage.queue_of("a"), wrong)
        await eventually(lambda: worker.store.counts["confirm"] == 1)
        await eventually(lambda: worker.broker.unacked() == 0)
        assert len(await stage.commits("a")) == 1


# Dead letters


async def test_a_call_that_was_given_up_is_a_failure_that_says_so() -> None:
    async with Stage() as stage:
        await stage.worker(app, only="orchestrations")
        client = await stage.client(app)
        handle = await client.start(quick, 1, instance_id="a")
        delivered = await stage.listen(Destination.activities("default"))
        await eventually(lambda: delivered)
        (call,) = decode_pack(delivered[0].body)
        assert isinstance(call, ActivityCall)
        await stage.publish(Destination.dead_letters(), call)
        with pytest.raises(OrchestrationFailedError, match="its worker seems to die each time it runs"):
            await handle.result(5)
        (failed,) = (event for event in await stage.exact("a") if isinstance(event, TaskFailed))
        assert failed.failure.is_non_retriable


# Hubs


async def test_another_number_of_partitions_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "hub.db"
    async with TaskHub("shop", MemoryBroker(), SQLiteStore(path), partitions=4):
        pass
    with pytest.raises(
        HubMismatchError, match=r"was created with 4 partitions, but 8 were asked for.*use partitions=4"
    ):
        async with TaskHub("shop", MemoryBroker(), SQLiteStore(path), partitions=8):
            pass
    async with TaskHub("shop", MemoryBroker(), SQLiteStore(path)) as hub:
        assert hub.partitions == PARTITIONS
