"""The client: starts orchestrations, looks at them, sends them messages. Works inside any asyncio service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Self, TypeVar, Unpack, overload

from callboard.app import App
from callboard.bodies import restored_all
from callboard.client.connection import Connection
from callboard.client.conversations import Answer, Conversations
from callboard.client.endings import Endings
from callboard.client.entities import (
    IDLE,
    CleanEntityStorageResult,
    Entities,
    EntitiesPage,
    EntityMetadata,
    EntityStateResponse,
)
from callboard.client.explaining import Explanation, explain
from callboard.client.handle import InstanceHandle
from callboard.client.purging import PurgeResult, Purges
from callboard.client.starts import StartOptions, Starts, batch
from callboard.client.status import InstancesPage, InstanceStatus
from callboard.codecs import CodecName
from callboard.codecs.showing import readable, shown
from callboard.core import payloads
from callboard.core.calls import CallTarget
from callboard.core.codec import Content, event_place, input_place, load, output_place
from callboard.core.entities import EntityId
from callboard.core.entity_calls import Due
from callboard.core.events import Payload
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.messages import (
    RaiseEvent,
    Resume,
    Suspend,
    Terminate,
)
from callboard.hub import TaskHub
from callboard.large_values import LargeValues
from callboard.packs import Packer
from callboard.ports import EntityFilter, Host, InstanceFilter
from callboard.registry import Registry, check_version
from callboard.statistics import NamedCounts
from callboard.telemetry import Telemetry

T = TypeVar("T")


class Client:
    """Talks to the instances of a hub. Use it with ``async with``.

    Args:
        hub: Opened.
        app: Lets orchestrations be named by their functions, and typed; without it they are named by strings.
        host: Clock, randomness and tasks; the machine's own by default.
        telemetry: Where its spans go; by default to the process's tracer provider, if it has one.
    """

    def __init__(
        self,
        hub: TaskHub,
        app: App | None = None,
        *,
        host: Host | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._registry = app.registry if app is not None else Registry()
        self._codec = hub.codec(app)
        self._connection = Connection(hub, host, telemetry)
        self._large = LargeValues(hub.store, self._connection.host)
        self._host = self._connection.host
        self._endings = Endings(self._connection)
        self._starts = Starts(self._connection, self._endings, self._codec, self._large)
        self._purges = Purges(self._connection)
        self._conversations = Conversations(self._connection, self._codec, self._large)
        self._entities = Entities(self._connection, self._codec, self._large)

    @property
    def hub(self) -> TaskHub:
        return self._connection.hub

    @property
    def packer(self) -> Packer:
        return self._connection.packer

    @property
    def starts(self) -> NamedCounts:
        """How many orchestrations were started from here, by name."""
        return self._starts.started

    @property
    def orchestrations(self) -> list[str]:
        """The names that the app registers, sorted; none if there is no app."""
        return sorted(self._registry.orchestrations)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Lets what was sent reach the broker (up to a few seconds), and ends."""
        await self._starts.aclose()
        await self._entities.aclose()
        await self._connection.aclose()

    # Starting

    @overload
    async def start(
        self,
        orchestration: Callable[..., Coroutine[Any, Any, T]],
        input: object = None,
        **options: Unpack[StartOptions],
    ) -> InstanceHandle[T]: ...

    @overload
    async def start(
        self, orchestration: str | Callable[..., Any], input: object = None, **options: Unpack[StartOptions]
    ) -> InstanceHandle[Any]: ...

    async def start(
        self, orchestration: str | Callable[..., Any], input: object = None, **options: Unpack[StartOptions]
    ) -> InstanceHandle[Any]:
        """Starts an orchestration; returns once that is durable. It will run, whatever happens to this process.

        Args:
            orchestration: The function, or the name it is registered under.
            input: Its input.
            options: See `StartOptions`: ``instance_id``, ``version``, ``tags``, ``start_at``, ``id_reuse``.

        Raises:
            InstanceAlreadyExistsError: the id is in use by an instance that has not ended.
            OrchestrationNotRegisteredError: the app knows orchestrations, but not this one.
            InvalidInstanceIdError: the id is not allowed.
            InvalidPayloadError: the input has no JSON form, or is too large.
        """
        target = self._target(orchestration, options.get("version"))
        content = self._codec.encode(input, f"The input of orchestration {target.name!r}", target.codec)
        options["version"] = target.version
        started = await self._starts.start(target.name, content, options)
        return InstanceHandle(self, started, target.result_type)

    async def start_many(
        self,
        orchestration: str | Callable[..., Any],
        inputs: Sequence[object],
        options: Sequence[StartOptions] | None = None,
    ) -> list[InstanceHandle[Any]]:
        """Starts an orchestration once for each input, in as few calls of the store as possible.

        Args:
            orchestration: The function, or the name it is registered under.
            inputs: One for each instance.
            options: As many as inputs: ids, tags and so on of each.

        Raises:
            ExceptionGroup: some could not be started, each with what `start` raises; all the others are.
        """
        each = zip(inputs, batch(options, len(inputs)), strict=True)
        starts = [self.start(orchestration, input, **chosen) for input, chosen in each]
        started = await asyncio.gather(*starts, return_exceptions=True)
        failures = [outcome for outcome in started if isinstance(outcome, Exception)]
        if failures:
            raise ExceptionGroup(f"{len(failures)} of {len(started)} instances could not be started", failures)
        return [outcome for outcome in started if isinstance(outcome, InstanceHandle)]

    async def start_encoded(self, name: str, payload: Payload | None, **options: Unpack[StartOptions]) -> str:
        """`start` with an input that is JSON text already; returns the instance id."""
        options["version"] = self._target(name, options.get("version")).version
        content = self._checked(payload, f"The input of orchestration {name!r}")
        return await self._starts.start(name, content, options)

    # Looking

    async def find(self, instance_id: str) -> InstanceStatus | None:
        """Looks at an instance; None if there is none of that id."""
        record = await self._connection.find(instance_id)
        return await self._status_of(record) if record is not None else None

    async def get_status(self, instance_id: str) -> InstanceStatus:
        """Looks at an instance.

        Raises:
            InstanceNotFoundError: there is none of that id.
        """
        return await self._status_of(await self._connection.record(instance_id))

    async def wait(self, instance_id: str, timeout: float | None = None) -> InstanceStatus:
        """Waits until an instance has ended; its end arrives by message, not by polling.

        Raises:
            InstanceNotFoundError: there is none of that id.
            TimeoutError: it has not ended within ``timeout`` seconds.
        """
        return await self._status_of(await self.wait_for_record(instance_id, timeout))

    async def _status_of(self, record: InstanceRecord) -> InstanceStatus:
        return InstanceStatus.of(await self._large.whole_record(record), self._codec)

    async def history(self, instance_id: str) -> list[Commit]:
        """The instance's history, commit by commit, with all its values.

        Raises:
            InstanceNotFoundError: there is none of that id.
        """
        return await self._large.whole_commits(await self._stored_history(instance_id))

    async def readable_history(self, instance_id: str) -> list[Commit]:
        """`history` for people: encrypted values are opened if the keys are here; of pickles and of large values it says what they are."""
        return readable(self._codec, await self._stored_history(instance_id))

    async def _stored_history(self, instance_id: str) -> list[Commit]:
        await self._connection.record(instance_id)
        return await restored_all(self.hub.store, await self.hub.store.history(instance_id))

    async def list_instances(
        self, which: InstanceFilter | None = None, *, limit: int = 100, continuation: str | None = None
    ) -> InstancesPage:
        """Lists instances, newest first, a page at a time; of large values it says what they are."""
        page = await self.hub.store.query(which or InstanceFilter(), limit=limit, continuation=continuation)
        return InstancesPage(
            instances=tuple(InstanceStatus.of(record, self._codec) for record in page.records),
            continuation=page.continuation,
        )

    async def count(self, which: InstanceFilter | None = None) -> dict[str, int]:
        """How many instances there are of each status; those of which there is none are left out."""
        return await self.hub.store.count(which or InstanceFilter())

    async def explain(self, instance_id: str) -> Explanation:
        """Says why an instance is where it is: what it waits for, who has it, and what stands in its way.

        Raises:
            InstanceNotFoundError: there is none of that id.
        """
        return await explain(self.hub.store, instance_id, self._codec)

    # Sending

    async def raise_event(
        self, instance_id: str, name: str, data: object = None, *, codec: CodecName | None = None
    ) -> None:
        """Raises an external event; returns once the broker keeps it.

        Args:
            instance_id: Of whom.
            name: The event's name; case does not matter.
            data: What it carries.
            codec: How that is encoded; by default as the app says.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceNotRunningError: it has ended.
        """
        content = self._codec.encode(data, f"The data of event {name!r}", codec)
        await self._raise_event(instance_id, name, content)

    async def raise_event_encoded(
        self, instance_id: str, name: str, payload: Payload | None, *, message_id: str | None = None
    ) -> None:
        """`raise_event` with data that is JSON text already; under one message id it is raised once."""
        content = self._checked(payload, f"The data of event {name!r}")
        await self._raise_event(instance_id, name, content, message_id)

    def _checked(self, payload: Payload | None, what: str) -> Content | None:
        return payloads.checked(payload, what, limit=self._codec.options.max_payload)

    async def _raise_event(
        self, instance_id: str, name: str, content: Content | None, message_id: str | None = None
    ) -> None:
        name = payloads.text(name, "The name of an event")
        target = await self._connection.require_running(instance_id)
        message_id = payloads.text(message_id or self._host.token(), "The id of a message")
        at = self._host.now()
        payload = self._codec.seal(content, event_place(instance_id, message_id, name))
        payload = await self._large.kept(payload, instance_id)
        event = RaiseEvent(instance_id=instance_id, message_id=message_id, name=name, at=at, input=payload)
        with self._connection.tracing.raising(event, target) as traced:
            await self._connection.send(traced)

    async def send(
        self,
        instance_id: str,
        name: str,
        data: object = None,
        *,
        message_id: str | None = None,
        codec: CodecName | None = None,
    ) -> None:
        """Sends a message to a handler of an orchestration; returns once the broker keeps it.

        Args:
            instance_id: Whom.
            name: The message's name, as the orchestration registers it with ``context.on_message``.
            data: What goes with it.
            message_id: Sent again under the same id, it is handled once.
            codec: How the data are encoded; by default as the app says.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceNotRunningError: it has ended.
        """
        content = self._codec.encode(data, f"The data of message {name!r}", codec)
        await self._conversations.send(instance_id, name, content, message_id)

    async def send_encoded(
        self, instance_id: str, name: str, payload: Payload | None, *, message_id: str | None = None
    ) -> None:
        """`send` with data that are JSON text already."""
        content = self._checked(payload, f"The data of message {name!r}")
        await self._conversations.send(instance_id, name, content, message_id)

    @overload
    async def ask(
        self,
        instance_id: str,
        name: str,
        data: object = None,
        *,
        expected: type[T],
        timeout: float | None = None,
        message_id: str | None = None,
        codec: CodecName | None = None,
    ) -> T: ...

    @overload
    async def ask(
        self,
        instance_id: str,
        name: str,
        data: object = None,
        *,
        expected: Any = Any,
        timeout: float | None = None,
        message_id: str | None = None,
        codec: CodecName | None = None,
    ) -> Any: ...

    async def ask(
        self,
        instance_id: str,
        name: str,
        data: object = None,
        *,
        expected: Any = Any,
        timeout: float | None = None,
        message_id: str | None = None,
        codec: CodecName | None = None,
    ) -> Any:
        """Sends a message to a handler of an orchestration and waits for its answer, which is in history before it is sent.

        Args:
            instance_id: Whom to ask.
            name: The message's name, as the orchestration registers it with ``context.on_message``.
            data: What goes with it.
            expected: The type to decode the answer into.
            timeout: How long to wait, in seconds. The message may be handled all the same.
            message_id: Asked again under the same id, by whomever, the message is handled once and its answer repeated.
            codec: How the data are encoded; by default as the app says.

        Raises:
            MessageRejectedError: the data do not fit, or a validator refused them; the instance is as it was.
            MessageFailedError: the handler raised, or the orchestration ended first; ``error.failure`` says which.
            InstanceNotFoundError: there is none of that id.
            InstanceNotRunningError: it has ended.
            TimeoutError: no answer within ``timeout`` seconds.
        """
        content = self._codec.encode(data, f"The data of message {name!r}", codec)
        answer = await self._conversations.ask(instance_id, name, content, message_id, timeout)
        return self._loaded(answer, expected)

    async def ask_encoded(
        self,
        instance_id: str,
        name: str,
        payload: Payload | None,
        *,
        timeout: float | None = None,
        message_id: str | None = None,
    ) -> Any:
        """`ask` with data that are JSON text already; returns the answer as it can be shown."""
        content = self._checked(payload, f"The data of message {name!r}")
        answer = await self._conversations.ask(instance_id, name, content, message_id, timeout)
        return shown(self._codec, answer.payload, answer.place)

    @overload
    async def query(
        self, instance_id: str, name: str, data: object = None, *, expected: type[T], timeout: float | None = 30.0
    ) -> T: ...

    @overload
    async def query(
        self, instance_id: str, name: str, data: object = None, *, expected: Any = Any, timeout: float | None = 30.0
    ) -> Any: ...

    async def query(
        self, instance_id: str, name: str, data: object = None, *, expected: Any = Any, timeout: float | None = 30.0
    ) -> Any:
        """Asks a query handler of an orchestration: sees all that was committed before, leaves no trace, works after its end as well.

        Args:
            instance_id: Whom to ask.
            name: The query's name, as the orchestration registers it with ``context.on_query``.
            data: What goes with it.
            expected: The type to decode the answer into.
            timeout: How long to wait, in seconds.

        Raises:
            QueryFailedError: the handler raised, there is none, or the code cannot run; ``error.failure`` says which.
            InstanceNotFoundError: there is none of that id.
            TimeoutError: no answer within ``timeout`` seconds.
        """
        content = self._codec.encode(data, f"The data of query {name!r}")
        return self._loaded(await self._conversations.query(instance_id, name, content, timeout), expected)

    async def query_encoded(
        self, instance_id: str, name: str, payload: Payload | None, *, timeout: float | None = 30.0
    ) -> Any:
        """`query` with data that are JSON text already; returns the answer as it can be shown."""
        content = self._checked(payload, f"The data of query {name!r}")
        answer = await self._conversations.query(instance_id, name, content, timeout)
        return shown(self._codec, answer.payload, answer.place)

    def _loaded(self, answer: Answer, expected: Any) -> Any:
        content = self._codec.open(answer.payload, answer.place)
        return load(content, payloads.decodable(expected), str(answer.place))

    async def terminate(self, instance_id: str, reason: str | None = None, *, recursive: bool = True) -> None:
        """Ends an instance, and by default the children that it waits for; returns once the broker keeps the order.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceNotRunningError: it has ended.
        """
        await self._connection.require_running(instance_id)
        text = payloads.encode(reason, "The reason")
        message_id, at = self._host.token(), self._host.now()
        await self._connection.send(
            Terminate(instance_id=instance_id, message_id=message_id, at=at, reason=text, recurse=recursive)
        )

    async def suspend(self, instance_id: str, reason: str | None = None) -> None:
        """Pauses an instance: what comes in is kept, its code does not advance. Raises as `terminate` does."""
        await self._connection.require_running(instance_id)
        await self._connection.send(
            Suspend(instance_id=instance_id, message_id=self._host.token(), at=self._host.now(), reason=reason)
        )

    async def resume(self, instance_id: str, reason: str | None = None) -> None:
        """Lets a suspended or parked instance go on. Raises as `terminate` does."""
        await self._connection.require_running(instance_id)
        await self._connection.send(
            Resume(instance_id=instance_id, message_id=self._host.token(), at=self._host.now(), reason=reason)
        )

    async def restart(self, instance_id: str, *, restart_with_new_instance_id: bool = True) -> InstanceHandle[Any]:
        """Starts an orchestration again, with the input, version and tags that an instance has; it is nobody's child then.

        Args:
            instance_id: The instance to take them from.
            restart_with_new_instance_id: Under a new id, whether that one has ended or not; or under the same id once it has ended.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceAlreadyExistsError: it is to be the same id, and the instance has not ended.
            OrchestrationNotRegisteredError: the app knows orchestrations, but not this one.
            PayloadRejectedError: its input is sealed, and cannot be opened here.
        """
        record = await self._large.whole_record(await self._connection.record(instance_id))
        target = self._target(record.name, record.version)
        options = StartOptions(version=record.version, tags=record.tags)
        if not restart_with_new_instance_id:
            options["instance_id"] = instance_id
        content = self._codec.open(record.input, input_place(record.instance_id, record.execution_id))
        started = await self._starts.start(record.name, content, options)
        return InstanceHandle(self, started, target.result_type)

    async def purge(self, instance_id: str, *, recursive: bool = True) -> int:
        """Deletes an instance that has ended, with its history and payloads; returns how many were deleted.

        Args:
            instance_id: The instance.
            recursive: Its children too, and theirs; those that have not ended stay.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceNotFinishedError: it has not ended, or what it brought about is not all confirmed yet: try again.
        """
        return await self._purges.purge(instance_id, recursive=recursive)

    async def purge_instances(
        self, which: InstanceFilter, *, recursive: bool = True, timeout: float | None = None
    ) -> PurgeResult:
        """Deletes all instances that have ended, of those that a filter names.

        Args:
            which: The instances; of its statuses only those of instances that have ended count.
            recursive: Their children too, whatever the filter says, and theirs; those that have not ended stay.
            timeout: When to stop, in seconds.
        """
        return await self._purges.purge_all(which, recursive=recursive, timeout=timeout)

    # Entities

    @property
    def entities(self) -> list[str]:
        """The names of entities that the app registers, sorted; none if there is no app."""
        return sorted(self._registry.entities)

    async def signal_entity(
        self, entity: EntityId, operation: str | Callable[..., Any], input: object = None, *, at: Due | None = None
    ) -> None:
        """Has an entity carry out an operation, once; returns once the broker keeps the request. Nobody hears of its failure.

        Args:
            entity: Which one; it need not exist yet.
            operation: Its name, or the method of the entity's class.
            input: Its input.
            at: When, as an aware point in time or as how long from now; None: as soon as it comes there.

        Raises:
            EntityNotRegisteredError: the app knows entities, but not this one.
            InvalidPayloadError: the input has no JSON form, or is too large.
        """
        self._require_entity(entity)
        await self._entities.signal(entity, operation, input, at)

    async def signal_entity_encoded(
        self, entity: EntityId, operation: str, payload: Payload | None, *, at: Due | None = None
    ) -> None:
        """`signal_entity` with an input that is JSON text already."""
        self._require_entity(entity)
        content = self._checked(payload, f"The input of operation {operation!r}")
        await self._entities.signal_content(entity, payloads.text(operation, "The name of an operation"), content, at)

    async def read_entity_state(self, entity: EntityId, expected: Any = Any) -> EntityStateResponse:
        """The state that an entity's last commit left, also in the middle of somebody's critical section.

        Args:
            entity: Which one.
            expected: The type to decode the state into.

        Raises:
            InvalidPayloadError: the state does not fit the type.
            PayloadRejectedError: it is sealed, and cannot be opened here.
        """
        return await self._entities.state(entity, expected)

    async def get_entity(self, entity: EntityId, *, include_state: bool = True) -> EntityMetadata | None:
        """Looks at an entity; None if nothing was ever asked of it, or it was cleaned up."""
        return await self._entities.find(entity, include_state=include_state)

    async def list_entities(
        self,
        which: EntityFilter | None = None,
        *,
        include_state: bool = False,
        limit: int = 100,
        continuation: str | None = None,
    ) -> EntitiesPage:
        """Lists entities in order of their ids, a page at a time; what it shows may be a moment old."""
        return await self._entities.page(
            which or EntityFilter(), include_state=include_state, limit=limit, continuation=continuation
        )

    async def clean_entity_storage(
        self,
        *,
        remove_empty_entities: bool = True,
        release_orphaned_locks: bool = True,
        idle: timedelta = IDLE,
    ) -> CleanEntityStorageResult:
        """Has entities end of which nothing but their memory is left, and frees those whose lock's owner is gone. Safe at any time.

        Args:
            remove_empty_entities: Those without a state, a lock and anything to do.
            release_orphaned_locks: Locks whose orchestration is not in the execution any more that asked for them.
            idle: How long an empty entity must have done nothing: what arrives again after that is carried out again.
        """
        return await self._entities.clean(empty=remove_empty_entities, locks=release_orphaned_locks, idle=idle)

    def _require_entity(self, entity: EntityId) -> None:
        if self._registry.entities:
            self._registry.require_entity(entity.name)

    # Inside

    async def wait_for_record(self, instance_id: str, timeout: float | None) -> InstanceRecord:
        """Waits until an instance has ended and returns its record."""
        return await self._endings.wait(instance_id, timeout)

    async def output_of(self, record: InstanceRecord, expected: Any) -> Any:
        """Fetches and decodes the output of an instance that has completed."""
        record = await self._large.whole_record(record)
        place = output_place(record.instance_id, record.execution_id, record.parent)
        return load(self._codec.open(record.output, place), expected, f"The result of {record.name!r}")

    def _target(self, orchestration: str | Callable[..., Any], version: str | None) -> CallTarget:
        name = self._registry.name_of("orchestration", orchestration)
        if self._registry.orchestrations:
            self._registry.require_orchestration(name)
        return self._registry.orchestration(orchestration, check_version(version))
