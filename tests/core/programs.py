"""Random durable orchestrations over all that a context and asyncio offer, made from a seed; and the digest of what they commit."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from tests.core.support import Instance, World, at

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from random import Random

    from callboard.core.context import OrchestrationContext
    from callboard.core.instances import Commit
    from callboard.core.messages import InstanceMessage
    from callboard.core.retrying import RetryContext

Node: TypeAlias = tuple[Any, ...]

_LEAVES = (
    "call", "call", "call", "child", "timer", "sleep", "event", "send", "retried", "limited", "status", "identity",
)  # fmt: skip
_BRANCHES = (
    "seq", "seq", "gather", "gather", "wait", "completed", "group", "timeout", "spawn", "retry", "try", "finally", "poll",
    "all", "any",
)  # fmt: skip
_NAMES = ("Door", "bell", "DOOR", "Bell")


class Program:
    """A random orchestration, and what its clients do meanwhile."""

    def __init__(self, random: Random) -> None:
        self.rounds = random.choice((1, 1, 1, 2, 3))
        self.identities = self.rounds == 1
        """Whether it draws ids and numbers: those of later executions follow from how history was cut."""
        self.root = self._branch(random, 3)
        self.events = [
            (random.choice((0.0, 1.0, 2.0, 5.0)), random.choice(_NAMES), number)
            for number in range(random.randrange(5))
        ]
        self.pauses: list[tuple[float, float]] = []
        if self.rounds == 1 and random.random() < 0.3:
            begins = random.choice((0.0, 1.0, 2.0))
            self.pauses.append((begins, begins + random.choice((0.0, 1.0, 3.0))))

    def clients(self, instance: Instance) -> list[tuple[float, InstanceMessage]]:
        messages: list[tuple[float, InstanceMessage]] = []
        for time, name, number in self.events:
            messages.append((time, instance.event(name, number, f"event-{number}")))
        for begins, ends in self.pauses:
            messages.append((begins, instance.suspend(f"suspend-{begins}")))
            messages.append((ends, instance.resume(f"resume-{begins}")))
        return messages

    def world(self, traces: list[list[str]] | None = None, **options: Any) -> World:
        instance = Instance(self.orchestration(traces), {"round": 1}, **options)
        return World(instance, self.clients(instance))

    def orchestration(self, traces: list[list[str]] | None = None) -> Callable[..., Any]:
        """The function; each activation of it appends what its code sees to a trace of its own."""

        async def program(context: OrchestrationContext, state: dict[str, int]) -> Any:
            run = Run(context)
            if traces is not None:
                traces.append(run.trace)
            result = await run.play(self.root)
            if state["round"] < self.rounds:
                context.continue_as_new({"round": state["round"] + 1})
                return None
            return result

        return program

    # Making one

    def _node(self, random: Random, depth: int) -> Node:
        return self._branch(random, depth) if depth and random.random() < 0.6 else self._leaf(random)

    def _nodes(self, random: Random, depth: int) -> list[Node]:
        return [self._node(random, depth - 1) for _ in range(random.randrange(1, 4))]

    def _leaf(self, random: Random) -> Node:
        seconds = random.choice((0, 0, 1, 2, 3))
        match random.choice(_LEAVES):
            case "call" | "child" as what:
                return what, seconds, random.random() < 0.2, random.randrange(10)
            case "retried":
                return "retried", seconds, random.random() < 0.6, random.randrange(1, 4)
            case "event" | "limited" as what:
                return what, random.choice(_NAMES), random.choice((0, 1, 4))
            case "send":
                return "send", random.choice(_NAMES)
            case "identity":
                return (random.choice(("uuid", "draw") if self.identities else ("pass",)),)
            case what:
                return what, seconds

    def _branch(self, random: Random, depth: int) -> Node:
        match random.choice(_BRANCHES):
            case "gather":
                return "gather", random.random() < 0.5, self._nodes(random, depth)
            case "wait":
                return "wait", random.choice(("all", "first", "failure")), self._nodes(random, depth)
            case "timeout":
                return "timeout", random.choice((0, 1, 2)), self._node(random, depth - 1)
            case "spawn":
                how = random.choice(("join", "cancel", "leave"))
                return "spawn", how, self._node(random, depth - 1), self._node(random, depth - 1)
            case "retry" | "poll" as what:
                return what, random.randrange(1, 4), self._node(random, depth - 1)
            case "try" | "finally" as what:
                return what, self._node(random, depth - 1), self._node(random, depth - 1)
            case what:
                return what, self._nodes(random, depth)


class Doubling:
    """Retries after 1, 2, 4 … seconds."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts

    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        if attempt.failure is None or attempt.attempt_number >= self.attempts:
            return None
        return timedelta(seconds=2 ** (attempt.attempt_number - 1))


