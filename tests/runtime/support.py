"""A stage for whole workers: they share a broker and a store, can be meddled with, and can be killed at any call."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import functools
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from callboard import App, Client, TaskHub, Worker, WorkerOptions
from callboard.bodies import restored
from callboard.core.events import (
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from callboard.core.instances import Commit, partition_of
from callboard.core.messages import Message
from callboard.host import SystemHost, SystemTask
from callboard.packs import decode_pack, encode_pack
from callboard.ports import AppendOutcome, Broker, Delivery, Destination, DestinationKind, Store, Subscription
from callboard_broker.memory import MemoryBroker, MemoryServer
from callboard_store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from types import TracebackType

#: How long a condition may take to come true, in seconds. Only what is broken takes that long.
DEADLINE = 10.0
PARTITIONS = 4

Ledger = dict[tuple[str, int], Commit]
Hook = Callable[..., Awaitable[object] | None]
Condition = Callable[[], object]


async def eventually(condition: Condition, what: str = "", *, within: float = DEADLINE) -> Any:
    """Waits until a condition, plain or a coroutine function, is true, and returns its value."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if loop.time() > until:
            raise AssertionError(f"Not within {within} s: {what or inspect.getsource(cast('Any', condition)).strip()}")
        await asyncio.sleep(0.005)


async def a_while() -> None:
    """Long enough for what must not happen: some rounds of the loop, the threads and the sweeps of `fast`."""
    await asyncio.sleep(0.15)


class Doom:
    """The life of one worker; each call to a store or broker is one step towards its end, if that has been set."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self.calls: list[str] = []
        self.at: int | None = None
        self.after = False
        self.kill: Callable[[], None] = self.dead.set

    async def call(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        await self._unless_dead()
        self.calls.append(name)
        doomed = len(self.calls) == self.at
        if doomed and not self.after:
            self.kill()
        await self._unless_dead()
        result = await work()
        if doomed:
            self.kill()
        await self._unless_dead()
        return result

    async def _unless_dead(self) -> None:
        if self.dead.is_set():
            await asyncio.Future[None]()  # the dead do not go on; their tasks are cancelled


class Meddler:
    """Stands before a store or broker. Hooks run before or after a method, and may raise, wait, or call others."""

    def __init__(self, inner: object, doom: Doom) -> None:
        self.inner = inner
        self.doom = doom
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.counts: Counter[str] = Counter()
        self.log: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(method):
            return method
        return functools.partial(self._call, name, method)

    async def _call(self, name: str, method: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        async def work() -> Any:
            await _run(self.before.get(name), *args)
            result = await method(*args, **kwargs)
            await _run(self.after.get(name), *args)
            return result

        self.counts[name] += 1
        self.log.append((name, args))
        return await self.doom.call(name, work)


class SharedStore(Meddler):
    """One worker's view of the store that all share; keeps a ledger of all commits, because old executions are trimmed."""

    inner: SQLiteStore

    def __init__(self, inner: SQLiteStore, doom: Doom, ledger: Ledger) -> None:
        super().__init__(inner, doom)
        self._ledger = ledger

    async def append(self, commits: Sequence[Commit]) -> list[AppendOutcome]:
        outcomes: list[AppendOutcome] = await self._call("append", self._append, commits)
        return outcomes

    async def _append(self, commits: Sequence[Commit]) -> list[AppendOutcome]:
        """What has reached the store happens, even if the caller dies meanwhile."""
        return await asyncio.shield(asyncio.ensure_future(self._append_and_note(commits)))

    async def _append_and_note(self, commits: Sequence[Commit]) -> list[AppendOutcome]:
        outcomes = await self.inner.append(commits)
        for commit, outcome in zip(commits, outcomes, strict=True):
            if outcome is AppendOutcome.COMMITTED:
                first = self._ledger.setdefault((commit.instance_id, commit.n), commit)
                assert first.token == commit.token, "two commits of one number"
        return outcomes

    async def open(self, hub: str, partitions: int | None, *, create: bool = True) -> int:
        return PARTITIONS

    async def aclose(self) -> None:
        pass


