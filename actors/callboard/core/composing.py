"""Tasks made of tasks: all of them, or whichever ends first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from callboard.core.context import DurableTask


class ComposingHost(Protocol):
    """The execution behind the tasks."""

    def new_task(self, when_cancelled: Callable[[DurableTask[Any]], None]) -> DurableTask[Any]: ...

    def ensure(self, awaitable: object) -> Any:
        """The future of something awaitable.

        Raises:
            TypeError: it is none.
        """
        ...


class WhenAll:
    """Waits for all, whatever becomes of them; then gives their results in order, or raises the failure that came first."""

    def __init__(self, host: ComposingHost, awaitables: Iterable[object]) -> None:
        self._parts = [host.ensure(each) for each in awaitables]
        self._left = len(self._parts)
        self._failed: Any = None
        self.task: DurableTask[list[Any]] = host.new_task(self._cancelled)
        for part in self._parts:
            part.add_done_callback(self._ended)
        if not self._parts:
            self.task.set_result([])

    def _ended(self, part: Any) -> None:
        self._left -= 1
        if self._failed is None and (part.cancelled() or part.exception() is not None):
            self._failed = part
        if self._left or self.task.done():
            return
        if self._failed is None:
            self.task.set_result([part.result() for part in self._parts])
        elif self._failed.cancelled():
            self.task.cancel()
        else:
            self.task.set_exception(self._failed.exception())

    def _cancelled(self, _task: object) -> None:
        for part in self._parts:
            part.cancel()


class WhenAny:
    """Waits until one has ended, and gives that task, however it has ended. The others go on.

    Raises:
        ValueError: there is none to wait for.
    """

    def __init__(self, host: ComposingHost, awaitables: Iterable[object]) -> None:
        self._parts = [host.ensure(each) for each in awaitables]
        if not self._parts:
            raise ValueError("task_any needs at least one task: of none, none can be the first to end.")
        self.task: DurableTask[Any] = host.new_task(self._leave)
        for part in self._parts:
            if part.done():
                self._ended(part)
                return
            part.add_done_callback(self._ended)

    def _ended(self, part: Any) -> None:
        if not self.task.done():
            self.task.set_result(part)
            self._leave(part)

    def _leave(self, _task: object) -> None:
        for part in self._parts:  # an event waiter that is not awaited any more takes no event
            part.remove_done_callback(self._ended)
