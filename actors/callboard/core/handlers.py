"""The handlers that an orchestration's code has registered, what they have in hand, and what waits for them.

Rules of this file:

* The messages of one name begin in order of arrival, each in a task of its own. A handler that awaits lets the next one begin.
* A message is taken when its handler begins. What is not taken is kept, and carried over by ``continue_as_new``.
* Validators and query handlers only look. What asks for something durable there is refused before anything has changed.
* What is asked is validated before history has it, so a refusal leaves no trace; replay does not validate it again. Any other message is
  in history when it meets its handler, and so is its refusal.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import Any, Protocol, TypeVar

import msgspec

from callboard.core import payloads
from callboard.core.answers import rejected
from callboard.core.binding import Binding
from callboard.core.codec import Content
from callboard.core.events import MessageReceived
from callboard.core.failure import FailureDetails
from callboard.core.loop import DeterministicFuture
from callboard.errors import NonDeterminismError, RegistrationError

T = TypeVar("T")


class HandlerHost(Protocol):
    """The execution that the handlers run in."""

    meddled: bool
    """Whether code that may only look has woken other code."""

    def look(self, call: Callable[[], T]) -> T:
        """Calls something that may only look."""
        ...

    def next_arrival(self) -> int:
        """A number for what arrives, shared with events."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs a task on the execution's loop."""
        ...

    def future(self) -> DeterministicFuture[None]:
        """Makes a future of the execution's loop."""
        ...

    async def awaited(self, returned: Any) -> Any:
        """What a function returned, or what the coroutine or generator that it returned comes to."""
        ...

    def encode(self, value: object, what: str) -> Content | None:
        """Encodes an answer."""
        ...

    def answer(
        self, message: MessageReceived, *, result: Content | None = None, failure: FailureDetails | None = None
    ) -> None:
        """Records an answer."""
        ...

    def fail(self, error: BaseException) -> None:
        """Ends the orchestration as failed."""
        ...


class _Handler(msgspec.Struct, frozen=True):
    function: Callable[..., Any]
    binding: Binding
    validator: Callable[..., Any] | None = None
    validation: Binding | None = None


class _Taken(msgspec.Struct, frozen=True):
    """A message, and what its data are, opened."""

    message: MessageReceived
    content: Content | None


