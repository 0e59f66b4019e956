"""What the runtime asks of a broker, a store and the machine. The docstrings are the contract.

Every adapter passes the suites in ``callboard.testing``. All durations are seconds; all times are aware UTC. Everything that holds
a connection is opened by ``open`` and ended by ``aclose``, which may be called more than once.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec

from callboard.core.entities import is_entity
from callboard.core.events import Payload
from callboard.core.instances import Commit, CommitKey, InstanceRecord, ParkedKind, Projection
from callboard.core.messages import ActivityCall, TaskKey
from callboard.core.versions import MatchStrategy, VersionRule

T = TypeVar("T")


# --- Broker -----------------------------------------------------------------------------------------------------------


class DestinationKind(enum.Enum):
    """What sort of queue a message is for."""

    PARTITION = "partition"
    """The mailbox of one partition of the hub: durable, made by ``open``."""
    ACTIVITIES = "activities"
    """The calls of one activity queue: durable, competing consumers, made when first consumed or published to."""
    INBOX = "inbox"
    """The private queue of one client or worker: exists while its consumer does, and takes nothing with it."""
    DEAD_LETTERS = "dead"
    """Where the broker puts activity calls that it gave up to deliver: durable, made by ``open``."""
    INGRESS = "ingress"
    """Where programs in any language leave their requests: durable, made by ``open``."""
    REJECTED = "rejected"
    """Foreign messages that nobody could make sense of, until a person does: durable, made by ``open``."""
    FOREIGN = "foreign"
    """A queue of others, by its own name, in no hub. What is published to one that is not there is gone, and nobody is told."""
    TOPIC = "topic"
    """A topic exchange of others: for publishing only. It keeps nothing; whoever wants to hear binds a queue."""


class Destination(msgspec.Struct, frozen=True):
    """Where a message goes, within a hub."""

    kind: DestinationKind
    name: str = ""
    key: str = ""
    """The routing key, for a topic exchange."""

    @classmethod
    def partition(cls, number: int) -> Destination:
        return cls(DestinationKind.PARTITION, str(number))

    @classmethod
    def activities(cls, queue: str) -> Destination:
        return cls(DestinationKind.ACTIVITIES, queue)

    @classmethod
    def inbox(cls, owner: str) -> Destination:
        return cls(DestinationKind.INBOX, owner)

    @classmethod
    def dead_letters(cls) -> Destination:
        return cls(DestinationKind.DEAD_LETTERS)

    @classmethod
    def ingress(cls) -> Destination:
        return cls(DestinationKind.INGRESS)

    @classmethod
    def rejected(cls) -> Destination:
        return cls(DestinationKind.REJECTED)

    @classmethod
    def foreign(cls, queue: str) -> Destination:
        return cls(DestinationKind.FOREIGN, queue)

    @classmethod
    def topic(cls, exchange: str, key: str) -> Destination:
        return cls(DestinationKind.TOPIC, exchange, key)

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name} {self.key}".strip()


class Properties(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a message says of itself beside its headers, in the words of AMQP. Our own packs say nothing."""

    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    """The name of a queue."""
    content_type: str | None = None
    type: str | None = None


#: Of messages that say nothing.
NO_PROPERTIES = Properties()


