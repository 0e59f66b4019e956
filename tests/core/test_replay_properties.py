"""However a history was cut, stored, loaded and replayed, the code lives the same."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, note, settings, strategies as st

from callboard.core.execution import Execution
from callboard.core.replay import replay
from tests.core.programs import Program, random_generator
from tests.core.support import Code, Instance, Targets, World, same_story, through_json

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from callboard.core.context import OrchestrationContext

ROOT = Path(__file__).parents[2]

# Closing a coroutine whose callee awaits in `finally` makes CPython tell of it; the activation is gone all the same.

thorough = settings(
    max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 2**32)
sizes = st.lists(st.integers(1, 4), max_size=12)


def drawn(seed: int) -> Program:
    program = Program(Random(seed))
    note(f"{program.rounds} × {program.root}, events {program.events}, pauses {program.pauses}")
    return program


@thorough
@given(seeds)
def test_the_same_input_gives_the_same_commits(seed: int) -> None:
    program = drawn(seed)
    assert program.world().run().commits == program.world().run().commits


@thorough
@given(seeds)
def test_replaying_a_history_asks_for_the_same_actions_and_shows_the_same(seed: int) -> None:
    traces: list[list[str]] = []
    program = drawn(seed)
    commits = program.world(traces).run().commits
    for execution_id in dict.fromkeys(commit.execution_id for commit in commits):
        live = traces.pop(0)
        again: list[list[str]] = []
        execution = Execution("one", Code(program.orchestration(again)), Targets())
        replayed = replay(execution, [commit for commit in commits if commit.execution_id == execution_id])
        assert replayed.new_actions == {}
        assert replayed.unfed == []
        execution.close()
        assert again == [live]
    assert traces == []


@thorough
@given(seeds)
def test_an_instance_cut_at_every_commit_goes_on_alike(seed: int) -> None:
    program = drawn(seed)
    whole = program.world().run().commits
    assert program.world().run(cut=lambda turn: True).commits == whole


@thorough
@given(seeds)
def test_an_instance_cut_at_any_one_commit_goes_on_alike(seed: int) -> None:
    program = drawn(seed)
    world = program.world()
    whole = world.run().commits
    for place in range(min(world.turns, 12)):
        assert program.world().run(cut=lambda turn, place=place: turn == place).commits == whole  # type: ignore[misc]


@thorough
@given(seeds)
def test_a_record_that_lags_behind_its_commits_makes_no_difference(seed: int) -> None:
    program = drawn(seed)
    whole = program.world().run().commits
    assert program.world(projected=False).run(cut=lambda turn: True).commits == whole


@thorough
@given(seeds, sizes, st.integers(1, 5))
def test_the_code_lives_the_same_however_its_messages_are_cut_into_turns(seed: int, first: list[int], cut: int) -> None:
    program = drawn(seed)
    one_by_one = program.world().run().commits
    batched = program.world().run(sizes=chain(first, repeat(1_000)), cut=lambda turn: turn % cut == 0).commits
    same_story(one_by_one, batched)


@thorough
@given(seeds, st.sets(st.integers(0, 12)), sizes)
def test_messages_that_come_again_change_nothing(seed: int, again: set[int], first: list[int]) -> None:
    program = drawn(seed)
    once = program.world().run().commits
    twice = program.world().run(
        sizes=chain(first, repeat(1)), repeated=again.__contains__, cut=lambda turn: turn in again
    )
    same_story(once, twice.commits)


@thorough
@given(seeds)
def test_a_history_that_was_stored_replays_alike(seed: int) -> None:
    program = drawn(seed)
    whole = program.world().run().commits
    assert through_json(whole) == whole
    world = program.world()
    deliver = world.instance.deliver

    def stored(*messages: Any, **options: Any) -> Any:
        turn = deliver(*messages, **options)
        world.instance.forget()
        world.instance.commits[:] = through_json(world.instance.commits)
        return turn

    world.instance.deliver = stored  # type: ignore[method-assign]
    assert world.run().commits == whole


@thorough
@given(seeds, sizes)
def test_generators_replay_alike(seed: int, first: list[int]) -> None:
    def world() -> World:
        instance = Instance(random_generator(Random(seed)))
        return World(instance, [(0, instance.event("Door", 1, "a")), (2, instance.event("door", 2, "b"))])

    whole = world().run().commits
    assert world().run(cut=lambda turn: True).commits == whole
    same_story(whole, world().run(sizes=chain(first, repeat(1_000))).commits)


# Every way of cutting a few programs, not only random ones


async def fan_out(context: OrchestrationContext) -> Any:
    calls = [context.call_activity("work", [0, number == 2, number]) for number in range(4)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    async with asyncio.timeout(1):
        return [str(result) for result in results], await context.wait_for_external_event("go")


async def race(context: OrchestrationContext) -> Any:
    events = {asyncio.create_task(_named(context, name), name=name) for name in ("a", "b", "c")}
    done, pending = await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    late = await context.wait_for_external_event("b")
    return [task.get_name() for task in done], [task.get_name() for task in pending], late


async def _named(context: OrchestrationContext, name: str) -> Any:
    return await context.wait_for_external_event(name)


async def counting(context: OrchestrationContext, seen: list[int] | None) -> Any:
    seen = [*(seen or []), await context.wait_for_external_event("n")]
    if len(seen) < 3:
        return context.continue_as_new(seen)
    return seen


def stepwise(context: OrchestrationContext) -> Generator[Any, Any, Any]:
    first = context.call_activity("work", [0, False, 1])
    second = context.call_activity("work", [0, True, 2])
    try:
        yield second
    except Exception as error:
        return [(yield first), type(error).__name__, (yield context.wait_for_external_event("b"))]


class Chosen:
    """Answers "how many" and "cut here?" by a path through the tree of all answers."""

    def __init__(self, path: list[int]) -> None:
        self.path = path
        self.options: list[int] = []

    def choose(self, options: int) -> int:
        place = len(self.options)
        self.options.append(options)
        return self.path[place] if place < len(self.path) else 0

    def sizes(self, world: World) -> Iterator[int]:
        while True:
            yield self.choose(len(world.queue)) + 1

    def cut(self, _turn: int) -> bool:
        return self.choose(2) == 1

    def next_path(self) -> list[int] | None:
        path = [*self.path, *repeat(0, len(self.options) - len(self.path))]
        for place in reversed(range(len(self.options))):
            if path[place] + 1 < self.options[place]:
                return [*path[:place], path[place] + 1]
        return None


@pytest.mark.parametrize(("function", "events", "fewest"), [
    (fan_out, "go", 400), (race, "b a x b", 50), (counting, "n n x n", 250), (stepwise, "b x b", 400),
])  # fmt: skip
def test_every_way_of_cutting_the_stream_ends_alike(function: Callable[..., Any], events: str, fewest: int) -> None:
    def world() -> World:
        instance = Instance(function)
        clients = enumerate(events.split())
        return World(instance, [(0, instance.event(name, number, f"{number}")) for number, name in clients])

    expected = world().run()
    path: list[int] | None = []
    ways = 0
    while path is not None:
        choices = Chosen(path)
        cut_up = world()
        result = cut_up.run(sizes=choices.sizes(cut_up), cut=choices.cut)
        assert result.output == expected.output
        same_story(expected.commits, result.commits)
        path = choices.next_path()
        ways += 1
    assert ways >= fewest


def test_other_processes_with_other_hash_seeds_commit_the_same() -> None:
    paths = os.pathsep.join(str(ROOT / root) for root in ("actors", "."))
    children = [
        subprocess.Popen(
            [sys.executable, "-X", "frozen_modules=off", str(Path(__file__).with_name("programs_child.py")), "200"],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for seed in ("0", "1", "4242")
    ]
    digests = [child.communicate(timeout=60)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(digests[0]) == 64
    assert digests[0] == digests[1] == digests[2]
