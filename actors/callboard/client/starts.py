"""Starting instances: a Pending record decides, a message only wakes the owner."""

from __future__ import annotations

from collections.abc import Sequence

from callboard.batching import Batcher
from callboard.client.connection import Connection
from callboard.client.endings import Endings
from callboard.core.instances import InstanceRecord
from callboard.core.messages import StartExecution
from callboard.errors import InstanceAlreadyExistsError
from callboard.ports import CreateOutcome


class Starts:
    """Creates the records of new instances, many to one call of the store."""

    def __init__(self, connection: Connection, endings: Endings) -> None:
        self._connection = connection
        self._endings = endings
        self._creations: Batcher[InstanceRecord, CreateOutcome] = Batcher(
            self._create, connection.host, name="create", parallel=2
        )

    async def start(self, record: InstanceRecord) -> str:
        """Creates a Pending record and wakes its owner; returns the instance id.

        Raises:
            InstanceAlreadyExistsError: the id is in use by an instance that has not ended.
        """
        with self._connection.tracing.starting(record) as traced:
            outcome = await self._connection.submit(self._creations, traced)
            if outcome is None or not outcome.created:
                status = outcome.existing.runtime_status if outcome and outcome.existing else "in use"
                raise InstanceAlreadyExistsError(record.instance_id, status)
        # The start is durable now; should this message be lost, the partition's owner finds the Pending record.
        reply_to = self._connection.client_id if self._connection.listens else None
        self._connection.tell(
            StartExecution(instance_id=record.instance_id, execution_id=record.execution_id, reply_to=reply_to)
        )
        if reply_to is not None:
            self._endings.expect(record.instance_id)
        return record.instance_id

    async def aclose(self) -> None:
        await self._creations.aclose()

    async def _create(self, records: Sequence[InstanceRecord]) -> Sequence[CreateOutcome]:
        return await self._connection.hub.store.create(records)