class Run:
    """Plays a program in one activation, and notes what the code sees."""

    def __init__(self, context: OrchestrationContext) -> None:
        self.context = context
        self.trace: list[str] = []

    async def play(self, node: Node) -> Any:
        method: Callable[..., Coroutine[Any, Any, Any]] = getattr(self, f"_{node[0]}")
        try:
            result = await method(*node[1:])
        except BaseException as error:
            self._note(f"{node[0]}: {type(error).__name__}")
            raise
        self._note(f"{node[0]}: {result}")
        return result

    def _note(self, what: str) -> None:
        task = asyncio.current_task()
        seconds = (self.context.current_utc_datetime - at(0)).total_seconds()
        self.trace.append(f"{seconds:g} {task.get_name() if task else '-'} {what}")

    def _tasks(self, nodes: list[Node]) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.play(node)) for node in nodes]

    # Leaves

    async def _call(self, delay: int, fails: bool, value: int) -> Any:
        return await self.context.call_activity("work", [delay, fails, value])

    async def _child(self, delay: int, fails: bool, value: int) -> Any:
        return await self.context.call_sub_orchestration("small", [delay, fails, value])

    async def _timer(self, seconds: int) -> None:
        await self.context.create_timer(timedelta(seconds=seconds))

    async def _sleep(self, seconds: int) -> None:
        await asyncio.sleep(seconds)

    async def _event(self, name: str, limit: int) -> Any:
        try:
            async with asyncio.timeout(limit):
                return await self.context.wait_for_external_event(name)
        except TimeoutError:
            return "nobody"

    async def _limited(self, name: str, limit: int) -> Any:
        return await self.context.wait_for_external_event(name, timeout=limit, default="nobody")

    async def _retried(self, delay: int, fails: bool, attempts: int) -> Any:
        return await self.context.call_activity("work", [delay, fails, attempts], retry=Doubling(attempts))

    async def _send(self, name: str) -> None:
        self.context.send_event(self.context.instance_id, name, "from myself")

    async def _status(self, value: int) -> None:
        self.context.set_custom_status({"at": value, "trace": len(self.trace)})

    async def _pass(self) -> None:
        await asyncio.sleep(0)

    async def _uuid(self) -> str:
        return str(self.context.new_uuid())

    async def _draw(self) -> float:
        return self.context.random.random()

    # Branches

    async def _seq(self, nodes: list[Node]) -> list[Any]:
        return [await self.play(node) for node in nodes]

    async def _gather(self, keep_errors: bool, nodes: list[Node]) -> list[str]:
        results = await asyncio.gather(*(self.play(node) for node in nodes), return_exceptions=keep_errors)
        return [str(result) for result in results]

    async def _wait(self, when: str, nodes: list[Node]) -> list[str]:
        until = {"all": asyncio.ALL_COMPLETED, "first": asyncio.FIRST_COMPLETED, "failure": asyncio.FIRST_EXCEPTION}
        done, pending = await asyncio.wait(set(self._tasks(nodes)), return_when=until[when])
        for task in pending:
            task.cancel()
        return [_ended(task) for task in done]

    async def _completed(self, nodes: list[Node]) -> list[str]:
        results: list[str] = []
        for task in asyncio.as_completed(self._tasks(nodes)):
            try:
                results.append(str(await task))
            except Exception as error:
                results.append(type(error).__name__)
        return results

    async def _all(self, nodes: list[Node]) -> list[str]:
        return [str(result) for result in await self.context.task_all([self.play(node) for node in nodes])]

    async def _any(self, nodes: list[Node]) -> str:
        tasks = self._tasks(nodes)
        winner = await self.context.task_any(tasks)
        for task in tasks[::2]:
            task.cancel()
        return _ended(winner)

    async def _group(self, nodes: list[Node]) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.play(node)) for node in nodes]
        return [_ended(task) for task in tasks]

    async def _timeout(self, seconds: int, node: Node) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await self.play(node)
        except TimeoutError:
            return "late"

    async def _spawn(self, how: str, aside: Node, meanwhile: Node) -> Any:
        task = asyncio.create_task(self.play(aside))
        result = await self.play(meanwhile)
        if how == "cancel":
            task.cancel()
        if how != "leave":
            await asyncio.wait([task])
        return result

    async def _retry(self, attempts: int, node: Node) -> Any:
        for attempt in range(attempts):
            try:
                return await self.play(node)
            except Exception:
                await asyncio.sleep(2**attempt)
        return "gave up"

    async def _try(self, node: Node, otherwise: Node) -> Any:
        try:
            return await self.play(node)
        except Exception:
            return await self.play(otherwise)

    async def _finally(self, node: Node, cleanup: Node) -> Any:
        try:
            return await self.play(node)
        finally:
            await self.play(cleanup)

    async def _poll(self, times: int, node: Node) -> list[Any]:
        """Waits, again and again, for whichever comes first."""
        results: list[Any] = []
        for _ in range(times):
            event = self.context.wait_for_external_event("door")
            timer = self.context.create_timer(timedelta(seconds=1))
            done, _ = await asyncio.wait([event, timer], return_when=asyncio.FIRST_COMPLETED)
            results.append([_ended(task) for task in done])
            event.cancel()
            timer.cancel()
            results.append(await self.play(node))
        return results


def _ended(task: asyncio.Future[Any]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return str(task.result()) if error is None else type(error).__name__


def random_generator(random: Random) -> Callable[..., Any]:
    """A random orchestration in the older style, as a generator function."""
    steps = [(random.choice(("call", "child", "timer", "event", "all")), random.randrange(3)) for _ in range(6)]

    def program(context: OrchestrationContext) -> Generator[Any, Any, list[Any]]:
        results: list[Any] = []
        for what, number in steps:
            try:
                match what:
                    case "call":
                        result = yield context.call_activity("work", [number, number == 2, number])
                    case "child":
                        result = yield context.call_sub_orchestration("small", [number, number == 1, number])
                    case "timer":
                        result = yield context.create_timer(timedelta(seconds=number))
                    case "event":
                        result = yield asyncio.wait_for(context.wait_for_external_event("door"), number)
                    case _:
                        calls = [context.call_activity("work", [delay, False, delay]) for delay in range(number + 1)]
                        result = yield asyncio.gather(*calls)
            except Exception as error:
                result = type(error).__name__
            results.append(result)
        return results

    return program


def digest(commits: list[Commit]) -> str:
    return hashlib.sha256(msgspec.json.encode(commits)).hexdigest()