class Handlers:
    """The handlers of one activation."""

    def __init__(self, host: HandlerHost) -> None:
        self._host = host
        self._handlers: dict[str, _Handler] = {}
        self._queries: dict[str, _Handler] = {}
        self._kept: dict[int, _Taken] = {}
        self._due: dict[int, _Taken] = {}
        self._running = 0
        self._waiters: list[DeterministicFuture[None]] = []

    # What code registers

    def on_message(self, name: str, function: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        """Registers a handler, and gives it what waits; one that was registered before is replaced."""
        name = payloads.text(name, "The name of a message")
        what = f"the handler of message {name!r}"
        validation = None
        if validator is not None:
            validation = Binding(
                _plain(validator, f"The validator of message {name!r}"), f"the validator of {name!r}", skip=0
            )
        handler = _Handler(function, Binding(function, what, skip=0), validator, validation)
        key = name.casefold()
        self._handlers[key] = handler
        for number in [number for number, kept in self._kept.items() if kept.message.name.casefold() == key]:
            self._begin(number, self._kept.pop(number), handler)

    def on_query(self, name: str, function: Callable[..., Any]) -> None:
        """Registers a query handler; one that was registered before is replaced."""
        name = payloads.text(name, "The name of a query")
        binding = Binding(_plain(function, f"The handler of query {name!r}"), f"the handler of query {name!r}", skip=0)
        self._queries[name.casefold()] = _Handler(function, binding)

    async def finished(self) -> None:
        """Returns once no handler runs and none is about to."""
        while self._running or self._due:
            waiter = self._host.future()
            self._waiters.append(waiter)
            await waiter

    # What comes in

    def has(self, name: str) -> bool:
        """Whether a handler is registered for messages of that name."""
        return name.casefold() in self._handlers

    def validate(self, name: str, content: Content | None) -> FailureDetails | None:
        """Has a message validated before history holds it; returns why it was refused, if it was.

        Raises:
            NonDeterminismError: the validator did more than look.
        """
        refusal = self._refusal(self._handlers[name.casefold()], content)
        if self._host.meddled:
            raise NonDeterminismError(
                f"The validator of message {name!r} woke another part of the orchestration. A validator must only look and "
                "raise: move the rest into the handler, deploy, and resume the instance."
            )
        return refusal

    def take(self, message: MessageReceived, content: Content | None) -> None:
        """Gives a message to its handler, or keeps it until there is one.

        Args:
            message: As it is in history.
            content: What its data are, opened.
        """
        number = self._host.next_arrival()
        handler = self._handlers.get(message.name.casefold())
        taken = _Taken(message, content)
        if handler is None:
            self._kept[number] = taken
        else:
            self._begin(number, taken, handler)

    def untaken(self) -> dict[int, MessageReceived]:
        """Messages that no handler has taken, by number of arrival."""
        return {number: taken.message for number, taken in {**self._kept, **self._due}.items()}

    def query(self, name: str, content: Content | None) -> Content | None:
        """Answers a query.

        Raises:
            Exception: whatever the handler raises; LookupError, if there is none.
        """
        handler = self._queries.get(name.casefold())
        if handler is None:
            known = ", ".join(sorted(self._queries)) or "none so far"
            raise LookupError(f"No handler is registered for query {name!r}. There are: {known}.")
        value = self._host.look(lambda: handler.binding.call(handler.function, content))
        if isawaitable(value):
            if iscoroutine(value):
                value.close()
            raise TypeError(f"The handler of query {name!r} must be a plain function, and return its answer.")
        return self._host.encode(value, f"The answer to query {name!r}")

    # How a message is handled

    def _begin(self, number: int, taken: _Taken, handler: _Handler) -> None:
        self._due[number] = taken
        self._host.spawn(self._handle(number, handler), f"message {taken.message.name}")

    async def _handle(self, number: int, handler: _Handler) -> None:
        taken = self._due.pop(number)
        self._running += 1
        refusal = None if taken.message.validated else self._refusal(handler, taken.content)
        if refusal is not None:
            self._host.answer(taken.message, failure=refusal)
        else:
            await self._run(taken.message, handler, taken.content)
        self._running -= 1
        if not self._running and not self._due:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _run(self, message: MessageReceived, handler: _Handler, content: Content | None) -> None:
        try:
            value = await self._host.awaited(handler.binding.call(handler.function, content))
            answer = self._host.encode(value, f"The answer to message {message.name!r}") if message.asker else None
        except CancelledError:
            self._on_error(message, RuntimeError(f"The handler of message {message.name!r} was cancelled from inside."))
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is its answer
            self._on_error(message, error)
        else:
            if message.asker is not None:
                self._host.answer(message, result=answer)

    def _on_error(self, message: MessageReceived, error: Exception) -> None:
        """Who asked is told. Nobody hears of what goes wrong with a message that was only sent, so that ends the orchestration."""
        if message.asker is not None:
            self._host.answer(message, failure=FailureDetails.from_exception(error))
        else:
            self._host.fail(error)

    def _refusal(self, handler: _Handler, content: Content | None) -> FailureDetails | None:
        self._host.meddled = False
        try:
            handler.binding.bind(content)
            if handler.validator is not None and handler.validation is not None:
                validator, validation = handler.validator, handler.validation
                self._host.look(lambda: validation.call(validator, content))
        except Exception as error:  # noqa: BLE001 - raising is how a validator refuses
            return rejected(error)
        return None


def _plain(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    if iscoroutinefunction(function):
        raise RegistrationError(f"{what} is an async function, but it must only look: write def, without await.")
    return function
