"""The user's function, and what came of it."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from callboard.activities.runs import Run, Stop
from callboard.activities.values import Values
from callboard.activity import ActivityContext, entered
from callboard.core.codec import Content
from callboard.core.events import Payload
from callboard.core.failure import FailureDetails
from callboard.core.messages import TaskResult
from callboard.ports import Host
from callboard.registry import ActivityDefinition

#: What a function returned, ready to be sent, or why it did not.
Outcome: TypeAlias = Payload | FailureDetails | None


async def outcome_of(run: Run, definition: ActivityDefinition, host: Host, values: Values) -> Outcome:
    """Runs an activity. Whatever it raises is its outcome.

    Raises:
        asyncio.CancelledError: the worker ends, or the run was told to stop.
    """
    context = ActivityContext(run, values.codec)
    try:
        given = await values.given(run.call)
        content: Content | FailureDetails | None
        with entered(context):
            if definition.is_async:
                content = values.encoded(definition, await definition.invoke(given, context))
            else:
                content = await host.in_thread(lambda: _in_thread(definition, given, context, values))
        return content if isinstance(content, FailureDetails) else await values.sealed(run.call, content)
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        return FailureDetails.from_exception(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is its result
        return FailureDetails.from_exception(error)


def result_of(run: Run, outcome: Outcome, host: Host) -> TaskResult:
    """The message that tells the instance."""
    failure = outcome if isinstance(outcome, FailureDetails) else None
    return TaskResult(
        instance_id=run.call.instance_id,
        execution_id=run.call.execution_id,
        task_scheduled_id=run.call.task_scheduled_id,
        at=host.now(),
        result=None if isinstance(outcome, FailureDetails) else outcome,
        failure=failure,
        heartbeat_details=run.details if failure is not None else None,
    )


def interrupt_by_cancelling(run: Run) -> None:
    """How an ``async def`` is told to stop; a thread looks for itself."""
    if run.task is not None and run.stop is not Stop.WORKER_STOPS:
        run.task.cancel()


def _in_thread(
    definition: ActivityDefinition, given: Content | None, context: ActivityContext, values: Values
) -> Content | FailureDetails | None:
    """Runs a plain function. Its errors are caught in its own thread: not every exception may cross into the event loop's."""
    try:
        return values.encoded(definition, definition.invoke(given, context))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is its result
        return FailureDetails.from_exception(error)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
