"""External events: every one is taken once, in order, by somebody who looks; and none by those who have gone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from datetime import timedelta
from itertools import chain, repeat
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from callboard.core.events import ContinuedAsNew, EventRaised
from callboard.core.execution import Execution
from callboard.core.replay import replay
from tests.core.support import Code, Instance, Targets, World, at, same_story, started, through_json

if TYPE_CHECKING:
    from collections.abc import Generator

    from callboard.core.context import DurableTask, OrchestrationContext


# Time limits


async def limited(context: OrchestrationContext) -> Any:
    try:
        found: Any = await context.wait_for_external_event("go", timeout=60)
    except TimeoutError as error:
        found = str(error)
    return found, await context.wait_for_external_event("end")


def test_an_event_in_time_takes_back_the_timer() -> None:
    instance = started(limited)
    assert [timer.fire_at for timer in instance.timers()] == [at(60)]
    assert instance.commit(instance.event("GO", 1), after=59).timers_cancelled == (0,)
    instance.forget()
    assert instance.deliver(instance.timer(0), after=1).duplicates == 1
    instance.commit(instance.event("end", 2))
    assert instance.output == [1, 2]


def test_without_an_event_in_time_it_is_a_timeout_error() -> None:
    instance = started(limited)
    instance.commit(instance.timer(0), after=60)
    instance.commit(instance.event("go", "late"), instance.event("end", "over"))
    assert instance.output == ["No event 'go' came in time.", "over"]


@pytest.mark.parametrize("default", [None, "nobody", 0])
def test_or_the_default(default: Any) -> None:
    async def waits(context: OrchestrationContext) -> Any:
        answer = await context.wait_for_external_event("go", str, timeout=timedelta(minutes=1), default=default)
        return [answer, await context.wait_for_external_event("go")]

    instance = started(waits)
    instance.commit(instance.timer(0), after=60)
    instance.forget()
    instance.commit(instance.event("go", "late"))
    assert instance.output == [default, "late"]


def test_an_event_that_was_there_before_needs_no_time() -> None:
    async def busy(context: OrchestrationContext) -> Any:
        await context.call_activity("prepare")
        return await context.wait_for_external_event("go", timeout=0)

    instance = started(busy)
    instance.commit(instance.event("go", "early"))
    instance.commit(instance.result(0))
    assert instance.output == "early"


def test_an_event_that_came_in_time_is_there_for_who_looks_later() -> None:
    async def busy(context: OrchestrationContext) -> Any:
        approval = context.wait_for_external_event("go", timeout=60)
        await context.call_activity("prepare")
        return [await approval, await context.wait_for_external_event("go")]

    instance = started(busy)
    instance.commit(instance.event("go", "in time"), after=59)
    instance.commit(instance.timer(0), after=1)
    instance.commit(instance.event("go", "too late"), after=1)
    instance.forget()
    instance.commit(instance.result(1), after=10)
    assert instance.output == ["in time", "too late"]


def test_an_event_that_came_too_late_is_kept_for_the_next() -> None:
    async def busy(context: OrchestrationContext) -> Any:
        approval = context.wait_for_external_event("go", timeout=60, default="nobody")
        await context.call_activity("prepare")
        return [approval.done(), approval.result(), await context.wait_for_external_event("go")]

    instance = started(busy)
    instance.commit(instance.timer(0), after=60)
    instance.commit(instance.event("go", "too late"), after=1)
    instance.commit(instance.result(1), after=10)
    assert instance.output == [True, "nobody", "too late"]


def test_cancelling_takes_back_the_timer() -> None:
    async def waits(context: OrchestrationContext) -> Any:
        waiter = context.wait_for_external_event("go", timeout=60)
        await context.wait_for_external_event("enough")
        waiter.cancel()
        return await context.wait_for_external_event("go")

    instance = started(waits)
    assert instance.commit(instance.event("enough")).timers_cancelled == (0,)
    instance.commit(instance.event("go", "heard"))
    assert instance.output == "heard"


@pytest.mark.parametrize(("options", "says"), [
    ({"default": 1}, "timeout"), ({"timeout": float("nan")}, "no time"), ({"timeout": float("inf")}, "100 years"),
    ({"timeout": timedelta.max}, "100 years"),
])  # fmt: skip
def test_limits_that_cannot_be_meant(options: dict[str, Any], says: str) -> None:
    async def waits(context: OrchestrationContext) -> str:
        with pytest.raises(ValueError, match=says):
            context.wait_for_external_event("go", **options)
        return "refused"

    instance = started(waits)
    assert instance.output == "refused"
    assert instance.timers() == []


# Those who have gone take nothing


def test_a_waiter_that_was_dropped_takes_nothing_and_no_collector_is_asked() -> None:
    """The loop that everybody writes: the loser of a race is neither cancelled nor awaited again."""

    async def approves(context: OrchestrationContext) -> Any:
        for day in range(3):
            approval = context.wait_for_external_event("approval")
            timer = context.create_timer(timedelta(days=1))
            await asyncio.wait([approval, timer], return_when=asyncio.FIRST_COMPLETED)
            if approval.done():
                return [day, approval.result()]
            kept: list[Any] = [approval]
            kept.append(kept)  # a cycle: only a collector finds that nobody has it any more
        return "nobody"

    instance = Instance(approves)
    gc.disable()
    try:
        instance.commit(instance.start())
        instance.commit(instance.timer(0), after=86_400)
        instance.commit(instance.timer(1), after=86_400)
        instance.commit(instance.event("approval", "yes"))
    finally:
        gc.enable()
    assert instance.output == [2, "yes"]


def test_the_same_in_the_generator_style() -> None:
    def approves(context: OrchestrationContext) -> Generator[Any, Any, Any]:
        for day in range(3):
            approval = context.wait_for_external_event("approval")
            timer = context.create_timer(timedelta(days=1))
            yield asyncio.wait([approval, timer], return_when=asyncio.FIRST_COMPLETED)
            if approval.done():
                return [day, approval.result()]
        return "nobody"

    instance = started(approves)
    instance.commit(instance.timer(0), after=86_400)
    instance.commit(instance.event("approval", "yes"))
    assert instance.output == [1, "yes"]


def test_a_waiter_can_be_asked_between_other_things() -> None:
    async def works(context: OrchestrationContext) -> Any:
        stop = context.wait_for_external_event("stop")
        done = 0
        while not stop.done():
            await context.call_activity("step")
            done += 1
        return done, stop.result()

    instance = started(works)
    instance.commit(instance.result(0))
    instance.commit(instance.event("stop", "enough"))
    instance.forget()
    instance.commit(instance.result(1))
    assert instance.output == [2, "enough"]


def test_an_older_one_that_nobody_awaits_stands_in_nobodys_way() -> None:
    async def waits(context: OrchestrationContext) -> Any:
        older = context.wait_for_external_event("n")
        first = await context.wait_for_external_event("n")
        return [first, await older]

    instance = started(waits)
    instance.commit(instance.event("n", 1))
    instance.commit(instance.event("n", 2))
    assert instance.output == [1, 2]


def test_of_those_that_are_awaited_the_one_made_first_is_first() -> None:
    async def waits(context: OrchestrationContext) -> Any:
        one, two, three = (context.wait_for_external_event("n") for _ in range(3))
        await asyncio.wait([context.create_timer(timedelta(seconds=1))])
        return await asyncio.gather(three, one, two)

    instance = started(waits)
    instance.commit(instance.timer(0), after=1)
    for number in range(3):
        instance.commit(instance.event("n", number))
    assert instance.output == [2, 0, 1]


def test_an_event_for_a_waiter_nobody_looked_at_is_carried_over() -> None:
    async def again(context: OrchestrationContext, round_: int | None) -> Any:
        if round_ is None:
            context.wait_for_external_event("n")
            forgotten = context.wait_for_external_event("n")
            await context.wait_for_external_event("next")
            return context.continue_as_new(int(forgotten.cancelled()))
        return await context.wait_for_external_event("n")

    instance = started(again)
    instance.commit(instance.event("n", "kept"))
    instance.commit(instance.event("next"))
    instance.commit(instance.go_on())
    assert instance.output == "kept"


def test_awaiting_twice_and_stopping_once_still_waits() -> None:
    async def waits(context: OrchestrationContext) -> Any:
        waiter = context.wait_for_external_event("n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiter), 1)
        other = asyncio.ensure_future(asyncio.wait([waiter]))
        await asyncio.wait([waiter], timeout=1)
        await other
        return waiter.result()

    instance = started(waits)
    instance.commit(instance.timer(0), after=1)
    instance.commit(instance.timer(1), after=1)
    instance.commit(instance.event("n", "heard"))
    assert instance.output == "heard"


# Whatever the code does, nothing is lost, doubled or out of order

NAMES = ("door", "bell")
HOW = ("await", "await", "limit", "default", "cancel", "drop", "poll", "race", "work", "group")


class Listener:
    """A random program that listens in every way, begins anew some times, and returns what it heard by name."""

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        self.plan = [
            (random.choice(HOW), random.choice(NAMES), random.randrange(3)) for _ in range(random.randrange(2, 9))
        ]
        self.rounds = random.randrange(1, 4)
        self.events = sorted(
            (random.choice((0.0, 0.5, 1.0, 2.0, 3.0, 5.0)), random.choice(("Door", "door", "bell", "BELL")), number)
            for number in range(random.randrange(12))
        )
        self.pauses = [(1.0, 2.5)] if self.rounds == 1 and random.random() < 0.5 else []

    def world(self) -> World:
        instance = Instance(self.program, {"round": 1, "heard": []})
        clients: list[tuple[float, Any]] = [
            (time, instance.event(name, number, f"event-{number}")) for time, name, number in self.events
        ]
        for begins, ends in self.pauses:
            clients += [(begins, instance.suspend("suspend")), (ends, instance.resume("resume"))]
        return World(instance, clients)

    async def program(self, context: OrchestrationContext, state: dict[str, Any]) -> Any:
        run = Listening(context, state["heard"])
        for how, name, seconds in self.plan:
            await getattr(run, f"_{how}")(name, seconds)
        if state["round"] < self.rounds:
            return context.continue_as_new({"round": state["round"] + 1, "heard": run.heard})
        return run.heard


class Listening:
    """Listens in one activation, and notes what it heard."""

    def __init__(self, context: OrchestrationContext, heard: list[list[Any]]) -> None:
        self.context = context
        self.heard = heard
        self.dropped: list[DurableTask[Any]] = []

    async def _await(self, name: str, seconds: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self.heard.append([name, await self.context.wait_for_external_event(name)])

    async def _limit(self, name: str, seconds: int) -> None:
        waiter = self.context.wait_for_external_event(name, timeout=seconds)
        await self._work(name, 1)
        with contextlib.suppress(TimeoutError):
            self.heard.append([name, await waiter])

    async def _default(self, name: str, seconds: int) -> None:
        event = await self.context.wait_for_external_event(name, timeout=seconds, default=-1)
        if event != -1:
            self.heard.append([name, event])

    async def _cancel(self, name: str, seconds: int) -> None:
        waiter = self.context.wait_for_external_event(name, timeout=seconds)
        task = asyncio.create_task(asyncio.wait([waiter]))
        await asyncio.sleep(0)
        waiter.cancel()
        await task
        if not waiter.cancelled():  # there was one before
            self.heard.append([name, waiter.result()])

    async def _drop(self, name: str, seconds: int) -> None:
        self.dropped.append(self.context.wait_for_external_event(name))
        self.context.wait_for_external_event(name, timeout=seconds)

    async def _poll(self, name: str, seconds: int) -> None:
        waiter = self.context.wait_for_external_event(name)
        await self._work(name, seconds)
        if waiter.done():
            self.heard.append([name, waiter.result()])

    async def _race(self, name: str, seconds: int) -> None:
        waiter = self.context.wait_for_external_event(name)
        timer = self.context.create_timer(timedelta(seconds=seconds))
        await asyncio.wait([waiter, timer], return_when=asyncio.FIRST_COMPLETED)
        if waiter.done():
            self.heard.append([name, waiter.result()])

    async def _group(self, name: str, seconds: int) -> None:
        waiters = [self.context.wait_for_external_event(name, timeout=seconds, default=-1) for _ in range(3)]
        self.heard.extend([name, event] for event in await asyncio.gather(*waiters) if event != -1)

    async def _work(self, _name: str, seconds: int) -> None:
        await self.context.call_activity("work", [seconds, False, None])


thorough = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 2**32)


@thorough
@given(seeds)
def test_every_event_is_heard_once_or_kept(seed: int) -> None:
    listener = Listener(seed)
    instance = listener.world().run()
    assert instance.status == "Completed"
    heard: list[list[Any]] = instance.output
    recorded: dict[str, list[Any]] = {name: [] for name in NAMES}
    for commit in instance.commits:
        for event in commit.events:
            if isinstance(event, EventRaised):
                recorded[event.name.casefold()].append(int(event.input or -1))
    for name in NAMES:
        arrived = list(dict.fromkeys(recorded[name]))  # one carried over is recorded again
        mine = [event for which, event in heard if which == name]
        assert mine == arrived[: len(mine)]  # in order, none left out, none twice


@thorough
@given(seeds)
def test_what_is_carried_over_is_what_was_not_heard(seed: int) -> None:
    listener = Listener(seed)
    instance = listener.world().run()
    for commit in instance.commits:
        if isinstance(last := commit.events[-1], ContinuedAsNew):
            so_far = [
                int(event.input or -1)
                for before in instance.commits[: commit.n + 1]
                for event in before.events
                if isinstance(event, EventRaised)
            ]
            taken = {event for _, event in msgspec.json.decode(last.next.input or "")["heard"]}
            carried = [int(event.input or -1) for event in last.carried]
            assert sorted(carried) == sorted(set(so_far) - taken)


@thorough
@given(seeds, st.lists(st.integers(1, 4), max_size=12), st.integers(1, 4))
def test_however_the_history_is_cut(seed: int, sizes: list[int], every: int) -> None:
    listener = Listener(seed)
    whole = listener.world().run().commits
    assert listener.world().run(cut=lambda turn: True).commits == whole
    batched = listener.world().run(sizes=chain(sizes, repeat(1_000)), cut=lambda turn: turn % every == 0)
    same_story(whole, batched.commits)


@thorough
@given(seeds)
def test_every_beginning_of_a_history_replays(seed: int) -> None:
    listener = Listener(seed)
    commits = through_json(listener.world().run().commits)
    for end in range(1, len(commits) + 1):
        mine = [commit for commit in commits[:end] if commit.execution_id == commits[end - 1].execution_id]
        execution = Execution("one", Code(listener.program), Targets())
        assert replay(execution, mine).new_actions == {}
        execution.close()


async def types_of_the_overloads(context: OrchestrationContext) -> list[int | None]:
    """For the type checkers only."""
    plain: int = await context.wait_for_external_event("n", int)
    limited: int = await context.wait_for_external_event("n", int, timeout=5)
    either: int | None = await context.wait_for_external_event("n", int, timeout=5, default=None)
    return [plain, limited, either]
