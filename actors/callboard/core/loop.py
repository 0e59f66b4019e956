"""The deterministic asyncio event loop that orchestrations run on.

Rules of this file:

* The order of everything follows from what the code did and what the host fed in. There is no selector, no clock, no
  thread, and nothing is ordered by an address: futures and tasks hash to their creation number, so that the sets
  inside ``asyncio.wait``, ``as_completed`` and ``TaskGroup`` iterate alike in every replay and in every process.
* The host owns time and durability. ``time`` stands still within a turn, and a timer is a request to the `TimerHost`.
* A loop belongs to one activation. It may be driven by different threads, one after another, never by two at once.
* asyncio's process-wide registries never keep a task of ours: thousands of activations are alive together, and their
  equal hashes would make asyncio's one WeakSet of all tasks quadratic.

What stays the author's own affair: sets of strings or of other objects than futures, and ``asyncio.Future()`` built by
hand, iterate in the order of Python's hashes. An async generator that is dropped half-way is not finalised (asyncio
would do it whenever the garbage collector pleases): close it with ``contextlib.aclosing``.
"""

from __future__ import annotations

import asyncio
import asyncio.tasks
import inspect
import sys
from asyncio.events import _get_running_loop, _set_running_loop  # pyright: ignore[reportPrivateUsage]
from asyncio.tasks import _enter_task, _leave_task, _unregister_task  # pyright: ignore[reportPrivateUsage]
from collections import deque
from contextvars import Context, copy_context
from itertools import count
from math import inf, isnan
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, TypeVarTuple
from weakref import WeakSet

if TYPE_CHECKING:  # typeshed declares each method abstract that we forbid in one stroke at the foot of this file
    from asyncio import SelectorEventLoop as _EventLoop
    from collections.abc import Callable, Coroutine, Generator
else:
    from asyncio import AbstractEventLoop as _EventLoop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: How often a coroutine may refuse to close. Each refusal is one more ``await`` in its ``finally`` or ``except``.
_CLOSE_ATTEMPTS = 1000


class ForbiddenInOrchestrationError(RuntimeError):
    """Orchestration code asked its event loop for I/O, threads or control over the loop."""

    def __init__(self, call: str) -> None:
        super().__init__(
            f"{call} cannot be used in an orchestration, because a replay could not repeat it; "
            "do it in an activity: await context.call_activity(...)"
        )
        self.call = call


class TimerHost(Protocol):
    """Who makes an asyncio timer durable."""

    def timer_requested(self, when: float) -> int:
        """Note a timer for the loop time ``when``; return the key to fire it with. ``when`` is finite, maybe past."""
        ...

    def timer_cancelled(self, key: int) -> None:
        """Forget a timer. Called at most once for a key, and never after the timer was fired or the loop closed."""


class DeterministicFuture(asyncio.Future[T]):
    """A future whose hash is its creation number in its loop. Equality stays identity."""

    __slots__ = ("_number",)

    def __init__(self, *, loop: DeterministicLoop) -> None:
        self._number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class DeterministicTask(asyncio.Task[T]):
    """A task whose hash is its creation number in its loop. Equality stays identity."""

    __slots__ = ("context", "number")

    def __init__(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        loop: DeterministicLoop,
        name: str | None = None,
        context: Context | None = None,
    ) -> None:
        self.number = number = loop.next_number()  # first of all: asyncio hashes the task while it is made
        self.context = copy_context() if context is None else context
        # asyncio's own default name counts the tasks of the process.
        super().__init__(coro, loop=loop, name=f"task-{number}" if name is None else name, context=self.context)
        _unregister_task(self)

    def __hash__(self) -> int:
        return self.number


class _Handle(asyncio.Handle):
    """A handle without the debug fields: one is made per callback, so its making is most of the loop's cost."""

    __slots__ = ()

    _callback: Callable[..., object] | None
    _context: Context

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = None
        self._args = ()

    __repr__ = object.__repr__


class _TimerHandle(asyncio.TimerHandle):
    """A timer, known to its loop under a key until it fires or is cancelled."""

    __slots__ = ("key",)

    _callback: Callable[..., object] | None
    _context: Context

    #: The host's key; None: nobody fires it (infinitely far away, or asked for by the coroutines of a closed loop).
    key: int | None


