"""Starting instances: a Pending record decides, a message only wakes the owner."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, TypeAlias, TypedDict

import msgspec

from callboard.batching import Batcher
from callboard.client.connection import Connection
from callboard.client.endings import Endings
from callboard.core import payloads
from callboard.core.codec import Codec, Content, input_place
from callboard.core.instances import InstanceRecord, check_instance_id
from callboard.core.messages import StartExecution
from callboard.errors import InstanceAlreadyExistsError
from callboard.large_values import LargeValues
from callboard.ports import CreateOutcome
from callboard.statistics import NamedCounts

#: What to do when the id of a new instance is known already: take it if that instance has ended (Durable Functions' default), take that
#: instance for the new one whatever it is doing, or refuse. An id that was purged is free.
IdReuse: TypeAlias = Literal["if_ended", "return_existing", "never"]


class StartOptions(TypedDict, total=False):
    """How an instance is started."""

    instance_id: str | None
    """By default 32 random hex digits."""
    version: str | None
    """By default the one the function is registered for, else the app's, else the newest that the app registers."""
    tags: dict[str, str] | None
    """Kept with the instance; instances can be listed by them."""
    start_at: datetime | timedelta | None
    """Not before that time (aware), or so long from now. The instance is Pending until then."""
    id_reuse: IdReuse
    """What if there is an instance of that id: ``if_ended`` (default), ``return_existing`` or ``never``."""


class Starts:
    """Creates the records of new instances, many to one call of the store."""

    def __init__(self, connection: Connection, endings: Endings, codec: Codec, large: LargeValues) -> None:
        self._connection = connection
        self._codec = codec
        self._large = large
        self._endings = endings
        self.started = NamedCounts()
        create = connection.hub.store.create
        self._creations: Batcher[InstanceRecord, CreateOutcome] = Batcher(
            create, connection.host, name="create", parallel=2
        )
        self._first_creations: Batcher[InstanceRecord, CreateOutcome] = Batcher(
            partial(create, replace=False), connection.host, name="create", parallel=2
        )

    async def start(self, name: str, content: Content | None, options: StartOptions) -> str:
        """Creates a Pending record and wakes its owner; returns the instance id.

        Raises:
            InstanceAlreadyExistsError: the id is in use, and may not be used again.
            InvalidInstanceIdError: the id is not allowed.
        """
        record = self._record(name, content, options)
        payload = record.input
        record = msgspec.structs.replace(record, input=await self._large.kept(payload, record.instance_id))
        reuse = options.get("id_reuse", "if_ended")
        creations = self._creations if reuse == "if_ended" else self._first_creations
        with self._connection.tracing.starting(record) as traced:
            outcome = await self._connection.submit(creations, traced)
            if outcome is None or not outcome.created:
                if reuse == "return_existing":
                    return record.instance_id
                status = outcome.existing.runtime_status if outcome and outcome.existing else "in use"
                raise InstanceAlreadyExistsError(record.instance_id, status)
        if record.input is not payload:  # a purge of the id's last instance may have come between, and taken it along
            await self._large.kept(payload, record.instance_id)
        self.started.add(record.name)
        # The start is durable now; should a message be lost, the partition's owner finds the Pending record.
        if record.scheduled_start_time is None:
            self._wake(record)
        return record.instance_id

    async def aclose(self) -> None:
        await self._creations.aclose()
        await self._first_creations.aclose()

    def _record(self, name: str, content: Content | None, options: StartOptions) -> InstanceRecord:
        host = self._connection.host
        now, given = host.now(), options.get("instance_id")
        instance_id = host.token() if given is None else check_instance_id(given)
        execution_id = host.token()
        return InstanceRecord(
            instance_id=instance_id,
            partition=self._connection.routes.partition_of(instance_id),
            execution_id=execution_id,
            name=name,
            version=options.get("version"),
            tags=payloads.checked_tags(options.get("tags")),
            input=self._codec.seal(content, input_place(instance_id, execution_id)),
            created_time=now,
            last_updated_time=now,
            scheduled_start_time=_time(options.get("start_at"), now),
        )

    def _wake(self, record: InstanceRecord) -> None:
        reply_to = self._connection.client_id if self._connection.listens else None
        self._connection.tell(
            StartExecution(instance_id=record.instance_id, execution_id=record.execution_id, reply_to=reply_to)
        )
        if reply_to is not None:
            self._endings.expect(record.instance_id)


def _time(start_at: datetime | timedelta | None, now: datetime) -> datetime | None:
    if start_at is None:
        return None
    time = now + start_at if isinstance(start_at, timedelta) else start_at
    if time.tzinfo is None:
        raise ValueError(
            "start_at needs an aware datetime, such as datetime.now(UTC) + timedelta(hours=1), or a timedelta."
        )
    return time.astimezone(UTC) if time > now else None


def batch(items: Sequence[StartOptions] | None, count: int) -> Sequence[StartOptions]:
    """The options of each of many starts."""
    if items is None:
        return [StartOptions() for _ in range(count)]
    if len(items) != count:
        raise ValueError(f"{count} inputs were given, but options for {len(items)} of them.")
    return items
