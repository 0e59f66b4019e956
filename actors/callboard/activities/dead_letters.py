"""Activity calls that the broker gave up to deliver, as failures that their orchestrations see."""

from __future__ import annotations

import logging

from callboard.activities.intake import DeliveryCalls, checked
from callboard.activities.tokens import called
from callboard.core.failure import FailureDetails
from callboard.core.messages import ActivityCall, TaskResult
from callboard.packs import Sent
from callboard.ports import Broker, Delivery, Destination, Host, Subscription
from callboard.receiving import Quarantine, unpacked
from callboard.routes import Sender

log = logging.getLogger("callboard")


class DeadLetters:
    """Turns dead-lettered calls into failures."""

    def __init__(self, broker: Broker, sender: Sender, host: Host, quarantine: Quarantine) -> None:
        self._broker = broker
        self._sender = sender
        self._host = host
        self._quarantine = quarantine

    async def serve(self) -> Subscription:
        return await self._broker.consume(Destination.dead_letters(), self._on_delivery, prefetch=50)

    def _on_delivery(self, delivery: Delivery) -> None:
        if (foreign := called(delivery)) is not None:
            log.error("Activity %s of %s was delivered too often without a result", foreign.name, foreign.instance_id)
            self._sender.tell(poisoned(foreign, self._host), _settled(DeliveryCalls(delivery, 1), delivery))
            return
        calls, unreadable = unpacked(delivery, checked)
        if not calls and not unreadable:
            delivery.ack()
            return
        shared = DeliveryCalls(delivery, len(calls) + len(unreadable))
        for part in unreadable:
            self._quarantine.keep(part, Destination.dead_letters(), shared.settle)
        for call in calls:
            log.error("Activity %s of %s was delivered too often without a result", call.name, call.instance_id)
            self._sender.tell(poisoned(call, self._host), _settled(shared, delivery))


def poisoned(call: ActivityCall, host: Host) -> TaskResult:
    """What the orchestration sees of a call that ends no worker well."""
    return TaskResult(
        instance_id=call.instance_id,
        execution_id=call.execution_id,
        task_scheduled_id=call.task_scheduled_id,
        at=host.now(),
        failure=FailureDetails(
            error_type="ActivityDeadLettered",
            error_message=(
                f"Activity {call.name!r} was delivered again and again without a result: its worker seems to die each time it runs."
            ),
            is_non_retriable=True,
        ),
    )


def _settled(shared: DeliveryCalls, delivery: Delivery) -> Sent:
    def sent(error: BaseException | None) -> None:
        if error is None:
            shared.settle()
        else:
            delivery.reject()

    return sent
