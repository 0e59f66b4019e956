"""The consumers of the partitions that a worker owns: made as soon as the broker lets us, ended when a partition is lost.

Owning a partition does not wait for its consumer: while the broker is away, leases are kept and gained all the same, and what is in the
store is worked on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from callboard.batching import retrying
from callboard.ports import BackgroundTask, Broker, Delivery, Destination, Host, Subscription

log = logging.getLogger("callboard")


class PartitionConsumers:
    """Consumes partition queues.

    Args:
        on_delivery: Takes each delivery, and where it came from.
    """

    def __init__(
        self, broker: Broker, host: Host, on_delivery: Callable[[Delivery, Destination], None], *, prefetch: int
    ) -> None:
        self._broker = broker
        self._host = host
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._starting: dict[int, BackgroundTask] = {}
        self._subscriptions: dict[int, Subscription] = {}

    def start(self, partitions: frozenset[int]) -> None:
        """Begins to consume, in the background and however long it takes."""
        for partition in sorted(partitions - self._starting.keys() - self._subscriptions.keys()):
            task = self._host.spawn(self._consume(partition), name=f"callboard consume partition {partition}")
            self._starting[partition] = task

    async def stop(self, partitions: frozenset[int]) -> None:
        """Returns once none of these partitions is consumed any more, and what was not acked has been given back."""
        for partition in sorted(partitions):
            task = self._starting.pop(partition, None)
            if task is not None:
                task.cancel()
                await task.wait()
            subscription = self._subscriptions.pop(partition, None)
            if subscription is not None:
                await subscription.aclose()

    async def aclose(self) -> None:
        await self.stop(frozenset((*self._starting, *self._subscriptions)))

    async def _consume(self, partition: int) -> None:
        source = Destination.partition(partition)
        self._subscriptions[partition] = await retrying(
            lambda: self._broker.consume(
                source, lambda delivery: self._on_delivery(delivery, source), prefetch=self._prefetch
            ),
            self._host,
            f"consume partition {partition}",
        )
        self._starting.pop(partition, None)
