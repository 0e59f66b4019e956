"""Entities as people write them: functions and classes, what of them is kept, and what is refused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from callboard import App, EntityContext, EntityId
from callboard.core.entities import Operation, Position
from callboard.core.entity_context import UnreadableStateError
from callboard.entities import EntityDefinition, define_entity
from callboard.errors import InvalidPayloadError, OperationNotFoundError, RegistrationError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Played:
    """One entity, played by hand."""

    def __init__(self, target: Any, *, timeout: float = 5.0, state: str | None = None) -> None:
        self.definition: EntityDefinition = define_entity(target, None, timeout)
        self.app = App("stage")
        self.state = state

    async def do(self, operation: str, value: object = None) -> Any:
        caller = {"instanceId": "i", "executionId": "e", "taskScheduledId": 0}
        request = msgspec.convert(
            {
                "line": Position(sender="s"),
                "sent": NOW,
                "requestId": "r",
                "operation": operation,
                "input": None if value is None else msgspec.json.encode(value).decode(),
                "caller": caller,
            },
            Operation,
            from_attributes=True,
        )
        context = EntityContext(
            EntityId(self.definition.name, "k"),
            request,
            self.state,
            now=NOW,
            execution_id="e",
            numbers=0,
            targets=self.app.registry,
        )
        await self.definition.run(context)
        done = context.outcome()
        self.state = done.state
        return None if done.result is None else msgspec.json.decode(done.result)

    @property
    def value(self) -> Any:
        return None if self.state is None else msgspec.json.decode(self.state)


# Classes


class Plain:
    count: int = 0
    seen: list[datetime] = []  # noqa: RUF012 - on the class, as users write
    _cache: int = 5

    def see(self, at: datetime) -> int:
        self.seen.append(at)
        self.count += 1
        self._cache = 7
        return len(self.seen)

    def cached(self) -> int:
        return self._cache

    def both(self, left: int, right: int = 2) -> int:
        return left + right

    def _hidden(self) -> None:
        pass


@dataclass
class Data:
    count: int = 0
    names: dict[str, int] = field(default_factory=dict[str, int])

    def see(self, name: str) -> None:
        self.count += 1
        self.names[name] = self.count


class Struct(msgspec.Struct):
    count: int = 0

    def see(self) -> int:
        self.count += 1
        return self.count


class Model(BaseModel):
    count: int = 0

    def see(self) -> int:
        self.count += 1
        return self.count


class Typed:
    state: dict[str, int]

    def __init__(self) -> None:
        self.state = {"new": 1}

    def put(self, key: str, context: EntityContext) -> str:
        self.state[key] = len(self.state)
        return context.entity_key

    def drop(self, context: EntityContext) -> None:
        context.delete_state()

    async def later(self, context) -> str:  # type: ignore[no-untyped-def] # as some people write
        await asyncio.sleep(0)
        return str(context.operation_name)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]


async def test_the_fields_of_a_plain_class_are_its_state() -> None:
    played = Played(Plain)
    assert await played.do("see", "2026-01-01T00:00:00Z") == 1
    assert await played.do("see", "2026-01-02T00:00:00Z") == 2
    assert played.value == {"count": 2, "seen": ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]}
    assert await played.do("cached") == 5
    assert Plain.seen == []
    assert await Played(Plain).do("see", "2026-01-01T00:00:00Z") == 1


async def test_several_parameters_take_an_object() -> None:
    assert await Played(Plain).do("both", {"left": 1}) == 3
    with pytest.raises(InvalidPayloadError, match="missing: left"):
        await Played(Plain).do("both", {"right": 1})


@pytest.mark.parametrize("cls", [Struct, Model])
async def test_structs_and_models_are_their_own_state(cls: type[Any]) -> None:
    played = Played(cls)
    assert [await played.do("see"), await played.do("see")] == [1, 2]
    assert played.value == {"count": 2}
    with pytest.raises(OperationNotFoundError, match="Operations that are: delete, see"):
        await played.do("model_dump")


async def test_dataclasses_are_their_own_state() -> None:
    played = Played(Data)
    await played.do("see", "a")
    await played.do("see", "b")
    assert played.value == {"count": 2, "names": {"a": 1, "b": 2}}


async def test_a_typed_state_is_the_state() -> None:
    played = Played(Typed)
    assert await played.do("put", "a") == "k"
    assert played.value == {"new": 1, "a": 1}
    assert await played.do("later") == "later"
    await played.do("drop")
    assert played.state is None


async def test_every_class_can_be_deleted() -> None:
    played = Played(Plain)
    await played.do("see", "2026-01-01T00:00:00Z")
    await played.do("delete")
    assert played.state is None


@pytest.mark.parametrize("operation", ["nothing", "_hidden", "__init__", "count", ""])
async def test_only_public_methods_are_operations(operation: str) -> None:
    with pytest.raises(OperationNotFoundError):
        await Played(Plain).do(operation)


@pytest.mark.parametrize(("cls", "state"), [
    (Plain, '{"count": "many"}'), (Plain, "[1]"), (Struct, '{"count": null}'), (Typed, '{"a": "b"}'), (Data, "7"),
])  # fmt: skip
async def test_a_state_that_does_not_fit_is_no_failure_of_the_operation(cls: type[Any], state: str) -> None:
    with pytest.raises(UnreadableStateError):
        await Played(cls, state=state).do("drop" if cls is Typed else "see", "2026-01-01T00:00:00Z")


async def test_fields_that_are_not_known_any_more_are_kept() -> None:
    played = Played(Plain, state='{"count": 1, "old": [1]}')
    await played.do("see", "2026-01-01T00:00:00Z")
    assert played.value["old"] == [1]


# Functions


async def test_a_function_is_asked_for_every_operation() -> None:
    def ledger(context: EntityContext, amount: int = 1) -> str:
        context.set_state(context.get_state(lambda: 0) + amount)
        return f"{context.operation_name} {context.entity_name}"

    played = Played(ledger)
    assert await played.do("anything", 5) == "anything ledger"
    await played.do("else")
    assert played.value == 6


async def test_an_async_function_may_await() -> None:
    async def ledger(context: EntityContext) -> None:
        await asyncio.sleep(0)
        context.set_state(1)

    played = Played(ledger)
    assert played.definition.is_async("anything")
    await played.do("anything")
    assert played.value == 1


# Operations that go wrong


class Wrong:
    async def slow(self) -> None:
        await asyncio.sleep(30)

    async def times_out_itself(self) -> None:
        raise TimeoutError("mine")

    async def cancels_itself(self) -> None:
        raise asyncio.CancelledError

    def forgets_async(self) -> Any:
        return asyncio.sleep(0)


async def test_an_operation_has_a_limit_of_time() -> None:
    with pytest.raises(TimeoutError, match=r"operation 'slow' of entity 'wrong' took longer than 0\.05 s"):
        await Played(Wrong, timeout=0.05).do("slow")
    with pytest.raises(TimeoutError, match="mine"):
        await Played(Wrong).do("times_out_itself")


async def test_an_operation_that_cancels_itself_fails() -> None:
    with pytest.raises(RuntimeError, match="cancelled from inside"):
        await Played(Wrong).do("cancels_itself")


async def test_an_operation_that_is_cancelled_because_the_worker_ends_does_not_fail() -> None:
    task = asyncio.ensure_future(Played(Wrong).do("slow"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_awaitable_from_a_plain_method_is_an_error() -> None:
    with pytest.raises(TypeError, match="make it `async def`"):
        await Played(Wrong).do("forgets_async")


# Registration


class NeedsArguments:
    def __init__(self, size: int) -> None:
        self.size = size


class Yields:
    def numbers(self) -> Any:
        yield 1


def takes_nothing() -> None:
    pass


@pytest.mark.parametrize(("target", "name", "message"), [
    (NeedsArguments, None, "give size of NeedsArguments a default"),
    (Yields, None, "yields"),
    (takes_nothing, None, "needs one for its context"),
    (Plain, "a b", "whitespace"),
    (Plain, "a@b", "'@'"),
])  # fmt: skip
def test_what_cannot_be_an_entity_is_refused(target: Any, name: str | None, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        App("stage").entity(name=name)(target)


def test_a_name_is_taken_once_whatever_its_case() -> None:
    app = App("stage")
    app.entity(Plain)
    app.entity(name="PLAIN")(Plain)
    with pytest.raises(RegistrationError, match="Two functions are registered as entity 'plain'"):
        app.entity(name="Plain")(Struct)
    with pytest.raises(RegistrationError, match="timeout=0"):
        app.entity(timeout=0)(Struct)
