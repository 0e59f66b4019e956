"""How foreign programs name a task."""

from __future__ import annotations

import base64

import msgspec

from callboard.core.messages import ActivityCall
from callboard.errors import MalformedMessageError
from callboard.ports import Delivery
from callboard.receiving import check_id


class TaskToken(msgspec.Struct, frozen=True, array_like=True):
    """Which task a result belongs to. Opaque to those who carry it."""

    instance_id: str
    execution_id: str
    task_id: int

    @property
    def text(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def of(cls, text: str) -> TaskToken:
        """Reads a token.

        Raises:
            MalformedMessageError: it is none.
        """
        try:
            token = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except ValueError as error:
            raise MalformedMessageError(f"{text[:64]!r} is no token of an activity call: {error}") from None
        check_id(token.instance_id)
        return token

    def call(self) -> ActivityCall:
        """As much of the call as can be told from its token."""
        return ActivityCall(
            instance_id=self.instance_id, execution_id=self.execution_id, task_scheduled_id=self.task_id, name=""
        )


def called(delivery: Delivery) -> ActivityCall | None:
    """As much of a foreign call as is needed to end it; None for other messages."""
    about = delivery.properties
    if about.correlation_id is None:
        return None
    try:
        call = TaskToken.of(about.correlation_id).call()
    except MalformedMessageError:
        return None
    return msgspec.structs.replace(call, name=about.type or "")
