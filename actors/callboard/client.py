"""The client: starts orchestrations, looks at them, sends them messages. Works inside any asyncio service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Generic, Self, TypeVar, cast, overload

import msgspec

from callboard.app import App
from callboard.batching import Batcher, retrying
from callboard.bodies import restored_all
from callboard.core import payloads
from callboard.core.events import Payload, RuntimeStatus
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord, Parked, check_instance_id
from callboard.core.messages import (
    InstanceEnded,
    InstanceMessage,
    RaiseEvent,
    Resume,
    StartExecution,
    Suspend,
    Terminate,
    Watch,
)
from callboard.errors import (
    InstanceAlreadyExistsError,
    InstanceNotFinishedError,
    InstanceNotFoundError,
    InstanceNotRunningError,
    MalformedMessageError,
    OrchestrationFailedError,
)
from callboard.host import SystemHost
from callboard.hub import TaskHub
from callboard.ownership import LEASE
from callboard.packs import Packer, decode_pack
from callboard.ports import CreateOutcome, Delivery, Destination, Host, InstanceFilter, Subscription
from callboard.registry import Registry, check_name
from callboard.routes import Routes, Sender
from callboard.scope import Scope

T = TypeVar("T")

log = logging.getLogger("callboard")

#: How often a waiting client looks for itself, should a notice have been lost, in seconds.
LOOK_AGAIN = 30.0
#: How many of the instances that it has started a client remembers, until it is asked for their result.
MOST_ANNOUNCED = 100_000
#: How old a client's view of the partitions' owners may get while it sends, in seconds.
VIEW_AGE = 5.0


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An instance, as its record shows it."""

    instance_id: str
    name: str
    runtime_status: RuntimeStatus
    input: Any
    output: Any
    custom_status: Any
    created_time: datetime
    last_updated_time: datetime
    completed_time: datetime | None
    execution_id: str
    version: str | None
    tags: dict[str, str]
    failure: FailureDetails | None
    parent_instance_id: str | None
    parked: Parked | None

    @property
    def is_terminal(self) -> bool:
        return self.runtime_status in ("Completed", "Failed", "Terminated")

    @classmethod
    def of(cls, record: InstanceRecord) -> InstanceStatus:
        """What a record says."""
        return cls(
            instance_id=record.instance_id,
            name=record.name,
            runtime_status=record.runtime_status,
            input=_value(record.input),
            output=_value(record.output),
            custom_status=_value(record.custom_status),
            created_time=record.created_time,
            last_updated_time=record.last_updated_time,
            completed_time=record.completed_time,
            execution_id=record.execution_id,
            version=record.version,
            tags=record.tags or {},
            failure=record.failure,
            parent_instance_id=record.parent.instance_id if record.parent else None,
            parked=record.parked,
        )


class InstancesPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some instances, newest first, and where the next page begins (None on the last)."""

    instances: tuple[InstanceStatus, ...]
    continuation: str | None


class InstanceHandle(Generic[T]):
    """One instance that was started here."""

    def __init__(self, client: Client, instance_id: str, result_type: Any) -> None:
        self._client = client
        self.instance_id = instance_id
        self._result_type = result_type

    async def status(self) -> InstanceStatus:
        """Looks at it now."""
        return await self._client.get_status(self.instance_id)

    async def result(self, timeout: float | None = None) -> T:
        """Waits until it has ended, and returns its result.

        Raises:
            OrchestrationFailedError: it failed or was terminated.
            TimeoutError: it has not ended within ``timeout`` seconds.
        """
        record = await self._client.wait_for_record(self.instance_id, timeout)
        if record.runtime_status != "Completed":
            raise OrchestrationFailedError(
                self.instance_id, record.runtime_status, record.failure, _value(record.output)
            )
        return cast("T", payloads.decode(record.output, self._result_type, f"The result of {record.name!r}"))


class Client:
    """Talks to the instances of a hub. Use it with ``async with``.

    Args:
        hub: Opened.
        app: Lets orchestrations be named by their functions, and typed; without it they are named by strings.
        host: Clock, randomness and tasks; the machine's own by default.
    """

    def __init__(self, hub: TaskHub, app: App | None = None, *, host: Host | None = None) -> None:
        self._hub = hub
        self._registry = app.registry if app is not None else Registry()
        self._own_host = SystemHost() if host is None else None
        self._host = Scope(host or self._own_host or SystemHost())
        self.client_id = f"client-{self._host.token()[:16]}"
        self._packer = Packer(hub.broker, self._host)
        self._routes = Routes(hub.partitions)
        self._sender = Sender(self._packer, self._routes)
        self._viewed = -VIEW_AGE
        self._creations: Batcher[InstanceRecord, CreateOutcome] = Batcher(
            hub.store.create, self._host, name="create", parallel=2
        )
        self._looks: Batcher[str, InstanceRecord | None] = Batcher(self._look, self._host, name="look", parallel=2)
        self._inbox: Subscription | None = None
        self._inbox_opening = asyncio.Lock()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._announced = _Announced()

    @property
    def hub(self) -> TaskHub:
        return self._hub

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
        until = self._host.monotonic() + 5
        while not self._packer.idle and self._host.monotonic() < until:
            await self._host.sleep(0.005)
        if self._inbox is not None:
            await self._inbox.aclose()
            self._inbox = None
        await self._creations.aclose()
        await self._looks.aclose()
        await self._host.aclose()
        if self._own_host is not None:
            self._own_host.close()

    # Starting

    @overload
    async def start(
        self,
        orchestration: Callable[..., Coroutine[Any, Any, T]],
        input: object = None,
        *,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> InstanceHandle[T]: ...

    @overload
    async def start(
        self,
        orchestration: str | Callable[..., Any],
        input: object = None,
        *,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> InstanceHandle[Any]: ...

    async def start(
        self,
        orchestration: str | Callable[..., Any],
        input: object = None,
        *,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> InstanceHandle[Any]:
        """Starts an orchestration; returns once that is durable. It will run, whatever happens to this process.

        An id whose instance has ended is taken anew (Durable Functions' default policy).

        Args:
            orchestration: The function, or the name it is registered under.
            input: Its input.
            instance_id: By default 32 random hex digits.
            version: For the orchestration to look at.
            tags: Kept with the instance.

        Raises:
            InstanceAlreadyExistsError: the id is in use by an instance that has not ended.
            OrchestrationNotRegisteredError: the app knows orchestrations, but not this one.
            InvalidInstanceIdError: the id is not allowed.
            InvalidPayloadError: the input has no JSON form, or is too large.
        """
        target = self._target(orchestration)
        payload = payloads.encode(input, f"The input of orchestration {target.name!r}")
        started = await self._start(target.name, payload, instance_id=instance_id, version=version, tags=tags)
        return InstanceHandle(self, started, target.result_type)

    async def start_encoded(
        self,
        name: str,
        payload: Payload | None,
        *,
        instance_id: str | None = None,
        version: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        """`start` with an input that is JSON text already; returns the instance id."""
        self._target(name)
        payload = payloads.checked(payload, f"The input of orchestration {name!r}")
        return await self._start(name, payload, instance_id=instance_id, version=version, tags=tags)

    async def _start(
        self,
        name: str,
        payload: Payload | None,
        *,
        instance_id: str | None,
        version: str | None,
        tags: dict[str, str] | None,
    ) -> str:
        instance_id = self._host.token() if instance_id is None else check_instance_id(instance_id)
        now = self._host.now()
        record = InstanceRecord(
            instance_id=instance_id,
            partition=self._routes.partition_of(instance_id),
            execution_id=self._host.token(),
            name=name,
            version=version,
            tags=tags,
            input=payload,
            created_time=now,
            last_updated_time=now,
        )
        outcome = await self._submit(self._creations, record)
        if not outcome.created:
            status = outcome.existing.runtime_status if outcome.existing else "in use"
            raise InstanceAlreadyExistsError(instance_id, status)
        # The start is durable now; should this message be lost, the partition's owner finds the Pending record.
        reply_to = self.client_id if self._inbox is not None else None
        self._tell(StartExecution(instance_id=instance_id, execution_id=record.execution_id, reply_to=reply_to))
        if reply_to is not None:
            self._announced.expect(instance_id)
        return instance_id

    # Looking

    async def find(self, instance_id: str) -> InstanceStatus | None:
        """Looks at an instance; None if there is none of that id."""
        record = await self._submit(self._looks, check_instance_id(instance_id))
        return InstanceStatus.of(record) if record is not None else None

    async def get_status(self, instance_id: str) -> InstanceStatus:
        """Looks at an instance.

        Raises:
            InstanceNotFoundError: there is none of that id.
        """
        return InstanceStatus.of(await self._record(instance_id))

    async def wait(self, instance_id: str, timeout: float | None = None) -> InstanceStatus:
        """Waits until an instance has ended; its end arrives by message, not by polling.

        Raises:
            InstanceNotFoundError: there is none of that id.
            TimeoutError: it has not ended within ``timeout`` seconds.
        """
        return InstanceStatus.of(await self.wait_for_record(instance_id, timeout))

    async def history(self, instance_id: str) -> list[Commit]:
        """The instance's history, commit by commit.

        Raises:
            InstanceNotFoundError: there is none of that id.
        """
        await self._record(instance_id)
        return await restored_all(self._hub.store, await self._hub.store.history(instance_id))

    async def list_instances(
        self, which: InstanceFilter | None = None, *, limit: int = 100, continuation: str | None = None
    ) -> InstancesPage:
        """Lists instances, newest first, a page at a time."""
        page = await self._hub.store.query(which or InstanceFilter(), limit=limit, continuation=continuation)
        return InstancesPage(
            instances=tuple(InstanceStatus.of(record) for record in page.records), continuation=page.continuation
        )

    # Sending

    async def raise_event(self, instance_id: str, name: str, data: object = None) -> None:
        """Raises an external event; returns once the broker keeps it.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceNotRunningError: it has ended.
        """
        await self._raise_event(instance_id, name, payloads.encode(data, f"The data of event {name!r}"))

    async def raise_event_encoded(self, instance_id: str, name: str, payload: Payload | None) -> None:
        """`raise_event` with data that is JSON text already."""
        await self._raise_event(instance_id, name, payloads.checked(payload, f"The data of event {name!r}"))

    async def _raise_event(self, instance_id: str, name: str, payload: Payload | None) -> None:
        name = payloads.text(name, "The name of an event")
        await self._require_running(instance_id)
        message_id, at = self._host.token(), self._host.now()
        await self._send(RaiseEvent(instance_id=instance_id, message_id=message_id, name=name, at=at, input=payload))

    async def terminate(self, instance_id: str, reason: str | None = None, *, recursive: bool = True) -> None:
        """Ends an instance, and by default the children that it waits for; returns once the broker keeps the order.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceNotRunningError: it has ended.
        """
        await self._require_running(instance_id)
        text = payloads.encode(reason, "The reason")
        message_id, at = self._host.token(), self._host.now()
        await self._send(
            Terminate(instance_id=instance_id, message_id=message_id, at=at, reason=text, recurse=recursive)
        )

    async def suspend(self, instance_id: str, reason: str | None = None) -> None:
        """Pauses an instance: what comes in is kept, its code does not advance. Raises as `terminate` does."""
        await self._require_running(instance_id)
        await self._send(
            Suspend(instance_id=instance_id, message_id=self._host.token(), at=self._host.now(), reason=reason)
        )

    async def resume(self, instance_id: str, reason: str | None = None) -> None:
        """Lets a suspended or parked instance go on. Raises as `terminate` does."""
        await self._require_running(instance_id)
        await self._send(
            Resume(instance_id=instance_id, message_id=self._host.token(), at=self._host.now(), reason=reason)
        )

    async def purge(self, instance_id: str) -> None:
        """Deletes an instance that has ended, with its history and payloads.

        Raises:
            InstanceNotFoundError: there is none of that id.
            InstanceNotFinishedError: it has not ended, or what it brought about is not all confirmed yet: try again.
        """
        record = await self._record(instance_id)
        if not await self._hub.store.purge(instance_id):
            status = record.runtime_status
            raise InstanceNotFinishedError(
                instance_id, f"{status}, with effects under way" if record.terminal else status
            )

    # Inside

    async def wait_for_record(self, instance_id: str, timeout: float | None) -> InstanceRecord:
        """Waits until an instance has ended and returns its record."""
        await self._open_inbox()
        notice = asyncio.Event()
        self._waiting.setdefault(instance_id, set()).add(notice)
        try:
            async with asyncio.timeout(timeout):
                if not await self._will_be_told(instance_id, notice):
                    self._tell(Watch(instance_id=instance_id, reply_to=self.client_id))
                while not (record := await self._record(instance_id)).terminal:
                    if not await _notified(notice):
                        self._tell(Watch(instance_id=instance_id, reply_to=self.client_id))
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

    def _stop_waiting(self, instance_id: str, notice: asyncio.Event) -> None:
        notices = self._waiting.get(instance_id, set())
        notices.discard(notice)
        if not notices:
            self._waiting.pop(instance_id, None)

    async def _open_inbox(self) -> None:
        if self._inbox is not None:
            return
        async with self._inbox_opening:
            if self._inbox is None:
                inbox = Destination.inbox(self.client_id)
                self._inbox = await self._hub.broker.consume(inbox, self._on_notice, prefetch=1000)
                self._hub.broker.on_reconnect(self._wake_all)

    def _on_notice(self, delivery: Delivery) -> None:
        try:
            for message in decode_pack(delivery.body):
                if isinstance(message, InstanceEnded):
                    self._on_ended(message.instance_id)
        except MalformedMessageError as error:
            log.warning("A notice for this client cannot be understood: %s", error)
        delivery.ack()

    def _on_ended(self, instance_id: str) -> None:
        waiting = self._waiting.get(instance_id)
        if waiting is None:
            self._announced.note_end(instance_id)
            return
        for notice in waiting:
            notice.set()

    def _wake_all(self) -> None:
        """Notices may have been lost with the connection: everyone looks for himself."""
        self._announced.clear()
        for notices in self._waiting.values():
            for notice in notices:
                notice.set()

    def _target(self, orchestration: str | Callable[..., Any]) -> Any:
        name = self._registry.name_of("orchestration", orchestration)
        if self._registry.orchestrations:
            return self._registry.require_orchestration(name).target
        return self._registry.orchestration(check_name(name, "orchestration"))

    async def _record(self, instance_id: str) -> InstanceRecord:
        record: InstanceRecord | None = await self._submit(self._looks, check_instance_id(instance_id))
        if record is None:
            raise InstanceNotFoundError(instance_id)
        return record

    async def _require_running(self, instance_id: str) -> None:
        record = await self._record(instance_id)
        if record.terminal:
            raise InstanceNotRunningError(instance_id, record.runtime_status)

    async def _look(self, instance_ids: Any) -> list[InstanceRecord | None]:
        records = await self._hub.store.records(list(dict.fromkeys(instance_ids)))
        return [records.get(instance_id) for instance_id in instance_ids]

    def _tell(self, message: InstanceMessage) -> None:
        """Sends without waiting: losing it costs time, nothing else."""
        self._refresh_routes()
        self._sender.tell(message, _log_unsent)

    async def _send(self, message: InstanceMessage) -> None:
        self._refresh_routes()
        await retrying(lambda: self._sent(message), self._host, "send")

    async def _sent(self, message: InstanceMessage) -> None:
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sender.tell(message, lambda error: _settle(confirmed, None, error))
        await confirmed

    async def _submit(self, batcher: Batcher[Any, Any], item: Any) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        batcher.submit(item, lambda result, error: _settle(done, result, error))
        return await done

    def _refresh_routes(self) -> None:
        if self._host.monotonic() - self._viewed >= VIEW_AGE:
            self._viewed = self._host.monotonic()
            self._host.spawn(self._view(), name="callboard view")

    async def _view(self) -> None:
        view = await retrying(lambda: self._hub.store.view(ttl=LEASE), self._host, "view")
        self._routes.update(view.leases)


class _Announced:
    """Instances started here whose end will be announced to this client, and whether it was. The oldest are forgotten."""

    def __init__(self) -> None:
        self._ended: dict[str, bool] = {}

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._ended

    def expect(self, instance_id: str) -> None:
        self._ended[instance_id] = False
        if len(self._ended) > MOST_ANNOUNCED:
            del self._ended[next(iter(self._ended))]

    def note_end(self, instance_id: str) -> None:
        if instance_id in self._ended:
            self._ended[instance_id] = True

    def pop(self, instance_id: str) -> bool:
        return self._ended.pop(instance_id)

    def clear(self) -> None:
        self._ended.clear()


async def _notified(notice: asyncio.Event) -> bool:
    """Waits for a notice, or for the time to look again; says which it was."""
    try:
        async with asyncio.timeout(LOOK_AGAIN):
            await notice.wait()
    except TimeoutError:
        return False
    notice.clear()
    return True


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _log_unsent(error: BaseException | None) -> None:
    if error is not None:
        log.warning("A message was not confirmed: %s", error)


def _value(payload: Payload | None) -> Any:
    return payloads.decode(payload, Any, "A stored value")
