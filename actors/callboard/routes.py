"""Where messages go: to the actor's owner, by the shortest way that is known.

A message for an instance belongs into its partition's queue. But packs are what makes the broker cheap, and a pack is for one queue;
so all that goes to one owner is put into *one* of that owner's queues, going by the leases as last seen. A worker that
receives a letter for a partition it does not own forwards it, so a stale view costs a hop and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from callboard.core.instances import partition_of
from callboard.core.messages import ActivityCall, InstanceMessage
from callboard.errors import ConfigurationError
from callboard.packs import Packer, Sent
from callboard.ports import Destination, Lease


class Routes:
    """Which queue stands for which partition."""

    def __init__(self, partitions: int) -> None:
        if partitions < 1:
            raise ConfigurationError("The hub is not open yet: async with hub, Worker(app, hub), Client(hub, app): …")
        self.partitions = partitions
        self._queues = [Destination.partition(number) for number in range(partitions)]
        self._via = list(self._queues)
        self._owners: list[str | None] = [None] * partitions

    def partition_of(self, instance_id: str) -> int:
        return partition_of(instance_id, self.partitions)

    def own_queue(self, partition: int) -> Destination:
        """The partition's own queue, whoever owns it."""
        return self._queues[partition]

    def via(self, partition: int) -> Destination:
        """A queue of the partition's owner."""
        return self._via[partition]

    def owner(self, partition: int) -> str | None:
        """The worker that owns the partition, as last seen."""
        return self._owners[partition]

    def update(self, leases: Sequence[Lease]) -> None:
        """Learns the owners: each is reached through the lowest of its partitions."""
        first: dict[str, Destination] = {}
        via, owners = list(self._queues), list[str | None]([None]) * self.partitions
        for lease in leases:
            if lease.owner is not None and not lease.expired and lease.partition < self.partitions:
                via[lease.partition] = first.setdefault(lease.owner, self._queues[lease.partition])
                owners[lease.partition] = lease.owner
        self._via, self._owners = via, owners


class Sender:
    """Sends messages to instances, and calls to activity queues."""

    def __init__(self, packer: Packer, routes: Routes) -> None:
        self._packer = packer
        self._routes = routes

    def partition_of(self, instance_id: str) -> int:
        return self._routes.partition_of(instance_id)

    def tell(self, message: InstanceMessage, sent: Sent) -> None:
        """Sends towards the owner of the message's instance."""
        self._packer.send(self._routes.via(self.partition_of(message.instance_id)), message, sent)

    def forward(self, message: InstanceMessage, sent: Sent) -> None:
        """Sends into the partition's own queue: for letters that came to the wrong worker, so that they cannot circle."""
        self._packer.send(self._routes.own_queue(self.partition_of(message.instance_id)), message, sent)

    def call(self, call: ActivityCall, sent: Sent) -> None:
        """Sends a call to its activity queue."""
        self._packer.send(Destination.activities(call.queue), call, sent)
