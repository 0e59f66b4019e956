"""All of it together: takes calls, runs as many at a time as it may, and gives back what has to wait too long."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from callboard.activities.claims import Claims
from callboard.activities.executing import Outcome, interrupt_by_cancelling, outcome_of, result_of
from callboard.activities.intake import CallAccount, Intake
from callboard.activities.limits import Limits
from callboard.activities.results import Results
from callboard.activities.runs import Run, Stop
from callboard.activities.values import Values
from callboard.activities.waiting import Waiting
from callboard.activities.watching import overdue
from callboard.activity import ActivityOptions
from callboard.core.codec import JSON, Codec
from callboard.core.failure import FailureDetails
from callboard.core.messages import ActivitiesCancelled, ActivityCall, TaskKey
from callboard.core.timeouts import NONE, Timeouts, began_too_late
from callboard.errors import CallboardError, UnavailableError
from callboard.mailbox import Letter
from callboard.packs import Sent
from callboard.ports import Broker, Host, Store
from callboard.receiving import Quarantine
from callboard.registry import Activities
from callboard.routes import Sender
from callboard.statistics import ActivityStatistics
from callboard.tracing import UNTRACED, Tracing

log = logging.getLogger("callboard")

#: How many activities one worker runs at a time.
CONCURRENCY = 100
#: How long a call may wait here for its turn before it is given back to the queue, in seconds.
STARTS_WITHIN = 5.0
#: How often waiting and running calls are looked through, in seconds.
LOOK = 1.0
#: How many cancelled calls are remembered, should they come yet.
MOST_CANCELLED = 10_000
#: How long a call stays here that only another worker can run, before it is passed on, in seconds: it may well come back.
PASS_ON = 0.2


class ActivityRunner:
    """Serves activity queues.

    Args:
        post: Puts a result into a mailbox of this worker; False if its partition is not owned here.
        codec: Opens inputs, encodes and seals results.
        known_elsewhere: Whether another live worker serves a queue and knows an activity, by their names.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        host: Host,
        registry: Activities,
        sender: Sender,
        quarantine: Quarantine,
        worker_id: str,
        *,
        post: Callable[[Letter], bool],
        concurrency: int = CONCURRENCY,
        tracing: Tracing = UNTRACED,
        codec: Codec = JSON,
        known_elsewhere: Callable[[str, str], bool] = lambda _queue, _name: False,
    ) -> None:
        self._known_elsewhere = known_elsewhere
        self._host = host
        self._registry = registry
        self._sender = sender
        self._worker_id = worker_id
        self._concurrency = concurrency
        self._tracing = tracing
        self._values = Values(codec, quarantine, store, host)
        self._intake = Intake(broker, host, quarantine, self._take, prefetch=concurrency)
        self._results = Results(host, sender, post=post, arrived=self._settle)
        self.claims = Claims(store, host, sender, worker_id, self._stop)
        self._calls: dict[TaskKey, Run] = {}
        """Whatever waits or runs here and has not been told to stop."""
        self._waiting = Waiting()
        self.limits = Limits(
            store, host, worker_id, self._options_of, waiting=self._held_back, more=self._start_waiting
        )
        self._running: dict[Run, None] = {}
        self._cancelled: OrderedDict[TaskKey, None] = OrderedDict()
        self._draining = False
        self.executed = 0
        self.statistics = ActivityStatistics()

    async def serve(self, queue: str) -> None:
        """Starts to consume a queue."""
        await self._intake.serve(queue)

    async def run(self) -> None:
        """Looks after waiting and long calls until cancelled."""
        while True:
            await self._host.sleep(LOOK)
            self._give_back()
            try:
                await self.claims.look_after(self._running)
            except UnavailableError as error:
                log.warning("Claims of long activities: %s", error)

    @property
    def idle(self) -> bool:
        return not self._running

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def drain(self, deadline: float) -> None:
        """Starts nothing more, waits for what runs (up to ``deadline`` seconds), and gives the rest back to the queue."""
        self._draining = True
        until = self._host.monotonic() + deadline
        while self._running and self._host.monotonic() < until:
            await self._host.sleep(0.02)
        left = [run for run in self._running if not run.settled and not run.told]
        for run in left:
            self._stop(run, Stop.WORKER_STOPS)
        try:
            await self.claims.hand_over(left)
        except CallboardError as error:
            log.warning("Claims could not be handed over; they lapse soon: %s", error)
        for run in list(self._running):
            if run.task is not None:
                run.task.cancel()
        await self._intake.aclose()
        try:
            await self.limits.aclose()
        except UnavailableError as error:
            log.warning("Permits could not be given back; they lapse soon: %s", error)

    def cancel(self, message: ActivitiesCancelled) -> None:
        """Nobody waits for these any more. What is not here yet is not begun when it comes."""
        for number in message.tasks:
            key = TaskKey(message.instance_id, message.execution_id, number)
            run = self._calls.get(key)
            if run is not None:
                self._stop(run, Stop.CANCELLED)
            else:
                self._cancelled[key] = None
        while len(self._cancelled) > MOST_CANCELLED:
            self._cancelled.popitem(last=False)

    # What waits

    def _take(self, call: ActivityCall, account: CallAccount, *, redelivered: bool) -> None:
        run = self._calls.get(call.key)
        if run is not None:
            run.attach(account)
        elif call.key in self._cancelled:
            account.settle()
        elif self._belongs_elsewhere(call):
            self._host.spawn(self._pass_on(call, account), name="callboard activity elsewhere")
        else:
            clock, monotonic = self._host.now, self._host.monotonic
            run = Run(call, account, self._worker_id, now=clock, monotonic=monotonic, redelivered=redelivered)
            self._wait(run)

    def _wait(self, run: Run) -> None:
        self._calls[run.key] = run
        self._waiting.add(run)
        self._start_waiting()

    async def _pass_on(self, call: ActivityCall, account: CallAccount) -> None:
        """Gives a call back that only newer, or older, workers of the same queue know."""
        await self._host.sleep(PASS_ON * (0.5 + self._host.random()))

        def sent(error: BaseException | None) -> None:
            if error is None:
                account.settle()
            else:
                log.warning("A call of %s could not be passed on: %s", call.name, error)
                self._take(call, account, redelivered=False)

        self._sender.call(call, sent)

    def _belongs_elsewhere(self, call: ActivityCall) -> bool:
        """Whether only another worker of the queue knows the activity, and there is time left for it to come there."""
        late = call.start_by is not None and self._host.now() > call.start_by
        return (
            not late and not self._registry.knows_activity(call.name) and self._known_elsewhere(call.queue, call.name)
        )

    def _start_waiting(self) -> None:
        while self._room and (run := self._waiting.next(self.limits.may_begin)) is not None:
            if run.stop is None:
                self._running[run] = None
                self.limits.began(run.call.name)
                run.task = self._host.spawn(self._execute(run), name=f"callboard activity {run.call.name}")

    @property
    def _room(self) -> int:
        """How many runs could begin."""
        return 0 if self._draining else self._concurrency - len(self._running)

    def _held_back(self, name: str) -> int:
        """How many calls of an activity could begin but for its limits."""
        return min(self._waiting.count(name), self._room)

    def _options_of(self, name: str) -> ActivityOptions | None:
        if not self._registry.knows_activity(name):
            return None
        return self._registry.require_activity(name).options

    def _give_back(self) -> None:
        """Gives calls that wait too long back to the queue: another worker may be free."""
        for run in self._waiting.since_before(self._host.monotonic() - STARTS_WITHIN):
            if run.stop is None:
                self._forget(run)
                self._sender.call(run.call, self._given_back(run))

    def _given_back(self, run: Run) -> Sent:
        def sent(error: BaseException | None) -> None:
            if error is None:
                run.let_go()
                return
            log.warning("A waiting call of %s could not be given back: %s", run.call.name, error)
            again = self._calls.get(run.key)
            if again is None:
                run.since = self._host.monotonic()
                self._wait(run)
            else:
                for account in run.accounts:
                    again.attach(account)

        return sent

    # What runs

    async def _execute(self, run: Run) -> None:
        try:
            if await self._may_begin(run):
                with self._tracing.running(run.call) as span:
                    outcome = await self._outcome(run)
                    if isinstance(outcome, FailureDetails):
                        span.failed(outcome)
                self._count(run, failed=isinstance(outcome, FailureDetails))
                self._tell(run, outcome)
        except asyncio.CancelledError:
            if run.stop is None or run.stop is Stop.WORKER_STOPS:
                raise  # the worker ends: the message goes back to the queue, and the activity runs again elsewhere
        finally:
            self._ended(run)

    def _count(self, run: Run, *, failed: bool) -> None:
        call, counted = run.call, self.statistics
        counted.ended.add(call.name, "failed" if failed else "completed")
        if call.attempt > 1:
            counted.retries.add(call.name)
        if run.started is not None:
            counted.seconds.observe(call.name, self._host.monotonic() - run.started)
        if call.scheduled_at is not None and run.started_at is not None:
            counted.wait.observe(call.name, max(0.0, (run.started_at - call.scheduled_at).total_seconds()))

    async def _may_begin(self, run: Run) -> bool:
        """Looks for what speaks against it, as far as anything can: most calls cost no question here."""
        call = run.call
        if (call.resent or run.redelivered) and await self.claims.held_elsewhere(run):
            self._settle(run)
            return False
        if call.start_by is not None and self._host.now() > call.start_by:
            self._tell(run, began_too_late())
            return False
        if (call.lapses or call.start_by is not None) and not await self.claims.take(run):
            self._settle(run)
            return False
        return run.stop is None

    async def _outcome(self, run: Run) -> Outcome:
        try:
            definition = self._registry.require_activity(run.call.name)
        except CallboardError as error:
            return FailureDetails.from_exception(error)
        if definition.is_async:
            run.interrupt = partial(interrupt_by_cancelling, run)
        run.begin()
        limits = Timeouts(start_to_close=run.call.start_to_close, heartbeat=run.call.heartbeat_timeout)
        limits = limits.over(definition.options.timeouts)
        if limits != NONE:
            run.watch = self._host.spawn(self._watch(run, limits), name=f"callboard watch {run.call.name}")
        return await outcome_of(run, definition, self._host, self._values)

    async def _watch(self, run: Run, limits: Timeouts) -> None:
        """Ends a run that is over a time limit; what its function does after that is its own affair."""
        while (verdict := overdue(run, limits, self._host.monotonic())) is not None:
            if isinstance(verdict, FailureDetails):
                self._time_out(run, verdict)
                return
            await self._host.sleep(verdict)

    def _time_out(self, run: Run, verdict: FailureDetails) -> None:
        if not run.told and run.stop is None:
            log.warning("Activity %s of %s timed out: %s", run.call.name, run.call.instance_id, verdict.error_message)
            self._tell(run, verdict)
            self._stop(run, Stop.TIMED_OUT)

    def _tell(self, run: Run, outcome: Outcome) -> None:
        """The run's result is on its way, unless nobody wants one."""
        if not run.told and run.stop is None:
            run.told = True
            self.executed += 1
            self._results.deliver(run, result_of(run, outcome, self._host))

    def _stop(self, run: Run, why: Stop) -> None:
        """Tells a run to stop. Its place becomes free when its function has ended."""
        if run.stop is not None:
            return
        run.stop = why
        self._forget(run)
        if why in (Stop.CANCELLED, Stop.SUPERSEDED):
            self._settle(run)
        run.interrupt()

    # The end of a run

    def _ended(self, run: Run) -> None:
        run.task, run.ended = None, True
        self.limits.ended(run.call.name)
        if run.watch is not None:
            run.watch.cancel()
        self._leave(run)
        self._start_waiting()

    def _settle(self, run: Run) -> None:
        """Its result has arrived, or nobody waits for one."""
        run.settled = True
        self._forget(run)
        run.let_go()
        self.claims.release(run)
        self._leave(run)

    def _leave(self, run: Run) -> None:
        if run.ended and run.settled and run in self._running:
            del self._running[run]
            self._start_waiting()

    def _forget(self, run: Run) -> None:
        if self._calls.get(run.key) is run:
            del self._calls[run.key]
