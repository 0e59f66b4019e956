"""Deliveries in, letters out: what comes from the broker for instances is checked, sorted and counted here."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import msgspec

from callboard.batching import retrying
from callboard.core import references
from callboard.core.codec import Codec, is_sealed, named
from callboard.core.conversation import Question
from callboard.core.entities import EntityId, Lock, Operation, Unlock, is_entity
from callboard.core.events import Payload
from callboard.core.failure import FailureDetails
from callboard.core.instances import MAX_INSTANCE_ID
from callboard.core.messages import (
    ActivityCall,
    Answer,
    ChildResult,
    ContinueExecution,
    DeliverMessage,
    EntityRequest,
    InstanceMessage,
    LockGranted,
    Message,
    OperationResult,
    Query,
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
from callboard.core.payloads import MARK, MAX_TEXT, is_json
from callboard.core.places import message_value, payload_of
from callboard.errors import InvalidEntityIdError, MalformedMessageError, PayloadRejectedError, TamperedPayloadError
from callboard.mailbox import Account, Letter, PackAccount
from callboard.packs import decode_pack, encode_pack, split_pack
from callboard.ports import Delivery, Destination, Host, Quarantined, Store
from callboard.routes import Sender

log = logging.getLogger("callboard")

M = TypeVar("M")

#: No number of a request is as high: it fits what stores keep exactly.
MOST_NUMBER = 2**53

_FORBIDDEN = r"/\\#?\x00-\x1f\x7f-\x9f\ud800-\udfff"
_ID = re.compile(f"[^@{_FORBIDDEN}][^{_FORBIDDEN}]{{0,{MAX_INSTANCE_ID - 1}}}")
_TO_INSTANCE = (
    StartExecution,
    TaskResult,
    ChildResult,
    TimerDue,
    ContinueExecution,
    RaiseEvent,
    DeliverMessage,
    Answer,
    Query,
    Terminate,
    Suspend,
    Resume,
    EntityRequest,
    OperationResult,
    LockGranted,
    Wake,
    Watch,
)
#: What an entity may be sent besides requests.
_TO_ENTITY = (ChildResult, TimerDue, Wake)


class Unreadable:
    """A broker message, or one message of its pack, that cannot be understood."""

    __slots__ = ("body", "headers", "reason")

    def __init__(self, body: bytes, headers: Mapping[str, str], reason: str) -> None:
        self.body = body
        self.headers = headers
        self.reason = reason


def unpacked(delivery: Delivery, check: Callable[[Message], M]) -> tuple[list[M], list[Unreadable]]:
    """Takes a pack apart; what cannot be understood does not harm what lies beside it."""
    try:
        return [check(message) for message in decode_pack(delivery.body)], []
    except MalformedMessageError as error:
        parts = split_pack(delivery.body)
        if len(parts) < 2:
            return [], [Unreadable(delivery.body, delivery.headers, str(error))]
    good: list[M] = []
    bad: list[Unreadable] = []
    for part in parts:
        try:
            good.extend(check(message) for message in decode_pack(part))
        except MalformedMessageError as error:
            bad.append(Unreadable(part, delivery.headers, str(error)))
    return good, bad


class Quarantine:
    """Keeps broker messages that cannot be understood, for a person, and only then lets the broker forget them."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host
        self.kept = 0

    def keep(self, part: Unreadable, source: Destination, kept: Callable[[], None]) -> None:
        self.kept += 1
        log.error("A message from %s cannot be understood and goes to quarantine: %s", source, part.reason)
        message = Quarantined(
            id=self._host.token(),
            at=self._host.now(),
            source=str(source),
            reason=part.reason,
            body=part.body,
            headers=dict(part.headers),
        )
        self._host.spawn(self._keep(message, kept), name="callboard quarantine")

    async def _keep(self, message: Quarantined, kept: Callable[[], None]) -> None:
        await retrying(lambda: self._store.quarantine(message), self._host, "quarantine")
        kept()


class Receiver:
    """Takes deliveries from partition queues apart.

    Args:
        codec: Checks the seals of values.
        post: Puts a letter into a mailbox of this worker; False if the partition is not owned here.
        watch: Takes requests to be told of an instance's end; False if its partition is not owned here.
        expect: Takes the instance and the inbox of one who starts it and waits for its end.
        refuse: Tells one who asks that there will be no answer, then settles the question.
    """

    def __init__(
        self,
        quarantine: Quarantine,
        sender: Sender,
        codec: Codec,
        *,
        post: Callable[[Letter], bool],
        watch: Callable[[Watch], bool],
        expect: Callable[[str, str], None],
        refuse: Callable[[Question, Account, FailureDetails], None],
    ) -> None:
        self._quarantine = quarantine
        self._sender = sender
        self._codec = codec
        self._post = post
        self._watch = watch
        self._expect = expect
        self._refuse = refuse

    def on_delivery(self, delivery: Delivery, source: Destination) -> None:
        messages, unreadable = unpacked(delivery, checked)
        if not messages and not unreadable:
            delivery.ack()
            return
        account = PackAccount(delivery, len(messages) + len(unreadable))
        for part in unreadable:
            self._quarantine.keep(part, source, account.settle)
        for message in messages:
            try:
                check_seal(message, self._codec)
            except TamperedPayloadError as error:
                part = Unreadable(encode_pack([message]), delivery.headers, str(error))
                self._quarantine.keep(part, source, partial(self._refused, message, error, account))
            else:
                self._let_in(message, account)

    def refuse(self, letter: Letter, error: TamperedPayloadError) -> None:
        """Takes a letter back whose large value turned out to be forged when it was fetched."""
        part = Unreadable(encode_pack([letter.message]), {}, str(error))
        source = Destination.partition(self._sender.partition_of(letter.message.instance_id))
        self._quarantine.keep(part, source, partial(self._refused, letter.message, error, letter.account))

    def _let_in(self, message: InstanceMessage, account: Account) -> None:
        if isinstance(message, Watch) and self._watch(message):
            account.settle()
        elif isinstance(message, Watch) or not self._post(Letter(message, account)):
            self._sender.forward(message, _forwarded(account))
        elif isinstance(message, StartExecution) and message.reply_to is not None:
            self._expect(message.instance_id, message.reply_to)

    def _refused(self, message: InstanceMessage, error: TamperedPayloadError, account: Account) -> None:
        """Somebody may wait for a result: it gets a failure instead, so that the call ends visibly."""
        failure = FailureDetails.from_exception(error)
        if isinstance(message, (DeliverMessage, Query)):
            self._refuse(message, account, failure)
        elif isinstance(message, EntityRequest) and isinstance(message.request, Operation):
            request = msgspec.structs.replace(message.request, input=None, refused=failure)
            self._let_in(msgspec.structs.replace(message, request=request), account)
        elif isinstance(message, (TaskResult, ChildResult, Answer, OperationResult)):
            self._let_in(msgspec.structs.replace(message, result=None, failure=failure), account)
        else:
            account.settle()


