"""Random programs over the asyncio vocabulary, and a stage that runs them: their trace is what must never vary."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from callboard.core.loop import DeterministicFuture, DeterministicLoop, DeterministicTask

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from random import Random

T = TypeVar("T")
Node: TypeAlias = tuple[Any, ...]

EPOCH = 1_700_000_000.0


class ProgramError(Exception):
    """What a program's activities fail with."""


class Stage:
    """A host for one loop: it keeps the timers and the futures that wait for the outside world."""

    def __init__(self) -> None:
        self.now = EPOCH
        self.timers: dict[int, float] = {}
        self.requested: list[float] = []
        self.cancelled: list[int] = []
        self.trace: list[str] = []
        self.external: list[DeterministicFuture[Any]] = []
        self.loop = DeterministicLoop(self)
        self.loop.set_time(self.now)

    def timer_requested(self, when: float) -> int:
        key = len(self.requested)
        self.requested.append(when)
        self.timers[key] = when
        return key

    def timer_cancelled(self, key: int) -> None:
        self.cancelled.append(key)
        del self.timers[key]

    def start(self, coro: Coroutine[Any, Any, T]) -> DeterministicTask[T]:
        task = self.loop.create_task(coro)
        self.loop.run_until_quiescent()
        return task

    def call(self) -> DeterministicFuture[Any]:
        future = self.loop.create_future()
        self.external.append(future)
        return future

    def finish(self, index: int, result: object = None) -> None:
        self.external[index].set_result(result)
        self.loop.run_until_quiescent()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.loop.set_time(self.now)
        for key, when in sorted(self.timers.items(), key=lambda item: (item[1], item[0])):
            if when <= self.now:
                del self.timers[key]
                self.loop.fire_timer(key)
        self.loop.run_until_quiescent()

    def note(self, what: object) -> None:
        task = asyncio.current_task()
        self.trace.append(f"{self.now - EPOCH:g} {task.get_name() if task else '-'} {what}")


# Making programs

LEAVES = ("call", "call", "call", "sleep", "yield", "fail")
BRANCHES = (
    "sequence", "gather", "wait", "wait_calls", "wait_gathers", "as_completed", "as_completed_tasks", "group", "timeout", "wait_for",
    "cancel", "shield", "queue", "semaphore", "condition", "event", "finally",
)  # fmt: skip


def make_program(random: Random, depth: int = 3) -> Node:
    """Return a tree of (kind, an arbitrary small number, children…)."""
    if depth == 0 or random.randrange(5) == 0:
        return (LEAVES[random.randrange(len(LEAVES))], random.randrange(4))
    kind = BRANCHES[random.randrange(len(BRANCHES))]
    children = (make_program(random, depth - 1) for _ in range(1 + random.randrange(4)))
    return (kind, random.randrange(4), *children)


def make_schedule(random: Random) -> tuple[int, ...]:
    return tuple(random.randrange(1 << 16) for _ in range(64))


# Running them


