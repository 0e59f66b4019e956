"""Deliveries in, letters out: what comes from the broker for instances is checked, sorted and counted here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from callboard.batching import retrying
from callboard.core.messages import (
    ActivityCall,
    ChildResult,
    ContinueExecution,
    InstanceMessage,
    Message,
    RaiseEvent,
    Resume,
    StartExecution,
    Suspend,
    TaskResult,
    Terminate,
    TimerDue,
    Wake,
    Watch,
)
from callboard.core.payloads import is_json
from callboard.errors import MalformedMessageError
from callboard.mailbox import Letter, PackAccount
from callboard.packs import decode_pack
from callboard.ports import Delivery, Destination, Host, Quarantined, Store
from callboard.routes import Sender

log = logging.getLogger("callboard")

_TO_INSTANCE = (
    StartExecution,
    TaskResult,
    ChildResult,
    TimerDue,
    ContinueExecution,
    RaiseEvent,
    Terminate,
    Suspend,
    Resume,
    Wake,
    Watch,
)


class Quarantine:
    """Keeps broker messages that cannot be understood, for a person, and only then lets the broker forget them."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host

    def keep(self, delivery: Delivery, source: Destination, reason: str) -> None:
        log.error("A message from %s cannot be understood and goes to quarantine: %s", source, reason)
        self._host.spawn(self._keep(delivery, source, reason), name="callboard quarantine")

    async def _keep(self, delivery: Delivery, source: Destination, reason: str) -> None:
        message = Quarantined(
            id=self._host.token(),
            at=self._host.now(),
            source=str(source),
            reason=reason,
            body=delivery.body,
            headers=dict(delivery.headers),
        )
        await retrying(lambda: self._store.quarantine(message), self._host, "quarantine")
        delivery.ack()


class Receiver:
    """Takes deliveries from partition queues apart.

    Args:
        post: Puts a letter into a mailbox of this worker; False if the partition is not owned here.
        watch: Takes requests to be told of an instance's end.
        expect: Takes the instance and the inbox of one who starts it and waits for its end.
    """

    def __init__(
        self,
        quarantine: Quarantine,
        sender: Sender,
        *,
        post: Callable[[Letter], bool],
        watch: Callable[[Watch], None],
        expect: Callable[[str, str], None],
    ) -> None:
        self._quarantine = quarantine
        self._sender = sender
        self._post = post
        self._watch = watch
        self._expect = expect

    def on_delivery(self, delivery: Delivery, source: Destination) -> None:
        try:
            messages = [_checked(message) for message in decode_pack(delivery.body)]
        except MalformedMessageError as error:
            self._quarantine.keep(delivery, source, str(error))
            return
        if not messages:
            delivery.ack()
            return
        account = PackAccount(delivery, len(messages))
        for message in messages:
            if isinstance(message, Watch):
                self._watch(message)
                account.settle()
            elif not self._post(Letter(message, account)):
                self._sender.forward(message, _forwarded(account))
            elif isinstance(message, StartExecution) and message.reply_to is not None:
                self._expect(message.instance_id, message.reply_to)


def _forwarded(account: PackAccount) -> Callable[[BaseException | None], None]:
    def sent(error: BaseException | None) -> None:
        if error is None:
            account.settle()
        else:
            log.warning("A letter for another worker could not be forwarded yet: %s", error)
            account.abandon()

    return sent


def _checked(message: Message) -> InstanceMessage:
    """Refuses what is well-formed but cannot be meant: other messages, ids that are not allowed, payloads that are no JSON."""
    if isinstance(message, ActivityCall) or not isinstance(message, _TO_INSTANCE):
        raise MalformedMessageError(f"{type(message).__name__} is no message for an instance")
    if not message.instance_id or "/" in message.instance_id:
        raise MalformedMessageError(f"instance id {message.instance_id[:64]!r} is not allowed")
    if isinstance(message, (RaiseEvent, TaskResult, ChildResult)):
        payload = message.input if isinstance(message, RaiseEvent) else message.result
        if payload is not None and not is_json(payload):
            raise MalformedMessageError(f"the payload of {type(message).__name__} for {message.instance_id} is not JSON")
    return message

