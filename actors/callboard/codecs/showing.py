"""Values as a person may see them: JSON as it is, of everything else how it is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from callboard.codecs.envelope import read
from callboard.core import payloads
from callboard.core.codec import Codec, Place, custom_status_place, input_place, is_sealed, output_place
from callboard.core.events import Payload
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.places import changed
from callboard.errors import PayloadRejectedError


def shown(codec: Codec, payload: Payload | None, place: Place) -> Any:
    """A stored value; of one that is no JSON, or cannot be opened here, its envelope without the data."""
    if payload is None:
        return None
    if is_sealed(payload):
        try:
            content = codec.open(payload, place)
        except PayloadRejectedError:
            return outline(payload)
        if not isinstance(content, str):
            return outline(payload)
        payload = content
    return payloads.decode(payload, Any, str(place))


def outline(payload: Payload) -> Any:
    """An envelope without what only a program can read."""
    try:
        envelope = read(payload)
    except ValueError:  # of another kind, or none
        return payloads.decode_json(payload, Any, "An envelope")
    about = msgspec.to_builtins(msgspec.structs.replace(envelope, mac=None, nonce=None, data=""))
    del about["data"]
    return {"$callboard": {**about, "bytes": len(envelope.data) * 3 // 4 - envelope.data[-2:].count("=")}}


def readable(codec: Codec, commits: Sequence[Commit]) -> list[Commit]:
    """A history for people to read: its values as `shown` has them. Not for replay."""

    def change(payload: Payload, place: Place) -> Payload:
        return _text(codec, payload, place) or payload

    return [
        msgspec.structs.replace(
            commit,
            events=tuple(changed(event, commit.instance_id, commit.execution_id, change) for event in commit.events),
        )
        for commit in commits
    ]


def readable_record(codec: Codec, record: InstanceRecord) -> InstanceRecord:
    """The same for a record."""
    instance_id, execution_id = record.instance_id, record.execution_id
    return msgspec.structs.replace(
        record,
        input=_text(codec, record.input, input_place(instance_id, execution_id)),
        output=_text(codec, record.output, output_place(instance_id, execution_id, record.parent)),
        custom_status=_text(codec, record.custom_status, custom_status_place(instance_id)),
    )


def _text(codec: Codec, payload: Payload | None, place: Place) -> Payload | None:
    if payload is None or not payload.startswith(payloads.MARK):
        return payload
    return msgspec.json.encode(shown(codec, payload, place)).decode()
