"""What a call brings and what it gives: opened before the function runs, sealed after it."""

from __future__ import annotations

from callboard.core.codec import Codec, Content, result_place, task_input_place
from callboard.core.events import Payload
from callboard.core.messages import ActivityCall
from callboard.errors import TamperedPayloadError
from callboard.packs import encode_pack
from callboard.ports import Destination
from callboard.receiving import Quarantine, Unreadable
from callboard.registry import ActivityDefinition


class Values:
    """The values of the activities that run here."""

    def __init__(self, codec: Codec, quarantine: Quarantine) -> None:
        self._codec = codec
        self._quarantine = quarantine

    def given(self, call: ActivityCall) -> Content | None:
        """The input, opened.

        Raises:
            PayloadRejectedError: it cannot be. If its seal is wrong, the call is kept for a person too.
        """
        place = task_input_place(call.instance_id, call.execution_id, call.task_scheduled_id)
        try:
            return self._codec.open(call.input, place)
        except TamperedPayloadError as error:
            part = Unreadable(encode_pack([call]), {}, str(error))
            self._quarantine.keep(part, Destination.activities(call.queue), _nobody_waits)
            raise

    def encoded(self, definition: ActivityDefinition, result: object) -> Content | None:
        """What the function returned, encoded. May be called in any thread.

        Raises:
            InvalidPayloadError: it cannot be.
        """
        return self._codec.encode(result, f"The result of activity {definition.name!r}", definition.codec)

    def sealed(self, call: ActivityCall, content: Content | None) -> Payload | None:
        """The result as payload."""
        return self._codec.seal(content, result_place(call.instance_id, call.execution_id, call.task_scheduled_id))


def _nobody_waits() -> None:
    """The call has its own answer."""
