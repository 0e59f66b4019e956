"""What a call brings and what it gives: opened before the function runs, sealed after it."""

from __future__ import annotations

from callboard.batching import retrying
from callboard.core.codec import Codec, Content, result_place, task_input_place
from callboard.core.events import Payload
from callboard.core.messages import ActivityCall
from callboard.core.references import is_large, is_reference
from callboard.errors import PayloadRejectedError, TamperedPayloadError
from callboard.large_values import LargeValues
from callboard.packs import encode_pack
from callboard.ports import Destination, Host, Store
from callboard.receiving import Quarantine, Unreadable, check_seal
from callboard.registry import ActivityDefinition


class Values:
    """The values of the activities that run here."""

    def __init__(self, codec: Codec, quarantine: Quarantine, store: Store, host: Host) -> None:
        self.codec = codec
        self._quarantine = quarantine
        self._store = store
        self._host = host
        self._large = LargeValues(store, host)

    async def given(self, call: ActivityCall) -> Content | None:
        """The input, fetched and opened.

        Raises:
            PayloadRejectedError: it cannot be. If it may have been forged, or is not there, the call is kept for a person too.
        """
        place = task_input_place(call.instance_id, call.execution_id, call.task_scheduled_id)
        try:
            check_seal(call, self.codec)
            whole = await self._large.whole_message(call)
            return self.codec.open(whole.input, place)
        except PayloadRejectedError as error:
            if isinstance(error, TamperedPayloadError) or is_reference(call.input):
                part = Unreadable(encode_pack([call]), {}, str(error))
                self._quarantine.keep(part, Destination.activities(call.queue), _nobody_waits)
            raise

    def encoded(self, definition: ActivityDefinition, result: object) -> Content | None:
        """What the function returned, encoded. May be called in any thread.

        Raises:
            InvalidPayloadError: it cannot be.
        """
        return self.codec.encode(result, f"The result of activity {definition.name!r}", definition.codec)

    async def sealed(self, call: ActivityCall, content: Content | None) -> Payload | None:
        """The result as payload: a reference if it is large, nothing if it is and its instance was purged."""
        place = result_place(call.instance_id, call.execution_id, call.task_scheduled_id)
        payload = self.codec.seal(content, place)
        if is_large(payload) and not await self._exists(call.instance_id):
            return None
        return await self._large.kept(payload, call.instance_id)

    async def _exists(self, instance_id: str) -> bool:
        return bool(await retrying(lambda: self._store.records([instance_id]), self._host, "look for an instance"))


def _nobody_waits() -> None:
    """The call has its own answer."""
