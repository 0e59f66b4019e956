"""The floor: the least work that a durable orchestration of three activities needs on RabbitMQ and MongoDB, batched.

A measuring stick, not a runtime: no recovery, no dedupe, no timers, no replay. Quorum queues, persistent messages, publisher
confirms, majority and journal writes. It says what the machine allows, so that "x % of the floor" means the same everywhere.

`python -m tests.bench.floor owner|activities` serves until it is told to stop; `python -m tests.bench.floor client ORDER FILE`
measures.
"""

from __future__ import annotations

import asyncio
import collections
import os
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

import aio_pika
import msgspec
import uvloop
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import UpdateOne, WriteConcern

from .measuring import Measured, Meter, Order, stop_signal

T = TypeVar("T")
Item = list[Any]
Deliver = Callable[[AbstractIncomingMessage], Coroutine[Any, Any, None]]

INBOX, ACTIVITIES = "floor.inbox", "floor.activities"
#: How many starts the client has unconfirmed at a time.
STARTING = 512
PACK = 256
PREFETCH = 64

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[Item]).decode


class Loop:
    """Just enough of an event loop to drive an orchestration's coroutine step by step."""

    def __init__(self) -> None:
        self._ready: collections.deque[asyncio.Handle] = collections.deque()
        self._loop: Any = self  # asyncio asks for no more than what is here

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._loop, context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._loop)

    def create_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return asyncio.Task(coroutine, loop=self._loop)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise RuntimeError(context)

    def run_ready(self) -> None:
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        asyncio._set_running_loop(self._loop)
        try:
            while self._ready:
                self._ready.popleft()._run()
        finally:
            asyncio._set_running_loop(outer)


class Actor:
    """One orchestration: its coroutine, and what it waits for."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.pending: dict[int, asyncio.Future[str]] = {}
        self.calls: list[tuple[int, str]] = []
        self.next_id = 0
        self.turn = 0
        self.task = self.loop.create_task(self.hello())

    def call(self, argument: str) -> asyncio.Future[str]:
        future = self.loop.create_future()
        self.pending[self.next_id] = future
        self.calls.append((self.next_id, argument))
        self.next_id += 1
        return future

    async def hello(self) -> list[str]:
        return [await self.call(city) for city in ("Tokyo", "Seattle", "London")]


class Packer:
    """Packs what is sent to one queue while the previous publish awaits its confirm."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._waiting: dict[str, list[tuple[Item, asyncio.Future[None]]]] = {}
        self._flushing: dict[str, asyncio.Task[None]] = {}

    def send(self, queue: str, item: Item) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(queue, []).append((item, done))
        if queue not in self._flushing:
            self._flushing[queue] = loop.create_task(self._flush(queue))
        return done

    async def _flush(self, queue: str) -> None:
        while batch := self._waiting.get(queue, [])[:PACK]:
            self._waiting[queue] = self._waiting[queue][PACK:]
            body = encode([item for item, _ in batch])
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await self._channel.default_exchange.publish(message, routing_key=queue)
            for _, done in batch:
                done.set_result(None)
        del self._flushing[queue]