class OwnBroker(Meddler):
    """One worker's connection to the broker."""

    inner: MemoryBroker

    async def open(self, hub: str, partitions: int) -> None:
        await self.inner.open(hub, partitions)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def consume(self, *args: Any, **kwargs: Any) -> Subscription:
        async def work() -> Subscription:
            subscription = await self.inner.consume(*args, **kwargs)
            if self.doom.dead.is_set():
                await subscription.aclose()
            return subscription

        subscription: Subscription = await self.doom.call("consume", work)
        return subscription

    def drop_connection(self) -> None:
        self.inner.drop_connection()

    def unacked(self, destination: Destination | None = None) -> int:
        """How many messages this worker holds."""
        consumers = (each for each in self.inner._consumers if destination in (None, each._destination))
        return sum(len(each._unacked) for each in consumers)

    def published(self, kind: str) -> list[Message]:
        """The messages sent so far to destinations of a kind."""
        sent = (args for name, args in self.log if name == "publish" and args[0].kind.value == kind)
        return [message for args in sent for message in decode_pack(args[1])]


async def _run(hook: Hook | None, *args: Any) -> None:
    if hook is not None:
        outcome = hook(*args)
        if outcome is not None:
            await outcome


def to(kind: DestinationKind) -> Callable[[Any], bool]:
    """Whether a publish goes to a destination of that kind."""

    def applies(destination: Destination) -> bool:
        return destination.kind is kind

    return applies


class Gate:
    """A hook that waits until it is opened."""

    def __init__(self, applies: Callable[[Any], bool] = lambda _first: True) -> None:
        self._applies = applies
        self._opened = asyncio.Event()
        self.waiting = 0

    async def __call__(self, *args: Any) -> None:
        if self._applies(args[0]):
            self.waiting += 1
            await self._opened.wait()

    def open(self) -> None:
        self._opened.set()


class Failing:
    """A hook that raises some times, then lets pass."""

    def __init__(self, error: Exception, times: int = 1, applies: Callable[[Any], bool] = lambda _first: True) -> None:
        self._error, self._applies = error, applies
        self.left = times
        self.raised = 0

    def __call__(self, *args: Any) -> None:
        if self.left and self._applies(args[0]):
            self.left -= 1
            self.raised += 1
            raise self._error


class MortalHost(SystemHost):
    """The machine's own host, whose tasks can be ended without their being asked."""

    def __init__(self, doom: Doom) -> None:
        super().__init__(threads=4)
        self._doom = doom
        self.tasks: list[asyncio.Task[None]] = []

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> SystemTask:
        task = super().spawn(work, name=name)
        self.tasks.append(task._task)
        if self._doom.dead.is_set():
            task.cancel()
        return task


class Actor:
    """One worker or client on the stage, with what stands between it and the others."""

    def __init__(self, stage: Stage) -> None:
        self.doom = Doom()
        self.store = SharedStore(stage.store, self.doom, stage.ledger)
        self.broker = OwnBroker(MemoryBroker(stage.server), self.doom)
        self.host = MortalHost(self.doom)
        self.hub = TaskHub(stage.name, cast("Broker", self.broker), cast("Store", self.store), partitions=PARTITIONS)


class Player(Actor):
    """A worker."""

    def __init__(self, stage: Stage, app: App, options: WorkerOptions) -> None:
        super().__init__(stage)
        self.doom.kill = self.kill
        self.hub.partitions = PARTITIONS
        self.worker = Worker(app, self.hub, options, host=self.host)

    async def start(self) -> Player:
        await self.hub.open()
        started = asyncio.ensure_future(self.worker.start())
        died = asyncio.ensure_future(self.doom.dead.wait())
        await asyncio.wait([started, died], return_when="FIRST_COMPLETED")
        died.cancel()
        if self.doom.dead.is_set():
            started.cancel()
        else:
            started.result()
        return self

    def kill(self) -> None:
        """Ends the worker as kill -9 would: nothing of it goes on, and the broker takes back what it holds."""
        self.doom.dead.set()
        broker = self.broker.inner
        for consumer in list(broker._consumers):
            consumer.disconnect()
            broker.forget(consumer)
        for task in self.host.tasks:
            task.cancel()
        self.worker.turns._thread.close()
        self.host.close()

    async def stop(self) -> None:
        if self.doom.dead.is_set():
            await asyncio.gather(*self.host.tasks, return_exceptions=True)
        else:
            await self.worker.stop()
        self.host.close()
        await self.broker.aclose()


