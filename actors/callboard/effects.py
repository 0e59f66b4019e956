"""Carries out what commits bring about, until all of it is confirmed.

A commit is *in flight* here from the moment it is durable until its effects are done and it is marked sent, or until one of them
has failed: then it is forgotten, and the sweep of whoever owns the partition carries all of it out again. Receivers deduplicate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from callboard.announcing import Announcer
from callboard.batching import Batcher
from callboard.cancelling import Cancelling
from callboard.core import effects as core
from callboard.core.events import TimerCreated
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, CommitKey, InstanceRecord
from callboard.core.messages import ActivityCall, InstanceMessage, StartExecution
from callboard.errors import InstanceAlreadyExistsError, UnroutableError
from callboard.foreign import ForeignCalls, is_foreign
from callboard.mailbox import Letter
from callboard.packs import Packer
from callboard.ports import CreateOutcome, Destination, Host, Store, TimerRow
from callboard.projecting import Projector
from callboard.replies import Replies
from callboard.retelling import Retelling
from callboard.routes import Routes, Sender
from callboard.timers import Timers

log = logging.getLogger("callboard")

#: How long a commit whose effects are done waits for others to be marked with it, in seconds.
MARK_LINGER = 0.1
#: How often the commits of an entity before its last whole one are deleted: at every commit whose number is one less than a multiple.
TRIM_EVERY = 16
#: How long records may take to be brought up to date when a worker stops, in seconds.
FLUSH = 2.0


class Sending:
    """One commit whose effects are under way: counts them down."""

    __slots__ = ("_ended", "again", "commit", "failed", "forwarded", "remaining")

    def __init__(self, commit: Commit, ended: Callable[[Sending], None], *, again: bool) -> None:
        self.commit = commit
        self.again = again
        self.remaining = 1  # held by the one who starts the effects
        self.failed = False
        self.forwarded = False
        """Whether a message went to the broker: confirmed is then not yet committed by its receiver."""
        self._ended = ended

    def hold(self) -> Sending:
        self.remaining += 1
        return self

    def settle(self) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            self._ended(self)

    def abandon(self) -> None:
        self.failed = True
        self.settle()

    def sent(self, error: BaseException | None) -> None:
        """For a publish: an unroutable message is done, because its receiver is gone."""
        if error is None or isinstance(error, UnroutableError):
            self.settle()
        else:
            self.abandon()

    def stored(self, _result: object, error: BaseException | None) -> None:
        """For a write."""
        if error is None:
            self.settle()
        else:
            log.error("An effect of commit %d of %s failed: %s", self.commit.n, self.commit.instance_id, error)
            self.abandon()


class Effects:
    """Carries out the effects of commits.

    Args:
        post: Puts a letter into a mailbox of this worker; False if the partition is not owned here.
        ended: Called when an instance's record shows that it is terminal.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        packer: Packer,
        routes: Routes,
        timers: Timers,
        replies: Replies,
        foreign: ForeignCalls,
        *,
        announcer: Announcer,
        cancelling: Cancelling,
        post: Callable[[Letter], bool],
        ended: Callable[[Commit], None],
        retelling: Retelling | None = None,
    ) -> None:
        self._store = store
        self._host = host
        self._packer = packer
        self._routes = routes
        self._sender = Sender(packer, routes)
        self._timers = timers
        self._replies = replies
        self._foreign = foreign
        self._announcer = announcer
        self._cancelling = cancelling
        self._post = post
        self._announce = ended
        self._retelling = retelling
        self._in_flight: dict[tuple[str, int], Sending] = {}
        self.projector = Projector(store, host)
        self._children: Batcher[InstanceRecord, CreateOutcome] = Batcher(store.create, host, name="create")
        self._timer_rows: Batcher[TimerRow, None] = Batcher(store.put_timers, host, name="set timers")
        self._timers_gone: Batcher[TimerRow, None] = Batcher(store.delete_timers, host, name="clear timers")
        self._executions_gone: Batcher[tuple[str, str], None] = Batcher(
            store.delete_execution_timers, host, name="clear timers"
        )
        self._marks: Batcher[CommitKey, None] = Batcher(
            store.mark_sent, host, name="mark sent", most=2_000, linger=MARK_LINGER
        )
        self._trims: Batcher[CommitKey, None] = Batcher(self._trim, host, name="trim", most=50)
        self._purges: Batcher[str, None] = Batcher(self._purge, host, name="purge", most=50)
        timers.on_settled = self._clear_timer

    @property
    def idle(self) -> bool:
        """Whether every commit's effects are done and marked."""
        return not self._in_flight

    def in_flight(self, commit: Commit) -> bool:
        return (commit.instance_id, commit.n) in self._in_flight

    def dispatch(self, commit: Commit, *, again: bool = False) -> None:
        """Starts a durable commit's effects. One that is in flight already is left alone.

        Args:
            commit: Durable.
            again: They may have been carried out before, in part: a long activity may run already.
        """
        key = (commit.instance_id, commit.n)
        if key in self._in_flight:
            return
        sending = self._in_flight[key] = Sending(commit, self._done, again=again)
        if commit.terminal:
            # The record is written before anybody is told, so that whoever is told and looks sees the end.
            self.projector.write(commit, self._projected(sending.hold()))
        elif commit.entity is not None:
            # People look at entities that rest: if this worker dies before the record shows the state, the commit is swept.
            self.projector.write_late(commit, sending.hold().stored)
            self._carry_out(sending)
        else:
            self.projector.write_late(commit)
            self._carry_out(sending)
        if self._retelling is not None and self._retelling.concerns(commit):
            self._retelling.when_sent(commit, sending.hold().stored)
        sending.settle()

    async def aclose(self) -> None:
        """Stops; what is not done yet is swept by the partition's next owner."""
        self.projector.flush()
        until = self._host.monotonic() + FLUSH
        while not self.projector.idle and self._host.monotonic() < until:
            await self._host.sleep(0.01)
        await self.projector.aclose()
        await self._cancelling.aclose()
        for batcher in self._batchers():
            await batcher.aclose()

    def _batchers(self) -> Sequence[Batcher[object, object]]:
        batchers = (
            self._children,
            self._timer_rows,
            self._timers_gone,
            self._executions_gone,
            self._marks,
            self._trims,
            self._purges,
        )
        return batchers  # type: ignore[return-value] # pyright: ignore[reportReturnType] # only closed, whatever they carry

    def _projected(self, sending: Sending) -> Callable[[None, BaseException | None], None]:
        def done(_result: None, error: BaseException | None) -> None:
            if error is None:
                self._carry_out(sending)
                self._announce(sending.commit)
            sending.stored(None, error)

        return done

    def _carry_out(self, sending: Sending) -> None:
        commit = sending.commit
        self._announcer.announce(commit, sending)
        for effect in core.derive(commit, self._routes.partitions):
            match effect:
                case core.CallActivity(call):
                    call = msgspec.structs.replace(call, resent=True) if sending.again else call
                    self._call(call, sending.hold())
                case core.CancelActivities(cancelled):
                    self._cancelling.send(cancelled, sending.hold().sent)
                case core.Tell(message):
                    self._tell(message, sending.hold())
                case core.Publish(event):
                    self._announcer.publish(commit, event, sending.hold().sent)
                case core.SendReply(inbox, reply):
                    self._replies.answered(commit.instance_id, inbox, reply, sending.hold().sent)
                case core.StartChild(record):
                    self._children.submit(record, self._child_created(record, sending.hold()))
                case core.SetTimer(timer_id, due):
                    row = _timer_row(commit, timer_id, due)
                    self._timers.schedule(row)
                    self._timer_rows.submit(row, sending.hold().stored)
                case core.LimitStart(task_id, by):
                    row = msgspec.structs.replace(_timer_row(commit, task_id), fire_at=by, of_task=True)
                    self._timers.schedule(row)
                    self._timer_rows.submit(row, sending.hold().stored)
                case core.ClearTimer(timer_id):
                    row = _timer_row(commit, timer_id)
                    self._timers.cancel(row)
                    self._timers_gone.submit(row, sending.hold().stored)
                case core.ClearExecutionTimers():
                    self._executions_gone.submit((commit.instance_id, commit.execution_id), sending.hold().stored)

    def _call(self, call: ActivityCall, sending: Sending) -> None:
        if is_foreign(call.queue):
            self._foreign.send(call, sending.sent)
        else:
            self._packer.send(Destination.activities(call.queue), call, sending.sent)

    def _tell(self, message: InstanceMessage, sending: Sending) -> None:
        """A copy in memory if the receiver is ours: the commit stays in flight until the receiver's commit has taken it."""
        if not self._post(Letter(message, sending)):
            sending.forwarded = True
            self._sender.tell(message, sending.sent)

    def _child_created(
        self, record: InstanceRecord, sending: Sending
    ) -> Callable[[CreateOutcome | None, BaseException | None], None]:
        def done(outcome: CreateOutcome | None, error: BaseException | None) -> None:
            if outcome is None:
                sending.stored(None, error)
            elif outcome.created:
                start = StartExecution(instance_id=record.instance_id, execution_id=record.execution_id)
                self._tell(start, sending)
            else:
                self._refuse_child(record, outcome, sending)

        return done

    def _refuse_child(self, record: InstanceRecord, outcome: CreateOutcome, sending: Sending) -> None:
        status = outcome.existing.runtime_status if outcome.existing else "in use"
        failure = FailureDetails.from_exception(InstanceAlreadyExistsError(record.instance_id, status))
        message = core.child_failed(record, failure)
        if message is None:
            log.warning("%s was not started: the instance exists and is %s", record.instance_id, status)
            sending.settle()
        else:
            self._tell(message, sending)

    def _done(self, sending: Sending) -> None:
        commit = sending.commit
        key = CommitKey(commit.instance_id, commit.n)
        if sending.failed:
            self._in_flight.pop((commit.instance_id, commit.n), None)
            return
        self._marks.submit(key, lambda _result, _error: self._marked(sending))

    def _marked(self, sending: Sending) -> None:
        commit = sending.commit
        self._in_flight.pop((commit.instance_id, commit.n), None)
        if commit.entity is not None and commit.terminal:
            self._purges.submit(commit.instance_id, _nobody_waits)
        below = _below(commit, begun=not sending.forwarded)
        if below is not None:
            self._trims.submit(CommitKey(commit.instance_id, below), _nobody_waits)

    async def _trim(self, ends: Sequence[CommitKey]) -> None:
        """The executions before these were continued as new: their histories are not needed any more."""
        for instance_id, below in {end.instance_id: end.n for end in sorted(ends, key=_number)}.items():
            await self._store.trim(instance_id, below=below)

    async def _purge(self, instance_ids: Sequence[str]) -> None:
        """Entities that were cleaned up leave nothing."""
        for instance_id in instance_ids:
            await self._store.purge(instance_id)

    def _clear_timer(self, row: TimerRow) -> None:
        self._timers_gone.submit(row, _nobody_waits)


def _below(commit: Commit, *, begun: bool) -> int | None:
    """Below which number an instance's commits are not needed any more, once the effects of this one are done.

    Args:
        commit: Marked as sent.
        begun: If it continues as new: whether the next execution has begun for sure. Until then it is needed itself.
    """
    if commit.entity is not None:
        return commit.first if commit.n % TRIM_EVERY == TRIM_EVERY - 1 else None
    if commit.continued is not None and begun:
        return commit.n + 1
    return commit.first if commit.generation and commit.n == commit.first else None


def _number(key: CommitKey) -> int:
    return key.n


def _nobody_waits(_result: None, _error: BaseException | None) -> None:
    """For tidying up: what is left behind does no harm, and is met again."""


def _timer_row(commit: Commit, timer_id: int, due: TimerCreated | None = None) -> TimerRow:
    return TimerRow(
        instance_id=commit.instance_id,
        execution_id=commit.execution_id,
        timer_id=timer_id,
        partition=commit.partition,
        fire_at=due.fire_at if due else commit.at,
    )
