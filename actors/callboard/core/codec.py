"""How values travel: encoded, and sealed to the one place where they belong.

JSON is for everybody, and needs no seal. What is more than JSON (a pickle, anything encrypted) is an *envelope*: still JSON text, so
that whatever carries payloads carries it too, with an authentication code over the data and over the *place*: the
instance, the execution and the field. A sealed value that was changed, or copied to where it does not belong, is not opened.

Rules of this file:

* What cannot be opened is never decoded. The two are two steps (`Codec.open`, `Codec.load`), because decoding a pickle runs code.
* A seal is a function of its key, the value and the place alone: the same whenever it is made.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import msgspec

from callboard.core import payloads, references
from callboard.core.events import Asker, AskingTask, ParentInstance, Payload
from callboard.errors import InvalidPayloadError, PayloadRejectedError


class Place(msgspec.Struct, frozen=True):
    """Where a value belongs. A sealed value can be opened only there."""

    instance_id: str
    execution_id: str
    """Empty for what is not of one execution: an event outlives ``continue_as_new``."""
    field: str

    def __str__(self) -> str:
        return f"the {self.field} of instance {self.instance_id!r}"


def named(place: Place) -> str:
    """A place at the beginning of a sentence."""
    text = str(place)
    return text[:1].upper() + text[1:]


def input_place(instance_id: str, execution_id: str) -> Place:
    """An orchestration's input."""
    return Place(instance_id, execution_id, "input")


def next_input_place(instance_id: str, execution_id: str) -> Place:
    """What `continue_as_new` hands to the execution after this one, until its id is known."""
    return Place(instance_id, execution_id, "next input")


def output_place(instance_id: str, execution_id: str, parent: ParentInstance | None) -> Place:
    """An orchestration's output: a child's belongs to the task of its parent that waits for it."""
    if parent is not None:
        return result_place(parent.instance_id, parent.execution_id, parent.task_scheduled_id)
    return Place(instance_id, execution_id, "output")


def task_input_place(instance_id: str, execution_id: str, task_id: int) -> Place:
    """An activity's input."""
    return Place(instance_id, execution_id, f"input of task {task_id}")


def result_place(instance_id: str, execution_id: str, task_id: int) -> Place:
    """The result of a task: of an activity, or of a child."""
    return Place(instance_id, execution_id, f"result of task {task_id}")


def progress_place(instance_id: str, execution_id: str, activity: str) -> Place:
    """How far an activity has come; the next attempt, which is another task, reads it."""
    return Place(instance_id, execution_id, f"progress of activity {activity!r}")


def event_place(instance_id: str, message_id: str, name: str) -> Place:
    """The data of an external event, in the instance that it is raised on."""
    return Place(instance_id, "", f"data of event {name!r} in message {message_id}")


def message_place(instance_id: str, message_id: str, name: str) -> Place:
    """The data of a message, in the instance that it is sent to."""
    return Place(instance_id, "", f"data of message {name!r} in message {message_id}")


def published_place(instance_id: str, execution_id: str, action_id: int) -> Place:
    """What an orchestration publishes for others, until it leaves."""
    return Place(instance_id, execution_id, f"body of message {action_id}")


def answer_place(instance_id: str, message_id: str, asker: Asker | None) -> Place:
    """The answer to a message or a query: an orchestration's question belongs to its task that waits."""
    if isinstance(asker, AskingTask):
        return result_place(asker.instance_id, asker.execution_id, asker.task_scheduled_id)
    return Place(instance_id, "", f"answer to message {message_id}")


def operation_place(instance_id: str, request_id: str, operation: str) -> Place:
    """The input of an operation, in the entity that it is asked of."""
    return Place(instance_id, "", f"input of operation {operation!r} in request {request_id}")


def state_place(instance_id: str, execution_id: str) -> Place:
    """An entity's state."""
    return Place(instance_id, execution_id, "state")


def custom_status_place(instance_id: str) -> Place:
    return Place(instance_id, "", "custom status")


class Opaque(Protocol):
    """A value that is no JSON: authentic, and not decoded yet."""

    def load(self) -> Any:
        """Decodes it. Raises what its own classes raise."""
        ...


#: An encoded value outside its seal: JSON text (`callboard.core.payloads`), or something else.
Content: TypeAlias = str | Opaque


class Codec(Protocol):
    """Encodes, seals and opens values; by default (`JSON`) they are plain JSON.

    A codec is handed in by the runtime, because keys and pickles are not the core's.
    """

    def encode(self, value: object, what: str, codec: str | None = None) -> Content | None:
        """Encodes a value; None stays None.

        Args:
            value: By ``"json"`` anything that `payloads.encode` takes.
            what: How an error names the value.
            codec: ``"json"`` or ``"cloudpickle"``; None takes the hub's default.

        Raises:
            InvalidPayloadError: the value cannot be encoded so.
            PayloadTooLargeError: it is over the hub's limit.
            ConfigurationError: this codec needs keys, and there are none.
        """
        ...

    def seal(self, content: Content | None, place: Place) -> Payload | None:
        """The payload that history and messages carry."""
        ...

    def open(self, payload: Payload | None, place: Place) -> Content | None:
        """Checks a payload's seal, if it has or must have one, and returns what is in it.

        Raises:
            TamperedPayloadError: the seal is missing or wrong: the value was changed, or belongs elsewhere.
            PayloadRejectedError: it may be all right, but cannot be opened here: its key is not known, or pickles are not allowed.
        """
        ...


def load(content: Content | None, expected: Any, what: str) -> Any:
    """Decodes an opened value, JSON into the declared type; None stays None.

    Raises:
        InvalidPayloadError: it cannot be decoded, or does not fit the type.
    """
    if content is None or isinstance(content, str):
        return payloads.decode(content, expected, what)
    try:
        return content.load()
    except Exception as error:  # a pickle's classes raise what they like, or are not there
        raise InvalidPayloadError(f"{what} cannot be decoded here: {type(error).__name__}: {error}") from error


def moved(codec: Codec, payload: Payload | None, old: Place, new: Place) -> Payload | None:
    """A payload that legitimately goes from one place to another, sealed anew.

    Raises:
        PayloadRejectedError: it cannot be opened at its old place.
    """
    if payload is None or not payload.startswith(payloads.MARK):
        return payload
    return codec.seal(codec.open(payload, old), new)


class JsonCodec:
    """Plain JSON: seals nothing, opens nothing that is sealed."""

    def encode(self, value: object, what: str, codec: str | None = None) -> Content | None:
        return payloads.encode(value, what)

    def seal(self, content: Content | None, place: Place) -> Payload | None:
        assert content is None or isinstance(content, str)
        return content

    def open(self, payload: Payload | None, place: Place) -> Content | None:
        refuse_reference(payload, place)
        if payload is not None and is_sealed(payload):
            raise PayloadRejectedError(
                f"{named(place)} is sealed, and no keys are configured here. Set CALLBOARD_KEYS."
            )
        return payload


JSON = JsonCodec()


def refuse_reference(payload: Payload | None, place: Place) -> None:
    """Raises PayloadRejectedError for a reference: the value that it stands for should be here, and was not found."""
    if (reference := references.read(payload)) is not None:
        raise PayloadRejectedError(
            f"{named(place)} is a large value that is not there: payload {reference.ref}. Restore it from a backup."
        )


def is_sealed(payload: Payload) -> bool:
    """Whether a payload is an envelope that must be opened; one that only quotes a user's JSON is not."""
    return payload.startswith(payloads.MARK) and not payload.startswith(payloads.QUOTED)
