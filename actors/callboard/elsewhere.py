"""Instances whose code is elsewhere: who among the live workers can run them, and how their turns get there.

Partitions are shared out without regard to code, so that during an upgrade a worker owns instances that only another one can run. The
owner stays the owner: it receives their messages, fires their timers, sweeps their commits. Only their turns are run by a *guest*:
the owner sends it the messages, the guest commits the turn and carries out its effects, and the owner acks. What makes this safe is what
makes everything safe, the unique number of each commit: should owner and guest both commit, one loses and judges again.

If nobody can run a turn, or the guest does not answer, the owner commits the messages without running code, and the instance is parked:
visible, and tried again as soon as there is code for it that has not been tried.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from callboard.company import Company
from callboard.core.events import ExecutionParked, TimerCreated
from callboard.core.instances import Commit
from callboard.core.messages import InstanceEnded, InstanceMessage, RunTurn, TimerSet, TurnRun
from callboard.packs import Packer, Sent
from callboard.ports import Destination, Host, ParkedInstance, WorkerInfo

T = TypeVar("T")

log = logging.getLogger("callboard")

#: How long a guest may take to run a turn before the owner stops waiting for it, in seconds.
PATIENCE = 10.0
#: For how many instances it is remembered which code was tried on them, or is needed.
MOST_REMEMBERED = 100_000


class Elsewhere:
    """Where the turns of instances run that cannot run here, and which code has been tried on those that are parked.

    Args:
        company: The live workers.
        me: This worker.
        set_timer: Takes a timer that a guest has set: instance, execution, number, time.
    """

    def __init__(
        self,
        company: Company,
        me: WorkerInfo,
        host: Host,
        packer: Packer,
        set_timer: Callable[[str, TimerSet], None],
    ) -> None:
        self.company = company
        self._me = me
        self._build = me.code.build if me.code else ""
        self._host = host
        self._packer = packer
        self._set_timer = set_timer
        self._tried: _Remembered[set[str]] = _Remembered()
        self._known: _Remembered[tuple[str, str | None]] = _Remembered()
        self._asked: dict[str, asyncio.Future[TurnRun]] = {}
        self._owners: _Remembered[str] = _Remembered()
        """Who asked for an instance's last turn."""

    # Who runs the next turn

    def runner(self, instance_id: str, name: str, version: str | None, *, here: bool, asked: bool) -> WorkerInfo | None:
        """The worker that should run an instance's next turn; None: this one.

        Args:
            instance_id: The instance.
            name: Its orchestration.
            version: Its version.
            here: Whether its code is here.
            asked: Whether someone asks for a parked instance to be tried again.
        """
        tried = self._tried.get(instance_id) or ()
        if here and not (asked and self._build in tried):
            return None
        found = self.company.who_runs(instance_id, name, version, but=tried)
        if found is not None:
            self._known.put(instance_id, (name, version))
        return found

    def runner_again(self, instance_id: str) -> WorkerInfo | None:
        """The worker that ran the last turn of an instance whose code is not here, if that was so: it need not be loaded then."""
        known = self._known.get(instance_id)
        if known is None or self._tried.get(instance_id) is not None:
            return None
        return self.company.who_runs(instance_id, *known, but=(self._build,))

    def exists(self, instance_id: str, name: str, version: str | None) -> bool:
        """Whether another worker that is alive has the code of an instance, tried or not."""
        return self.company.who_runs(instance_id, name, version) is not None

    def worth_trying(self, parked: ParkedInstance, *, here: bool) -> bool:
        """Whether there is code for a parked instance that has not been tried on it."""
        tried = self._tried.get(parked.instance_id) or ()
        if here and self._build not in tried:
            return True
        return self.company.who_runs(parked.instance_id, parked.name, parked.version, but=tried) is not None

    def note_parked(self, instance_id: str, build: str | None = None) -> None:
        """Remembers that code (by default this worker's) could not run an instance."""
        tried = self._tried.get(instance_id) or set()
        tried.add(build or self._build)
        self._tried.put(instance_id, tried)
        self._known.pop(instance_id)

    def note_running(self, instance_id: str) -> None:
        """Forgets what was tried on an instance: it goes on, or a person asks for everything to be tried again."""
        self._tried.pop(instance_id)

    # Turns that guests run for us

    async def run(
        self, guest: WorkerInfo, instance_id: str, messages: Sequence[InstanceMessage], *, n: int | None
    ) -> bool:
        """Has a guest run a turn. True: the messages are committed or rightly dropped; False: nobody knows, judge them here.

        Args:
            guest: Who.
            instance_id: Whose turn.
            messages: For the instance.
            n: The number of its last commit, if that is known.
        """
        request = RunTurn(
            request_id=self._host.token(),
            reply_to=self._me.worker_id,
            instance_id=instance_id,
            n=n,
            messages=tuple(messages),
        )
        answered = self._asked[request.request_id] = asyncio.get_running_loop().create_future()
        self._packer.send(Destination.inbox(guest.worker_id), request, _unless_sent(answered, request.request_id))
        try:
            answer = await self._answer(guest, answered)
        finally:
            del self._asked[request.request_id]
        if answer is None or not answer.done:
            self._known.pop(instance_id)
            return False
        self._note(instance_id, guest, answer)
        return True

    async def _answer(self, guest: WorkerInfo, answered: asyncio.Future[TurnRun]) -> TurnRun | None:
        until = self._host.monotonic() + PATIENCE
        while self.company.alive(guest.worker_id) and (left := until - self._host.monotonic()) > 0:
            done, _ = await asyncio.wait([answered], timeout=min(left, 1.0))
            if done:
                return answered.result()
        log.warning("Worker %s does not answer: what it was asked to run is judged here", guest.worker_id)
        return None

    def _note(self, instance_id: str, guest: WorkerInfo, answer: TurnRun) -> None:
        for timer in answer.timers:
            self._set_timer(instance_id, timer)
        if answer.failed and guest.code is not None:
            self.note_parked(instance_id, guest.code.build)
        elif answer.ran:
            self.note_running(instance_id)
        if answer.ended:
            self._known.pop(instance_id)

    def on_answer(self, answer: TurnRun) -> None:
        """Takes a guest's answer."""
        asked = self._asked.get(answer.request_id)
        if asked is not None and not asked.done():
            asked.set_result(answer)

    # Turns that we run for others

    def account(self, request: RunTurn) -> GuestAccount:
        """Who must hear what became of the letters of a turn that was asked for."""
        self._owners.put(request.instance_id, request.reply_to)

        def answer(done: TurnRun) -> None:
            self._packer.send(Destination.inbox(request.reply_to), done, _nobody_waits)

        return GuestAccount(request, answer)

    def tell_owner(self, commit: Commit) -> None:
        """Tells who asked for an instance's turns that it has ended: the watchers are there. Its record must show its end already."""
        owner = self._owners.get(commit.instance_id)
        if owner is not None:
            self._owners.pop(commit.instance_id)
            notice = InstanceEnded(instance_id=commit.instance_id, execution_id=commit.execution_id)
            self._packer.send(Destination.inbox(owner), notice, _nobody_waits)


