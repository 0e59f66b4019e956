"""Calls of activities and of other orchestrations: what is called, checked and encoded once, and scheduled as often as need be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from callboard.core import payloads
from callboard.core.actions import Action, ScheduleTask, StartSubOrchestration
from callboard.core.codec import Codec, Content, Place, input_place, task_input_place
from callboard.core.entity_calls import EntityCalls
from callboard.core.events import Payload
from callboard.core.failure import FailureDetails
from callboard.core.http_calls import BUILT_IN_QUEUE, HTTP_ACTIVITY, HttpReply, HttpRequest
from callboard.core.instances import check_instance_id, check_queue_name, child_instance_id, derived_execution_id
from callboard.core.retrying import Attempt, Call
from callboard.core.timeouts import NONE as NO_TIMEOUTS, Timeouts
from callboard.errors import SubOrchestrationFailedError, TaskFailedError

if TYPE_CHECKING:
    from callboard.core.context import DurableTask


class CallTarget(msgspec.Struct, frozen=True):
    """An activity or orchestration that is called: its name, its queue, how its result is decoded, and a child's version."""

    name: str
    queue: str = "default"
    result_type: Any = Any
    timeouts: Timeouts = NO_TIMEOUTS
    version: str | None = None
    codec: str | None = None
    """How its input is encoded; None: as the hub says."""


class CallTargets(Protocol):
    """Resolves what code calls, by function or by name."""

    def activity(self, target: object) -> CallTarget: ...

    def orchestration(self, target: object, version: str | None = None) -> CallTarget:
        """The version of the target is the one that was asked for, else the one that a new instance is given."""
        ...


class Caller(Protocol):
    """The execution behind the calls."""

    instance_id: str
    execution_id: str
    parent_instance_id: str | None
    tags: dict[str, str]
    entities: EntityCalls

    def next_id(self) -> int: ...

    def ask(self, action: Action) -> None: ...

    def seal(self, content: Content | None, place: Place) -> Payload | None: ...

    def open_call(
        self,
        task_id: int,
        target: CallTarget,
        failed: Callable[[str, int, FailureDetails], TaskFailedError],
        *,
        takes_back: bool = False,
    ) -> DurableTask[Any]:
        """The durable task for the result. ``takes_back``: whoever carries the call out is told when the task is cancelled."""
        ...


HTTP: Final = CallTarget(name=HTTP_ACTIVITY, queue=BUILT_IN_QUEUE, result_type=HttpReply, codec="json")


class Calls:
    """What an orchestration's code can call."""

    def __init__(self, caller: Caller, targets: CallTargets, codec: Codec) -> None:
        self._caller = caller
        self._targets = targets
        self._codec = codec

    def activity(self, activity: object, value: object, queue: str | None, timeouts: Timeouts) -> Call:
        return self._activity(self._targets.activity(activity), value, queue, timeouts)

    def http(self, request: HttpRequest, refused: Callable[[Any], FailureDetails | None]) -> Call:
        call = self._activity(HTTP, request, None, NO_TIMEOUTS)
        return msgspec.structs.replace(call, refused=refused)

    def _activity(self, target: CallTarget, value: object, queue: str | None, timeouts: Timeouts) -> Call:
        caller = self._caller
        content = self._codec.encode(value, f"The input of activity {target.name!r}", target.codec)
        queue = check_queue_name(queue or target.queue)
        timeouts = timeouts.over(target.timeouts)

        def schedule(attempt: Attempt) -> DurableTask[Any]:
            task_id = caller.next_id()
            place = task_input_place(caller.instance_id, caller.execution_id, task_id)
            caller.ask(
                ScheduleTask(
                    id=task_id,
                    name=target.name,
                    input=caller.seal(content, place),
                    queue=queue,
                    start_to_close=timeouts.start_to_close,
                    schedule_to_start=timeouts.schedule_to_start,
                    heartbeat_timeout=timeouts.heartbeat,
                    attempt=attempt.number,
                    first_attempt=attempt.first,
                    heartbeat_details=attempt.heartbeat_details,
                )
            )
            return caller.open_call(task_id, target, TaskFailedError, takes_back=True)

        return Call(f"activity {target.name!r}", schedule)

    def child(
        self,
        orchestration: object,
        value: object,
        instance_id: str | None,
        version: str | None,
        tags: dict[str, str] | None,
    ) -> Call:
        caller = self._caller
        caller.entities.rules.starts_child()
        target, ask = self._child(orchestration, value, version, tags)
        if instance_id is not None:
            _check_child_id(instance_id, caller)

        def start(_attempt: Attempt) -> DurableTask[Any]:
            task_id = caller.next_id()
            ask(task_id, instance_id or child_instance_id(caller.execution_id, task_id), fire_and_forget=False)
            return caller.open_call(task_id, target, SubOrchestrationFailedError)

        return Call(f"sub-orchestration {target.name!r}", start)

    def start_new(
        self,
        orchestration: object,
        value: object,
        instance_id: str | None,
        version: str | None,
        tags: dict[str, str] | None,
    ) -> str:
        caller = self._caller
        _, ask = self._child(orchestration, value, version, tags)
        if instance_id is not None and check_instance_id(instance_id) == caller.instance_id:
            raise ValueError(f"An orchestration cannot start another one under its own id ({instance_id!r}).")
        task_id = caller.next_id()
        instance_id = instance_id or derived_execution_id(caller.execution_id, task_id, "instance")
        ask(task_id, instance_id, fire_and_forget=True)
        return instance_id

    def _child(
        self, orchestration: object, value: object, version: str | None, tags: dict[str, str] | None
    ) -> tuple[CallTarget, Callable[..., None]]:
        caller = self._caller
        if version is not None:
            version = payloads.text(version, "The version of an orchestration")
        target = self._targets.orchestration(orchestration, version)
        content = self._codec.encode(value, f"The input of orchestration {target.name!r}", target.codec)
        merged = {**caller.tags, **(payloads.checked_tags(tags) or {})} or None

        def ask(task_id: int, instance_id: str, *, fire_and_forget: bool) -> None:
            execution_id = derived_execution_id(caller.execution_id, task_id, "child")
            caller.ask(
                StartSubOrchestration(
                    id=task_id,
                    name=target.name,
                    instance_id=instance_id,
                    execution_id=execution_id,
                    input=caller.seal(content, input_place(instance_id, execution_id)),
                    version=target.version,
                    tags=merged,
                    fire_and_forget=fire_and_forget,
                )
            )

        return target, ask


def _check_child_id(instance_id: str, caller: Caller) -> None:
    check_instance_id(instance_id)
    if instance_id in (caller.instance_id, caller.parent_instance_id):
        raise ValueError(
            f"A sub-orchestration cannot have the id of its parent or grandparent ({instance_id!r}): it would wait for itself."
        )