class Batch:
    """What one round of turns writes and sends."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.statuses: list[UpdateOne] = []
        self.effects: list[Item] = []

    def add(self, instance: str, turn: int, items: list[Item], calls: list[tuple[int, str]], output: object) -> None:
        self.documents.append({"_id": {"i": instance, "n": turn}, "e": encode([items, calls, output])})
        status = "Completed" if output else "Running"
        values = {"status": status, "n": turn, "at": time.time()}
        self.statuses.append(UpdateOne({"_id": instance}, {"$set": values}, upsert=True))
        self.effects += [[instance, key, argument] for key, argument in calls]


class Owner:
    """Runs the turns."""

    def __init__(self, packer: Packer, database: Any) -> None:
        self._packer = packer
        self._database = database
        self._actors: dict[str, Actor] = {}
        self._inbox: list[AbstractIncomingMessage] = []
        self._wake = asyncio.Event()

    async def deliver(self, message: AbstractIncomingMessage) -> None:
        self._inbox.append(message)
        self._wake.set()

    async def run(self) -> None:
        commits: set[asyncio.Task[None]] = set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            messages, self._inbox = self._inbox, []
            batch = self._take_turns(messages)
            while len(commits) >= 2:
                await asyncio.wait(commits, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._commit(batch, messages))
            commits.add(task)
            task.add_done_callback(commits.discard)

    def _take_turns(self, messages: list[AbstractIncomingMessage]) -> Batch:
        mail: dict[str, list[Item]] = {}
        for message in messages:
            for item in decode(message.body):
                mail.setdefault(item[0], []).append(item)
        batch = Batch()
        for instance, items in mail.items():
            for item in items:
                if item[1] == "start":
                    self._actors[instance] = Actor()
                else:
                    self._actors[instance].pending.pop(item[2]).set_result(item[3])
            actor = self._actors[instance]
            actor.loop.run_ready()
            actor.turn += 1
            calls, actor.calls = actor.calls, []
            output = actor.task.result() if actor.task.done() else None
            batch.add(instance, actor.turn, items, calls, output)
            if output:
                del self._actors[instance]
        return batch

    async def _commit(self, batch: Batch, messages: list[AbstractIncomingMessage]) -> None:
        await asyncio.gather(
            self._database.history.insert_many(batch.documents, ordered=False),
            self._database.instances.bulk_write(batch.statuses, ordered=False),
        )
        await asyncio.gather(*(self._packer.send(ACTIVITIES, effect) for effect in batch.effects))
        for message in messages:
            await message.ack()


async def connect(prefetch: int) -> tuple[AbstractConnection, AbstractChannel]:
    connection = await aio_pika.connect(os.environ["AMQP_URL"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=prefetch)
    for queue in (INBOX, ACTIVITIES):
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})
    return connection, channel


async def serve(channel: AbstractChannel, name: str, deliver: Deliver) -> None:
    """Consume from a queue, without what an earlier run left there."""
    queue = await channel.get_queue(name)
    await queue.purge()
    await queue.consume(deliver)


async def served(channel: AbstractChannel) -> None:
    """Wait until somebody serves each queue."""
    for name in (INBOX, ACTIVITIES):
        while not (await channel.declare_queue(name, passive=True)).declaration_result.consumer_count:
            await asyncio.sleep(0.05)


def open_database() -> Any:
    client: AsyncIOMotorClient[Any] = AsyncIOMotorClient(os.environ["MONGODB_URL"])
    return client.get_database("floor", write_concern=WriteConcern("majority", j=True))


async def own() -> None:
    """Serve the orchestrations."""
    connection, channel = await connect(PREFETCH)
    async with connection:
        owner = Owner(Packer(channel), open_database())
        await serve(channel, INBOX, owner.deliver)
        running, stopped = asyncio.create_task(owner.run()), asyncio.create_task(stop_signal())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        running.cancel()


async def serve_activities() -> None:
    """Serve the activities."""
    connection, channel = await connect(PREFETCH)
    packer = Packer(channel)

    async def deliver(message: AbstractIncomingMessage) -> None:
        replies = [[instance, "done", key, f"Hello {argument}!"] for instance, key, argument in decode(message.body)]
        await asyncio.gather(*(packer.send(INBOX, reply) for reply in replies))
        await message.ack()

    async with connection:
        await serve(channel, ACTIVITIES, deliver)
        await stop_signal()


class Client:
    """Starts orchestrations and looks until all have ended."""

    def __init__(self, packer: Packer, database: Any) -> None:
        self._packer = packer
        self._instances = database.instances
        self._window = asyncio.Semaphore(STARTING)

    async def run(self, names: Iterable[str]) -> None:
        """Run one orchestration for each name."""
        names = list(names)
        await asyncio.gather(*map(self._start, names))
        mine = {"_id": {"$gte": names[0], "$lte": names[-1]}, "status": "Completed"}
        while await self._instances.count_documents(mine) < len(names):
            await asyncio.sleep(0.05)

    async def _start(self, name: str) -> None:
        async with self._window:
            await self._packer.send(INBOX, [name, "start"])


def names(run: str, count: int) -> Generator[str]:
    """Yield ids in order."""
    return (f"{run}-{number:08}" for number in range(count))


async def measure(order: Order) -> list[Measured]:
    """Warm up, then measure."""
    connection, channel = await connect(1)
    async with connection:
        await served(channel)
        database = open_database()
        await asyncio.gather(database.history.drop(), database.instances.drop())
        client, run = Client(Packer(channel), database), f"{time.time_ns():x}"
        if order.warmup:
            await client.run(names(f"{run}w", order.warmup))
        found: list[Measured] = []
        for repetition in range(order.repeat):
            meter = Meter(order)
            await client.run(names(f"{run}.{repetition}", order.count))
            found.append(await meter.stop(order.count))
        return found


def main(role: str, *arguments: str) -> None:
    uvloop.install()
    if role == "client":
        order = msgspec.json.decode(arguments[0], type=Order)
        Path(arguments[1]).write_bytes(msgspec.json.encode(asyncio.run(measure(order))))
    else:
        asyncio.run({"owner": own, "activities": serve_activities}[role]())


if __name__ == "__main__":
    main(*sys.argv[1:])