@dataclass
class Interpreter:
    stage: Stage
    labels: int = 0

    async def run(self, node: Node) -> str:
        kind, number, *children = node
        label = f"{kind}#{self.labels}"
        self.labels += 1
        self.stage.note(f"+{label}")
        try:
            await getattr(self, f"_{kind}")(number, children, label)
        except BaseException as error:
            self.stage.note(f"!{label} {type(error).__name__}")
            raise
        self.stage.note(f"-{label}")
        return label

    def tasks(self, children: list[Node]) -> list[asyncio.Task[str]]:
        return [asyncio.create_task(self.run(child)) for child in children]

    def outcome(self, future: asyncio.Future[Any]) -> str:
        if not future.done():
            return "pending"
        if future.cancelled():
            return "cancelled"
        return type(future.exception()).__name__ if future.exception() else str(future.result())

    async def _call(self, number: int, children: list[Node], label: str) -> None:
        self.stage.note(await self.stage.call())

    async def _sleep(self, number: int, children: list[Node], label: str) -> None:
        await asyncio.sleep(number)

    async def _yield(self, number: int, children: list[Node], label: str) -> None:
        for _ in range(number):
            await asyncio.sleep(0)
        self.stage.note([task.get_name() for task in asyncio.all_tasks()])

    async def _fail(self, number: int, children: list[Node], label: str) -> None:
        raise ProgramError(label)

    async def _sequence(self, number: int, children: list[Node], label: str) -> None:
        for child in children:
            try:
                await self.run(child)
            except ProgramError:
                if number == 0:
                    raise

    async def _gather(self, number: int, children: list[Node], label: str) -> None:
        results = await asyncio.gather(*map(self.run, children), return_exceptions=number > 0)
        self.stage.note([str(result) for result in results])

    async def _wait(self, number: int, children: list[Node], label: str) -> None:
        tasks = self.tasks(children)
        when = (asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED)[number % 3]
        done, pending = await asyncio.wait(tasks if number else set(tasks), timeout=number or None, return_when=when)
        for task in (*done, *pending):
            self.stage.note(f"{task.get_name()} {self.outcome(task)}")
        for task in pending:
            task.cancel()

    async def _wait_calls(self, number: int, children: list[Node], label: str) -> None:
        calls = {self.stage.call(): index for index in range(number + 2)}
        await self.run(children[0])
        done, pending = await asyncio.wait(set(calls), return_when=asyncio.FIRST_COMPLETED)
        self.stage.note([(calls[future], self.outcome(future)) for future in (*done, *pending)])

    async def _wait_gathers(self, number: int, children: list[Node], label: str) -> None:
        names: dict[asyncio.Future[Any], int] = {}
        for child in children * 2:
            names[asyncio.gather(self.run(child), return_exceptions=True)] = len(names)
        done, pending = await asyncio.wait(set(names), timeout=number + 1)
        self.stage.note([names[future] for future in (*done, *pending)])

    async def _as_completed(self, number: int, children: list[Node], label: str) -> None:
        for first in asyncio.as_completed([self.run(child) for child in children * 2], timeout=number or None):
            try:
                self.stage.note(await first)
            except ProgramError as error:
                self.stage.note(error)

    async def _as_completed_tasks(self, number: int, children: list[Node], label: str) -> None:
        tasks = self.tasks(children)
        for first in asyncio.as_completed(set(tasks) if number else [*tasks, *tasks]):
            self.stage.note(await first)

    async def _group(self, number: int, children: list[Node], label: str) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(self.run(child))
                if number == 0:
                    raise ProgramError(label)
        except* ProgramError as errors:
            self.stage.note([str(error) for error in errors.exceptions])

    async def _timeout(self, number: int, children: list[Node], label: str) -> None:
        try:
            async with asyncio.timeout(number):
                await self._sequence(1, children, label)
        except TimeoutError:
            self.stage.note(f"timeout {label}")

    async def _wait_for(self, number: int, children: list[Node], label: str) -> None:
        for child in children:
            try:
                await asyncio.wait_for(self.run(child), number)
            except (TimeoutError, ProgramError) as error:
                self.stage.note(f"{type(error).__name__} {label}")

    async def _cancel(self, number: int, children: list[Node], label: str) -> None:
        tasks = self.tasks(children)
        await asyncio.sleep(number // 2)
        for task in set(tasks):
            task.cancel()
        self.stage.note([str(result) for result in await asyncio.gather(*tasks, return_exceptions=True)])

    async def _shield(self, number: int, children: list[Node], label: str) -> None:
        try:
            async with asyncio.timeout(number + 1):
                for task in self.tasks(children):
                    await asyncio.shield(task)
        except TimeoutError:
            self.stage.note(f"left {label}")

    async def _queue(self, number: int, children: list[Node], label: str) -> None:
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=number)

        async def produce(child: Node) -> None:
            try:
                await queue.put(await self.run(child))
            finally:
                await queue.put(f"end {label}")

        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(produce(child))
            ends = 0
            while ends < len(children):
                item = await queue.get()
                ends += item.startswith("end")
                self.stage.note(item)

    async def _semaphore(self, number: int, children: list[Node], label: str) -> None:
        semaphore, lock = asyncio.Semaphore(number + 1), asyncio.Lock()

        async def enter(child: Node) -> None:
            async with semaphore:
                await self.run(child)
                async with lock:
                    await asyncio.sleep(0)
                    self.stage.note(f"in {label}")

        await asyncio.gather(*map(enter, children))

    async def _condition(self, number: int, children: list[Node], label: str) -> None:
        condition, count = asyncio.Condition(), 0

        async def arrive(child: Node) -> None:
            nonlocal count
            try:
                await self.run(child)
            finally:
                async with condition:
                    count += 1
                    condition.notify_all()

        async def watch(target: int) -> None:
            async with condition:
                await condition.wait_for(lambda: count >= target)
                self.stage.note(f"{count} of {target} in {label}")

        await asyncio.gather(*(watch(n + 1) for n in range(len(children))), *map(arrive, children))

    async def _event(self, number: int, children: list[Node], label: str) -> None:
        event = asyncio.Event()

        async def follow(index: int) -> None:
            await event.wait()
            self.stage.note(f"{index} follows {label}")

        async with asyncio.TaskGroup() as group:
            for index in range(number):
                group.create_task(follow(index), name=f"follower-{index}")
            await self.run(children[0])
            event.set()

    async def _finally(self, number: int, children: list[Node], label: str) -> None:
        try:
            await self._sequence(0, children, label)
        finally:
            await asyncio.sleep(number)
            self.stage.note(f"finally {label}")


def run_program(program: Node, schedule: tuple[int, ...]) -> list[str]:
    """Run a program to its end, or to the end of the schedule; return what happened."""
    stage = Stage()
    main = stage.start(Interpreter(stage).run(program))
    for turn, choice in enumerate(schedule):
        if main.done():
            break
        for step in range(1 + choice % 3):  # some turns take several completions before they run
            waiting = [future for future in stage.external if not future.done()]
            if not waiting:
                break
            future = waiting[(choice >> (3 + step)) % len(waiting)]
            if choice >> 8 & 7:
                future.set_result(f"result {turn}.{step}")
            else:
                future.set_exception(ProgramError(f"failure {turn}.{step}"))
        stage.advance((choice >> 12) % 4 * 0.5)
    stage.trace.append(f"{Interpreter(stage).outcome(main)} {stage.requested} {stage.cancelled}")
    stage.trace.extend(map(str, stage.loop.unhandled))
    stage.loop.close()  # what the coroutines do while they are closed is part of the trace
    return stage.trace


def digest(traces: list[list[str]]) -> str:
    return hashlib.sha256(repr(traces).encode()).hexdigest()
