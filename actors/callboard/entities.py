"""Registered entities: how functions and classes carry operations out, and where the state is in them."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import msgspec

from callboard.codecs import CodecName
from callboard.core import payloads
from callboard.core.binding import Binding, hints_of
from callboard.core.entities import EntityId
from callboard.core.entity_context import EntityContext, UnreadableStateError
from callboard.errors import InvalidPayloadError, OperationNotFoundError, RegistrationError

#: How long an ``async def`` operation may take, in seconds.
OPERATION_TIMEOUT = 60.0
#: What deletes an entity of a class that does not define it otherwise (Durable Functions' own).
DELETE = "delete"


class OperationDefinition:
    """A function that carries out operations of an entity."""

    def __init__(self, function: Callable[..., Any], what: str, *, skip: int, names: frozenset[str]) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise RegistrationError(f"{what} yields: operations return their result.")
        self.function = function
        self.what = what
        self.is_async = inspect.iscoroutinefunction(function)
        self._context_names = names
        self._binding = Binding(function, what, skip=skip, without=names)

    def invoke(self, context: EntityContext, *first: Any) -> Any:
        """Calls the function with its decoded input."""
        given = self._binding.bind(context.content)
        return self.function(*first, **given, **dict.fromkeys(self._context_names, context))


class FunctionEntity:
    """An entity that is a function: ``def counter(context)``, asked for every operation by its name."""

    def __init__(self, name: str, function: Callable[..., Any], timeout: float, codec: CodecName | None) -> None:
        self.name = name
        self.function = function
        self.codec = codec
        self._timeout = timeout
        self._operation = OperationDefinition(function, f"entity {name!r}", skip=1, names=frozenset())

    def is_async(self, operation: str) -> bool:
        return self._operation.is_async

    async def run(self, context: EntityContext) -> None:
        """Carries an operation out (`callboard.core.entity_context.EntityCode`)."""
        result = self._operation.invoke(context, context)
        context.returned(await _awaited(result, self._operation, self._timeout))


class ClassEntity:
    """An entity that is a class: its public methods are the operations, its fields the state, made anew for every operation.

    The state of a class with a field ``state`` is that field's value. Fields whose names begin with ``_`` are not kept.
    """

    def __init__(self, name: str, cls: type[Any], timeout: float, codec: CodecName | None) -> None:
        self.name = name
        self.function = cls
        self.codec = codec
        self._cls = cls
        self._timeout = timeout
        _check_constructor(name, cls)
        self._fields = {key: hint for key, hint in hints_of(cls, f"entity {name!r}").items() if not key.startswith("_")}
        self._is_record = (
            dataclasses.is_dataclass(cls) or isinstance(cls, msgspec.StructMeta) or hasattr(cls, "model_validate")
        )
        self._operations = {
            operation: OperationDefinition(
                function, f"operation {operation!r} of entity {name!r}", skip=1, names=_context_names(function)
            )
            for operation, function in _methods(cls)
        }

    def is_async(self, operation: str) -> bool:
        found = self._operations.get(operation)
        return found is not None and found.is_async

    async def run(self, context: EntityContext) -> None:
        """Carries an operation out (`callboard.core.entity_context.EntityCode`)."""
        operation = self._operations.get(context.operation_name)
        if operation is None:
            if context.operation_name == DELETE:
                context.delete_state()
                return
            raise OperationNotFoundError(self.name, context.operation_name, [*self._operations, DELETE])
        instance = self._instance(context)
        context.returned(await _awaited(operation.invoke(context, instance), operation, self._timeout))
        if not context.state_was_set:
            context.set_state(self._state_of(instance))

    def _instance(self, context: EntityContext) -> Any:
        if context.is_newly_constructed:
            return self._new()
        if "state" in self._fields:
            instance = self._new()
            instance.state = context.get_state(expected=self._fields["state"])
            return instance
        if self._is_record:
            return context.get_state(expected=self._cls)
        instance = self._new()
        for name, value in context.get_state(expected=dict[str, msgspec.Raw]).items():
            setattr(instance, name, self._field(context, name, value))
        return instance

    def _new(self) -> Any:
        instance = self._cls()
        if (
            not self._is_record
        ):  # a default that is written on the class is all instances' own, and may be changed in place
            for name in self._fields:
                if name not in vars(instance) and hasattr(instance, name):
                    setattr(instance, name, copy.deepcopy(getattr(instance, name)))
        return instance

    def _field(self, context: EntityContext, name: str, value: msgspec.Raw) -> Any:
        expected = payloads.decodable(self._fields.get(name, Any))
        try:
            return payloads.decode(bytes(value).decode(), expected, f"The state of {context.entity_id}, {name!r},")
        except InvalidPayloadError as error:
            raise UnreadableStateError(str(error)) from error

    def _state_of(self, instance: Any) -> Any:
        if "state" in self._fields:
            return getattr(instance, "state", None)
        if self._is_record:
            return instance
        fields = typing.cast("dict[str, Any]", vars(instance))
        return {name: value for name, value in fields.items() if not name.startswith("_")}


#: A registered entity.
EntityDefinition: TypeAlias = FunctionEntity | ClassEntity


def define_entity(
    target: Callable[..., Any], name: str | None, timeout: float, codec: CodecName | None = None
) -> EntityDefinition:
    """An entity out of a function or a class.

    Raises:
        RegistrationError: the name is not allowed, the signature cannot be bound, or the class cannot be made without arguments.
    """
    if timeout <= 0:
        raise RegistrationError(f"timeout={timeout} is not possible: use a number of seconds above 0.")
    try:
        name = EntityId(name or target.__name__, "").name
    except ValueError as error:
        raise RegistrationError(str(error)) from None
    if isinstance(target, type):
        return ClassEntity(name, target, timeout, codec)
    return FunctionEntity(name, target, timeout, codec)


async def _awaited(result: Any, operation: OperationDefinition, timeout: float) -> Any:
    if not operation.is_async:
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"{operation.what} returned an awaitable: make it `async def`, and await it there.")
        return result
    try:
        async with asyncio.timeout(timeout):
            return await _uncancelled(result)
    except TimeoutError as error:
        if str(error):
            raise
        raise TimeoutError(
            f"{operation.what} took longer than {timeout:g} s. Give it more (@app.entity(timeout=…)), or start an orchestration that does the work."
        ) from None


async def _uncancelled(result: Coroutine[Any, Any, Any]) -> Any:
    """An operation that cancels itself fails, like any other; one that is cancelled because the worker ends does not."""
    task = asyncio.current_task()
    try:
        return await result
    except asyncio.CancelledError as error:
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("The operation was cancelled from inside.") from error


def _check_constructor(name: str, cls: type[Any]) -> None:
    missing = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if missing:
        raise RegistrationError(
            f"Entity {name!r} cannot be made without arguments: give {', '.join(missing)} of {cls.__qualname__} a default, which is the "
            "state of a new one."
        )


def _methods(cls: type[Any]) -> list[tuple[str, Callable[..., Any]]]:
    """The public methods that a person wrote."""
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] in ("builtins", "msgspec", "pydantic", "typing"):
            continue
        members = vars(base).items()
        found |= {name: member for name, member in members if inspect.isfunction(member) and not name.startswith("_")}
    return list(found.items())


def _context_names(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters that take the context: those of its type, or one called ``context`` without a type."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        hints = {}  # the binding says what is wrong
    return frozenset(
        name
        for name in inspect.signature(function).parameters
        if hints.get(name) is EntityContext or (name == "context" and name not in hints)
    )