def check_seal(message: Message, codec: Codec) -> None:
    """Raises TamperedPayloadError if the value that a message brings has a wrong seal, or is another instance's.

    What only cannot be opened *here* passes: a turn parks its instance, and nothing is lost when the key comes.
    """
    if isinstance(message, EntityRequest):
        _check_reference(message)
        return
    payload = payload_of(message)
    if payload is None or not payload.startswith(MARK) or (value := message_value(message)) is None:
        return
    if (reference := references.read(value[1])) is not None:
        if not reference.ref.startswith(f"{value[2].instance_id}/"):
            raise TamperedPayloadError(f"{named(value[2])} is a reference to what belongs to another instance.")
    elif is_sealed(value[1]):
        try:
            codec.open(value[1], value[2])
        except TamperedPayloadError:
            raise
        except PayloadRejectedError as error:
            log.warning("%s", error)


def _check_reference(message: EntityRequest) -> None:
    """Of a request's input only that it is its entity's own: a wrong seal fails the operation, where it is carried out."""
    payload = message.request.input if isinstance(message.request, Operation) else None
    reference = references.read(payload)
    if reference is not None and not reference.ref.startswith(f"{message.instance_id}/"):
        raise TamperedPayloadError(
            f"The input of a request to {message.instance_id} is a reference to what belongs to another instance."
        )


def check_id(instance_id: str) -> None:
    """Raises MalformedMessageError for an id that no instance can have."""
    if not _ID.fullmatch(instance_id):
        raise MalformedMessageError(f"instance id {instance_id[:64]!r} is not allowed")


def check_entity_id(instance_id: str) -> None:
    """Raises MalformedMessageError for an id that no entity can have."""
    try:
        EntityId.parse(instance_id)
    except InvalidEntityIdError as error:
        raise MalformedMessageError(str(error)) from None


def check_request(message: EntityRequest) -> None:
    """Raises MalformedMessageError for a request that no entity can have been meant to get."""
    request = message.request
    check_entity_id(message.instance_id)
    if not 0 < len(request.line.sender) <= MAX_TEXT or not 0 <= request.line.number < MOST_NUMBER:
        raise MalformedMessageError(f"a request to {message.instance_id} has no position that can be")
    if isinstance(request, Operation) and len(request.operation) > MAX_TEXT:
        raise MalformedMessageError(f"the name of an operation of {message.instance_id} is too long")
    if isinstance(request, (Operation, Lock, Unlock)) and request.caller is not None:
        check_id(request.caller.instance_id)


def _forwarded(account: Account) -> Callable[[BaseException | None], None]:
    def sent(error: BaseException | None) -> None:
        if error is None:
            account.settle()
        else:
            log.warning("A letter for another worker could not be forwarded yet: %s", error)
            account.abandon()

    return sent


def checked(message: Message) -> InstanceMessage:
    """Refuses what is well-formed but cannot be meant.

    Raises:
        MalformedMessageError: another message than one for an instance, an id that is not allowed, a payload that is no JSON.
    """
    if isinstance(message, ActivityCall) or not isinstance(message, _TO_INSTANCE):
        raise MalformedMessageError(f"{type(message).__name__} is no message for an instance")
    if isinstance(message, EntityRequest):
        check_request(message)
    elif isinstance(message, _TO_ENTITY) and is_entity(message.instance_id):
        check_entity_id(message.instance_id)
    else:
        check_id(message.instance_id)
    if (
        isinstance(message, (RaiseEvent, DeliverMessage, Terminate, Suspend, Resume))
        and len(message.message_id) > MAX_TEXT
    ):
        raise MalformedMessageError(f"the message id of {type(message).__name__} for {message.instance_id} is too long")
    if isinstance(message, (RaiseEvent, DeliverMessage, Query)) and len(message.name) > MAX_TEXT:
        raise MalformedMessageError(f"the name of {type(message).__name__} for {message.instance_id} is too long")
    if any(payload is not None and not is_json(payload) for payload in _payloads(message)):
        raise MalformedMessageError(f"the payload of {type(message).__name__} for {message.instance_id} is not JSON")
    return message


def _payloads(message: InstanceMessage) -> tuple[Payload | None, ...]:
    match message:
        case RaiseEvent() | DeliverMessage() | Query():
            return (message.input,)
        case TaskResult():
            return (message.result, message.heartbeat_details)
        case ChildResult() | Answer() | OperationResult():
            return (message.result,)
        case EntityRequest(request=Operation(input=payload)):
            return (payload,)
        case _:
            return ()
