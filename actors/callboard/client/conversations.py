"""A client's side of asking: sends questions, waits for their answers, and asks again when one may have been lost.

A question keeps its identity, so asking again is harmless: an ask is handled once and its answer repeated, a query is answered anew.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from callboard.client.connection import Connection
from callboard.core import payloads
from callboard.core.answers import NOT_FOUND, NOT_RUNNING, message_error
from callboard.core.codec import Codec, Content, Place, answer_place, message_place
from callboard.core.conversation import Question
from callboard.core.events import Asker, AskingClient, Payload
from callboard.core.instances import check_instance_id
from callboard.core.messages import DeliverMessage, Query, Reply
from callboard.core.references import is_large
from callboard.errors import InvalidPayloadError, QueryFailedError
from callboard.large_values import LargeValues

#: How long to wait for an answer before asking again, in seconds: it, or its notice, may have been lost.
ASK_AGAIN = 30.0


class Answer(msgspec.Struct, frozen=True):
    """What came back, and where it belongs."""

    payload: Payload | None
    place: Place


class Conversations:
    """What one client has asked and not been answered yet."""

    def __init__(self, connection: Connection, codec: Codec, large: LargeValues) -> None:
        self._connection = connection
        self._codec = codec
        self._large = large
        self._asker = AskingClient(inbox=connection.client_id)
        self._waiting: dict[str, list[_Waiting]] = {}
        connection.on(Reply, self._on_reply)
        connection.on_reconnect(self._ask_again)

    async def send(self, instance_id: str, name: str, content: Content | None, message_id: str | None) -> None:
        """Sends a message that asks for no answer."""
        await self._connection.require_running(instance_id)
        message = await self._message(instance_id, name, content, message_id, asker=None)
        await self._connection.send(message)

    async def ask(
        self, instance_id: str, name: str, content: Content | None, message_id: str | None, timeout: float | None
    ) -> Answer:
        """Sends a message and returns its answer."""
        message = await self._message(instance_id, name, content, message_id, asker=self._asker)
        hint = f"It may still be handled: ask again with message_id={message.message_id!r} for the same answer."
        reply = await self._reply(message.message_id, message, timeout, hint)
        if reply.failure is None:
            whole = await self._large.fetched(reply.result)
            return Answer(whole, answer_place(instance_id, message.message_id, self._asker))
        if reply.failure.error_type in (NOT_FOUND, NOT_RUNNING):
            await self._connection.require_running(instance_id)
        raise message_error(name, -1, reply.failure)

    async def query(self, instance_id: str, name: str, content: Content | None, timeout: float | None) -> Answer:
        """Sends a query and returns its answer."""
        name, query_id = payloads.text(name, "The name of a query"), self._connection.host.token()
        query = Query(
            instance_id=check_instance_id(instance_id),
            query_id=query_id,
            name=name,
            asker=self._asker,
            input=await self._kept(content, message_place(instance_id, query_id, name)),
        )
        reply = await self._reply(query_id, query, timeout, "Is a worker running?")
        if reply.failure is None:
            whole = await self._large.fetched(reply.result)
            return Answer(whole, answer_place(instance_id, query_id, self._asker))
        if reply.failure.error_type == NOT_FOUND:
            await self._connection.require_running(instance_id)
        raise QueryFailedError(name, reply.failure)

    async def _kept(self, content: Content | None, place: Place) -> Payload | None:
        """The payload of what is asked; what is large is kept for an instance only if there is one."""
        payload = self._codec.seal(content, place)
        if is_large(payload):
            await self._connection.require_running(place.instance_id)
        return await self._large.kept(payload, place.instance_id)

    async def _message(
        self, instance_id: str, name: str, content: Content | None, message_id: str | None, *, asker: Asker | None
    ) -> DeliverMessage:
        name, message_id = payloads.text(name, "The name of a message"), self._message_id(message_id)
        return DeliverMessage(
            instance_id=check_instance_id(instance_id),
            message_id=message_id,
            name=name,
            at=self._connection.host.now(),
            input=await self._kept(content, message_place(instance_id, message_id, name)),
            asker=asker,
        )

    def _on_reply(self, reply: Reply) -> None:
        """Takes an answer from the inbox."""
        for waiting in self._waiting.get(reply.reply_to, ()):
            if not waiting.reply.done():
                waiting.reply.set_result(reply)

    def _ask_again(self) -> None:
        """Asks everything again: what was in the inbox is lost."""
        for several in self._waiting.values():
            for waiting in several:
                self._connection.tell(waiting.question)

    def _message_id(self, given: str | None) -> str:
        if given == "":
            raise InvalidPayloadError("The id of a message must not be empty.")
        return self._connection.host.token() if given is None else payloads.text(given, "The id of a message")

    async def _reply(self, key: str, question: Question, timeout: float | None, hint: str) -> Reply:
        waiting = _Waiting(question)
        try:
            async with asyncio.timeout(timeout):
                await self._connection.listen()
                self._waiting.setdefault(key, []).append(waiting)
                await self._connection.send(question)
                while not await waiting.arrived():
                    self._connection.tell(question)
                return waiting.reply.result()
        except TimeoutError as error:
            raise TimeoutError(
                f"Instance {question.instance_id!r} has not answered {question.name!r} within {timeout} s. {hint}"
            ) from error
        finally:
            self._forget(key, waiting)

    def _forget(self, key: str, waiting: _Waiting) -> None:
        several = self._waiting.get(key, [])
        if waiting in several:
            several.remove(waiting)
        if not several:
            self._waiting.pop(key, None)


class _Waiting:
    """One who waits for an answer."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    async def arrived(self) -> bool:
        """Waits for the answer, or for the time to ask again; says which it was."""
        waited: set[asyncio.Future[Any]] = {self.reply}
        return bool((await asyncio.wait(waited, timeout=ASK_AGAIN))[0])
