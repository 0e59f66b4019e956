"""Runs activities: calls in, results out, at least once.

A call stays with the broker until its result is confirmed. One that runs long *claims* its task in the store and lets its message go, so
that no broker timeout and no reconnect concerns it; whoever owns the instance's partition sends it again if the claim lapses.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from callboard.batching import FIRST_RETRY, LAST_RETRY, retrying
from callboard.core.events import Payload
from callboard.core.failure import FailureDetails
from callboard.core.messages import ActivityCall, TaskResult
from callboard.core.payloads import is_json
from callboard.errors import MalformedMessageError, UnavailableError
from callboard.mailbox import Letter
from callboard.packs import Sent, encode_pack
from callboard.ports import BackgroundTask, Broker, Claim, Delivery, Destination, Host, Store, Subscription
from callboard.receiving import Quarantine, check_id, unpacked
from callboard.registry import ActivityDefinition, Registry
from callboard.routes import Sender

log = logging.getLogger("callboard")

#: How many activities one worker runs at a time.
CONCURRENCY = 100
#: How long a call may wait here for its turn before it is given back to the queue, in seconds.
STARTS_WITHIN = 5.0
#: How long an activity runs before it claims its task in the store and lets its message go, in seconds.
CLAIM_AFTER = 60.0
#: How long a claim lasts without being renewed, in seconds.
CLAIM = 30.0
#: How often waiting and running calls are looked through, in seconds.
LOOK = 1.0


class CallAccount:
    """One call of a delivery; the delivery is acked when all of its calls are settled."""

    __slots__ = ("_delivery_calls", "settled")

    def __init__(self, delivery_calls: DeliveryCalls) -> None:
        self._delivery_calls = delivery_calls
        self.settled = False

    def settle(self) -> None:
        if not self.settled:
            self.settled = True
            self._delivery_calls.settle()


class DeliveryCalls:
    """Counts the calls of one broker message."""

    __slots__ = ("_delivery", "_remaining")

    def __init__(self, delivery: Delivery, calls: int) -> None:
        self._delivery = delivery
        self._remaining = calls

    def settle(self) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            self._delivery.ack()


class Run:
    """One call that waits or runs here."""

    __slots__ = ("account", "call", "claimed", "since")

    def __init__(self, call: ActivityCall, account: CallAccount, since: float) -> None:
        self.call = call
        self.account = account
        self.since = since
        self.claimed = False


class ResultAccount:
    """A result that was put into a mailbox of this same worker: its call is settled by the commit that takes it."""

    __slots__ = ("_result", "_run", "_runner")

    def __init__(self, runner: ActivityRunner, run: Run, result: TaskResult) -> None:
        self._runner = runner
        self._run = run
        self._result = result

    def settle(self) -> None:
        self._runner.finished(self._run)

    def abandon(self) -> None:
        self._runner.send_result(self._run, self._result)


class ActivityRunner:
    """Serves activity queues.

    Args:
        post: Puts a result into a mailbox of this worker; False if its partition is not owned here.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        host: Host,
        registry: Registry,
        sender: Sender,
        quarantine: Quarantine,
        worker_id: str,
        *,
        post: Callable[[Letter], bool],
        concurrency: int = CONCURRENCY,
        claim_after: float = CLAIM_AFTER,
        claim: float = CLAIM,
    ) -> None:
        self._store = store
        self._broker = broker
        self._host = host
        self._registry = registry
        self._sender = sender
        self._quarantine = quarantine
        self._worker_id = worker_id
        self._post = post
        self._concurrency = concurrency
        self._claim_after = claim_after
        self._claim = claim
        self._subscriptions: list[Subscription] = []
        self._waiting: deque[Run] = deque()
        self._running: dict[int, Run] = {}
        self._tasks: dict[int, BackgroundTask] = {}
        self._renewed = 0.0
        self._draining = False
        self._stopped = False
        self.executed = 0

    async def serve(self, queue: str) -> None:
        """Starts to consume a queue."""
        destination = Destination.activities(queue)
        self._subscriptions.append(
            await self._broker.consume(
                destination,
                lambda delivery: self._on_delivery(delivery, destination),
                prefetch=self._concurrency,
            )
        )

    async def run(self) -> None:
        """Looks after waiting and long calls until cancelled."""
        while True:
            await self._host.sleep(LOOK)
            self._give_back()
            try:
                await self._look_after_long()
            except UnavailableError as error:
                log.warning("Claims of long activities: %s", error)

    @property
    def idle(self) -> bool:
        return not self._running

    async def drain(self, deadline: float) -> None:
        """Starts nothing more, waits for what runs (up to ``deadline`` seconds), and gives the rest back to the queue."""
        self._draining = True
        until = self._host.monotonic() + deadline
        while self._running and self._host.monotonic() < until:
            await self._host.sleep(0.02)
        self._stopped = True
        for task in list(self._tasks.values()):
            task.cancel()
        for subscription in self._subscriptions:
            await subscription.aclose()

    # Taking calls

    def _on_delivery(self, delivery: Delivery, source: Destination) -> None:
        calls, unreadable = unpacked(delivery, _checked)
        if not calls and not unreadable:
            delivery.ack()
            return
        shared = DeliveryCalls(delivery, len(calls) + len(unreadable))
        for part in unreadable:
            self._quarantine.keep(part, source, shared.settle)
        if delivery.redelivered and len(calls) > 1:
            # One of them may have killed its worker: from here on each goes alone, and only the culprit is dead-lettered.
            self._host.spawn(self._publish_singly(calls, shared), name="callboard single calls")
            return
        for call in calls:
            self._waiting.append(Run(call, CallAccount(shared), self._host.monotonic()))
        self._start_waiting()

    async def _publish_singly(self, calls: list[ActivityCall], shared: DeliveryCalls) -> None:
        for call in calls:
            await retrying(partial(self._publish_alone, call), self._host, "publish")
            shared.settle()

    async def _publish_alone(self, call: ActivityCall) -> None:
        await self._broker.publish(Destination.activities(call.queue), encode_pack([call]))

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._concurrency and not self._draining:
            run = self._waiting.popleft()
            run.since = self._host.monotonic()
            self._running[id(run)] = run
            self._tasks[id(run)] = self._host.spawn(self._execute(run), name=f"callboard activity {run.call.name}")

    def _give_back(self) -> None:
        """Gives calls that wait too long back to the queue: another worker may be free."""
        now = self._host.monotonic()
        while self._waiting and now - self._waiting[0].since > STARTS_WITHIN:
            run = self._waiting.popleft()
            self._sender.call(run.call, self._given_back(run))

    def _given_back(self, run: Run) -> Sent:
        def sent(error: BaseException | None) -> None:
            if error is None:
                run.account.settle()
            else:
                log.warning("A waiting call of %s could not be given back: %s", run.call.name, error)
                run.since = self._host.monotonic()
                self._waiting.append(run)
                self._start_waiting()

        return sent

    # Running them

    async def _execute(self, run: Run) -> None:
        if run.call.resent and await self._claimed_elsewhere(run.call):
            self._tasks.pop(id(run), None)
            self._forget(run)
            run.account.settle()
            return
        result = await self._result_of(run.call)
        self._tasks.pop(id(run), None)
        if self._stopped:
            return  # cancelled by us: its message goes back to the queue, and the activity runs again elsewhere
        self.executed += 1
        if not self._post(Letter(result, ResultAccount(self, run, result))):
            self.send_result(run, result)

    async def _claimed_elsewhere(self, call: ActivityCall) -> bool:
        return await retrying(lambda: self._store.claimed(call), self._host, "look for a claim")

    async def _result_of(self, call: ActivityCall) -> TaskResult:
        outcome: Payload | FailureDetails | None
        try:
            definition = self._registry.require_activity(call.name)
            if definition.is_async:
                outcome = definition.encode(await definition.invoke(call.input))
            else:
                outcome = await self._host.in_thread(lambda: _outcome_of(definition, call))
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
            at=self._host.now(),
            result=None if isinstance(outcome, FailureDetails) else outcome,
            failure=failure,
        )

    def send_result(self, run: Run, result: TaskResult, pause: float = FIRST_RETRY) -> None:
        """Sends a result until the broker confirms it; the call is not settled before."""

        def sent(error: BaseException | None) -> None:
            if error is None:
                self.finished(run)
            else:
                log.warning("The result of %s could not be sent yet: %s", run.call.name, error)
                self._host.spawn(self._send_later(run, result, pause), name="callboard send result")

        self._sender.tell(result, sent)

    async def _send_later(self, run: Run, result: TaskResult, pause: float) -> None:
        await self._host.sleep(pause * (0.5 + self._host.random()))
        self.send_result(run, result, min(pause * 2, LAST_RETRY))

    def finished(self, run: Run) -> None:
        """The result is with the broker, or in history: the call may be forgotten."""
        self._forget(run)
        run.account.settle()
        if run.claimed:
            self._host.spawn(self._release(run), name="callboard release claim")

    def _forget(self, run: Run) -> None:
        self._running.pop(id(run), None)
        self._start_waiting()

    # Long ones

    async def _look_after_long(self) -> None:
        now = self._host.monotonic()
        for run in [run for run in self._running.values() if not run.claimed and now - run.since > self._claim_after]:
            claim = Claim(
                call=run.call, partition=self._sender.partition_of(run.call.instance_id), worker_id=self._worker_id
            )
            if await self._store.claim(claim, ttl=self._claim):
                run.claimed = True
                run.account.settle()
                if id(run) not in self._running:  # it ended meanwhile
                    self._host.spawn(self._release(run), name="callboard release claim")
        if any(run.claimed for run in self._running.values()) and now - self._renewed > self._claim / 4:
            self._renewed = now
            await self._store.renew_claims(self._worker_id, ttl=self._claim)

    async def _release(self, run: Run) -> None:
        await retrying(lambda: self._store.release_claim(run.call, self._worker_id), self._host, "release a claim")


