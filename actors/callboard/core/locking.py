"""Critical sections: an orchestration that holds entities for itself, and what it may do meanwhile (Durable Functions' rules).

Entities are asked for one after another in the order of their ids, so that two sections never wait for each other. The lock belongs to
the execution: whatever ends it, and whether its code runs or not, its last commit gives the entities back (`callboard.core.turn`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol, Self

from callboard.core.entities import EntityId
from callboard.errors import LockingRulesError


class LockHost(Protocol):
    """The execution behind a critical section."""

    def request_lock(self, lock_set: tuple[str, ...], position: int) -> Any:
        """Asks for one entity; returns a durable task."""
        ...

    def release_lock(self, instance_id: str, task_id: int) -> None: ...


class CriticalSection:
    """Holds entities for an orchestration. Use it with ``async with``; in a generator ``with (yield context.lock_entities(…)):``.

    Inside, the orchestration may call the entities that it holds, one call at a time for each, and signal others; nobody else's requests
    reach those that it holds. It must not signal those, call others, start children, or enter another section.
    """

    def __init__(self, host: LockHost, rules: LockingRules, entities: Sequence[EntityId]) -> None:
        self._host = host
        self._rules = rules
        self._lock_set = tuple(sorted({entity.instance_id for entity in entities}))
        self._requested: list[tuple[str, int]] = []
        if not entities:
            raise LockingRulesError("A critical section needs at least one entity.")

    async def __aenter__(self) -> Self:
        self._rules.begin(self._lock_set)
        try:
            for position, instance_id in enumerate(self._lock_set):
                task = self._host.request_lock(self._lock_set, position)
                self._requested.append((instance_id, task.task_id))
                await task
        except BaseException:
            self._release()
            raise
        self._rules.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    def __enter__(self) -> Self:
        self._rules.require_entered(self._lock_set)
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        requested, self._requested = self._requested, []
        for instance_id, task_id in requested:
            self._host.release_lock(instance_id, task_id)
        if requested:
            self._rules.leave()


class LockingRules:
    """What an execution may ask of entities now."""

    def __init__(self) -> None:
        self._lock_set: tuple[str, ...] = ()
        self._entered = False
        self._busy: set[str] = set()

    @property
    def is_locked(self) -> bool:
        return self._entered

    @property
    def owned(self) -> tuple[str, ...]:
        """The entities that are held."""
        return self._lock_set if self._entered else ()

    def begin(self, lock_set: tuple[str, ...]) -> None:
        if self._lock_set:
            raise LockingRulesError(
                f"The orchestration is in a critical section over {_listed(self._lock_set)} already: end it first, or lock all of them at once."
            )
        self._lock_set = lock_set

    def enter(self) -> None:
        self._entered = True

    def leave(self) -> None:
        self._lock_set, self._entered = (), False
        self._busy.clear()

    def require_entered(self, lock_set: tuple[str, ...]) -> None:
        if not self._entered or self._lock_set != lock_set:
            raise LockingRulesError(
                "The critical section has not begun: async with context.lock_entities(…), or in a generator "
                "with (yield context.lock_entities(…))."
            )

    def calls(self, instance_id: str) -> None:
        if not self._entered:
            return
        if instance_id not in self._lock_set:
            raise LockingRulesError(
                f"A critical section may call only the entities that it holds ({_listed(self._lock_set)}), not {instance_id!r}."
            )
        if instance_id in self._busy:
            raise LockingRulesError(
                f"A call of {instance_id!r} is under way: await it before the next one within a critical section."
            )
        self._busy.add(instance_id)

    def called(self, instance_id: str) -> None:
        """The call has ended."""
        self._busy.discard(instance_id)

    def signals(self, instance_id: str) -> None:
        if self._entered and instance_id in self._lock_set:
            raise LockingRulesError(
                f"A critical section must not signal an entity that it holds ({instance_id!r}): call it."
            )

    def starts_child(self) -> None:
        if self._entered:
            raise LockingRulesError(
                "A critical section must not start a sub-orchestration, which might wait for the same entities: end the section first."
            )


def _listed(lock_set: Sequence[str]) -> str:
    return ", ".join(lock_set)
