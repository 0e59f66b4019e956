"""Message handlers, end to end."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio

import pytest

from callboard import App, Keys, MessageFailedError, MessageRejectedError, OrchestrationContext, QueryFailedError
from callboard.core.codec import message_place
from tests.e2e.stage import Stage, ended

app = App("messages", partitions=4)


@app.activity
async def book(seats: int) -> str:
    return f"{seats} seats booked"


@app.orchestration
async def box_office(context: OrchestrationContext, free: int) -> list[str]:
    sold: list[str] = []
    closed = asyncio.Event()

    def enough(seats: int) -> None:
        if seats > free:
            raise ValueError(f"only {free} seats are free")

    @context.on_message(validator=enough)
    async def sell(seats: int) -> str:
        nonlocal free
        free -= seats
        sold.append(await context.call_activity(book, seats))
        return sold[-1]

    context.on_message("close", closed.set)
    context.on_query("free", lambda: free)
    await closed.wait()
    await context.handlers_finished()
    return sold


@app.orchestration
async def visitor(context: OrchestrationContext, office: str) -> str:
    bought: str = await context.ask(office, "sell", 1, expected=str)
    context.send(office, "close")
    return bought


async def test_a_box_office_sells_tells_and_closes(stage: Stage) -> None:
    async with stage.playing(app) as client:
        office = (await client.start(box_office, 3, instance_id="office")).instance_id
        assert await client.ask(office, "sell", 2, expected=str) == "2 seats booked"
        assert await client.query(office, "free", expected=int) == 1
        with pytest.raises(MessageRejectedError, match="only 1 seats are free"):
            await client.ask(office, "sell", 2)
        guest = await client.start(visitor, office)
        assert (await ended(client, guest.instance_id)).output == "1 seats booked"
        assert (await ended(client, office)).output == ["2 seats booked", "1 seats booked"]
        assert await client.query(office, "free") == 0, "it answers after its end, too"
        with pytest.raises(QueryFailedError, match="There are: free"):
            await client.query(office, "full")


async def test_an_ask_waits_for_a_worker_and_is_answered_once(stage: Stage) -> None:
    async with stage.client(app) as client, stage.client(app) as other:
        await client.start(box_office, 3, instance_id="office")
        waiting = [asyncio.ensure_future(each.ask("office", "sell", 1, message_id="one")) for each in (client, other)]
        async with stage.worker(app):
            assert await asyncio.gather(*waiting) == ["1 seats booked"] * 2
        async with stage.worker(app):
            assert await client.ask("office", "sell", 1, message_id="one") == "1 seats booked"
            assert await other.query("office", "free") == 2
            await client.send("office", "close")
            assert (await ended(client, "office")).output == ["1 seats booked"]


async def test_an_ask_that_was_tampered_with_is_quarantined_and_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = App("messages", partitions=4, keys=Keys({"one": b"1" * 32}), encrypt=True)

    @keyed.orchestration
    async def counter(context: OrchestrationContext) -> None:
        context.on_message("add", lambda: None)
        await context.wait_for_external_event("end")

    async with stage.playing(keyed) as client, stage.client(keyed) as forger:
        await client.start(counter, instance_id="a")
        codec = forger.hub.codec(keyed)
        elsewhere = codec.seal("1", message_place("b", "x", "add"))

        def misplace(content: object, place: object) -> str | None:
            return elsewhere

        monkeypatch.setattr(codec, "seal", misplace)
        monkeypatch.setattr(forger._conversations, "_codec", codec)
        with pytest.raises(MessageFailedError, match="wrong seal"):
            await forger.ask("a", "add", 1)
        (kept,) = await client.hub.store.quarantined(10)
        assert "wrong seal" in kept.reason
        assert await client.ask("a", "add", 1, timeout=30) is None
