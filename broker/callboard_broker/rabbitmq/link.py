"""Keeps one connection alive: connect, prepare, serve; when it ends, tear down, back off, and again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from callboard.errors import BrokerUnavailableError, CallboardError
from callboard_broker.rabbitmq.errors import WIRE_ERRORS, RefusedError, unreachable
from callboard_broker.rabbitmq.options import RabbitMQOptions
from callboard_broker.rabbitmq.wire import Wire

log = logging.getLogger("callboard.broker")

#: Seconds between looks at whether the server has blocked us.
WATCH_SECONDS = 1.0


class Backoff:
    """Jittered exponential delays."""

    def __init__(self, options: RabbitMQOptions, dice: random.Random) -> None:
        self._options, self._dice = options, dice
        self._failures = 0

    def next(self) -> float:
        ceiling: float = min(self._options.backoff_max, self._options.backoff_initial * (1 << self._failures))
        self._failures = min(self._failures + 1, 30)
        return ceiling * (0.5 + 0.5 * self._dice.random())

    def reset(self) -> None:
        self._failures = 0

    async def pause(self) -> None:
        await asyncio.sleep(self.next())


class Link:
    """A connection that comes back.

    Args:
        purpose: What it is for, in logs and in RabbitMQ's management page.
        prepare: Is called with each new wire before anybody else gets it.
        on_lost: Is called when a wire that was handed out has ended.
        probe: Is called now and then while the wire lives; if it raises, the wire is aborted.
    """

    def __init__(
        self,
        options: RabbitMQOptions,
        purpose: str,
        *,
        prepare: Callable[[Wire], Awaitable[None]],
        on_lost: Callable[[str], None],
        probe: Callable[[Wire], Awaitable[None]],
        dice: random.Random,
    ) -> None:
        self._options, self._purpose = options, purpose
        self._prepare, self._on_lost, self._probe = prepare, on_lost, probe
        self._backoff = Backoff(options, dice)
        self._wire: Wire | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.trouble = "not connected yet"

    @property
    def wire(self) -> Wire | None:
        """The connection, while there is one."""
        return self._wire

    async def connected(self) -> Wire:
        """Waits for a connection."""
        while self._wire is None:
            await self._up.wait()
        return self._wire

    async def start(self, deadline: float) -> None:
        """Returns once connected and prepared; from then on the connection is made again for ever.

        Raises:
            BrokerUnavailableError: not reached by the deadline (of the loop's clock), or refused.
            ConfigurationError: what is to be prepared cannot be.
        """
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(
            self._run(first, deadline), name=f"callboard broker {self._purpose}"
        )
        await first

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self, first: asyncio.Future[None], deadline: float) -> None:
        try:
            wire = await self._first_wire(deadline)
        except CallboardError as error:
            if not first.done():
                first.set_exception(error)
            return
        lost_at: float | None = None
        while True:
            lived = await self._serve(wire, first, lost_at)
            lost_at = time.monotonic()
            if lived > self._options.backoff_max:
                self._backoff.reset()
            wire = await self._next_wire()

    async def _first_wire(self, deadline: float) -> Wire:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._make()
            except RefusedError:
                raise
            except TimeoutError as error:
                raise unreachable(self._options, "") from error
            except BrokerUnavailableError:
                delay = self._backoff.next()
                if asyncio.get_running_loop().time() + delay >= deadline:
                    raise
                await asyncio.sleep(delay)

    async def _next_wire(self) -> Wire:
        while True:
            await self._backoff.pause()
            try:
                return await self._make()
            except CallboardError as error:
                if self.trouble != str(error):
                    log.warning("Cannot reconnect to RabbitMQ (%s), still trying: %s", self._purpose, error)
                self.trouble = str(error)

    async def _make(self) -> Wire:
        wire = await Wire.connect(self._options, self._purpose)
        try:
            await self._prepare(wire)
        except WIRE_ERRORS as error:
            await wire.aclose()
            if isinstance(error, BrokerUnavailableError):
                raise
            raise BrokerUnavailableError(
                f"RabbitMQ at {self._options.address} did not answer as it should: {error}."
            ) from error
        except BaseException:
            await wire.aclose()
            raise
        return wire

    async def _serve(self, wire: Wire, first: asyncio.Future[None], lost_at: float | None) -> float:
        """Hands the wire out until it is lost; returns for how long that was."""
        since = time.monotonic()
        where = (".".join(map(str, wire.version)), self._options.address, self._purpose)
        if lost_at is None:
            log.info("Connected to RabbitMQ %s at %s (%s)", *where)
        else:
            log.info("Reconnected to RabbitMQ %s at %s (%s) after %.1f s", *where, since - lost_at)
        self._wire = wire
        self._up.set()
        if not first.done():
            first.set_result(None)
        try:
            await self._watch(wire)
        finally:
            self._wire = None
            self._up.clear()
            self.trouble = wire.lost.result() if wire.lost.done() else "closed"
            self._on_lost(self.trouble)
            if wire.lost.done():
                log.warning("Lost the connection to RabbitMQ at %s (%s): %s", *where[1:], self.trouble)
            await wire.aclose()
        return time.monotonic() - since

    async def _watch(self, wire: Wire) -> None:
        blocked, next_probe = False, time.monotonic() + self._options.probe_interval
        while not wire.lost.done():
            await asyncio.wait({wire.lost}, timeout=WATCH_SECONDS)
            if wire.blocked != blocked:
                blocked = not blocked
                if blocked:
                    log.warning(
                        "RabbitMQ has stopped taking messages: its memory or disk alarm is on (%s)", self._purpose
                    )
                else:
                    log.info("RabbitMQ takes messages again (%s)", self._purpose)
            if not blocked and not wire.lost.done() and time.monotonic() >= next_probe:
                await self._probe_once(wire)
                next_probe = time.monotonic() + self._options.probe_interval

    async def _probe_once(self, wire: Wire) -> None:
        try:
            await self._probe(wire)
        except WIRE_ERRORS as error:
            wire.abort(f"the probe failed: {error}")
