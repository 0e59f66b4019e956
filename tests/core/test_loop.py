"""The deterministic loop: the asyncio vocabulary on it, its order, its end, and what it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import functools
import gc
import inspect
import itertools
import math
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from asyncio import as_completed as imported_as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from callboard.core import loop as loop_module
from callboard.core.loop import (
    DeterministicFuture,
    DeterministicLoop,
    DeterministicTask,
    ForbiddenInOrchestrationError,
)
from tests.core.loop_programs import BRANCHES, EPOCH, LEAVES, Node, Stage, run_program

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.loop.close()


class Interrupt(BaseException):
    """What a watchdog raises."""


# The clock and the timers


def test_time_stands_still_until_it_is_set(stage: Stage) -> None:
    assert stage.loop.time() == EPOCH
    stage.loop.set_time(EPOCH + 2.5)
    assert stage.loop.time() == stage.loop.time() == EPOCH + 2.5


def test_sleep_is_a_requested_timer_and_returns_its_result(stage: Stage) -> None:
    task = stage.start(asyncio.sleep(5, "rested"))
    assert stage.requested == [EPOCH + 5]
    stage.advance(4.9)
    assert not task.done()
    stage.advance(0.1)
    assert task.result() == "rested"
    assert stage.cancelled == []


def test_sleep_zero_yields_once_without_a_timer(stage: Stage) -> None:
    async def main() -> None:
        async def other() -> None:
            stage.note("other")

        asyncio.create_task(other())  # noqa: RUF006
        await asyncio.sleep(0)
        stage.note("main")

    stage.start(main())
    assert [line.split()[-1] for line in stage.trace] == ["other", "main"]
    assert stage.requested == []


def test_timers_fire_in_the_order_of_the_host(stage: Stage) -> None:
    order: list[str] = []
    stage.loop.call_later(1, order.append, "a")
    stage.loop.call_at(EPOCH + 1, order.append, "b")
    assert stage.loop.fire_timer(1)
    assert stage.loop.fire_timer(0)
    assert order == []
    stage.loop.run_until_quiescent()
    assert order == ["b", "a"]


def test_a_timer_fires_once_and_unknown_keys_do_not(stage: Stage) -> None:
    stage.loop.call_later(1, print)
    assert stage.loop.fire_timer(0)
    assert not stage.loop.fire_timer(0)
    assert not stage.loop.fire_timer(99)


def test_cancelling_a_timer_tells_the_host_once(stage: Stage) -> None:
    handle = stage.loop.call_later(1, print, "never")
    assert handle.when() == EPOCH + 1
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()
    assert stage.cancelled == [0]
    assert not stage.loop.fire_timer(0)


def test_cancelling_a_fired_timer_stops_it_without_telling_the_host(stage: Stage) -> None:
    order: list[str] = []
    handle = stage.loop.call_later(1, order.append, "late")
    stage.loop.fire_timer(0)
    handle.cancel()
    stage.loop.run_until_quiescent()
    assert order == []
    assert stage.cancelled == []


def test_an_infinite_sleep_asks_the_host_for_nothing(stage: Stage) -> None:
    task = stage.start(asyncio.sleep(math.inf))
    assert stage.requested == []
    task.cancel()
    stage.loop.run_until_quiescent()
    assert task.cancelled()
    assert stage.cancelled == []


def test_nan_is_no_time(stage: Stage) -> None:
    with pytest.raises(ValueError, match="NaN"):
        stage.loop.call_later(math.nan, print)


# Callbacks


def test_callbacks_run_first_in_first_out_until_none_is_left(stage: Stage) -> None:
    order: list[int] = []

    def add(number: int) -> None:
        order.append(number)
        if number < 4:
            stage.loop.call_soon(add, number + 2)

    stage.loop.call_soon(add, 1)
    stage.loop.call_soon(add, 2)
    stage.loop.run_until_quiescent()
    assert order == [1, 2, 3, 4, 5]


def test_a_cancelled_callback_does_not_run(stage: Stage) -> None:
    order: list[str] = []
    handle = stage.loop.call_soon(order.append, "no")
    stage.loop.call_soon(order.append, "yes")
    handle.cancel()
    assert handle.cancelled()
    assert isinstance(handle, asyncio.Handle)
    assert repr(handle)
    stage.loop.run_until_quiescent()
    assert order == ["yes"]
    assert stage.loop.unhandled == []


def test_callbacks_run_in_their_context(stage: Stage) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    stage.loop.call_soon(lambda: seen.append(variable.get()), context=context)
    token = variable.set("current")
    stage.loop.call_soon(lambda: seen.append(variable.get()))
    stage.loop.call_later(0, lambda: seen.append(variable.get()))
    variable.reset(token)
    stage.loop.run_until_quiescent()
    stage.advance(0)
    assert seen == ["given", "current", "current"]


def test_a_failing_callback_is_kept_and_the_others_run(stage: Stage) -> None:
    order: list[str] = []
    stage.loop.call_soon(int, "one")
    stage.loop.call_soon(order.append, "after")
    stage.loop.run_until_quiescent()
    assert order == ["after"]
    assert [type(context["exception"]) for context in stage.loop.unhandled] == [ValueError]


def test_only_the_last_unhandled_contexts_are_kept(stage: Stage) -> None:
    for number in range(20):
        stage.loop.call_exception_handler({"message": str(number)})
    stage.loop.default_exception_handler({"message": "last"})
    assert [context["message"] for context in stage.loop.unhandled] == [*map(str, range(13, 20)), "last"]


def test_exceptions_that_nobody_retrieves_have_no_effect(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise ValueError

    async def main() -> None:
        asyncio.create_task(fail())  # noqa: RUF006
        asyncio.get_running_loop().create_future().set_exception(ValueError())
        asyncio.gather(fail(), fail())

    stage.start(main())
    gc.collect()
    assert stage.loop.unhandled == []
    assert capsys.readouterr() == ("", "")


# Futures and tasks: numbers, names, identity


def test_hashes_are_creation_numbers_and_equality_is_identity(stage: Stage) -> None:
    first, second = stage.loop.create_future(), stage.loop.create_task(asyncio.sleep(0))
    third: DeterministicFuture[int] = DeterministicFuture(loop=stage.loop)
    assert [hash(first), hash(second), hash(third)] == [1, 2, 3]
    assert second.get_name() == "task-2"
    twin = Stage().loop.create_future()
    assert hash(twin) == hash(first)
    assert twin != first
    assert len({first, twin, first}) == 2


def test_subclasses_of_futures_may_take_more_arguments(stage: Stage) -> None:
    class DurableTask(DeterministicFuture[int]):
        def __init__(self, action: str, *, loop: DeterministicLoop) -> None:
            super().__init__(loop=loop)
            self.action = action

    stage.loop.create_future()
    task = DurableTask("call", loop=stage.loop)
    assert (hash(task), task.action) == (2, "call")

    async def main() -> int:
        return await task

    waiting = stage.start(main())
    task.set_result(7)
    stage.loop.run_until_quiescent()
    assert waiting.result() == 7


def test_names_are_given_or_numbered(stage: Stage) -> None:
    async def name() -> str:
        task = asyncio.current_task()
        assert isinstance(task, DeterministicTask)
        return task.get_name()

    async def main() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(name()), group.create_task(name(), name="mine"), asyncio.create_task(name())]
        return [await task for task in tasks]

    assert stage.start(main()).result() == ["task-2", "mine", "task-4"]


def test_a_task_wants_a_coroutine(stage: Stage) -> None:
    with pytest.raises(TypeError, match="coroutine"):
        stage.loop.create_task(stage.call())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_tasks_keep_their_context(stage: Stage) -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def child() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    async def main() -> tuple[int, int, int]:
        variable.set(10)
        inherited = await asyncio.create_task(child())
        given = await asyncio.create_task(child(), context=contextvars.Context())
        return inherited, given, variable.get()

    assert stage.start(main()).result() == (11, 1, 10)


def test_all_tasks_and_current_task_know_this_loop_only(stage: Stage) -> None:
    other = Stage()
    other.start(asyncio.sleep(1))

    async def main() -> list[str]:
        tasks = [asyncio.create_task(asyncio.sleep(1)) for _ in range(3)]
        await tasks[0] if tasks[0].done() else None
        return [task.get_name() for task in asyncio.all_tasks()]

    assert stage.start(main()).result() == ["task-1", "task-2", "task-3", "task-4"]
    other.loop.close()


# The vocabulary


def test_awaiting_what_the_host_completes(stage: Stage) -> None:
    async def main() -> list[Any]:
        return [await stage.call() for _ in range(3)]

    task = stage.start(main())
    for number in range(3):
        assert len(stage.external) == number + 1
        stage.finish(number, number)
    assert task.result() == [0, 1, 2]


def test_gather_keeps_the_order_of_its_arguments(stage: Stage) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*[stage.call() for _ in range(3)], asyncio.sleep(1, "slept"))

    task = stage.start(main())
    for index in (2, 0, 1):
        stage.finish(index, index)
    stage.advance(1)
    assert task.result() == [0, 1, 2, "slept"]


def test_gather_of_nothing_completes(stage: Stage) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather()

    assert stage.start(main()).result() == []


def test_gather_fails_at_the_first_failure_and_leaves_the_rest(stage: Stage) -> None:
    async def main() -> str:
        try:
            await asyncio.gather(stage.call(), stage.call())
        except ValueError as error:
            return str(error)
        return "no failure"

    task = stage.start(main())
    stage.external[1].set_exception(ValueError("second"))
    stage.loop.run_until_quiescent()
    assert task.result() == "second"
    assert not stage.external[0].done()


@pytest.mark.parametrize(
    ("when", "finished"),
    [(asyncio.FIRST_COMPLETED, [2]), (asyncio.FIRST_EXCEPTION, [1, 2]), (asyncio.ALL_COMPLETED, [0, 1, 2])],
)
def test_wait(stage: Stage, when: str, finished: list[int]) -> None:
    async def main() -> tuple[list[int], list[int]]:
        calls = [stage.call() for _ in range(3)]
        done, pending = await asyncio.wait(calls, return_when=when)
        return [calls.index(each) for each in done], [calls.index(each) for each in pending]

    task = stage.start(main())
    stage.finish(2, "result")
    assert task.done() == (when == asyncio.FIRST_COMPLETED)
    stage.external[1].set_exception(ValueError())
    stage.loop.run_until_quiescent()
    assert task.done() == (when != asyncio.ALL_COMPLETED)
    stage.finish(0)
    assert task.result() == (finished, sorted({0, 1, 2} - set(finished)))


def test_wait_with_a_timeout_returns_what_is_pending(stage: Stage) -> None:
    async def main() -> tuple[int, int]:
        done, pending = await asyncio.wait([stage.call(), stage.call()], timeout=3)
        return len(done), len(pending)

    task = stage.start(main())
    stage.finish(0)
    stage.advance(3)
    assert task.result() == (1, 1)


def test_wait_iterates_two_hundred_futures_in_the_same_order_each_time() -> None:
    def order() -> list[int]:
        stage = Stage()

        async def main() -> list[int]:
            calls = [stage.call() for _ in range(200)]
            random.shuffle(calls)  # what comes out is not what went in …
            done, _ = await asyncio.wait(set(calls))
            return [hash(future) for future in done]

        task = stage.start(main())
        for future in stage.external:
            future.set_result(None)
        stage.loop.run_until_quiescent()
        return task.result()

    assert order() == order()  # … but it is the same


@pytest.mark.parametrize("as_completed", [asyncio.as_completed, imported_as_completed])
def test_as_completed_starts_coroutines_in_the_order_given(stage: Stage, as_completed: Callable[..., Any]) -> None:
    async def child(number: int) -> int:
        stage.note(number)
        await stage.call()
        return number

    async def main() -> list[int]:
        coros = [child(number) for number in range(50)]
        return [await first for first in as_completed([*coros, *coros])]

    task = stage.start(main())
    assert [int(line.split()[-1]) for line in stage.trace] == list(range(50))
    for index in range(49, -1, -1):
        stage.finish(index)
    assert task.result() == list(range(49, -1, -1))


def test_as_completed_times_out(stage: Stage) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        for first in asyncio.as_completed([stage.call(), stage.call()], timeout=2):
            try:
                seen.append(await first)
            except TimeoutError:
                seen.append("timeout")
        return seen

    task = stage.start(main())
    stage.finish(1, "second")
    stage.advance(2)
    assert task.result() == ["second", "timeout"]


def test_a_set_of_gathers_is_ordered(stage: Stage) -> None:
    async def main() -> list[int]:
        gathers = [asyncio.gather(asyncio.sleep(0)) for _ in range(100)]
        hash(gathers[0])  # asking twice gives the same
        done, _ = await asyncio.wait(set(gathers))
        return [gathers.index(future) for future in done]

    results: list[list[int]] = []
    for _ in range(3):
        again = Stage()
        junk = [object() for _ in range(random.randrange(1000))]
        results.append(again.start(main()).result())
        del junk
    assert results[0] == results[1] == results[2]
    assert sorted(results[0]) == list(range(100))


def test_timeout_that_loses_the_race_is_cancelled(stage: Stage) -> None:
    async def main() -> Any:
        async with asyncio.timeout(10):
            return await stage.call()

    task = stage.start(main())
    stage.finish(0, "in time")
    assert task.result() == "in time"
    assert stage.cancelled == [0]


def test_timeout_that_wins_the_race_cancels_the_call(stage: Stage) -> None:
    async def main() -> Any:
        async with asyncio.timeout_at(EPOCH + 10):
            return await stage.call()

    task = stage.start(main())
    stage.advance(10)
    assert isinstance(task.exception(), TimeoutError)
    assert stage.external[0].cancelled()
    assert stage.cancelled == []


@pytest.mark.parametrize("result_first", [True, False])
def test_result_and_timeout_of_the_same_turn(stage: Stage, result_first: bool) -> None:
    async def main() -> str:
        try:
            async with asyncio.timeout(10):
                return str(await stage.call())
        except TimeoutError:
            return "timeout"

    task = stage.start(main())
    stage.loop.set_time(EPOCH + 10)
    if result_first:
        stage.external[0].set_result("result")
        stage.loop.fire_timer(0)
    else:
        stage.loop.fire_timer(0)
        stage.external[0].set_result("result")
    stage.loop.run_until_quiescent()
    # The result's wake-up is queued first, and the task leaves the block before the timeout strikes. The other way
    # round asyncio prefers the timeout, even though the result is there.
    assert task.result() == ("result" if result_first else "timeout")


def test_rescheduled_timeout(stage: Stage) -> None:
    async def main() -> Any:
        async with asyncio.timeout(1) as scope:
            scope.reschedule(EPOCH + 5)
            await stage.call()

    task = stage.start(main())
    assert (stage.requested, stage.cancelled) == ([EPOCH + 1, EPOCH + 5], [0])
    stage.advance(5)
    assert isinstance(task.exception(), TimeoutError)


def test_wait_for(stage: Stage) -> None:
    async def main() -> list[str]:
        seen = [await asyncio.wait_for(stage.call(), 5)]
        try:
            await asyncio.wait_for(stage.call(), 5)
        except TimeoutError:
            seen.append("timeout")
        return seen

    task = stage.start(main())
    stage.finish(0, "first")
    stage.advance(5)
    assert task.result() == ["first", "timeout"]
    assert stage.external[1].cancelled()


def test_task_group_waits_for_all(stage: Stage) -> None:
    async def child() -> Any:
        return await stage.call()

    async def main() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child()) for _ in range(3)]
        return [task.result() for task in tasks]

    task = stage.start(main())
    for index in (1, 2, 0):
        stage.finish(index, index)
    assert task.result() == [0, 1, 2]


def test_a_failing_task_group_cancels_its_children_in_the_order_of_creation(stage: Stage) -> None:
    async def child(number: int) -> None:
        try:
            await stage.call()
        except asyncio.CancelledError:
            stage.note(number)
            raise

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(child(number))

    task = stage.start(main())
    stage.external[2].set_exception(ValueError("third"))
    stage.loop.run_until_quiescent()
    with pytest.raises(ExceptionGroup) as error:
        task.result()
    assert repr(error.value.exceptions) == "(ValueError('third'),)"
    assert [line.split()[-1] for line in stage.trace] == ["0", "1", "3", "4"]


def test_queue(stage: Stage) -> None:
    async def main() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
        seen: list[int] = []

        async def consume() -> None:
            while True:
                seen.append(await queue.get())
                queue.task_done()

        consumer = asyncio.create_task(consume())
        for number in range(5):
            await queue.put(number)
        await queue.join()
        consumer.cancel()
        return seen

    assert stage.start(main()).result() == [0, 1, 2, 3, 4]


def test_event_wakes_all_and_lock_goes_round_in_order(stage: Stage) -> None:
    async def main() -> None:
        event, lock = asyncio.Event(), asyncio.Lock()

        async def child(number: int) -> None:
            await event.wait()
            async with lock:
                await asyncio.sleep(1)
                stage.note(number)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(child(number))
            await stage.call()
            event.set()

    stage.start(main())
    stage.finish(0)
    for _ in range(3):
        stage.advance(1)
    assert [line.split()[::2] for line in stage.trace] == [["1", "0"], ["2", "1"], ["3", "2"]]


def test_semaphore_and_condition(stage: Stage) -> None:
    async def main() -> int:
        semaphore, condition, running, most = asyncio.Semaphore(2), asyncio.Condition(), 0, 0

        async def child() -> None:
            nonlocal running, most
            async with semaphore:
                running += 1
                most = max(most, running)
                await asyncio.sleep(1)
                running -= 1
            async with condition:
                condition.notify_all()

        tasks = [asyncio.create_task(child()) for _ in range(5)]
        async with condition:
            await condition.wait_for(lambda: all(task.done() for task in tasks[:4]))
        return most

    task = stage.start(main())
    for _ in range(2):
        assert not task.done()
        stage.advance(1)
    assert task.result() == 2


def test_shield_keeps_the_inner_call(stage: Stage) -> None:
    async def main() -> str:
        inner = stage.call()
        try:
            await asyncio.wait_for(asyncio.shield(inner), 1)
        except TimeoutError:
            return f"timeout, then {await inner}"
        return "no timeout"

    task = stage.start(main())
    stage.advance(1)
    stage.finish(0, "result")
    assert task.result() == "timeout, then result"


def test_cancellation_goes_inward_and_comes_out_in_order(stage: Stage) -> None:
    async def nest(depth: int) -> None:
        try:
            await (asyncio.create_task(nest(depth - 1)) if depth else stage.call())
        except asyncio.CancelledError as error:
            stage.note(f"{depth}:{error}")
            raise

    task = stage.start(nest(3))
    task.cancel("enough")
    stage.loop.run_until_quiescent()
    assert task.cancelled()
    assert [line.split()[1:] for line in stage.trace] == [[f"task-{4 - n}", f"{n}:enough"] for n in range(4)]


def test_uncancel_and_a_cancellation_that_is_refused(stage: Stage) -> None:
    async def main() -> str:
        task = asyncio.current_task()
        assert task is not None
        try:
            await stage.call()
        except asyncio.CancelledError:
            assert task.uncancel() == 0
        return str(await stage.call())

    task = stage.start(main())
    task.cancel()
    stage.loop.run_until_quiescent()
    stage.finish(1, "went on")
    assert task.result() == "went on"


def test_failures_of_nested_tasks_surface_where_they_are_awaited(stage: Stage) -> None:
    async def main() -> str:
        task = asyncio.create_task(asyncio.wait_for(stage.call(), None))
        try:
            return str(await task)
        except ValueError as error:
            return f"caught {error}"

    task = stage.start(main())
    stage.external[0].set_exception(ValueError("it"))
    stage.loop.run_until_quiescent()
    assert task.result() == "caught it"


# What is forbidden

FORBIDDEN: dict[str, Callable[[Any], object]] = {
    "run_in_executor": lambda loop: loop.run_in_executor(None, print),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(print),
    "create_connection": lambda loop: loop.create_connection(None, "localhost", 80),
    "create_server": lambda loop: loop.create_server(None),
    "subprocess_exec": lambda loop: loop.subprocess_exec(None, "true"),
    "add_reader": lambda loop: loop.add_reader(0, print),
    "add_signal_handler": lambda loop: loop.add_signal_handler(2, print),
    "getaddrinfo": lambda loop: loop.getaddrinfo("localhost", 80),
    "sock_recv": lambda loop: loop.sock_recv(None, 1),
    "run_forever": lambda loop: loop.run_forever(),
    "run_until_complete": lambda loop: loop.run_until_complete(None),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_io_threads_and_control_of_the_loop_are_forbidden(stage: Stage, name: str) -> None:
    async def main() -> None:
        FORBIDDEN[name](asyncio.get_running_loop())

    error = stage.start(main()).exception()
    assert isinstance(error, ForbiddenInOrchestrationError)
    assert name in str(error)
    assert "context.call_activity" in str(error)


@pytest.mark.parametrize(
    "use",
    [
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("localhost", 1),
        lambda: asyncio.create_subprocess_exec("true"),
    ],
)
def test_asyncio_functions_that_do_io_are_forbidden(stage: Stage, use: Callable[[], Awaitable[object]]) -> None:
    async def main() -> None:
        await use()

    assert isinstance(stage.start(main()).exception(), ForbiddenInOrchestrationError)


def test_nothing_of_asyncio_is_left_unimplemented() -> None:
    for name, method in inspect.getmembers(asyncio.AbstractEventLoop, inspect.isfunction):
        if not name.startswith("_") or name == "_timer_handle_cancelled":
            assert getattr(DeterministicLoop, name) is not method, name


# Where it runs, and how it is left


def test_the_running_loop_and_generator_hooks_are_restored(stage: Stage) -> None:
    async def main() -> object:
        return asyncio.get_running_loop()

    async def outer() -> None:
        loop, task, hooks = asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks()
        assert stage.start(main()).result() is stage.loop
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        assert sys.get_asyncgen_hooks() == hooks
        await asyncio.sleep(0)

    asyncio.run(outer())
    stage.start(main())
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert not stage.loop.is_running()


def test_a_running_loop_neither_runs_nor_closes(stage: Stage) -> None:
    async def main() -> list[str]:
        assert stage.loop.is_running()
        errors: list[str] = []
        for method in (stage.loop.run_until_quiescent, stage.loop.close):
            with pytest.raises(RuntimeError) as error:
                method()
            errors.append(str(error.value))
        return errors

    assert stage.start(main()).result() == ["this loop is running already", "a running loop cannot be closed"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Interrupt])
@pytest.mark.parametrize("where", ["callback", "task", "child"])
def test_interrupts_leave_the_loop_at_once(stage: Stage, kind: type[BaseException], where: str) -> None:
    async def strike() -> None:
        raise kind

    async def parent() -> None:
        try:
            await asyncio.create_task(strike())
        except BaseException:
            stage.note("seen")
            raise

    def raise_it() -> None:
        raise kind

    if where == "callback":
        stage.loop.call_soon(raise_it)
    else:
        stage.loop.create_task(strike() if where == "task" else parent())
    with pytest.raises(kind):
        stage.loop.run_until_quiescent()
    assert asyncio._get_running_loop() is None  # pyright: ignore[reportPrivateUsage]
    assert sys.get_asyncgen_hooks() == (None, None)
    assert not stage.loop.is_running()
    assert stage.trace == []


def test_a_watchdog_gets_a_spinning_orchestration_off_the_thread() -> None:
    spinning = threading.Event()
    outcome: list[asyncio.AbstractEventLoop | None] = []

    async def spin() -> None:
        spinning.set()
        while True:
            await asyncio.sleep(0)

    def turn() -> None:
        stage = Stage()
        try:
            stage.start(spin())
        except Interrupt:
            outcome.append(asyncio._get_running_loop())  # pyright: ignore[reportPrivateUsage]
        stage.loop.close()

    thread = threading.Thread(target=turn)
    thread.start()
    assert spinning.wait(10)
    time.sleep(0.05)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupt))
    thread.join(10)
    assert not thread.is_alive()
    assert outcome == [None]


def test_dropped_async_generators_are_not_finalised_by_the_outer_loop(stage: Stage) -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        try:
            for number in itertools.count():
                yield number
        finally:
            stage.note("finalised")

    async def main() -> int:
        generator = numbers()
        first = await anext(generator)
        del generator
        return first

    async def careful() -> int:
        async with contextlib.aclosing(numbers()) as generator:
            return await anext(generator)

    async def outer() -> None:
        assert stage.start(main()).result() == 0
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        assert stage.trace == []
        assert stage.start(careful()).result() == 0
        assert len(stage.trace) == 1

    asyncio.run(outer())


def test_other_loops_see_no_difference() -> None:
    async def main() -> tuple[list[int], int, int]:
        async def child(number: int) -> int:
            await asyncio.sleep(0)
            return number

        coros = [child(number) for number in range(5)]
        first = [await result for result in asyncio.as_completed([*coros, *coros])]
        gather = asyncio.gather(child(1), child(2))
        assert hash(gather) == object.__hash__(gather)
        await gather
        tasks = {asyncio.create_task(child(number)) for number in range(3)}
        done, pending = await asyncio.wait(tasks)
        assert done == tasks
        assert type(done) is set
        return sorted(first), len(pending), len(asyncio.all_tasks())

    assert asyncio.run(main()) == ([0, 1, 2, 3, 4], 0, 1)
    namespace = vars(asyncio.tasks)
    assert namespace["set"]() == set()
    assert namespace["set"]([1, 1]) == {1}
    assert namespace["list"]() == []
    assert namespace["list"]((1, 2)) == [1, 2]


def test_tasks_of_many_loops_do_not_collide_in_the_registry_of_asyncio() -> None:
    stages = [Stage() for _ in range(200)]
    before = len(vars(asyncio.tasks).get("_all_tasks", vars(asyncio.tasks).get("_scheduled_tasks", ())))
    for stage in stages:
        stage.start(asyncio.sleep(1))
    assert len(vars(asyncio.tasks).get("_all_tasks", vars(asyncio.tasks).get("_scheduled_tasks", ()))) == before
    for stage in stages:
        stage.loop.close()


# The end


def test_close_closes_coroutines_in_the_order_of_creation_and_in_their_context(stage: Stage) -> None:
    variable = contextvars.ContextVar("variable", default="")
    seen: list[tuple[str, str, bool]] = []

    async def child(name: str) -> None:
        variable.set(name)
        try:
            await stage.call()
        except BaseException as error:
            seen.append((variable.get(), type(error).__name__, asyncio.get_running_loop() is stage.loop))
            raise

    async def main() -> None:
        tasks = [asyncio.create_task(child(name)) for name in "abc"]
        await stage.call()
        await tasks[0]

    stage.start(main())
    stage.loop.create_task(child("never started"))
    stage.loop.close()
    assert seen == [(name, "_Evicted", True) for name in "abc"]


def test_close_is_idempotent_and_final(stage: Stage) -> None:
    stage.loop.call_later(1, print)
    stage.loop.close()
    stage.loop.close()
    assert stage.loop.is_closed()
    assert not stage.loop.fire_timer(0)
    assert stage.cancelled == []
    with pytest.raises(RuntimeError, match="closed"):
        stage.loop.run_until_quiescent()


def test_what_finally_blocks_ask_of_a_closed_loop_is_inert(stage: Stage) -> None:
    seen: list[str] = []

    async def cleanup() -> None:
        seen.append("ran")

    async def main() -> None:
        try:
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(20))
                await stage.call()
        finally:
            loop = asyncio.get_running_loop()
            loop.call_soon(seen.append, "called")
            loop.call_later(1, seen.append, "timer").cancel()
            task = asyncio.create_task(cleanup())
            seen.append("finally")
            await task
            seen.append("after")

    async def outer() -> None:
        stage.start(main())
        stage.loop.close()
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(outer())  # nor does it happen on the loop of the host
    assert seen == ["finally"]
    assert len(stage.requested) == 2
    assert stage.cancelled == []


@pytest.mark.parametrize("wait", ["call", "sleep", "group", "timeout", "gather"])
def test_a_retry_loop_that_catches_everything_cannot_hold_up_close(stage: Stage, wait: str) -> None:
    attempts = 0

    async def once() -> None:
        if wait == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(1))
        elif wait == "timeout":
            async with asyncio.timeout(5):
                await stage.call()
        elif wait == "gather":
            await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))
        else:
            await (stage.call() if wait == "call" else asyncio.sleep(1))

    async def main() -> None:
        nonlocal attempts
        for attempts in range(100):  # noqa: B007
            with contextlib.suppress(BaseException):
                await once()
        raise SystemExit(1)

    stage.start(main())
    stage.loop.close()
    assert attempts == 99


def test_errors_of_user_code_do_not_hold_up_close(stage: Stage) -> None:
    closed: list[int] = []

    async def child(number: int) -> None:
        try:
            await stage.call()
        finally:
            closed.append(number)
            raise (ValueError, SystemExit, Interrupt)[number]

    for number in range(3):
        stage.start(child(number))
    stage.loop.close()
    assert closed == [0, 1, 2]


def test_ctrl_c_during_close_comes_out_when_all_is_closed(stage: Stage) -> None:
    closed: list[int] = []

    async def child(number: int) -> None:
        try:
            await stage.call()
        finally:
            closed.append(number)
            if number == 0:
                raise KeyboardInterrupt

    stage.start(child(0))
    stage.start(child(1))
    with pytest.raises(KeyboardInterrupt):
        stage.loop.close()
    assert closed == [0, 1]
    assert asyncio._get_running_loop() is None  # pyright: ignore[reportPrivateUsage]


class Payload:
    """Stands for what an orchestration keeps in its variables."""


def evict(*, finished: bool) -> list[weakref.ref[Any]]:
    stage, payload = Stage(), Payload()

    async def child(payload: Payload) -> None:
        async with asyncio.timeout(60):
            await stage.call()
        del payload

    async def main(payload: Payload) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(child(payload))
            await asyncio.wait([asyncio.gather(stage.call(), stage.call())])

    task = stage.start(main(payload))
    if finished:
        for index in range(5):
            stage.finish(index)
    assert task.done() == finished
    stage.loop.close()
    while stage.external:  # as the host should: gather and as_completed hold on to what they wait for
        stage.external.pop().cancel()
    return [weakref.ref(each) for each in (stage, stage.loop, task, payload)]


@pytest.mark.parametrize("finished", [True, False])
def test_a_closed_activation_is_freed_without_the_garbage_collector(finished: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        assert [each() for each in evict(finished=finished)] == [None] * 4
    finally:
        gc.enable()


def test_a_finished_task_is_let_go(stage: Stage) -> None:
    async def main() -> None:
        await asyncio.create_task(asyncio.sleep(0))
        await stage.call()

    main_task = stage.start(main())
    assert stage.loop.pending_tasks() == [main_task]
    stage.finish(0)
    assert stage.loop.pending_tasks() == []


def test_activations_that_are_never_closed_are_collected_silently(capsys: pytest.CaptureFixture[str]) -> None:
    def forget() -> weakref.ref[DeterministicLoop]:
        stage = Stage()
        stage.start(asyncio.wait_for(stage.call(), 5))
        return weakref.ref(stage.loop)

    alive = forget()
    gc.collect()
    assert alive() is None
    assert capsys.readouterr() == ("", "")


# Determinism


def branch(kind: str, number: int, nodes: list[Node]) -> Node:
    return (kind, number, *nodes)


leaves: st.SearchStrategy[Node] = st.tuples(st.sampled_from(LEAVES), st.integers(0, 3))
programs = st.recursive(
    leaves,
    lambda nodes: st.builds(
        branch, st.sampled_from(BRANCHES), st.integers(0, 3), st.lists(nodes, min_size=1, max_size=4)
    ),
    max_leaves=20,
)
schedules = st.lists(st.integers(0, (1 << 16) - 1), min_size=10, max_size=64).map(tuple)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs, schedule=schedules)
def test_a_program_replays_exactly(program: tuple[Any, ...], schedule: tuple[int, ...]) -> None:
    trace = run_program(program, schedule)
    ballast = [bytearray(size) for size in range(16, 400)]  # other addresses for the second run
    assert run_program(program, schedule) == trace
    del ballast


def test_programs_run_alike_in_processes_that_are_unlike() -> None:
    paths = os.pathsep.join([str(ROOT / "actors"), str(ROOT)])
    start = functools.partial(subprocess.Popen[str], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("loop_child.py")), "1500"]
    children = [
        start(command, env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed})
        for seed in ("0", "1", "4242", "random")
    ]
    outputs = [child.communicate() for child in children]
    assert [errors for _, errors in outputs] == [""] * 4
    assert len({digest for digest, _ in outputs}) == 1
    assert int(outputs[0][0].split()[1]) > 10_000


def test_installing_the_stand_ins_again_changes_nothing() -> None:
    code = (
        "import asyncio.tasks, importlib.util, sys\n"
        "import callboard.core.loop as one\n"
        "del sys.modules['callboard.core.loop']\n"
        "import callboard.core.loop as two\n"
        "assert one is not two and asyncio.tasks.__dict__['set']([1, 1]) == {1}\n"
        "async def main(): return [await c for c in asyncio.as_completed([asyncio.sleep(0, 1)])]\n"
        "print(asyncio.run(main()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "actors")}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[1]\n", "")


def test_a_turn_is_cheap() -> None:
    """A generous bound: a quadratic registry or a leak of callbacks breaks it, a busy machine does not."""

    async def main(stage: Stage) -> None:
        for _ in range(3):
            await stage.call()

    begin = time.process_time()
    stages: list[Stage] = []
    for _ in range(5000):
        stage = Stage()
        stage.start(main(stage))
        stages.append(stage)
    assert time.process_time() - begin < 1.5
    assert {len(stage.external) for stage in stages} == {1}
    for stage in stages:
        stage.loop.close()
    assert loop_module.DeterministicLoop is DeterministicLoop
