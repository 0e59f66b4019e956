"""Orchestrations that are started for themselves, and the tags that all that are started inherit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from callboard.core.effects import StartChild, derive
from callboard.core.events import ContinuedAsNew, TerminationSent
from callboard.core.folding import folded
from callboard.core.instances import check_instance_id
from callboard.errors import InvalidInstanceIdError
from tests.core.support import PARTITIONS, Instance, started, through_json

if TYPE_CHECKING:
    from callboard.core.context import OrchestrationContext


async def starts(context: OrchestrationContext) -> Any:
    ids = [
        context.start_new_orchestration("audit", {"n": 1}),
        context.start_new_orchestration("audit", instance_id="named", version="2", tags={"kind": "audit"}),
    ]
    context.call_sub_orchestration("child", instance_id="child")
    await context.wait_for_external_event("end")
    return ids


def records(instance: Instance) -> list[Any]:
    return [effect.record for effect in derive(instance.commits[0], PARTITIONS) if isinstance(effect, StartChild)]


def test_it_has_no_parent_and_nobody_waits_for_it() -> None:
    instance = started(starts)
    first, second, child = records(instance)
    assert (first.parent, second.parent) == (None, None)
    assert child.parent.instance_id == "one"
    assert (first.name, first.input, second.version) == ("audit", '{"n":1}', "2")
    assert first.execution_id != second.execution_id
    instance.commit(instance.event("end"))
    assert instance.output == [first.instance_id, "named"]


def test_its_id_is_its_own_and_the_same_on_replay() -> None:
    instance, again = started(starts), started(starts)
    (first, *_), (same, *_) = records(instance), records(again)
    assert check_instance_id(first.instance_id) == same.instance_id
    assert len(first.instance_id) == 32
    instance.forget()
    instance.commit(instance.event("end"))
    assert instance.output[0] == first.instance_id


def test_terminating_does_not_reach_it() -> None:
    instance = started(starts)
    commit = instance.commit(instance.terminate("enough"))
    assert [event.instance_id for event in commit.events if isinstance(event, TerminationSent)] == ["child"]


def test_a_result_for_it_would_be_no_news() -> None:
    instance = started(starts)
    assert instance.deliver(instance.child(0, "done")).duplicates == 1


def test_history_tells_it_from_a_child_and_shows_it() -> None:
    instance = started(starts)
    assert through_json(instance.commits) == instance.commits
    created = instance.children()
    assert [event.fire_and_forget for event in created] == [True, True, False]
    shown = [entry for entry in folded(instance.commits) if entry["EventType"] == "SubOrchestrationInstanceCreated"]
    assert [entry["Name"] for entry in shown] == ["audit", "audit", "child"]


def test_the_number_of_the_end_is_behind_it() -> None:
    async def starts_and_begins_anew(context: OrchestrationContext) -> Any:
        context.start_new_orchestration("audit")
        return context.continue_as_new()

    last = started(starts_and_begins_anew).commits[-1].events[-1]
    assert isinstance(last, ContinuedAsNew)
    assert last.event_id == 1


@pytest.mark.parametrize(("wrong", "error"), [("one", ValueError), ("a/b", InvalidInstanceIdError)])
def test_ids_that_cannot_be(wrong: str, error: type[Exception]) -> None:
    async def starts_wrongly(context: OrchestrationContext) -> str:
        with pytest.raises(error):
            context.start_new_orchestration("audit", instance_id=wrong)
        return "refused"

    assert started(starts_wrongly).output == "refused"


@pytest.mark.parametrize("cut", [False, True])
def test_all_that_are_started_inherit_the_tags(cut: bool) -> None:
    seen: list[dict[str, str]] = []

    async def tagged(context: OrchestrationContext) -> None:
        context.tags["shop"] = "changes nothing"
        seen.append(context.tags)
        context.start_new_orchestration("audit", tags={"kind": "audit"})
        context.call_sub_orchestration("child", tags={"shop": "south"})
        context.call_sub_orchestration("child")
        await context.wait_for_external_event("end")

    instance = Instance(tagged)
    instance.record = msgspec.structs.replace(instance.record, tags={"shop": "north", "team": "a"})
    instance.commit(instance.start())
    assert [event.tags for event in instance.children()] == [
        {"shop": "north", "team": "a", "kind": "audit"},
        {"shop": "south", "team": "a"},
        {"shop": "north", "team": "a"},
    ]
    if cut:
        instance.forget()
    instance.commit(instance.event("end"))
    assert {frozenset(tags.items()) for tags in seen} == {frozenset({"shop": "north", "team": "a"}.items())}
