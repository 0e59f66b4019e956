"""Waiting for instances to end: told by their owners, never by polling.

A notice can be lost (with its owner, or with a connection), so a waiting client asks again whenever the partition has changed
hands, and looks for itself when it reconnects and every now and then.
"""

from __future__ import annotations

import asyncio

from callboard.client.connection import VIEW_AGE, Connection
from callboard.core.instances import InstanceRecord
from callboard.core.messages import InstanceEnded, Watch
from callboard.ports import BackgroundTask

#: How often a waiting client looks for itself, should a notice have been lost, in seconds.
LOOK_AGAIN = 30.0
#: How many of the instances that it has started a client remembers, until it is asked for their result.
MOST_ANNOUNCED = 100_000


class Endings:
    """The ends that one client waits for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._announced: dict[str, bool] = {}
        """Instances started here whose end will be announced to us, and whether it was. The oldest are forgotten."""
        self._following: BackgroundTask | None = None
        connection.on(InstanceEnded, self._on_ended)
        connection.on_reconnect(self._wake_all)

    def expect(self, instance_id: str) -> None:
        """Notes that the owner knows of our interest already: the start said so."""
        self._announced[instance_id] = False
        if len(self._announced) > MOST_ANNOUNCED:
            del self._announced[next(iter(self._announced))]

    async def wait(self, instance_id: str, timeout: float | None) -> InstanceRecord:
        """Waits until an instance has ended and returns its record.

        Raises:
            InstanceNotFoundError: there is none of that id.
            TimeoutError: it has not ended within ``timeout`` seconds.
        """
        await self._connection.listen()
        notice = asyncio.Event()
        self._waiting.setdefault(instance_id, set()).add(notice)
        self._follow_owners()
        try:
            async with asyncio.timeout(timeout):
                if not await self._will_be_told(instance_id, notice):
                    self._watch(instance_id)
                while not (record := await self._connection.record(instance_id)).terminal:
                    if not await _notified(notice):
                        self._watch(instance_id)
                return record
        except TimeoutError as error:
            raise TimeoutError(f"Instance {instance_id!r} has not ended within {timeout} s.") from error
        finally:
            self._stop_waiting(instance_id, notice)

    async def _will_be_told(self, instance_id: str, notice: asyncio.Event) -> bool:
        """Whether the end of an instance started here was announced, or is within a while: then there is no need to ask."""
        if instance_id not in self._announced:
            return False
        return self._announced.pop(instance_id) or await _notified(notice)

    def _watch(self, instance_id: str) -> None:
        self._connection.tell(Watch(instance_id=instance_id, reply_to=self._connection.client_id))

    def _stop_waiting(self, instance_id: str, notice: asyncio.Event) -> None:
        notices = self._waiting.get(instance_id, set())
        notices.discard(notice)
        if not notices:
            self._waiting.pop(instance_id, None)

    def _on_ended(self, ended: InstanceEnded) -> None:
        waiting = self._waiting.get(ended.instance_id)
        if waiting is None:
            if ended.instance_id in self._announced:
                self._announced[ended.instance_id] = True
            return
        for notice in waiting:
            notice.set()

    def _wake_all(self) -> None:
        """Notices may have been lost with the connection: everyone looks for himself."""
        self._announced.clear()
        for notices in self._waiting.values():
            for notice in notices:
                notice.set()

    def _follow_owners(self) -> None:
        if self._following is None:
            self._following = self._connection.host.spawn(self._follow(), name="callboard follow owners")

    async def _follow(self) -> None:
        """While anyone waits: asks a partition's new owner, who was never told what the last one knew."""
        try:
            await self._ask_new_owners()
        finally:
            self._following = None

    async def _ask_new_owners(self) -> None:
        routes = self._connection.routes
        owners = [routes.owner(number) for number in range(routes.partitions)]
        while self._waiting:
            for instance_id in list(self._waiting):
                number = routes.partition_of(instance_id)
                if owners[number] != routes.owner(number):
                    self._watch(instance_id)
            owners = [routes.owner(number) for number in range(routes.partitions)]
            await self._connection.host.sleep(VIEW_AGE)
            await self._connection.refresh_routes()


async def _notified(notice: asyncio.Event) -> bool:
    """Waits for a notice, or for the time to look again; says which it was."""
    try:
        async with asyncio.timeout(LOOK_AGAIN):
            await notice.wait()
    except TimeoutError:
        return False
    notice.clear()
    return True