class Stage:
    """A hub with a broker in memory and a store in SQLite, on which workers and clients come and go."""

    def __init__(self, hub: str = "stage") -> None:
        self.name = hub
        self.server = MemoryServer()
        self.store = SQLiteStore(None)
        self.ledger: Ledger = {}
        self.players: list[Player] = []
        self.clients: list[tuple[Client, Actor]] = []
        self._outside = MemoryBroker(self.server)

    async def __aenter__(self) -> Self:
        await self.store.open(self.name, PARTITIONS)
        await self._outside.open(self.name, PARTITIONS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client, actor in self.clients:
            await client.aclose()
            actor.host.close()
            await actor.broker.aclose()
        for player in self.players:
            await player.stop()
        await self._outside.aclose()
        await self.store.aclose()

    def enter(self, app: App, **options: Any) -> Player:
        """A worker that is not started yet. It owns every partition without asking, unless told to ``balance``."""
        chosen: dict[str, Any] = {"balance": False, "drain": 2.0, **options}
        player = Player(self, app, WorkerOptions(**chosen))
        self.players.append(player)
        return player

    async def worker(self, app: App, **options: Any) -> Player:
        return await self.enter(app, **options).start()

    async def client(self, app: App | None = None) -> Client:
        return (await self.meddled_client(app))[0]

    async def meddled_client(self, app: App | None = None) -> tuple[Client, Actor]:
        actor = Actor(self)
        await actor.hub.open()
        client = Client(actor.hub, app, host=actor.host)
        self.clients.append((client, actor))
        return client, actor

    async def publish(self, destination: Destination, *messages: Message) -> None:
        await self.publish_bytes(destination, encode_pack(messages))

    async def publish_bytes(self, destination: Destination, body: bytes) -> None:
        await self._outside.publish(destination, body)

    async def listen(self, destination: Destination, *, ack: bool = True) -> list[Delivery]:
        """What is delivered there from now on."""
        heard: list[Delivery] = []

        def on_delivery(delivery: Delivery) -> None:
            heard.append(delivery)
            if ack:
                delivery.ack()

        await self._outside.consume(destination, on_delivery)
        return heard

    def queue_of(self, instance_id: str) -> Destination:
        return Destination.partition(partition_of(instance_id, PARTITIONS))

    async def depth(self, destination: Destination) -> int:
        return await self._outside.depth(destination)

    async def events(self, instance_id: str) -> list[HistoryEvent]:
        return [event for commit in await self.commits(instance_id) for event in commit.events]

    async def commits(self, instance_id: str) -> list[Commit]:
        """All commits that this instance ever had, trimmed and purged ones too."""
        mine = sorted(key for key in self.ledger if key[0] == instance_id)
        return [await restored(self.store, self.ledger[key]) for key in mine]

    async def unsent(self) -> list[Commit]:
        from datetime import UTC, datetime, timedelta  # noqa: PLC0415

        later = datetime.now(UTC) + timedelta(days=1)
        return await self.store.unsent(list(range(PARTITIONS)), before=later, limit=1000)

    async def exact(self, instance_id: str) -> list[HistoryEvent]:
        """Asserts that a history has no gap and holds each result once, and returns its events."""
        return check_exact(await self.commits(instance_id))


def check_exact(commits: list[Commit]) -> list[HistoryEvent]:
    """Invariants of a history: numbers without gaps, ids once, at most one end for each action, nothing after the end."""
    numbers = [commit.n for commit in commits]
    assert numbers == list(range(len(numbers))), numbers
    ends: Counter[object] = Counter()
    for commit in commits:
        for event in commit.events:
            match event:
                case TaskScheduled() | TimerCreated() | SubOrchestrationInstanceCreated():
                    ends[commit.execution_id, "asked", event.event_id] += 1
                case (
                    TaskCompleted()
                    | TaskFailed()
                    | SubOrchestrationInstanceCompleted()
                    | SubOrchestrationInstanceFailed()
                ):
                    assert ends[commit.execution_id, "asked", event.task_scheduled_id] == 1
                    ends[commit.execution_id, "ended", event.task_scheduled_id] += 1
                case TimerFired():
                    assert ends[commit.execution_id, "asked", event.timer_id] == 1
                    assert commit.at >= event.fire_at
                    ends[commit.execution_id, "ended", event.timer_id] += 1
                case EventRaised():
                    ends[commit.execution_id, event.message_id] += 1
                case ExecutionStarted():
                    ends[event.execution_id, "started"] += 1
                case ExecutionCompleted():
                    ends[commit.execution_id, "completed"] += 1
                    assert event is commit.events[-1]
                case _:
                    pass
    doubled = {what: times for what, times in ends.items() if times != 1}
    assert not doubled, doubled
    return [event for commit in commits for event in commit.events]
