"""All of it together: takes calls, runs as many at a time as it may, and gives back what has to wait too long."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from callboard.activities.claims import Claims
from callboard.activities.executing import result_of
from callboard.activities.intake import CallAccount, Intake
from callboard.activities.results import Results
from callboard.activities.runs import Run
from callboard.activities.values import Values
from callboard.core.codec import JSON, Codec
from callboard.core.messages import ActivityCall
from callboard.errors import UnavailableError
from callboard.mailbox import Letter
from callboard.packs import Sent
from callboard.ports import Broker, Host, Store
from callboard.receiving import Quarantine
from callboard.registry import Registry
from callboard.routes import Sender
from callboard.tracing import UNTRACED, Tracing

log = logging.getLogger("callboard")

#: How many activities one worker runs at a time.
CONCURRENCY = 100
#: How long a call may wait here for its turn before it is given back to the queue, in seconds.
STARTS_WITHIN = 5.0
#: How often waiting and running calls are looked through, in seconds.
LOOK = 1.0


class ActivityRunner:
    """Serves activity queues.

    Args:
        post: Puts a result into a mailbox of this worker; False if its partition is not owned here.
        codec: Opens inputs, encodes and seals results.
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
        tracing: Tracing = UNTRACED,
        codec: Codec = JSON,
    ) -> None:
        self._host = host
        self._registry = registry
        self._sender = sender
        self._concurrency = concurrency
        self._tracing = tracing
        self._values = Values(codec, quarantine)
        self._intake = Intake(broker, host, quarantine, self._take, prefetch=concurrency)
        self._results = Results(host, sender, post=post, arrived=self._over)
        self.claims = Claims(store, host, sender, worker_id)
        self._waiting: deque[Run] = deque()
        self._running: set[Run] = set()
        self._draining = False
        self._stopped = False
        self.executed = 0

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

    async def drain(self, deadline: float) -> None:
        """Starts nothing more, waits for what runs (up to ``deadline`` seconds), and gives the rest back to the queue."""
        self._draining = True
        until = self._host.monotonic() + deadline
        while self._running and self._host.monotonic() < until:
            await self._host.sleep(0.02)
        self._stopped = True
        for run in list(self._running):
            if run.task is not None:
                run.task.cancel()
        await self._intake.aclose()

    # What waits

    def _take(self, call: ActivityCall, account: CallAccount) -> None:
        self._waiting.append(Run(call, account, self._host.monotonic()))
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._concurrency and not self._draining:
            run = self._waiting.popleft()
            run.since = self._host.monotonic()
            self._running.add(run)
            run.task = self._host.spawn(self._execute(run), name=f"callboard activity {run.call.name}")

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

    # What runs

    async def _execute(self, run: Run) -> None:
        if run.call.resent and await self.claims.held_elsewhere(run.call):
            run.task = None
            self._over(run)
            return
        with self._tracing.running(run.call) as span:
            result = await result_of(run.call, self._registry, self._host, self._values)
            if result.failure is not None:
                span.failed(result.failure)
        run.task = None
        if self._stopped:
            return  # cancelled by us: its message goes back to the queue, and the activity runs again elsewhere
        self.executed += 1
        self._results.deliver(run, result)

    def _over(self, run: Run) -> None:
        """Nothing of it is left to do here: it may be forgotten."""
        self._running.discard(run)
        self._start_waiting()
        run.account.settle()
        if run.claimed:
            self.claims.release(run)
