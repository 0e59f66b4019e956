"""Values that no message and no document carries, end to end."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from callboard import App, Client, Keys, OrchestrationContext
from callboard.core.instances import partition_of
from callboard.core.messages import RaiseEvent
from callboard.core.references import LARGE, Reference, is_reference, read, written
from callboard.errors import InstanceNotFinishedError, PayloadRejectedError, PayloadTooLargeError
from callboard.packs import encode_pack
from callboard.ports import Destination
from tests.e2e.stage import DEADLINE, Stage, ended, until

MIB = 1024 * 1024
SIZE = 3 * MIB


def heavy(**options: Any) -> App:
    app = App("heavy", partitions=4, max_payload=8 * MIB, **options)

    @app.activity
    async def double(text: str) -> str:
        return text + text

    @app.activity
    def half(text: str) -> str:
        return text[: len(text) // 2]

    @app.orchestration
    async def child(context: OrchestrationContext, text: str) -> str:
        return text + await context.call_activity(half, text)

    @app.orchestration
    async def lift(context: OrchestrationContext, text: str) -> str:
        if context.parent_instance_id is None and len(text) == SIZE:
            return context.continue_as_new(await context.call_activity(double, text))  # type: ignore[no-any-return]
        more = await context.wait_for_external_event("more", str)
        context.send_event("listener", "heard", more)
        return await context.call_sub_orchestration(child, more)

    @app.orchestration
    async def listen(context: OrchestrationContext) -> int:
        return len(await context.wait_for_external_event("heard", str))

    return app


async def test_large_values_go_everywhere_and_nothing_large_is_carried(stage: Stage) -> None:
    app = heavy()
    async with stage.playing(app) as client:
        listener = await client.start("listen", instance_id="listener")
        started = await client.start("lift", "x" * SIZE, instance_id="lift")
        await client.raise_event("lift", "more", "y" * 2 * MIB)
        assert await started.result(DEADLINE) == "y" * 3 * MIB
        assert await listener.result(DEADLINE) == 2 * MIB
        status = await client.get_status("lift")
        assert (status.input, status.output) == ("x" * SIZE * 2, "y" * 3 * MIB)
        await nothing_large_is_in_documents(client, "lift")
        kinds = [type(event).__name__ for commit in await client.history("lift") for event in commit.events]
        assert "SubOrchestrationInstanceCompleted" in kinds
        (about,) = (each for each in (await client.list_instances()).instances if each.instance_id == "lift")
        assert about.output == {"$callboard": {"ref": key_of("lift", '"' + "y" * 3 * MIB + '"'), "bytes": 3 * MIB + 2}}


def key_of(instance_id: str, text: str) -> str:
    return f"{instance_id}/{hashlib.sha256(text.encode()).hexdigest()}"


async def nothing_large_is_in_documents(client: Client, instance_id: str) -> None:
    store = client.hub.store
    record = (await store.records([instance_id]))[instance_id]
    for document in (record, *await store.history(instance_id)):
        assert len(msgspec.json.encode(document)) < LARGE
    assert is_reference(record.input)
    assert is_reference(record.output)


async def test_large_values_survive_a_change_of_worker(stage: Stage) -> None:
    app = heavy()
    async with stage.playing(app) as client:
        started = await client.start("lift", "x" * (SIZE + 1), instance_id="lift")
        await until(lambda: client.get_status("lift"), lambda status: status.runtime_status == "Running")
    async with stage.client(app) as client:
        await client.raise_event("lift", "more", "y" * 2 * MIB)
        async with stage.worker(app):
            assert len((await ended(client, started.instance_id)).output) == 3 * MIB


async def test_purging_an_instance_takes_its_values_and_nobody_elses(stage: Stage) -> None:
    app = heavy()
    async with stage.playing(app) as client:
        started = await client.start("lift", "x" * (SIZE + 1), instance_id="lift")
        await client.raise_event("lift", "more", "y" * 2 * MIB)
        await started.result(DEADLINE)
        parent, store = "lift", client.hub.store
        (child,) = (each for each in (await client.list_instances()).instances if each.parent_instance_id == parent)
        text = '"' + "y" * 3 * MIB + '"'
        await until(lambda: _purged(client, child.instance_id), bool)
        with pytest.raises(KeyError):
            await store.get_payload(key_of(child.instance_id, text))
        assert (await client.get_status(parent)).output == "y" * 3 * MIB
        assert text in msgspec.json.encode(await client.history(parent)).decode().replace('\\"', '"')
        await until(lambda: _purged(client, parent), bool)
        for value in (text, '"' + "y" * 2 * MIB + '"', '"' + "x" * (SIZE + 1) + '"'):
            with pytest.raises(KeyError):
                await store.get_payload(key_of(parent, value))


async def _purged(client: Client, instance_id: str) -> bool:
    try:
        await client.purge(instance_id, recursive=False)
    except InstanceNotFinishedError:
        return False
    return True


async def test_the_limit_is_what_the_app_says(stage: Stage) -> None:
    app = heavy()
    async with stage.playing(app) as client:
        with pytest.raises(PayloadTooLargeError, match="limit of 8,388,608"):
            await client.start("lift", "x" * 8 * MIB)
        started = await client.start("lift", "x" * (SIZE + 1), instance_id="lift")
        await client.raise_event("lift", "more", "y" * 6 * MIB)  # its child's output is over the limit
        status = await ended(client, started.instance_id)
        assert status.failure is not None
        assert "more than the limit of 8,388,608" in status.failure.error_message


@pytest.mark.parametrize("encrypt", [False, True], ids=["pickled", "encrypted"])
async def test_large_values_may_be_sealed(stage: Stage, encrypt: bool) -> None:
    keys = Keys({"one": b"1" * 32})
    app = heavy(codec="json" if encrypt else "cloudpickle", allow_pickle=True, encrypt=encrypt, keys=keys)
    async with stage.playing(app) as client:
        started = await client.start("lift", "x" * SIZE, instance_id="lift")
        await client.raise_event("lift", "more", "y" * 2 * MIB)
        assert await started.result(DEADLINE) == "y" * 3 * MIB
        record = (await client.hub.store.records(["lift"]))["lift"]
        reference = read(record.output)
        assert reference is not None
        assert (await client.hub.store.get_payload(reference.ref)).startswith(b'{"$callboard":{"codec":')


@pytest.mark.parametrize("codec", ["json", "cloudpickle"])
async def test_questions_and_answers_may_be_large(stage: Stage, codec: Any) -> None:
    app = App("talks", partitions=4, max_payload=8 * MIB, codec=codec, allow_pickle=True, keys=Keys({"one": b"1" * 32}))

    @app.orchestration
    async def echoes(context: OrchestrationContext) -> None:
        context.on_message("echo", _twice)
        context.on_query("look", _twice)
        await context.wait_for_external_event("end")

    @app.orchestration
    async def asks(context: OrchestrationContext, text: str) -> int:
        return len(await context.ask("echoes", "echo", text, expected=str))

    async with stage.playing(app) as client:
        await client.start("echoes", instance_id="echoes")
        assert await client.ask("echoes", "echo", "x" * MIB, expected=str) == "x" * 2 * MIB
        assert await client.query("echoes", "look", "x" * MIB, expected=str) == "x" * 2 * MIB
        assert await (await client.start("asks", "x" * MIB)).result(DEADLINE) == 2 * MIB
        for commit in await client.hub.store.history("echoes"):
            assert len(msgspec.json.encode(commit)) < LARGE


def _twice(text: str) -> str:
    return text + text


async def send_event(client: Client, payload: str) -> None:
    now = (await client.get_status("lift")).created_time
    message = RaiseEvent(instance_id="lift", message_id="m", name="more", at=now, input=payload)
    partition = partition_of("lift", client.hub.partitions)
    await client.hub.broker.publish(Destination.partition(partition), encode_pack([message]))


async def test_a_reference_to_what_is_another_instances_is_refused(stage: Stage) -> None:
    app = heavy()
    async with stage.playing(app) as client:
        await client.start("lift", "x" * (SIZE + 1), instance_id="lift")
        stolen = await client.hub.store.put_payload("other", b'"secret"')
        await send_event(client, written(Reference(ref=stolen, bytes=8)))
        (kept,) = await until(lambda: client.hub.store.quarantined(10), len)
        assert "a reference to what belongs to another instance" in kept.reason
        assert not (await client.get_status("lift")).is_terminal


async def test_a_forged_value_behind_a_reference_is_refused(stage: Stage) -> None:
    app = heavy(keys=Keys({"one": b"1" * 32}), allow_pickle=True)
    async with stage.playing(app) as client:
        started = await client.start("lift", "x" * (SIZE + 1), instance_id="lift")
        forged = b'{"$callboard":{"codec":"cloudpickle","key":"one","mac":"AAAA","data":"gASVBQAAAAAAAABLAS4="}}'
        key = await client.hub.store.put_payload("lift", forged)
        await send_event(client, written(Reference(ref=key, bytes=len(forged))))
        (kept,) = await until(lambda: client.hub.store.quarantined(10), len)
        assert "has a wrong seal" in kept.reason
        await client.raise_event("lift", "more", "y")
        assert await started.result(DEADLINE) == "y"


async def test_an_instance_whose_value_is_lost_parks(stage: Stage) -> None:
    app = heavy()
    async with stage.playing(app) as client:
        await client.start("lift", "x" * (SIZE + 1), instance_id="lift")
        await send_event(client, written(Reference(ref=key_of("lift", "gone"), bytes=300_000)))
        status = await until(lambda: client.get_status("lift"), lambda status: status.parked)
        assert status.parked is not None
        assert status.parked.kind == "payload"
        assert "is a large value that is not there: payload lift/" in status.parked.reason


async def test_a_client_says_that_a_value_is_lost(stage: Stage) -> None:
    async with stage.client(heavy()) as client:
        await client.start("lift", "x", instance_id="lift")
        record = (await client.hub.store.records(["lift"]))["lift"]
        lost = msgspec.structs.replace(record, output=written(Reference(ref=key_of("lift", "gone"), bytes=300_000)))
        with pytest.raises(
            PayloadRejectedError, match="The output of instance 'lift' is a large value that is not there"
        ):
            await client.output_of(lost, str)
