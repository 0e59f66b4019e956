"""Results on their way to the instance: into a mailbox here, or to the broker until it confirms."""

from __future__ import annotations

import logging
from collections.abc import Callable

from callboard.activities.runs import Run
from callboard.batching import FIRST_RETRY, LAST_RETRY
from callboard.core.messages import TaskResult
from callboard.mailbox import Letter
from callboard.ports import Host
from callboard.routes import Sender

log = logging.getLogger("callboard")


class Results:
    """Brings results home. A run is over for us once its result is confirmed.

    Args:
        post: Puts a result into a mailbox of this worker; False if its partition is not owned here.
        arrived: Is told of each run whose result is with the broker, or in history.
    """

    def __init__(
        self, host: Host, sender: Sender, *, post: Callable[[Letter], bool], arrived: Callable[[Run], None]
    ) -> None:
        self._host = host
        self._sender = sender
        self._post = post
        self.arrived = arrived

    def deliver(self, run: Run, result: TaskResult) -> None:
        """The shortest way that there is."""
        if not self._post(Letter(result, ResultAccount(self, run, result))):
            self.send(run, result)

    def send(self, run: Run, result: TaskResult, pause: float = FIRST_RETRY) -> None:
        """Sends a result until the broker confirms it."""

        def sent(error: BaseException | None) -> None:
            if error is None:
                self.arrived(run)
            else:
                log.warning("The result of %s could not be sent yet: %s", run.call.name, error)
                self._host.spawn(self._send_later(run, result, pause), name="callboard send result")

        self._sender.tell(result, sent)

    async def _send_later(self, run: Run, result: TaskResult, pause: float) -> None:
        await self._host.sleep(pause * (0.5 + self._host.random()))
        self.send(run, result, min(pause * 2, LAST_RETRY))


class ResultAccount:
    """A result that was put into a mailbox of this same worker: it has arrived with the commit that takes it."""

    __slots__ = ("_result", "_results", "_run")

    def __init__(self, results: Results, run: Run, result: TaskResult) -> None:
        self._results = results
        self._run = run
        self._result = result

    def settle(self) -> None:
        self._results.arrived(self._run)

    def abandon(self) -> None:
        self._results.send(self._run, self._result)