class DeterministicLoop(_EventLoop):
    """Runs the coroutines of one activation, turn by turn: the host feeds it, then runs it until nothing is ready."""

    unhandled: list[dict[str, Any]]
    """The last eight contexts given to ``call_exception_handler``; nothing is logged. Emptied by `close`."""

    def __init__(self, timers: TimerHost) -> None:
        self.next_number: Callable[[], int] = count(1).__next__
        self.unhandled = []
        self._host = timers
        self._now = 0.0
        self._ready: deque[_Handle | _TimerHandle] = deque()
        self._timers: dict[int, _TimerHandle] = {}
        self._pending: dict[int, DeterministicTask[Any]] = {}
        self._running = False
        self._closed = False

    # What the host calls

    def set_time(self, now: float) -> None:
        """Set the orchestration's clock (POSIX seconds) for the coming turn."""
        self._now = now

    def fire_timer(self, key: int) -> bool:
        """Make a timer's callback ready. False: the timer is unknown, cancelled or fired before."""
        handle = self._timers.pop(key, None)
        if handle is not None:
            self._ready.append(handle)
        return handle is not None

    def run_until_quiescent(self) -> None:
        """Run ready callbacks, first in first out, until none is left.

        The thread may be running another loop: that one is put aside meanwhile.

        Raises:
            BaseException: of a callback or task, if neither an Exception nor a cancellation: KeyboardInterrupt,
                SystemExit, a watchdog's interrupt. The loop is then good for `close` only.
        """
        if self._closed or self._running:
            raise RuntimeError("this loop is closed" if self._closed else "this loop is running already")
        self._inside(self._drain)

    def close(self) -> None:
        """Dispose of the activation: close its coroutines in the order of their creation, in this thread.

        From here on everything the coroutines ask for is inert: it neither happens nor raises nor completes. If it
        raised, `while True: try: await … except BaseException: …` would spin here for ever. A host that cancels the
        futures it still holds afterwards (that is inert, too) leaves nothing to the garbage collector.

        Raises:
            KeyboardInterrupt: if one came in meanwhile; everything is disposed of all the same.
        """
        if self._running:
            raise RuntimeError("a running loop cannot be closed")
        if self._closed:
            return
        self._closed = True
        tasks = self.pending_tasks()
        for holder in (self._ready, self._timers, self._pending, self.unhandled):
            holder.clear()
        del self._host  # it tends to know its loop; without the cycle an evicted activation is gone at once
        if tasks:
            self._inside(lambda: self._dispose(tasks))

    # What asyncio and orchestration code call

    def time(self) -> float:
        return self._now

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> DeterministicFuture[Any]:
        return DeterministicFuture(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> DeterministicTask[T]:
        if self._closed:
            coro.close()  # it will never start; this spares the warning that it was never awaited
        task = DeterministicTask(coro, loop=self, name=None if name is None else str(name), context=context)
        if not self._closed:
            self._pending[task.number] = task
            # The first callback of the task, so an interrupt leaves before the code that awaits the task can see it.
            task.add_done_callback(self._task_done, context=task.context)
        return task

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, copy_context() if context is None else context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if isnan(when):
            raise ValueError("a timer cannot be set to NaN")
        handle = _TimerHandle(when, callback, args, self, context)
        handle.key = None
        if when != inf and not self._closed:
            handle.key = key = self._host.timer_requested(when)
            self._timers[key] = handle
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # asyncio complains of forgotten exceptions and tasks when they are garbage collected: whenever, wherever.
        if not str(context.get("message")).endswith(("was never retrieved", "was destroyed but it is pending!")):
            self.unhandled.append(context)
            del self.unhandled[:-8]

    default_exception_handler = call_exception_handler

    # The inside

    def _timer_handle_cancelled(self, handle: _TimerHandle) -> None:
        # Called by asyncio.TimerHandle.cancel, once, whether the timer is still pending or not.
        if handle.key is not None and self._timers.pop(handle.key, None) is not None:
            self._host.timer_cancelled(handle.key)

    @property
    def ready(self) -> int:
        """How many callbacks wait to run: none between turns."""
        return len(self._ready)

    def pending_tasks(self) -> list[DeterministicTask[Any]]:
        """The tasks that are not done, in the order of their creation."""
        return list(self._pending.values())

    def _inside(self, work: Callable[[], None]) -> None:
        """Do the work as the running loop of this thread, then restore what the thread had."""
        outer, hooks = _get_running_loop(), sys.get_asyncgen_hooks()
        try:
            self._running = True
            _set_running_loop(self)
            # Else a dropped async generator would be finalised on the outer loop, at the garbage collector's whim.
            sys.set_asyncgen_hooks(None, _abandon)
            work()
        finally:
            _set_running_loop(outer)  # first, should a watchdog strike even here
            sys.set_asyncgen_hooks(*hooks)
            self._running = False

    def _drain(self) -> None:
        ready = self._ready
        while ready:
            handle = ready.popleft()
            callback = handle._callback  # pyright: ignore[reportPrivateUsage]
            if callback is None:  # cancelled
                continue
            try:
                handle._context.run(callback, *handle._args)  # pyright: ignore[reportPrivateUsage]
            except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001  what asyncio gives to its handler, too
                self.call_exception_handler({"message": f"Exception in callback {callback!r}", "exception": exc})

    def _task_done(self, task: DeterministicTask[Any]) -> None:
        self._pending.pop(task.number, None)
        error = None if task.cancelled() else task.exception()
        # asyncio keeps these in the task, except for the two that have left the loop already.
        if error is not None and not isinstance(error, (Exception, KeyboardInterrupt, SystemExit)):
            raise error

    def _dispose(self, tasks: list[DeterministicTask[Any]]) -> None:
        interrupt = None
        for task in tasks:
            _enter_task(self, task)  # asyncio.timeout refuses to be entered outside a task
            try:
                task.context.run(_exhaust, task.get_coro())
            except KeyboardInterrupt as exc:
                interrupt = exc
            finally:
                _leave_task(self, task)
        for task in tasks:
            # A task and the future it waits for refer to each other. Ending both (not by the task's own cancel, which
            # is the user's) lets the activation be freed at once, without the garbage collector.
            waiter: object = getattr(task, "_fut_waiter", None)
            if asyncio.isfuture(waiter):
                asyncio.Future[Any].cancel(waiter)
            asyncio.Future[Any].cancel(task)
        if interrupt is not None:
            raise interrupt


class _Evicted(BaseException):
    """Thrown into the coroutines of an activation that is disposed of. Made here only, and seen by nobody else."""


def _exhaust(coro: Any) -> None:
    """Ends a coroutine, as often as its ``finally`` and ``except`` blocks wait for something again.

    What the blocks raise has nowhere to go: the activation has no future, and what its code does from now on is not part
    of the orchestration. Throwing, not closing: a nested coroutine that awaits in its ``finally`` would answer the close with
    a RuntimeError, which an ``except Exception`` around it would take for a failure of the user's.
    """
    if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        coro.close()  # it never started, so nothing of it runs
        return
    for _ in range(_CLOSE_ATTEMPTS):
        try:
            coro.throw(_Evicted())
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  it has ended, by this or by something of its own
            return


def _abandon(_generator: object) -> None:
    """Finalise an async generator by doing nothing."""


def _forbid(name: str) -> Callable[..., NoReturn]:
    def forbidden(_loop: DeterministicLoop, *_args: object, **_options: object) -> NoReturn:
        raise ForbiddenInOrchestrationError(f"loop.{name}()")

    forbidden.__name__ = name
    return forbidden


# All that asyncio knows (in any version of Python) and this loop does not define: I/O, threads, signals, processes.
for _name in vars(asyncio.AbstractEventLoop).keys() - vars(DeterministicLoop).keys():
    if not _name.startswith("_"):
        setattr(DeterministicLoop, _name, _forbid(_name))


# asyncio goes by addresses in three places, all in functions that user modules may have imported long before this one,
# so only the globals of asyncio.tasks can be changed for them (alike in 3.11, 3.12 and 3.13):
# - as_completed makes its tasks out of ``set(fs)``, and coroutines hash by address;
# - all_tasks makes its answer out of ``list(…)`` of a WeakSet that does not know our tasks;
# - gather answers with a _GatheringFuture, which people put into sets.
# Each stand-in does what the original does unless the running loop is ours. Installing them again changes nothing.


def _ordered_set(*args: Any) -> Any:
    if args and isinstance(_get_running_loop(), DeterministicLoop):
        return dict.fromkeys(*args)  # as good as a set to those who ask for one: they iterate it and take its length
    return set[Any](*args)


def _all_tasks_list(*args: Any) -> list[Any]:
    loop = _get_running_loop()
    if isinstance(loop, DeterministicLoop) and args and isinstance(args[0], WeakSet):
        return loop.pending_tasks()
    return list(*args)


def _gathering_hash(self: Any) -> int:
    loop = self.get_loop()
    if not isinstance(loop, DeterministicLoop):
        return object.__hash__(self)
    if not hasattr(self, "_number"):
        self._number = loop.next_number()
    return int(self._number)


asyncio.tasks.__dict__.update(set=_ordered_set, list=_all_tasks_list)
asyncio.tasks.__dict__["_GatheringFuture"].__hash__ = _gathering_hash
