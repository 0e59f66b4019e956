"""What people write: an `App` (the task hub) and its functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from callboard.errors import ConfigurationError
from callboard.registry import ActivityDefinition, OrchestrationDefinition, Registry, check_queue

F = TypeVar("F", bound=Callable[..., Any])

#: Longest hub name, in characters (Durable Functions' limit).
MAX_HUB_NAME = 45


class Blueprint:
    """Collects orchestrations and activities of one module, to be included in an `App`."""

    def __init__(self) -> None:
        self.registry = Registry()

    @overload
    def orchestration(self, function: F, /) -> F: ...

    @overload
    def orchestration(self, function: None = None, /, *, name: str | None = None) -> Callable[[F], F]: ...

    def orchestration(self, function: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
        """Registers an orchestrator: ``async def f(context, input)``, or a generator that yields durable tasks.

        Args:
            name: The name it is started by; by default the function's own.

        Raises:
            RegistrationError: the name is taken or not allowed, or the signature cannot be bound.
        """

        def register(function: F) -> F:
            self.registry.add_orchestration(OrchestrationDefinition(name or function.__name__, function))
            return function

        return register if function is None else register(function)

    @overload
    def activity(self, function: F, /) -> F: ...

    @overload
    def activity(
        self, function: None = None, /, *, name: str | None = None, queue: str = "default"
    ) -> Callable[[F], F]: ...

    def activity(
        self, function: F | None = None, /, *, name: str | None = None, queue: str = "default"
    ) -> F | Callable[[F], F]:
        """Registers an activity: ``async def``, or ``def``, which runs in a thread. It runs at least once; make it idempotent.

        Args:
            name: The name it is called by; by default the function's own.
            queue: The queue that its calls go to; workers choose which queues they serve.

        Raises:
            RegistrationError: the name is taken or not allowed, or the signature cannot be bound.
        """

        def register(function: F) -> F:
            definition = ActivityDefinition(name or function.__name__, function, check_queue(queue))
            self.registry.add_activity(definition)
            return function

        return register if function is None else register(function)


class App(Blueprint):
    """A task hub: a namespace of instances, and the functions that run in it.

    Args:
        hub: The hub's name: letters, digits, ``-`` and ``_``, starting with a letter, at most 45 characters.
        partitions: Into how many partitions a *new* hub is divided, hence the most workers that can share its orchestrations.
            Fixed for the hub's life; None takes what the hub has, or 32 for a new one.
    """

    def __init__(self, hub: str, *, partitions: int | None = None) -> None:
        super().__init__()
        self.hub = check_hub(hub)
        if partitions is not None and not 1 <= partitions <= 1024:
            raise ConfigurationError(f"partitions={partitions} is not possible: use 1 to 1024.")
        self.partitions = partitions

    def include(self, blueprint: Blueprint) -> None:
        """Takes over all functions of a blueprint."""
        for orchestration in blueprint.registry.orchestrations.values():
            self.registry.add_orchestration(orchestration)
        for activity in blueprint.registry.activities.values():
            self.registry.add_activity(activity)


def check_hub(hub: str) -> str:
    """Returns a hub's name unchanged when it is allowed; raises ConfigurationError otherwise."""
    if not hub[:1].isascii() or not hub[:1].isalpha() or len(hub) > MAX_HUB_NAME or not _WORD.issuperset(hub):
        raise ConfigurationError(
            f"{hub[:64]!r} cannot name a task hub: use letters, digits, '-' and '_', starting with a letter, at most "
            f"{MAX_HUB_NAME} characters."
        )
    return hub


_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