class GuestAccount:
    """The letters of one turn that another worker asked for. It is answered once."""

    def __init__(self, request: RunTurn, answer: Callable[[TurnRun], None]) -> None:
        self._request_id = request.request_id
        self._open = len(request.messages)
        self._answer: Callable[[TurnRun], None] | None = answer
        self._ran = self._failed = self._ended = False
        self._timers: list[TimerSet] = []

    def tried_in_vain(self) -> None:
        """Takes note that the code was tried, and that there is nothing new to record of it."""
        self._failed = True

    def committed(self, commit: Commit) -> None:
        """Takes a commit that took letters of the request."""
        self._failed = self._failed or any(isinstance(event, ExecutionParked) for event in commit.events)
        self._ran, self._ended = commit.ran, commit.terminal
        for event in commit.events:
            if isinstance(event, TimerCreated) and event.event_id not in commit.timers_cancelled:
                self._timers.append(
                    TimerSet(execution_id=commit.execution_id, timer_id=event.event_id, fire_at=event.fire_at)
                )

    def settle(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._say(done=True)

    def abandon(self) -> None:
        self._say(done=False)

    def _say(self, *, done: bool) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(
                TurnRun(
                    request_id=self._request_id,
                    done=done,
                    ran=self._ran,
                    failed=self._failed,
                    ended=self._ended,
                    timers=tuple(self._timers),
                )
            )


class _Remembered(Generic[T]):
    """Something for each of the latest so many instances."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, T] = OrderedDict()

    def get(self, instance_id: str) -> T | None:
        return self._of.get(instance_id)

    def put(self, instance_id: str, value: T) -> None:
        self._of[instance_id] = value
        self._of.move_to_end(instance_id)
        while len(self._of) > MOST_REMEMBERED:
            self._of.popitem(last=False)

    def pop(self, instance_id: str) -> None:
        self._of.pop(instance_id, None)


def _unless_sent(answered: asyncio.Future[TurnRun], request_id: str) -> Sent:
    """A guest that cannot be reached has answered."""

    def sent(error: BaseException | None) -> None:
        if error is not None and not answered.done():
            log.info("A turn could not be handed to another worker: %s", error)
            answered.set_result(TurnRun(request_id=request_id, done=False))

    return sent


def _nobody_waits(_error: BaseException | None) -> None:
    """An owner that cannot be reached does not wait any more: whoever owns the instance now judges its messages."""
