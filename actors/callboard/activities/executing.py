"""The user's function, and what came of it."""

from __future__ import annotations

import asyncio

from callboard.activities.values import Values
from callboard.core.codec import Content
from callboard.core.failure import FailureDetails
from callboard.core.messages import ActivityCall, TaskResult
from callboard.ports import Host
from callboard.registry import ActivityDefinition, Registry


async def result_of(call: ActivityCall, registry: Registry, host: Host, values: Values) -> TaskResult:
    """Runs an activity. Whatever it raises is its result; only a cancellation from outside comes out of here."""
    outcome: Content | FailureDetails | None
    try:
        definition = registry.require_activity(call.name)
        given = values.given(call)
        if definition.is_async:
            outcome = values.encoded(definition, await definition.invoke(given))
        else:
            outcome = await host.in_thread(lambda: _outcome_of(definition, given, values))
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise  # from outside: the worker ends, and the call's message goes back to the queue
        outcome = FailureDetails.from_exception(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is its result
        outcome = FailureDetails.from_exception(error)
    failure = outcome if isinstance(outcome, FailureDetails) else None
    return TaskResult(
        instance_id=call.instance_id,
        execution_id=call.execution_id,
        task_scheduled_id=call.task_scheduled_id,
        at=host.now(),
        result=None if isinstance(outcome, FailureDetails) else values.sealed(call, outcome),
        failure=failure,
    )


def _outcome_of(
    definition: ActivityDefinition, given: Content | None, values: Values
) -> Content | FailureDetails | None:
    """Runs a plain function. Its errors are caught in its own thread: not every exception may cross into the event loop's."""
    try:
        return values.encoded(definition, definition.invoke(given))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is its result
        return FailureDetails.from_exception(error)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