class DeadLetters:
    """Turns activity calls that the broker gave up to deliver into failures that their orchestrations see."""

    def __init__(self, broker: Broker, sender: Sender, host: Host, quarantine: Quarantine) -> None:
        self._broker = broker
        self._sender = sender
        self._host = host
        self._quarantine = quarantine

    async def serve(self) -> Subscription:
        return await self._broker.consume(Destination.dead_letters(), self._on_delivery, prefetch=50)

    def _on_delivery(self, delivery: Delivery) -> None:
        calls, unreadable = unpacked(delivery, _checked)
        if not calls and not unreadable:
            delivery.ack()
            return
        shared = DeliveryCalls(delivery, len(calls) + len(unreadable))
        for part in unreadable:
            self._quarantine.keep(part, Destination.dead_letters(), shared.settle)
        for call in calls:
            log.error("Activity %s of %s was delivered too often without a result", call.name, call.instance_id)
            self._sender.tell(_poisoned(call, self._host), _settled(shared, delivery))


def _poisoned(call: ActivityCall, host: Host) -> TaskResult:
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


def _checked(message: object) -> ActivityCall:
    if not isinstance(message, ActivityCall):
        raise MalformedMessageError(f"{type(message).__name__} is no activity call")
    check_id(message.instance_id)
    if not all(payload is None or is_json(payload) for payload in (message.input, message.heartbeat_details)):
        raise MalformedMessageError(
            f"the input of activity {message.name[:64]!r} for {message.instance_id} is not JSON"
        )
    if message.start_by is not None and message.start_by.tzinfo is None:
        raise MalformedMessageError(
            f"the call of activity {message.name[:64]!r} for {message.instance_id} has a time without a time zone"
        )
    return message


def _outcome_of(definition: ActivityDefinition, call: ActivityCall) -> Payload | FailureDetails | None:
    """Runs a plain function. Its errors are caught in its own thread: not every exception may cross into the event loop's."""
    try:
        return definition.encode(definition.invoke(call.input))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is its result
        return FailureDetails.from_exception(error)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
