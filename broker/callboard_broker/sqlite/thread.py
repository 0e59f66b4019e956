"""The one thread that touches the journal. All that waits goes into one transaction: a hundred publishes cost one sync.

The event loop sends commands and settles deliveries; the thread answers with one landing per transaction. What the thread owns
(who holds how much, which queues may have messages waiting) nobody else writes.

A message for an inbox of this very broker never becomes a row while its consumer can take it: the inbox dies with the process anyway.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from callboard.errors import UnroutableError
from callboard.ports import Destination, DestinationKind, Properties
from callboard_broker.sqlite.journal import Journal, Letter, encode_headers

logger = logging.getLogger(__name__)

#: How often the thread looks for what other processes did, and the longest that an ack waits for a transaction to join. Waking up
#: costs some 100 µs of CPU whatever is done then: ten times a second is 0.1 % of a core.
TICK_SECONDS = 0.1
#: How often while others are there and somebody has written just now: a command line waits for its answer.
LIVELY_TICK_SECONDS = 0.01
LIVELY_SECONDS = 1.0
#: The most commands in one transaction, so that the first of them does not wait too long.
BATCH = 1000


@dataclass(slots=True, eq=False)
class Consumer:
    """One subscription, as the thread sees it."""

    queue: str
    prefetch: int
    deliver: Callable[[Letter], None]
    """Called in the event loop."""
    id: int = 0
    held: set[int] = field(default_factory=set[int])
    starved: bool = False
    """Messages may wait that it has no room for: a settlement should wake the thread. Read by the event loop."""

    @property
    def room(self) -> int:
        return self.prefetch - len(self.held)


@dataclass(slots=True, eq=False)
class Publish:
    destination: Destination
    queue: str
    body: bytes
    headers: Mapping[str, str]
    encoded_headers: str | None
    """As ``encode_headers`` made them, in the caller's context: what cannot be encoded must not fail others' messages."""
    properties: Properties
    hub: str
    done: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Prepare:
    queue: str
    exchange: str
    keys: Sequence[str]
    done: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Subscribe:
    consumer: Consumer
    done: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Unsubscribe:
    consumer: Consumer
    done: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Count:
    queue: str
    done: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Stop:
    done: asyncio.Future[Any]


Command: TypeAlias = Publish | Prepare | Subscribe | Unsubscribe | Count | Stop


@dataclass(slots=True, eq=False)
class Landing:
    """What one transaction brought."""

    answers: list[tuple[asyncio.Future[Any], Any, Exception | None]] = field(
        default_factory=list[tuple[asyncio.Future[Any], Any, Exception | None]]
    )
    letters: list[tuple[Consumer, Letter]] = field(default_factory=list[tuple[Consumer, Letter]])


@dataclass(frozen=True, slots=True)
class _Settlement:
    consumer: Consumer
    letter: Letter
    ack: bool


class JournalThread:
    """Runs a journal for the event loop it was made in."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._settled: deque[_Settlement] = deque()
        self._unwritten: list[_Settlement] = []
        self._leaving: list[Consumer] = []
        self._consumers: dict[str, list[Consumer]] = {}
        self._look: set[str] = set()
        self._peers: list[str] = []
        self._dead: list[str] = []
        self._next_look = 0.0
        self._lively_until = 0.0
        self._inboxed = 0
        self._failing = False
        # A daemon: a program that ends without aclose must not hang, and a journal survives worse than that.
        self._thread = threading.Thread(target=self._run, name="callboard-sqlite-broker", daemon=True)

    # Called in the event loop

    async def start(self) -> None:
        """Opens the journal. Raises what that raises, with the thread at its end."""
        self._opened: asyncio.Future[Any] = self._loop.create_future()
        self._thread.start()
        await self._opened

    def send(self, command: Command) -> None:
        self._commands.put(command)

    def settle(self, consumer: Consumer, letter: Letter, *, ack: bool) -> None:
        """Acks or gives back. Acks wait for the next transaction, unless the consumer waits for room."""
        self._settled.append(_Settlement(consumer, letter, ack))
        if not ack or (consumer.starved and len(self._settled) * 2 >= consumer.prefetch):
            self._commands.put(None)

    def join(self) -> None:
        self._thread.join()

    # The thread

    def _run(self) -> None:
        opening = Landing()
        try:
            self._journal.open()
            opening.answers.append((self._opened, None, None))
        except Exception as error:  # noqa: BLE001 (raised again by start)
            opening.answers.append((self._opened, None, error))
            self._post(opening)
            return
        self._post(opening)
        stop: Stop | None = None
        try:
            while stop is None and not self._loop.is_closed():
                commands = self._gather()
                stop = next((command for command in commands if isinstance(command, Stop)), None)
                self._cycle(commands)
        finally:
            self._journal.close()
        if stop is not None:
            self._post(Landing(answers=[(stop.done, None, None)]))

    def _gather(self) -> list[Command]:
        """Waits for something to do; returns empty-handed after a tick."""
        # A settlement may have come just before its consumer was marked as starved.
        hurry = bool(self._settled) and bool(self._look)
        gathered: list[Command | None] = []
        with suppress(queue.Empty):
            gathered.append(self._commands.get(timeout=0 if hurry else self._tick()))
            while len(gathered) < BATCH:
                gathered.append(self._commands.get_nowait())
        return [command for command in gathered if command is not None]

    def _cycle(self, commands: list[Command]) -> None:
        """One transaction, or none if there is nothing to write."""
        landing = Landing()
        durable = any(
            isinstance(command, Publish) and command.destination.kind is not DestinationKind.INBOX
            for command in commands
        )
        try:
            self._look_around()
            self._take_settlements()
            if not (commands or self._unwritten or self._look or self._dead or self._leaving):
                return
            if commands:
                self._lively_until = time.monotonic() + LIVELY_SECONDS
            with self._journal.transaction(durable=durable):
                self._bury_dead()
                self._write_settlements()
                for command in commands:
                    self._carry_out(command, landing)
                self._see_off()
                self._feed(landing)
            self._unwritten.clear()
            self._leaving.clear()
            self._dead.clear()
            self._recovered()
        except Exception as error:  # noqa: BLE001 (told to all who wait; the thread must go on)
            landing = self._failed(commands, landing, error)
        self._mark_starved()
        self._post(landing)

    def _take_settlements(self) -> None:
        for _ in range(len(self._settled)):
            settlement = self._settled.popleft()
            if settlement.letter.id not in settlement.consumer.held:
                continue  # its subscription is closed: the message went back with the others
            settlement.consumer.held.discard(settlement.letter.id)
            if settlement.letter.id > 0 or not settlement.ack:
                self._unwritten.append(settlement)

    def _write_settlements(self) -> None:
        acked = [each.letter.id for each in self._unwritten if each.ack]
        rejected = [each for each in self._unwritten if not each.ack]
        if acked:
            self._journal.delete(acked)
        if rejected:
            self._journal.give_back([each.letter.id for each in rejected if each.letter.id > 0])
            for each in rejected:
                if each.letter.id < 0 and each.consumer.queue in self._consumers:
                    self._journal.insert(
                        each.consumer.queue,
                        each.letter.body,
                        encode_headers(each.letter.headers, each.letter.properties),
                        deliveries=1,
                    )
            self._look.update(self._consumers)

    def _look_around(self) -> None:
        """Looks for what other processes wrote, and for those that died."""
        now = time.monotonic()
        if now < self._next_look:
            return
        if self._journal.changed():
            self._look.update(self._consumers)
            self._peers = self._journal.peers()
            self._lively_until = now + LIVELY_SECONDS
        self._dead = self._journal.dead(self._peers)
        self._next_look = now + self._tick()

    def _tick(self) -> float:
        """How long to wait: short while a dialogue with another process may be going on."""
        return LIVELY_TICK_SECONDS if self._peers and time.monotonic() < self._lively_until else TICK_SECONDS

    def _bury_dead(self) -> None:
        for process in self._dead:
            self._journal.bury(process)
        if self._dead:
            self._look.update(self._consumers)
            self._peers = self._journal.peers()

    def _carry_out(self, command: Command, landing: Landing) -> None:
        answer: Any = None
        match command:
            case Publish():
                landing.answers.append((command.done, None, self._publish(command, landing)))
                return
            case Prepare():
                self._journal.prepare(command.queue, command.exchange, command.keys)
            case Subscribe():
                command.consumer.id = self._journal.add_consumer(command.consumer.queue)
                self._consumers.setdefault(command.consumer.queue, []).append(command.consumer)
                self._look.add(command.consumer.queue)
            case Unsubscribe():
                self._unsubscribe(command.consumer)
            case Count():
                answer = self._journal.depth(command.queue)
            case Stop():
                for consumer in [each for several in self._consumers.values() for each in several]:
                    self._unsubscribe(consumer)
                return
        landing.answers.append((command.done, answer, None))

    def _publish(self, command: Publish, landing: Landing) -> Exception | None:
        if command.destination.kind in (DestinationKind.TOPIC, DestinationKind.FOREIGN):
            for name in self._journal.receivers(command.hub, command.destination):
                self._keep(command, name, landing)
            return None
        taker = self._taker(command.queue)
        inbox = command.destination.kind is DestinationKind.INBOX
        if inbox and taker is not None:
            self._inboxed -= 1
            self._hand(taker, Letter(self._inboxed, command.body, command.headers, 1, command.properties), landing)
            return None
        if inbox and command.queue not in self._consumers and not self._journal.consumed(command.queue):
            return UnroutableError(command.destination)
        self._keep(command, command.queue, landing)
        return None

    def _keep(self, command: Publish, name: str, landing: Landing) -> None:
        """Puts a message into a queue, or into the hands of one who waits for it."""
        taker = self._taker(name)
        if taker is None:
            self._journal.insert(name, command.body, command.encoded_headers)
            if name in self._consumers:
                self._look.add(name)
        else:
            message = self._journal.insert(name, command.body, command.encoded_headers, consumer=taker.id, deliveries=1)
            self._hand(taker, Letter(message, command.body, command.headers, 1, command.properties), landing)

    def _taker(self, name: str) -> Consumer | None:
        """Who may have a message at once: one with room, if no older message waits. The emptiest, so that siblings share."""
        consumers = self._consumers.get(name)
        if not consumers or name in self._look:
            return None
        taker = max(consumers, key=lambda each: each.room)
        return taker if taker.room > 0 else None

    def _hand(self, consumer: Consumer, letter: Letter, landing: Landing) -> None:
        consumer.held.add(letter.id)
        landing.letters.append((consumer, letter))

    def _feed(self, landing: Landing) -> None:
        """Claims what waits for those who have room."""
        for name in sorted(self._look):
            for consumer in sorted(self._consumers.get(name, ()), key=lambda each: -each.room):
                if consumer.room <= 0:
                    break
                if not self._journal.waiting(name):
                    self._look.discard(name)
                    break
                for letter in self._journal.claim(consumer.id, name, consumer.room):
                    self._hand(consumer, letter, landing)
        self._look.intersection_update(self._consumers)

    def _unsubscribe(self, consumer: Consumer) -> None:
        """Takes a consumer out at once; its row goes with this transaction, or with the first that succeeds."""
        if self._forget(consumer):
            self._leaving.append(consumer)

    def _forget(self, consumer: Consumer) -> bool:
        siblings = self._consumers.get(consumer.queue, [])
        if consumer not in siblings:
            return False
        siblings.remove(consumer)
        if not siblings:
            del self._consumers[consumer.queue]
        consumer.held.clear()
        return True

    def _see_off(self) -> None:
        for consumer in self._leaving:
            self._journal.remove_consumer(consumer.id)
        if self._leaving:
            self._look.update(self._consumers)

    def _mark_starved(self) -> None:
        for name, consumers in self._consumers.items():
            for consumer in consumers:
                consumer.starved = name in self._look

    # Answers

    def _failed(self, commands: list[Command], landing: Landing, error: Exception) -> Landing:
        """Nothing was written: everybody hears it, and what was settled is tried again."""
        for consumer, letter in landing.letters:
            consumer.held.discard(letter.id)
        for command in commands:
            if isinstance(command, Subscribe):
                self._forget(command.consumer)  # its row is not there
            elif isinstance(command, Unsubscribe):
                self._unsubscribe(command.consumer)
        self._look.update(self._consumers)
        if not self._failing:
            self._failing = True
            logger.warning("The broker's journal cannot be written: %s", self._journal.explain(error), exc_info=error)
        failed = Landing()
        for command in commands:
            # Closing succeeds in any case: what the consumer held comes back with the next transaction that does.
            told = None if isinstance(command, Unsubscribe) else self._journal.explain(error)
            if not isinstance(command, Stop):
                failed.answers.append((command.done, None, told))
        return failed

    def _recovered(self) -> None:
        if self._failing:
            self._failing = False
            logger.info("The broker's journal can be written again")

    def _post(self, landing: Landing) -> None:
        if landing.answers or landing.letters:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_land, landing)


def _land(landing: Landing) -> None:
    for done, answer, error in landing.answers:
        if done.done():
            continue  # whoever waited was cancelled
        if error is None:
            done.set_result(answer)
        else:
            done.set_exception(error)
    for consumer, letter in landing.letters:
        consumer.deliver(letter)
