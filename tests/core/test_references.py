"""What stands for a large value."""

from __future__ import annotations

import pytest

from callboard.core import references
from callboard.core.codec import JSON, Place, is_sealed
from callboard.core.payloads import encode
from callboard.core.references import LARGE, Reference, as_told, is_large, is_reference, read, size, written
from callboard.errors import PayloadRejectedError

OWN = Reference(ref="child/" + "a" * 64, bytes=300_000, told="parent/" + "a" * 64)


def test_a_reference_is_json_that_a_person_can_read() -> None:
    text = written(Reference(ref="one/" + "a" * 64, bytes=300_000))
    assert text == '{"$callboard":{"ref":"one/' + "a" * 64 + '","bytes":300000}}'
    assert read(text) == Reference(ref="one/" + "a" * 64, bytes=300_000)
    assert is_reference(text)
    assert is_sealed(text)
    assert size(text) == 300_000


@pytest.mark.parametrize(
    "payload", [None, "1", '"text"', '{"$callboard":{"codec":"cloudpickle"}}', '{"$callboard":{"ref":7}}']
)
def test_what_is_none_is_left_alone(payload: str | None) -> None:
    assert read(payload) is None
    assert as_told(payload) == payload
    assert size(payload) == len(payload or "")


def test_a_users_value_is_never_a_reference() -> None:
    payload = encode({"$callboard": {"ref": "one/" + "a" * 64, "bytes": 1}}, "The value")
    assert not is_reference(payload)


def test_a_parent_is_told_of_its_own_copy() -> None:
    told = written(Reference(ref="parent/" + "a" * 64, bytes=300_000))
    assert as_told(written(OWN)) == told
    assert as_told(told) == told


def test_large_is_what_is_over_the_limit() -> None:
    assert not is_large(None)
    assert not is_large("x" * LARGE)
    assert is_large("x" * (LARGE + 1))


def test_a_reference_that_nobody_resolved_is_not_opened() -> None:
    with pytest.raises(
        PayloadRejectedError, match=r"^The input of instance 'one' is a large value that is not there: payload child/aa"
    ):
        JSON.open(written(OWN), Place("one", "e", "input"))
    assert references.read(written(OWN)) == OWN
