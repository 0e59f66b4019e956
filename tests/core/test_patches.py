"""Changes in place: each execution goes one way, the same on every replay, whichever code it began with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from callboard.core.context import OrchestrationContext
from callboard.core.events import PatchApplied, TaskScheduled
from callboard.core.folding import folded, unfolded
from callboard.core.patches import Patches
from tests.core.support import Instance, started


async def before(context: OrchestrationContext) -> Any:
    said = [await context.call_activity("old")]
    return [*said, await context.wait_for_external_event("end")]


async def patched(context: OrchestrationContext) -> Any:
    if context.patched("p"):
        context.call_activity("extra")
        said = [await context.call_activity("new")]
    else:
        said = [await context.call_activity("old")]
    return [*said, await context.wait_for_external_event("end")]


async def deprecated(context: OrchestrationContext) -> Any:
    context.deprecate_patch("p")
    context.call_activity("extra")
    said = [await context.call_activity("new")]
    return [*said, await context.wait_for_external_event("end")]


async def after(context: OrchestrationContext) -> Any:
    context.call_activity("extra")
    said = [await context.call_activity("new")]
    return [*said, await context.wait_for_external_event("end")]


def names(instance: Instance) -> list[str]:
    return [event.name for event in instance.history if isinstance(event, TaskScheduled)]


def patches(instance: Instance) -> list[str]:
    return [event.patch for event in instance.history if isinstance(event, PatchApplied)]


@pytest.fixture(params=[False, True], ids=["hot", "replayed"])
def cut(request: pytest.FixtureRequest) -> Callable[[Instance], None]:
    return Instance.forget if request.param else lambda instance: None


def test_a_new_execution_goes_the_new_way_and_history_says_so(cut: Callable[[Instance], None]) -> None:
    instance = started(patched)
    cut(instance)
    instance.commit(instance.result(1, "n"))
    cut(instance)
    instance.commit(instance.event("end", "e"))
    assert (names(instance), patches(instance), instance.output) == (["extra", "new"], ["p"], ["n", "e"])


def test_an_execution_from_before_the_change_goes_the_old_way(cut: Callable[[Instance], None]) -> None:
    instance = started(before)
    instance.become(patched)
    instance.commit(instance.result(0, "o"))
    cut(instance)
    instance.commit(instance.event("end", "e"))
    assert (names(instance), patches(instance), instance.output) == (["old"], [], ["o", "e"])


@pytest.mark.parametrize("later", [deprecated, after, patched])
def test_the_old_way_may_be_dropped_when_nobody_goes_it_any_more(later: Callable[..., Any]) -> None:
    instance = started(patched)
    instance.become(later)
    instance.commit(instance.result(1, "n"))
    instance.become(after)
    instance.commit(instance.event("end", "e"))
    assert instance.output == ["n", "e"]


def test_one_that_goes_it_still_is_parked_with_what_to_do() -> None:
    instance = started(before)
    instance.become(deprecated)
    commit = instance.commit(instance.result(0, "o"))
    assert commit.parked is not None
    assert commit.parked.kind == "nondeterminism"
    assert commit.parked.reason.startswith(
        "History passes without the patch 'p', whose old way the code does not know any more. Deploy code with context.patched('p')"
    )
    instance.become(patched)
    instance.commit(instance.wake())
    instance.commit(instance.event("end", "e"))
    assert instance.output == ["o", "e"]


def test_a_deprecated_patch_is_recorded_too_so_that_it_may_be_asked_for_again() -> None:
    instance = started(deprecated)
    assert patches(instance) == ["p"]
    instance.become(patched)
    instance.commit(instance.result(1, "n"), instance.event("end", "e"))
    assert instance.output == ["n", "e"]


async def twice(context: OrchestrationContext) -> Any:
    first = context.patched("p")
    await context.wait_for_external_event("go")
    return [first, context.patched("p")]


async def once_later(context: OrchestrationContext) -> Any:
    await context.wait_for_external_event("go")
    await context.wait_for_external_event("go")
    return context.patched("p")


def test_two_places_with_one_patch_get_one_answer() -> None:
    async def never(context: OrchestrationContext) -> Any:
        return await context.wait_for_external_event("go")

    instance = started(never)
    instance.become(twice)
    instance.commit(instance.event("go"))
    assert instance.output == [False, False]
    instance = started(twice)
    instance.commit(instance.event("go"))
    assert (instance.output, patches(instance)) == ([True, True], ["p"])


def test_a_place_that_is_reached_after_the_change_goes_the_new_way(cut: Callable[[Instance], None]) -> None:
    async def still_without(context: OrchestrationContext) -> Any:
        await context.wait_for_external_event("go")
        return await context.wait_for_external_event("go")

    instance = started(still_without)
    instance.commit(instance.event("go"))
    instance.become(once_later)
    instance.loaded()
    cut(instance)
    instance.commit(instance.event("go"))
    assert (instance.output, patches(instance)) == (True, ["p"])


def test_inputs_that_waited_for_code_are_news_to_it() -> None:
    async def waits(context: OrchestrationContext) -> Any:
        return [await context.wait_for_external_event("go"), context.patched("p")]

    instance = started(waits)
    instance.become(None)
    instance.commit(instance.event("go", 1))
    instance.become(waits)
    instance.commit(instance.wake())
    assert instance.output == [1, True]


def test_each_generation_decides_anew() -> None:
    async def generations(context: OrchestrationContext, generation: int) -> Any:
        if generation < 2:
            context.patched("p")
            return context.continue_as_new(generation + 1)
        return context.patched("q")

    instance = Instance(generations, 0)
    instance.commit(instance.start())
    instance.commit(instance.go_on())
    instance.commit(instance.go_on())
    assert [[event.patch for event in commit.events if isinstance(event, PatchApplied)] for commit in instance.commits] == [
        ["p"], ["p"], ["q"],
    ]  # fmt: skip


def test_queries_look_and_record_nothing() -> None:
    async def queried(context: OrchestrationContext) -> Any:
        context.on_query("way", lambda: context.patched("p"))
        await context.wait_for_external_event("go")
        context.patched("p")
        return await context.wait_for_external_event("end")

    from tests.core.test_messages import query, value  # noqa: PLC0415

    instance = started(queried)
    assert value(instance.deliver(query(instance, "way")).replies[0]) is False
    assert patches(instance) == []
    instance.commit(instance.event("go"))
    instance.forget()
    assert value(instance.deliver(query(instance, "way")).replies[0]) is True


def test_people_see_patches_in_history() -> None:
    instance = started(patched)
    assert {"EventType": "PatchApplied", "Name": "p"}.items() <= folded(instance.commits)[1].items()
    assert any(event["EventType"] == "PatchApplied" and event["Patch"] == "p" for event in unfolded(instance.commits))


def test_the_bookkeeping() -> None:
    book = Patches()
    book.recorded("old")
    assert book.take("old", replaying=True)
    assert not book.take("new", replaying=True)
    assert not book.take("new", replaying=False), "it was passed by in this activation"
    assert book.take("other", replaying=False)
    assert book.take("other", replaying=False)
    assert (book.to_record(), book.to_record()) == (("other",), ())
    book.recorded("new")
    assert book.take("new", replaying=True), "history knows better"