class Delivery(Protocol):
    """One broker message in the consumer's hands.

    It stays with the broker until ``ack``; if the subscription or the connection ends first, it is delivered again, perhaps
    elsewhere, perhaps in another order.
    """

    @property
    def body(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def properties(self) -> Properties: ...

    @property
    def redelivered(self) -> bool:
        """True if it may have been delivered before. May be False for a message seen before: a hint, never a proof."""
        ...

    def ack(self) -> None:
        """Lets the broker forget the message.

        Never blocks and never raises: an ack on a connection that is gone is dropped, and the message comes again. Calling it twice
        does nothing.
        """
        ...

    def reject(self) -> None:
        """Gives the message back for another delivery (``nack`` with requeue). Like ``ack``, never blocks or raises."""
        ...


class Subscription(Protocol):
    """A running consumer."""

    async def aclose(self) -> None:
        """Stops deliveries and returns what is not acked to the queue, before it returns. May be called more than once."""
        ...


class Broker(Protocol):
    """Carries messages, at least once.

    Guarantees: a message whose ``publish`` returned is kept (through a broker restart, for durable destinations) until it is acked. It is
    delivered at least once while somebody consumes. Non-guarantees: order; that a message is delivered only once; that a ``publish``
    that raised has not arrived. Connections that break are made again for ever, with jittered back-off; consumers come back by
    themselves, deliveries of the lost connection come again.
    """

    async def open(self, hub: str, partitions: int) -> None:
        """Connects and makes the hub's queues, if they are not there yet.

        Waits up to the adapter's connect timeout (10 s by default).

        Raises:
            BrokerUnavailableError: the server cannot be reached or refuses the credentials; says which, and what to check.
            ConfigurationError: a queue exists with other properties.
        """
        ...

    async def publish(
        self,
        destination: Destination,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        """Sends one message and returns once the broker has confirmed that it is kept.

        Many may be under way at once. Waits while the connection is being made again, up to the adapter's publish timeout (30 s). A topic
        exchange is made (durable) if it is not there. A ``message_id`` can be given only to messages for topics and foreign queues.

        Raises:
            UnroutableError: no such inbox (its owner is gone). Never raised for partitions and activity queues of an open hub.
            BrokerUnavailableError: not confirmed in time; it may still arrive. Send it again: receivers deduplicate.
            PayloadTooLargeError: over the adapter's message limit; nothing was sent.
        """
        ...

    async def consume(
        self, destination: Destination, on_delivery: Callable[[Delivery], None], *, prefetch: int = 100
    ) -> Subscription:
        """Starts a consumer. A foreign queue is made (durable) if it is not there; one that is there is taken as it is.

        ``on_delivery`` is called in the event loop and must only enqueue; it must not block or raise. At most ``prefetch`` messages are
        unacked at a time. An inbox can be published to as soon as this returns, until the subscription is closed; after a
        reconnect it exists again, what was in it is gone.
        """
        ...

    async def prepare(self, queue: str, *, exchange: str = "", keys: Sequence[str] = ()) -> None:
        """Makes a foreign queue, and a topic exchange whose messages with these keys go there; what is there already is taken as it is.

        Keys are patterns: words between dots, of which ``*`` stands for one and ``#`` for any number. What was prepared is made again
        whenever the queue's consumer here finds it missing.

        Raises:
            ConfigurationError: the queue is another connection's own, or the name is not allowed.
            BrokerUnavailableError: not in time.
        """
        ...

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Calls back each time consumers have been re-established after a lost connection (messages to inboxes may be lost)."""
        ...

    async def depth(self, destination: Destination) -> int:
        """How many messages wait there undelivered. For people and tests; a moment old."""
        ...

    async def aclose(self) -> None:
        """Ends all consumers and connections. Unacked deliveries return to their queues."""
        ...


# --- Store ------------------------------------------------------------------------------------------------------------


class AppendOutcome(enum.Enum):
    """What became of one commit."""

    COMMITTED = "committed"
    LOST = "lost"
    """Another commit has that (instance, n): somebody else acts for this instance."""


class CreateOutcome(msgspec.Struct, frozen=True):
    """What became of one new instance."""

    created: bool
    """The record with this execution id is there (also if an earlier attempt of ours put it there)."""
    existing: InstanceRecord | None = None
    """The record that is in the way, if it was not created."""


class LoadedInstance(msgspec.Struct, frozen=True):
    """An instance as it is in the store."""

    record: InstanceRecord
    commits: tuple[Commit, ...]
    """The current execution's commits in order of ``n``, complete. Empty for a record that no commit followed yet."""


class TimerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A pending durable timer."""

    instance_id: str
    execution_id: str
    timer_id: int
    partition: int
    fire_at: datetime
    of_task: bool = False
    """Not a timer of the code's: by then the activity of that number must have begun (``schedule_to_start``)."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A long activity that runs without holding a broker message."""

    call: ActivityCall
    partition: int
    worker_id: str
    """Who runs it."""
    started: datetime | None = None
    """Since when, by that worker's clock."""
    heartbeat: datetime | None = None
    """When the activity sent its last heartbeat, by that worker's clock."""
    details: Payload | None = None
    """The progress that it sent with it."""
    cancelled: bool = False
    """Nobody waits for it any more."""
    expired: bool = False
    """Its worker has stopped renewing it."""


class Heartbeat(msgspec.Struct, frozen=True):
    """What a claimed activity has said of itself."""

    task: TaskKey
    at: datetime
    details: Payload | None


class Permits(msgspec.Struct, frozen=True, kw_only=True):
    """How many permits of a hub-wide limit a worker would like to have in all."""

    name: str
    wanted: int
    limit: int
    """How many there are in the hub."""


class Starts(msgspec.Struct, frozen=True):
    """Starts that were reserved under a hub-wide rate limit."""

    count: int
    wait: float
    """Seconds until the first of them; if there are none, until it is worth asking again."""


class OrchestrationVersions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An orchestration, and the versions that there is code for; None stands for code without a version of its own."""

    name: str
    versions: tuple[str | None, ...]


class WorkerCode(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a worker can run."""

    build: str
    """Changes when its orchestrations' code does."""
    version: str | None = None
    """What code without a version of its own counts as."""
    match: MatchStrategy = "none"
    orchestrations: tuple[OrchestrationVersions, ...] = ()
    entities: tuple[str, ...] = ()
    activities: tuple[str, ...] = ()

    def runs(self, instance_id: str, name: str, version: str | None) -> bool:
        """Whether there is code for an instance of that orchestration and version, or for that entity."""
        if is_entity(instance_id):
            return name in self.entities
        rule = VersionRule(default=self.version, match=self.match)
        return any(each.name == name and rule.choose(each.versions, version) for each in self.orchestrations)


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A live worker, as the others see it."""

    worker_id: str
    host: str
    pid: int
    started: datetime
    orchestrations: bool
    """Whether it owns partitions."""
    queues: tuple[str, ...]
    """The activity queues that it serves."""
    code: WorkerCode | None = None


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Who acts for a partition."""

    partition: int
    owner: str | None
    epoch: int
    """Grows with every change of owner."""
    expired: bool
    """By the store's clock."""


class HubView(msgspec.Struct, frozen=True, kw_only=True):
    """The hub at one moment, by the store's clock."""

    now: datetime
    workers: tuple[WorkerInfo, ...]
    """Those whose heartbeat is not older than the time to live."""
    leases: tuple[Lease, ...]
    """One for every partition, in order."""


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A message that could not be understood, kept for a person."""

    id: str
    at: datetime
    source: str
    """The destination it was read from."""
    reason: str
    body: bytes
    headers: dict[str, str]


class ParkedInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance whose code cannot run, as those see it who look for somebody who could run it."""

    instance_id: str
    name: str
    version: str | None
    kind: ParkedKind


class InstanceFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which orchestrations; an empty filter means all."""

    statuses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    id_prefix: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    updated_from: datetime | None = None
    updated_to: datetime | None = None
    tags: Mapping[str, str] = {}
    """Those that have all of these tags."""
    custom_status: Mapping[str, str | float | bool | None] = {}
    """Those whose custom status is an object with all of these fields, at its top."""
    parked: bool | None = None
    """Those whose code cannot run, or (False) those whose code can."""
    parent_id: str | None = None
    """Only children of this instance."""


class EntityFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entities; an empty filter means all that exist."""

    name: str | None = None
    """Lower-case, as in the ids."""
    key_prefix: str = ""
    """Only together with a name."""
    last_operation_from: datetime | None = None
    last_operation_to: datetime | None = None
    include_transient: bool = False
    """Also those without a state, of which only the memory is left."""

    @property
    def id_prefix(self) -> str:
        """What the ids begin with."""
        return "@" if self.name is None else f"@{self.name}@{self.key_prefix}"


class InstancePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some instances, and where the next page begins."""

    records: tuple[InstanceRecord, ...]
    continuation: str | None
    """Opaque; None on the last page."""


class Store(Protocol):
    """Keeps histories, records, timers, leases and payloads.

    Guarantees: what a method returned as done survives a crash of the store (majority and journal where there is a choice). Reads see every
    write that was acknowledged before they began, unless said otherwise. Every method may be repeated after
    ``StoreUnavailableError``, which leaves open whether the write happened; the methods are made so that repeating is safe.
    Times are kept to the millisecond: give whole ones.
    """

    async def open(self, hub: str, partitions: int | None, *, create: bool = True) -> int:
        """Connects, makes what is missing (indexes, the hub's document, lease rows) and returns the hub's number of partitions.

        ``partitions`` is what a new hub gets (None: 32); an existing hub keeps its own. Without ``create`` the hub must be there.

        Raises:
            HubMismatchError: the hub exists with another number than the one asked for.
            HubNotFoundError: it does not exist, and is not to be made; says which there are.
            StoreUnavailableError: the server cannot be reached or refuses the credentials; says which, and what to check.
        """
        ...

    async def aclose(self) -> None: ...

    # Instances and histories

    async def create(self, records: Sequence[InstanceRecord], *, replace: bool = True) -> list[CreateOutcome]:
        """Makes records: Pending; for a child ended before its start, Terminated; for an entity, Running. The unique id decides every race.

        A record that is terminal under another execution id is replaced in one conditional update, which keeps its ``head`` and sets
        ``first`` to ``head + 1``; the given record's own ``head`` and ``first`` are ignored then. Without ``replace`` only the id of a
        purged instance can be used again. Outcomes are in the order given.
        A repeated ``create`` is told from a new one by the execution id, also when the instance has since gone on, ended or been purged.
        """
        ...

    async def records(self, instance_ids: Sequence[str]) -> dict[str, InstanceRecord]:
        """Reads records; unknown ids are left out."""
        ...

    async def load(self, instance_ids: Sequence[str]) -> dict[str, LoadedInstance]:
        """Reads records with the commits of their current execution; unknown ids are left out.

        The record may lag behind the commits. Commits are followed across ``ContinuedAsNew``: if the last commit is one, ``commits`` is empty
        but for it; else they are those from the last execution's first one on.

        Raises:
            CorruptHistoryError: a commit in the middle is missing; ``instance_id`` says whose.
        """
        ...

    async def confirm(self, instance_id: str, n: int, execution_id: str | None) -> bool:
        """Linearizable: whether what is known of an instance was current at some moment after the call began.

        True if no commit has the number ``n + 1``, there is a record exactly if ``execution_id`` is given, and the record is not a Pending
        one of another execution (a new start under the same id). The one read that may be the reason to drop a message.
        """
        ...

    async def append(self, commits: Sequence[Commit]) -> list[AppendOutcome]:
        """Inserts commits in one round trip, each unique on (instance, n) and atomic by itself; outcomes are in the order given.

        A duplicate with the same token is our own: COMMITTED. Stored commits are *unsent* until ``mark_sent``. The number of a trimmed or
        purged commit stays taken for an hour, so that an owner that was asleep loses.

        Raises:
            PayloadTooLargeError: a commit is over what the store can hold (16 MiB in MongoDB); of the others, some may be stored.
            InvalidPayloadError: a commit cannot be stored (text that is not Unicode); of the others, some may be stored.
        """
        ...

    async def project(self, projections: Sequence[Projection]) -> None:
        """Brings records up to date, each only if its ``head`` is below ``n`` and it is in ``execution_id`` or in a lower ``generation``.

        Never creates a record. ``input`` is written only if ``begins``.
        """
        ...

    async def mark_sent(self, keys: Sequence[CommitKey]) -> None:
        """Records that all effects of these commits are done. Losing it only repeats them."""
        ...

    async def unsent(self, partitions: Sequence[int], *, before: datetime, limit: int) -> list[Commit]:
        """The oldest commits up to ``before`` whose effects are not known to be done; one marked a moment ago may still be among them."""
        ...

    async def pending_starts(
        self, partitions: Sequence[int], *, before: datetime, limit: int, ahead: float = 0.0
    ) -> list[InstanceRecord]:
        """Pending records created up to ``before``, those due longest first.

        Of records with a scheduled start: those due by now, or within ``ahead`` seconds, by the store's clock.
        """
        ...

    async def parked(self, partitions: Sequence[int], limit: int, *, after: str | None = None) -> list[ParkedInstance]:
        """Instances that are parked, in order of their ids (by code points), from the first behind ``after`` on."""
        ...

    async def history(self, instance_id: str) -> list[Commit]:
        """All kept commits of an instance, in order of ``n``, over all executions that are still there."""
        ...

    async def query(self, which: InstanceFilter, *, limit: int, continuation: str | None = None) -> InstancePage:
        """Records of orchestrations in order of creation, newest first.

        Raises:
            ValueError: the continuation is not one of this store's.
        """
        ...

    async def query_entities(self, which: EntityFilter, *, limit: int, continuation: str | None = None) -> InstancePage:
        """Records of entities in order of their ids. Times are those of the last operation, both ends included.

        Raises:
            ValueError: the continuation is not one of this store's.
        """
        ...

    async def count(self, which: InstanceFilter) -> dict[str, int]:
        """How many records there are of each status; those of which there is none are left out."""
        ...

    async def trim(self, instance_id: str, *, below: int) -> int:
        """Deletes sent commits with ``n < below`` (of executions that were continued as new); returns how many.

        With them go payloads that no kept commit (nor its ``body``) and not the record refers to, once they are an hour old: the commit of a
        younger one may be on the way.
        """
        ...

    async def purge(self, instance_id: str, *, tombstone_seconds: float = 7 * 86_400) -> bool:
        """Deletes a terminal instance whose commits are all sent: record, history, timers, claims and payloads; True if it did.

        Leaves a tombstone (head and execution) for as long as late messages may arrive; ``create`` under the same id goes on
        counting from its head, and drops of late messages stay right. An interrupted purge is finished by the next one. A payload
        put before the purge of an instance goes with it, even if it was meant for the next one under that id.
        """
        ...

    # Payloads

    async def put_payload(self, instance_id: str, body: bytes) -> str:
        """Stores a large body and returns its key, which contains the instance id and the content's hash. Any size up to 1 GiB."""
        ...

    async def get_payload(self, key: str) -> bytes:
        """Reads it back.

        Raises:
            KeyError: there is none of that key.
        """
        ...

    # Timers

    async def put_timers(self, timers: Sequence[TimerRow]) -> None:
        """Keeps timers; putting one twice is once."""
        ...

    async def delete_timers(self, timers: Sequence[TimerRow]) -> None:
        """Deletes timers; those not there are ignored. Only the identity (instance, execution, timer) counts."""
        ...

    async def delete_execution_timers(self, executions: Sequence[tuple[str, str]]) -> None:
        """Deletes all timers of (instance, execution) pairs."""
        ...

    async def due_timers(self, partitions: Sequence[int], *, until: datetime, limit: int) -> list[TimerRow]:
        """Timers due up to ``until``, earliest first."""
        ...

    # Claims on long activities

    async def claim(self, claim: Claim, *, ttl: float) -> bool:
        """Takes (execution, task) for a worker: True if it is ours now (also again).

        False while another's claim is live, and once the one that is there has been cancelled.
        """
        ...

    async def renew_claims(
        self, worker_id: str, heartbeats: Sequence[Heartbeat] = (), *, ttl: float
    ) -> dict[TaskKey, bool]:
        """Extends all claims of a worker, live or expired, and notes the heartbeats of those that it still holds.

        Returns them, and of each whether it has been cancelled.
        """
        ...

    async def cancel_claims(self, tasks: Sequence[TaskKey]) -> dict[TaskKey, str]:
        """Marks the claims that there are on these tasks as cancelled; returns which, and their workers."""
        ...

    async def claims(self, instance_id: str) -> list[Claim]:
        """All claims on activities of an instance, in order of execution and task."""
        ...

    async def release_claim(self, task: TaskKey, worker_id: str, *, if_expired: bool = False) -> None:
        """Ends a claim if that worker still holds it, live or expired; ``if_expired``: only if it has not been renewed."""
        ...

    async def claimed(self, task: TaskKey) -> bool:
        """Whether a live claim exists."""
        ...

    async def expired_claims(self, partitions: Sequence[int], limit: int) -> list[Claim]:
        """Claims whose worker has stopped renewing them."""
        ...

    # Hub-wide limits of activities

    async def hold_permits(self, worker_id: str, permits: Sequence[Permits], *, ttl: float) -> list[int]:
        """Says how many permits a worker would like to hold, and returns how many it now does, of each limit in the order given.

        It gets what it wants as far as other workers leave it: those whose permits were renewed within their time to live. What is
        returned replaces what it held before, and lasts for ``ttl``; zero gives all of them back. So repeating is safe.
        """
        ...

    async def reserve_starts(self, name: str, *, count: int, every: float, ahead: float) -> Starts:
        """Reserves up to ``count`` starts under a hub-wide rate limit, each ``every`` seconds after the one before.

        None is later than ``ahead`` seconds from now, so perhaps there is none. Repeated after a lost answer, starts are wasted, never
        doubled.
        """
        ...

    # Workers and leases

    async def heartbeat(self, worker: WorkerInfo, *, ttl: float) -> HubView:
        """Says that a worker lives, extends the leases that it holds, and returns the hub."""
        ...

    async def view(self, *, ttl: float) -> HubView:
        """The hub, for one who is no worker."""
        ...

    async def acquire(
        self, partition: int, worker_id: str, *, epoch: int, ttl: float, steal: bool = False
    ) -> Lease | None:
        """Takes a partition whose lease is still at ``epoch`` and free or expired (``steal``: or held); None if it is not so any more.

        Repeated after a lost answer, it finds itself the owner at ``epoch + 1``.
        """
        ...

    async def release(self, partition: int, worker_id: str) -> None:
        """Frees a partition if this worker holds it."""
        ...

    async def leave(self, worker_id: str) -> None:
        """Forgets a worker and frees what it holds."""
        ...

    # Quarantine

    async def quarantine(self, message: Quarantined) -> None:
        """Keeps a message, once however often it is said; of a body over 4 MiB, the beginning."""
        ...

    async def quarantined(self, limit: int) -> list[Quarantined]:
        """Newest first."""
        ...


# --- Machine ----------------------------------------------------------------------------------------------------------


class BackgroundTask(Protocol):
    """A task that was spawned."""

    def cancel(self) -> None: ...

    def done(self) -> bool: ...

    async def wait(self) -> None:
        """Returns once it has ended. Raises what it raised, except its cancellation."""
        ...


class Host(Protocol):
    """Clock, randomness, threads and tasks. The runtime has them from nowhere else, so that a simulator can stand in."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    def token(self) -> str:
        """32 random hex digits."""
        ...

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> BackgroundTask: ...

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs a blocking function in a pool of threads, in the context (``contextvars``) of whoever asks."""
        ...

    def worker_thread(self, name: str) -> WorkerThread:
        """A thread that runs one function at a time, in order."""
        ...


class WorkerThread(Protocol):
    """One thread with a queue of work."""

    def run(self, work: Callable[[], T]) -> Awaitable[T]:
        """Queues a function; the awaitable is of the event loop that asked."""
        ...

    def interrupt(self, error: type[BaseException]) -> None:
        """Raises an exception in the thread at its next byte code, if it is running a function."""
        ...

    def stack(self) -> str:
        """Where the thread is, as a stack trace; empty when it is idle."""
        ...

    def abandon(self) -> None:
        """Gives the thread up: it takes no more work, and what it runs now ends unheard."""
        ...
