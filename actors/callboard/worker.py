"""A worker: owns partitions, runs turns and activities. Start as many as you like, where you like."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Literal, Self

import msgspec

from callboard.activities import CONCURRENCY, ActivityRunner, DeadLetters
from callboard.activities.values import Values
from callboard.announcing import Announcer
from callboard.app import App
from callboard.build import worker_code
from callboard.built_in import WithBuiltIn
from callboard.cancelling import Cancelling
from callboard.client import Client
from callboard.company import Company
from callboard.consumers import PartitionConsumers
from callboard.core.instances import Commit
from callboard.core.messages import (
    ActivitiesCancelled,
    InstanceEnded,
    RunTurn,
    TimerSet,
    TurnRun,
    Watch,
    WorkersChanged,
)
from callboard.effects import Effects
from callboard.elsewhere import Elsewhere
from callboard.errors import ConfigurationError, MalformedMessageError, TamperedPayloadError, UnavailableError
from callboard.foreign import ForeignCalls
from callboard.host import SystemHost
from callboard.hub import TaskHub
from callboard.ingress import Ingress
from callboard.instruments import worker_instruments
from callboard.large_values import LargeValues
from callboard.mailbox import Letter
from callboard.ownership import DRAIN, HEARTBEAT, LEASE, Ownership
from callboard.packs import Packer, decode_pack
from callboard.parking import SecondChances
from callboard.ports import (
    BackgroundTask,
    Broker,
    Claim,
    Delivery,
    Destination,
    Host,
    HubView,
    Subscription,
    TimerRow,
    WorkerInfo,
)
from callboard.receiving import Quarantine, Receiver, check_seal, checked
from callboard.registry import check_queue
from callboard.replies import Replies
from callboard.retaining import Retention, check_retention
from callboard.retelling import Colleagues, Retelling
from callboard.routes import Routes, Sender
from callboard.scope import Scope
from callboard.startlimits import StartLimits
from callboard.statistics import NamedCounts
from callboard.sweeping import Sweeper
from callboard.telemetry import Telemetry
from callboard.timers import Timers
from callboard.triggers import Triggers
from callboard.turns import MEMORY, TurnLoop
from callboard.turnthread import TURN_LIMIT, TurnThread
from callboard.watchers import Watchers

log = logging.getLogger("callboard")

#: How long a worker that stops may take to finish what it has in hand, in seconds.
DRAIN_DEADLINE = 30.0


#: How long a part that failed for a reason that nobody foresaw rests before it goes on, in seconds.
AFTER_ERROR = 1.0


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works. Durations are in seconds."""

    only: Literal["activities", "orchestrations"] | None = None
    """Run only activities, or only orchestrations; None: both."""
    queues: tuple[str, ...] | None = None
    """The activity queues to serve; None: those that the app's activities are registered with, and ``builtin``, for `call_http`."""
    concurrency: int = CONCURRENCY
    """How many activities run at a time."""
    prefetch: int = 100
    """Broker messages (packs) that may wait unacked for each partition."""
    memory: int = MEMORY
    """Memory for waiting orchestrations, in bytes, estimated; what is beyond it is replayed when it is needed."""
    turn_limit: float = TURN_LIMIT
    """How long an orchestrator may run without awaiting anything, before it is interrupted."""
    lease: float = LEASE
    """How long partitions stay a worker's when it is not heard of."""
    heartbeat: float = HEARTBEAT
    """How often it is heard of."""
    build: str | None = None
    """The name of the deployed code; by default a digest of it. Parked instances are tried again by each new one."""
    drain: float = DRAIN_DEADLINE
    """How long it may take to finish what it has in hand when it stops."""
    retention: Mapping[str, timedelta] = {}
    """How long instances are kept after they have ended, by status (Completed, Failed, Terminated); others stay."""
    balance: bool = True
    """False: own every partition without asking, beside whoever else does. For tests of what leases are not needed for."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.prefetch < 1:
            raise ConfigurationError("concurrency and prefetch must be at least 1.")
        for queue in self.queues or ():
            check_queue(queue)
        if not 0 < self.heartbeat < self.lease / 2:
            raise ConfigurationError("heartbeat must be less than half of lease.")
        check_retention(self.retention)


class Worker:
    """Runs an app's orchestrations and activities. Use it with ``async with``, or call ``start`` and ``stop``.

    Args:
        app: The functions to run.
        hub: Opened.
        options: How to work.
        host: Clock, randomness, threads and tasks; the machine's own by default.
        telemetry: Where its spans go; by default to the process's tracer provider, if it has one.
    """

    def __init__(
        self,
        app: App,
        hub: TaskHub,
        options: WorkerOptions | None = None,
        *,
        host: Host | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.options = options or WorkerOptions()
        self._app = app
        self._hub = hub
        # A thread for each activity that may run: one that waited for a thread would use up its time.
        self._own_host = SystemHost(threads=max(32, self.options.concurrency)) if host is None else None
        self._host = Scope(host or self._own_host or SystemHost())
        telemetry = telemetry or Telemetry()
        self._tracing = telemetry.tracing()
        self.worker_id = self._host.token()[:16]
        self._others: list[Subscription] = []
        self._loops: list[BackgroundTask] = []
        self._balancing: BackgroundTask | None = None
        self._stopping = False
        self._stopped = asyncio.Event()
        self._owned: frozenset[int] = frozenset()
        self._codec = hub.codec(app)
        for codec in app.registry.codecs:
            self._codec.require(codec)
        self._wire()
        telemetry.tell(worker_instruments(self))

    def _wire(self) -> None:
        """Puts the parts together. Data flows one way: receiver → turns → effects → packer."""
        hub, host, options = self._hub, self._host, self.options
        tracing, colleagues = self._tracing, Colleagues(host, self.worker_id)
        self._retelling = Retelling(hub.store, host, tracing, colleagues)
        self.packer = Packer(hub.broker, host)
        self.routes = Routes(hub.partitions)
        sender = Sender(self.packer, self.routes)
        quarantine = self.quarantine = Quarantine(hub.store, host)
        self.partition_changes = NamedCounts()
        replies = Replies(host, self.packer, sender, LargeValues(hub.store, host), post=self._post)
        foreign = ForeignCalls(hub.broker, host, Values(self._codec, quarantine, hub.store, host), sender, hub.name)
        self._client = Client(hub, self._app, host=host)
        self._triggers = Triggers(hub.broker, host, self._client, tuple(self._app.registry.triggers))
        self._ingress = Ingress(hub.broker, host, self._client, foreign, sender)
        me = self._info()
        self.company = Company(me)
        self.elsewhere = Elsewhere(self.company, me, host, self.packer, self._set_timer)
        self.turns = TurnLoop(
            hub.store,
            host,
            self._app.registry,
            self._on_committed,
            self._on_behind,
            replies,
            codec=self._codec,
            refuse=self._refuse,
            memory=options.memory,
            thread=TurnThread(host, limit=options.turn_limit, author=self.worker_id),
            tracing=tracing,
            elsewhere=self.elsewhere,
            loaded=self._retelling.on_loaded,
        )
        self._second_chances = SecondChances(
            hub.store, host, self.elsewhere, registry=self._app.registry, post=self._post
        )
        self.watchers = Watchers(hub.store, host, self.packer, self.turns.runs)
        self.start_limits = StartLimits(hub.store, host, self._post)
        self.timers = Timers(hub.store, host, self._post, self.start_limits.due)
        self.effects = Effects(
            hub.store,
            host,
            self.packer,
            self.routes,
            self.timers,
            replies,
            foreign,
            announcer=Announcer(
                hub.broker,
                host,
                self._codec,
                LargeValues(hub.store, host),
                hub.name,
                lifecycle=self._app.lifecycle_events,
            ),
            cancelling=Cancelling(hub.store, host, self.packer, self.worker_id, self._on_cancelled, ttl=options.lease),
            post=self._post,
            ended=self._on_ended,
            retelling=self._retelling,
        )
        self.receiver = Receiver(
            quarantine,
            sender,
            self._codec,
            post=self._post,
            watch=self._watch,
            expect=self.watchers.expect,
            refuse=replies.refuse,
        )
        self._consumers = PartitionConsumers(hub.broker, host, self.receiver.on_delivery, prefetch=options.prefetch)
        self.retention = Retention(hub.store, host, options.retention)
        self.sweeper = Sweeper(
            hub.store,
            host,
            self.packer,
            self.effects,
            post=self._post,
            is_active=self.turns.is_active,
            begun=self._on_begun,
            again=self._retelling.on_swept,
        )
        self._activities = WithBuiltIn(self._app.registry, host, limit=self._app.codec_options.max_payload)
        self.activities = ActivityRunner(
            hub.store,
            hub.broker,
            host,
            self._activities,
            sender,
            quarantine,
            self.worker_id,
            post=self._post,
            concurrency=options.concurrency,
            tracing=tracing,
            codec=self._codec,
            known_elsewhere=self.company.has_activity,
        )
        self._dead_letters = DeadLetters(hub.broker, sender, host, quarantine)
        self.ownership = Ownership(
            hub.store,
            hub.broker,
            host,
            me,
            gain=self._gain,
            lose=self._lose,
            seen=self._seen,
            lease=options.lease,
            heartbeat=options.heartbeat,
            colleagues=colleagues,
        )

    def _info(self) -> WorkerInfo:
        return WorkerInfo(
            worker_id=self.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._host.now(),
            orchestrations=self.runs_orchestrations,
            queues=self.queues,
            code=worker_code(
                self._app.registry,
                orchestrations=self.runs_orchestrations,
                activities=bool(self.queues),
                build=self.options.build,
            ),
        )

    @property
    def broker(self) -> Broker:
        return self._hub.broker

    @property
    def runs_orchestrations(self) -> bool:
        return self.options.only != "activities"

    @property
    def queues(self) -> tuple[str, ...]:
        """The activity queues that this worker serves."""
        if self.options.only == "orchestrations":
            return ()
        return self._app.registry.queues() if self.options.queues is None else self.options.queues

    # Life

    async def start(self) -> None:
        """Begins to work; returns once the worker can be reached."""
        self._others.append(
            await self._hub.broker.consume(Destination.inbox(self.worker_id), self._on_notice, prefetch=100)
        )
        self._hub.broker.on_reconnect(self.ownership.reconnected)
        for name, run in (
            ("turns", self.turns.run),
            ("timers", self.timers.run),
            ("sweeper", self.sweeper.run),
            *([("retention", self.retention.run)] if self.options.retention else []),
            ("activities", self.activities.run),
            ("activity limits", self.activities.limits.run),
            ("second chances", self._second_chances.run),
        ):
            self._loops.append(self._host.spawn(self._keep_going(name, run), name=f"callboard {name}"))
        for queue in self.queues:
            await self.activities.serve(queue)
        if self.runs_orchestrations:
            self._others.append(await self._dead_letters.serve())
            self._others.append(await self._ingress.serve())
            self._others.extend(await self._triggers.serve())
            for target in self._app.registry.foreign_activities.values():
                await self._hub.broker.prepare(f"{self._hub.name}.activities.{target.queue}")
        if self.options.balance:
            work = self._keep_going("ownership", self.ownership.run)
            self._balancing = self._host.spawn(work, name="callboard ownership")
            self._loops.append(self._balancing)
        elif self.runs_orchestrations:
            await self._gain(frozenset(range(self._hub.partitions)))

    async def stop(self) -> None:
        """Finishes what is in hand (up to the drain deadline), gives up its partitions, and ends."""
        if self._stopping:
            await self._stopped.wait()
            return
        self._stopping = True
        try:
            await self._stop()
        finally:
            self._stopped.set()

    async def _stop(self) -> None:
        if self._balancing is not None:
            self._balancing.cancel()
            await self._balancing.wait()
        await self.activities.drain(self.options.drain)
        await self._activities.aclose()
        if self._balancing is not None:
            try:
                await self.ownership.leave()
            except UnavailableError as error:
                log.warning("The partitions could not be released; others take them over soon: %s", error)
        await self._consumers.aclose()
        for subscription in self._others:
            await subscription.aclose()
        for loop in self._loops:
            loop.cancel()
        await self.turns.aclose()
        await self.effects.aclose()
        await self.start_limits.aclose()
        await self._retelling.aclose()
        await self.watchers.aclose()
        await self._client.aclose()
        await self._host.aclose()
        if self._own_host is not None:
            self._own_host.close()

    async def run(self) -> None:
        """Works until `stop` has been called and has ended."""
        await self.start()
        await self._stopped.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _keep_going(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """An error of ours in one part must not leave a worker that looks alive and does half its work."""
        while True:
            try:
                await run()
            except Exception:
                log.exception("%s failed, and goes on in a moment; please report this", name)
            await self._host.sleep(AFTER_ERROR)

    # Between the parts

    def _post(self, letter: Letter) -> bool:
        partition = self.routes.partition_of(letter.message.instance_id)
        if partition not in self._owned:
            return False
        self.turns.post(letter, partition)
        return True

    def _refuse(self, letter: Letter, error: TamperedPayloadError) -> None:
        self.receiver.refuse(letter, error)

    def _watch(self, request: Watch) -> bool:
        if self.routes.partition_of(request.instance_id) not in self._owned:
            return False
        self.watchers.watch(request)
        return True

    def _on_committed(self, commit: Commit) -> None:
        self.effects.dispatch(commit)

    def _on_behind(self, commit: Commit) -> None:
        self.effects.projector.write_late(commit)

    def _on_begun(self, claim: Claim) -> None:
        """A call that was claimed once has begun in time, whatever becomes of it then."""
        call = claim.call
        if call.start_by is not None:
            self.timers.lift(
                TimerRow(
                    instance_id=call.instance_id,
                    execution_id=call.execution_id,
                    timer_id=call.task_scheduled_id,
                    partition=claim.partition,
                    fire_at=call.start_by,
                    of_task=True,
                )
            )

    def _on_notice(self, delivery: Delivery) -> None:
        try:
            messages = decode_pack(delivery.body)
        except MalformedMessageError as error:
            log.warning("A notice for this worker cannot be understood: %s", error)
            messages = ()
        for message in messages:
            match message:
                case WorkersChanged():
                    self.ownership.colleagues.hear(message)
                    self.ownership.look_again()
                case RunTurn():
                    self._run_turn(message)
                case TurnRun():
                    self.elsewhere.on_answer(message)
                case InstanceEnded():
                    self.watchers.ended_elsewhere(message)
                case ActivitiesCancelled():
                    self._on_cancelled(message)
                case _:
                    pass
        delivery.ack()

    def _on_cancelled(self, message: ActivitiesCancelled) -> None:
        self.activities.cancel(message)

    def _run_turn(self, request: RunTurn) -> None:
        """A turn of an instance that another worker owns. Should that be us, meanwhile, it is a turn like any other."""
        account = self.elsewhere.account(request)
        try:
            letters = [Letter(checked(message), account) for message in request.messages]
            for message in request.messages:
                check_seal(message, self._codec)
        except (MalformedMessageError, TamperedPayloadError) as error:
            log.warning("A turn that another worker asks for cannot be run: %s", error)
            letters = []
        if not letters or any(letter.message.instance_id != request.instance_id for letter in letters):
            account.abandon()
            return
        partition = self.routes.partition_of(request.instance_id)
        if partition not in self._owned:
            self.turns.post_guest(letters, request.instance_id, partition, request.n)
            return
        for letter in letters:
            self.turns.post(letter, partition)

    def _on_ended(self, commit: Commit) -> None:
        self.watchers.ended(commit)
        self.elsewhere.tell_owner(commit)

    def _set_timer(self, instance_id: str, timer: TimerSet) -> None:
        partition = self.routes.partition_of(instance_id)
        self.timers.schedule(
            TimerRow(
                instance_id=instance_id,
                execution_id=timer.execution_id,
                timer_id=timer.timer_id,
                partition=partition,
                fire_at=timer.fire_at,
            )
        )

    def _seen(self, view: HubView) -> None:
        self.routes.update(view.leases)
        self.company.seen(view)

    def _note_change(self, change: str, count: int) -> None:
        for _ in range(count):
            self.partition_changes.add("", change)

    async def _gain(self, partitions: frozenset[int]) -> None:
        self._set_owned(self._owned | partitions)
        self._note_change("gained", len(partitions))
        self._consumers.start(partitions)
        log.info("Acts for %d partitions now", len(self._owned))

    async def _lose(self, partitions: frozenset[int], *, orderly: bool) -> None:
        """Stops taking letters for partitions, lets what is in hand come to rest if there is time, and forgets them."""
        await self._consumers.stop(partitions)
        self._note_change("lost", len(self._owned & partitions))
        self._set_owned(self._owned - partitions)
        # No heartbeat is sent meanwhile: the other leases must not run out.
        until = self._host.monotonic() + (min(DRAIN, self.options.lease / 3) if orderly else 0)
        while not self.turns.rests(partitions) and self._host.monotonic() < until:
            await self._host.sleep(0.01)
        log.info("Acts for %d partitions now", len(self._owned))

    def _set_owned(self, partitions: frozenset[int]) -> None:
        self._owned = partitions
        self.turns.own(partitions)
        self.timers.own(partitions)
        self.sweeper.own(partitions)
        self.retention.own(partitions)
        self._second_chances.own(partitions)
