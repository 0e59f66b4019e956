"""What users of Durable Functions' Python context look for, beside what asyncio offers here anyway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from callboard.core import payloads
from callboard.core.codec import load
from callboard.core.composing import WhenAll, WhenAny
from callboard.core.timeouts import NONE as NO_TIMEOUTS

if TYPE_CHECKING:
    from callboard.core.context import ContextHost, DurableTask
    from callboard.core.retrying import RetryStrategy

T = TypeVar("T")
Waitable = TypeVar("Waitable", bound=Awaitable[Any])


class ReplaySafeLogger(Protocol):
    """A logger that is silent while the past is repeated; its records carry ``instance_id``, ``execution_id`` and ``orchestration``."""

    def debug(self, msg: object, *args: object, **options: Any) -> None: ...

    def info(self, msg: object, *args: object, **options: Any) -> None: ...

    def warning(self, msg: object, *args: object, **options: Any) -> None: ...

    def error(self, msg: object, *args: object, **options: Any) -> None: ...

    def exception(self, msg: object, *args: object, **options: Any) -> None: ...

    def critical(self, msg: object, *args: object, **options: Any) -> None: ...

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None: ...

    def isEnabledFor(self, level: int) -> bool: ...  # noqa: N802 - logging's own name


class FamiliarContext:
    """The part of a context that keeps Durable Functions' ways."""

    __slots__ = ()
    _host: ContextHost

    def get_input(self, expected: Any = Any) -> Any:
        """The input, for functions that take only the context.

        Args:
            expected: The type to decode it into.

        Raises:
            InvalidPayloadError: it does not fit the type.
        """
        return load(self._host.input, payloads.decodable(expected), "The input of the orchestration")

    @property
    def will_continue_as_new(self) -> bool:
        """Whether ``continue_as_new`` has been called."""
        return self._host.will_continue_as_new

    @property
    def logger(self) -> ReplaySafeLogger:
        """The logger of the orchestration's module, silent while the past is repeated.

        A turn that is lost (to another worker, or a crash) runs again, so what it logged may be logged again.
        """
        return self._host.logger(None)

    def create_replay_safe_logger(self, logger: Any) -> ReplaySafeLogger:
        """A logger of your own (a ``logging.Logger``), made silent while the past is repeated."""
        return self._host.logger(logger)

    @overload
    def task_all(self, tasks: Iterable[Awaitable[T]]) -> DurableTask[list[T]]: ...

    @overload
    def task_all(self, tasks: Iterable[Awaitable[Any]]) -> DurableTask[list[Any]]: ...

    def task_all(self, tasks: Iterable[Awaitable[Any]]) -> DurableTask[list[Any]]:
        """Waits for all tasks, even if one fails, and gives their results in order. No tasks: an empty list.

        ``asyncio.gather`` does the same but raises at the first failure. Cancelling this cancels the tasks.

        Raises (where the task is awaited):
            The first failure, once all have ended.
        """
        return WhenAll(self._host, tasks).task

    def task_any(self, tasks: Iterable[Waitable]) -> DurableTask[Waitable]:
        """Waits until one of the tasks has ended, and gives that task itself: ask it for its ``result()``. The others go on.

        Raises:
            ValueError: no tasks.
        """
        return WhenAny(self._host, tasks).task

    def call_activity_with_retry(
        self, activity: str | Callable[..., Any], retry_options: RetryStrategy, input_: object = None
    ) -> DurableTask[Any]:
        """``call_activity(activity, input_, retry=retry_options)``."""
        return self._host.make(self._host.calls.activity(activity, input_, None, NO_TIMEOUTS), retry_options)

    def call_sub_orchestrator(
        self,
        name: str | Callable[..., Any],
        input_: object = None,
        instance_id: str | None = None,
        version: str | None = None,
    ) -> DurableTask[Any]:
        """``call_sub_orchestration(name, input_, instance_id=…, version=…)``."""
        return self._host.make(self._host.calls.child(name, input_, instance_id, version, None), None)

    def call_sub_orchestrator_with_retry(
        self,
        name: str | Callable[..., Any],
        retry_options: RetryStrategy,
        input_: object = None,
        instance_id: str | None = None,
        version: str | None = None,
    ) -> DurableTask[Any]:
        """``call_sub_orchestration(name, input_, retry=retry_options, instance_id=…, version=…)``."""
        return self._host.make(self._host.calls.child(name, input_, instance_id, version, None), retry_options)
