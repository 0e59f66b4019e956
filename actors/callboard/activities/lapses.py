"""What to do with a long call whose worker has stopped renewing its claim. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from callboard.core.failure import FailureDetails
from callboard.core.messages import ActivityCall, TaskResult
from callboard.ports import Claim

#: How often in a row a call may lose its worker, without any progress, before it is taken to be what kills them. (Workers that stop in
#: order do not count.)
MOST_LAPSES = 10


def after_lapse(claim: Claim, now: datetime) -> ActivityCall | TaskResult | None:
    """The call to send again, with the progress of the run that was lost, or the result that ends it; None: nobody waits for it."""
    call = claim.call
    if claim.cancelled:
        return None
    if call.lapses >= MOST_LAPSES:
        return lost_too_often(call, claim, now)
    progressed = claim.details is not None and claim.details != call.heartbeat_details
    return msgspec.structs.replace(
        call,
        resent=True,
        start_by=None,
        heartbeat_details=claim.details if progressed else call.heartbeat_details,
        lapses=1 if progressed else call.lapses + 1,
    )


def lost_too_often(call: ActivityCall, claim: Claim, now: datetime) -> TaskResult:
    return TaskResult(
        instance_id=call.instance_id,
        execution_id=call.execution_id,
        task_scheduled_id=call.task_scheduled_id,
        at=now,
        failure=FailureDetails(
            error_type="ActivityDeadLettered",
            error_message=(
                f"Activity {call.name!r} has lost its worker {call.lapses + 1} times without a result: does it kill it? The last one was "
                f"{claim.worker_id}."
            ),
            is_non_retriable=True,
        ),
        heartbeat_details=claim.details,
    )
