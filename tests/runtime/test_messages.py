"""Sending, asking and querying, while answers are lost, workers die and two own the same instance."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from callboard import App, OrchestrationContext
from callboard.client import conversations
from callboard.core.events import AskingClient, MessageAnswered, MessageReceived
from callboard.core.messages import DeliverMessage, Query, Reply
from callboard.errors import (
    BrokerUnavailableError,
    InstanceNotFoundError,
    InstanceNotRunningError,
    MessageFailedError,
    MessageRejectedError,
    QueryFailedError,
)
from callboard.mailbox import Letter
from callboard.packs import decode_pack
from callboard.ports import Destination, DestinationKind
from tests.runtime.support import Failing, Gate, Stage, a_while, eventually, to

pytestmark = pytest.mark.usefixtures("fast")

app = App("stage")


@app.activity
async def charge(amount: int) -> str:
    return f"charged {amount}"


@app.orchestration
async def counter(context: OrchestrationContext) -> int:
    total = 0
    closed = asyncio.Event()

    def positive(amount: int) -> None:
        if amount <= 0:
            raise ValueError("only more")

    @context.on_message(validator=positive)
    def add(amount: int) -> int:
        nonlocal total
        total += amount
        return total

    @context.on_message
    async def pay(amount: int) -> str:
        return await context.call_activity(charge, amount)

    context.on_message("close", closed.set)
    context.on_query("total", lambda: total)
    await closed.wait()
    return total


@app.orchestration
async def asks(context: OrchestrationContext, whom: str) -> Any:
    try:
        return await context.ask(whom, "add", 2, expected=int)
    except MessageFailedError as error:
        return error.failure.error_type


INBOXES, PARTITIONS = to(DestinationKind.INBOX), to(DestinationKind.PARTITION)


async def received(stage: Stage, instance_id: str) -> int:
    return sum(isinstance(event, MessageReceived) for event in await stage.exact(instance_id))


async def test_send_ask_and_query_reach_a_running_instance() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(counter, instance_id="a")
        await client.send("a", "add", 5)
        assert await client.ask("a", "add", 3, expected=int) == 8
        assert await client.query("a", "total", expected=int) == 8
        with pytest.raises(MessageRejectedError, match="only more"):
            await client.ask("a", "add", -1)
        with pytest.raises(MessageRejectedError, match="does not fit"):
            await client.ask("a", "add", "three")
        assert await client.ask("a", "pay", 7) == "charged 7"
        await client.send("a", "close")
        assert await handle.result(10) == 8
        assert await received(stage, "a") == 4
        assert await client.query("a", "total") == 8, "even after the end"


async def test_what_cannot_be_answered_says_why() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        for call in (client.send, client.ask, client.query):
            with pytest.raises(InstanceNotFoundError):
                await call("nobody", "total")
        handle = await client.start(counter, instance_id="a")
        with pytest.raises(QueryFailedError, match="No handler is registered for query 'nothing'"):
            await client.query("a", "nothing")
        waiting = asyncio.ensure_future(client.ask("a", "nothing"))
        await eventually(lambda: received(stage, "a"))
        await client.send("a", "close")
        with pytest.raises(MessageFailedError, match="completed before a handler had answered"):
            await waiting
        await handle.result(10)
        for call in (client.send, client.ask):
            with pytest.raises(InstanceNotRunningError):
                await call("a", "add", 1)


async def test_an_ask_times_out_and_can_be_repeated_for_its_answer() -> None:
    async with Stage() as stage:
        client = await stage.client(app)
        await client.start(counter, instance_id="a")
        with pytest.raises(TimeoutError, match="ask again with message_id='once'"):
            await client.ask("a", "add", 1, timeout=0.05, message_id="once")
        await stage.worker(app)
        other = await stage.client(app)
        assert await other.ask("a", "add", 1, message_id="once") == 1
        assert await client.ask("a", "add", 1, message_id="once") == 1
        assert await client.query("a", "total") == 1


async def test_a_sent_message_counts_once_under_its_id() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await client.start(counter, instance_id="a")
        for _ in range(3):
            await client.send("a", "add", 1, message_id="once")
        assert await client.query("a", "total") == 1


async def test_two_who_ask_the_same_at_once_both_hear() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        publishing = worker.broker.before["publish"] = Gate(to(DestinationKind.ACTIVITIES))
        await worker.start()
        clients = [await stage.client(app) for _ in range(2)]
        await clients[0].start(counter, instance_id="a")
        waiting = [asyncio.ensure_future(client.ask("a", "pay", 1, message_id="once")) for client in clients]
        await eventually(lambda: publishing.waiting)
        await eventually(lambda: worker.worker.turns._replies._waiting)
        publishing.open()
        assert await asyncio.gather(*waiting) == ["charged 1", "charged 1"]


async def test_an_answer_survives_the_worker_that_gave_it() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        replying = worker.broker.before["publish"] = Gate(INBOXES)
        await worker.start()
        client = await stage.client(app)
        await client.start(counter, instance_id="a")
        waiting = asyncio.ensure_future(client.ask("a", "add", 4))
        await eventually(lambda: replying.waiting)
        worker.kill()
        await stage.worker(app)
        assert await waiting == 4
        assert await received(stage, "a") == 1


async def test_a_refusal_that_could_not_be_sent_is_decided_again() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        failing = worker.broker.before["publish"] = Failing(BrokerUnavailableError("gone"), times=2, applies=INBOXES)
        await worker.start()
        client = await stage.client(app)
        await client.start(counter, instance_id="a")
        with pytest.raises(MessageRejectedError, match="only more"):
            await client.ask("a", "add", 0)
        assert failing.raised == 2
        assert await received(stage, "a") == 0


async def test_a_lost_connection_costs_no_answer() -> None:
    async with Stage() as stage:
        worker = stage.enter(app)
        replying = worker.broker.after["publish"] = Gate(INBOXES)
        await worker.start()
        client, actor = await stage.meddled_client(app)
        await client.start(counter, instance_id="a")
        waiting = asyncio.ensure_future(client.ask("a", "add", 4))
        await eventually(lambda: replying.waiting)
        actor.broker.drop_connection()
        replying.open()
        assert await waiting == 4
        assert await client.query("a", "total") == 4


async def test_an_answer_that_never_came_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "ASK_AGAIN", 0.1)
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await client.start(counter, instance_id="a")
        taken = client._conversations._on_reply
        ignored: list[Reply] = []

        def forgetful(reply: Reply) -> None:
            if len(ignored) < 2:
                ignored.append(reply)
            else:
                taken(reply)

        client._connection.on(Reply, forgetful)
        assert await client.ask("a", "add", 4) == 4
        assert len(ignored) == 2
        assert await received(stage, "a") == 1


async def test_everything_is_answered_once_when_messages_are_doubled_lost_and_reordered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversations, "ASK_AGAIN", 0.5)
    async with Stage() as stage:
        faults = stage.server.faults
        faults.duplicate, faults.reorder, faults.lose_confirms, faults.lose_publishes = 0.3, 0.3, 0.1, 0.1
        for _ in range(2):
            await stage.worker(app)
        client = await stage.client(app)
        await client.start(counter, instance_id="a")
        answers = await asyncio.gather(*(client.ask("a", "add", 1, expected=int) for _ in range(30)))
        assert sorted(answers) == list(range(1, 31))
        paid = await asyncio.gather(*(client.ask("a", "pay", n) for n in range(10)))
        assert paid == [f"charged {n}" for n in range(10)]
        assert await client.query("a", "total") == 30
        handles = [await client.start(asks, "a") for _ in range(5)]
        assert sorted([await handle.result(20) for handle in handles]) == list(range(32, 42, 2))
        assert await received(stage, "a") == 45


async def test_a_query_is_not_answered_from_a_state_that_others_have_left_behind() -> None:
    async with Stage() as stage:
        zombie, heir = await stage.worker(app), stage.enter(app)
        client = await stage.client(app)
        await client.start(counter, instance_id="a")
        assert await client.ask("a", "add", 1) == 1  # the zombie is hot
        await zombie.worker._consumers.aclose()  # it hears nothing more, and still believes that it owns everything
        await heir.start()
        assert await client.ask("a", "add", 1) == 2
        question = Query(instance_id="a", query_id="q", name="total", asker=AskingClient(inbox="ear"))
        ear = await stage.listen(Destination.inbox("ear"))
        assert zombie.worker._post(Letter(question))
        await eventually(lambda: ear)
        assert decode_pack(ear[0].body) == (Reply(reply_to="q", result="2"),)


async def test_an_orchestration_that_asks_nobody_is_told_so() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        assert await (await client.start(asks, "nobody")).result(10) == "InstanceNotFound"
        await client.start(counter, instance_id="a")
        await client.send("a", "close")
        await client.wait("a", 10)
        assert await (await client.start(asks, "a")).result(10) == "InstanceNotRunning"


async def test_a_client_that_is_gone_holds_nothing_up() -> None:
    async with Stage() as stage:
        await stage.worker(app)
        client = await stage.client(app)
        await client.start(counter, instance_id="a")
        gone = AskingClient(inbox="gone")
        now = (await client.get_status("a")).created_time
        message = DeliverMessage(instance_id="a", message_id="x", name="add", at=now, input="1", asker=gone)
        await stage.publish(
            stage.queue_of("a"), message, Query(instance_id="a", query_id="q", name="total", asker=gone)
        )
        assert await client.query("a", "total") in (0, 1)
        await eventually(lambda: received(stage, "a"))

        async def all_done() -> bool:
            return not await stage.unsent() and not await stage.depth(stage.queue_of("a"))

        await eventually(all_done)
        assert any(isinstance(event, MessageAnswered) for event in await stage.events("a"))


async def test_a_query_that_hangs_is_told_and_parks_nothing() -> None:
    hanging = App("stage")

    @hanging.orchestration
    async def thinker(context: OrchestrationContext) -> None:
        def think() -> None:
            while True:
                pass

        context.on_query("think", think)
        context.on_query("block", lambda: time.sleep(1.5))
        context.on_query("fine", lambda: "fine")
        await context.wait_for_external_event("end")

    async with Stage() as stage:
        await stage.worker(hanging, turn_limit=0.3)
        client = await stage.client(hanging)
        handle = await client.start(thinker, instance_id="a")
        assert await client.query("a", "fine") == "fine"
        with pytest.raises(QueryFailedError, match="interrupted"):
            await client.query("a", "think")
        with pytest.raises(QueryFailedError, match="A query handler hangs"):
            await client.query("a", "block")
        assert await client.query("a", "fine") == "fine"
        status = await client.get_status("a")
        assert (status.runtime_status, status.parked) == ("Running", None)
        await client.raise_event("a", "end")
        await handle.result(10)


async def test_activations_that_queries_loaded_are_evicted_when_they_have_ended() -> None:
    async with Stage() as stage:
        worker = await stage.worker(app)
        client = await stage.client(app)
        handle = await client.start(counter, instance_id="a")
        await client.send("a", "close")
        await handle.result(10)
        assert await client.query("a", "total") == 0
        await a_while()
        assert worker.worker.turns._actors == {}
