"""Name → function: what a worker can run, and how values are bound to parameters."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from callboard.core import payloads
from callboard.core.binding import Binding
from callboard.core.context import OrchestrationContext
from callboard.core.events import Payload
from callboard.core.execution import CallTarget
from callboard.core.instances import check_queue_name
from callboard.errors import (
    ActivityNotRegisteredError,
    InvalidPayloadError,
    OrchestrationNotRegisteredError,
    RegistrationError,
)

#: Longest name of an activity, an orchestration or a queue, in characters.
MAX_NAME = 100


class OrchestrationDefinition:
    """A registered orchestrator function."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self._binding = Binding(function, f"orchestration {name!r}", skip=1)
        self.target = CallTarget(name=name, result_type=self._binding.result_type)

    def invoke(self, context: OrchestrationContext, payload: Payload | None) -> Any:
        """Calls the function with its decoded input."""
        return self.function(context, **self._binding.bind(payload))


class ActivityDefinition:
    """A registered activity function."""

    def __init__(self, name: str, function: Callable[..., Any], queue: str) -> None:
        self.name = name
        self.function = function
        self.queue = queue
        self.is_async = inspect.iscoroutinefunction(function)
        self._binding = Binding(function, f"activity {name!r}", skip=0)
        self.target = CallTarget(name=name, queue=queue, result_type=self._binding.result_type)

    def invoke(self, payload: Payload | None) -> Any:
        """Calls the function with its decoded input: a coroutine, or for a plain function its result."""
        return self.function(**self._binding.bind(payload))

    def encode(self, result: object) -> Payload | None:
        """Encodes what the function returned."""
        return payloads.encode(result, f"The result of activity {self.name!r}")


class Registry:
    """All functions of an app; also resolves what orchestrations call (`callboard.core.execution.CallTargets`)."""

    def __init__(self) -> None:
        self.orchestrations: dict[str, OrchestrationDefinition] = {}
        self.activities: dict[str, ActivityDefinition] = {}
        self._names: dict[tuple[str, Callable[..., Any]], str] = {}

    def add_orchestration(self, definition: OrchestrationDefinition) -> None:
        _add(self.orchestrations, definition, "orchestration")
        self._names["orchestration", definition.function] = definition.name

    def add_activity(self, definition: ActivityDefinition) -> None:
        _add(self.activities, definition, "activity")
        self._names["activity", definition.function] = definition.name

    def require_orchestration(self, name: str) -> OrchestrationDefinition:
        """Raises OrchestrationNotRegisteredError for names that are not registered."""
        definition = self.orchestrations.get(name)
        if definition is None:
            raise OrchestrationNotRegisteredError(name, list(self.orchestrations))
        return definition

    def require_activity(self, name: str) -> ActivityDefinition:
        """Raises ActivityNotRegisteredError for names that are not registered."""
        definition = self.activities.get(name)
        if definition is None:
            raise ActivityNotRegisteredError(name, list(self.activities))
        return definition

    def activity(self, target: object) -> CallTarget:
        """Resolves an activity that code calls; a name that is not registered here may be so in another worker."""
        name = self.name_of("activity", target)
        definition = self.activities.get(name)
        return definition.target if definition else CallTarget(name=check_name(name, "activity"))

    def orchestration(self, target: object) -> CallTarget:
        """Resolves an orchestration that code calls."""
        name = self.name_of("orchestration", target)
        definition = self.orchestrations.get(name)
        return definition.target if definition else CallTarget(name=check_name(name, "orchestration"))

    def name_of(self, kind: str, target: object) -> str:
        """The name a function is registered under; a name stays what it is."""
        if isinstance(target, str):
            return target
        name = self._names.get((kind, typing.cast("Callable[..., Any]", target))) if callable(target) else None
        if name is None:
            label = getattr(target, "__qualname__", repr(target))
            raise RegistrationError(
                f"{label} is not registered as {_article(kind)} of this app: decorate it with @app.{kind}."
            )
        return name

    def queues(self) -> tuple[str, ...]:
        """The activity queues that this app's activities are registered with."""
        return tuple(sorted({definition.queue for definition in self.activities.values()}))


def check_name(name: str, kind: str) -> str:
    """Returns the name of a function or queue unchanged when it is allowed.

    Raises:
        RegistrationError: empty, over 100 characters, or holding whitespace, a control character, a slash, ``#``, ``?`` or ``@``.
    """
    if not name or len(name) > MAX_NAME or any(c.isspace() or not c.isprintable() or c in "/\\#?@" for c in name):
        raise RegistrationError(
            f"{name[:64]!r} cannot name {_article(kind)}: use 1 to {MAX_NAME} characters, without spaces and / \\ # ? @."
        )
    return name


def check_queue(name: str) -> str:
    """Returns the name of an activity queue unchanged when it is allowed; raises RegistrationError otherwise."""
    try:
        return check_queue_name(name)
    except InvalidPayloadError as error:
        raise RegistrationError(str(error)) from None


def _add(known: dict[str, Any], definition: OrchestrationDefinition | ActivityDefinition, kind: str) -> None:
    check_name(definition.name, kind)
    existing = known.get(definition.name)
    if existing is not None and existing.function is not definition.function:
        raise RegistrationError(
            f"Two functions are registered as {kind} {definition.name!r}: {_where(existing.function)} and "
            f"{_where(definition.function)}. Give one another name: @app.{kind}(name=…)."
        )
    known[definition.name] = definition


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
