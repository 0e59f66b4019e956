"""Values in their envelopes: what can be opened, where, and with which key."""

from __future__ import annotations

import base64
import sys
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from callboard import Keys
from callboard.codecs import CodecOptions, HubCodec
from callboard.codecs.showing import shown
from callboard.core import payloads
from callboard.core.codec import JSON, Codec, Place, is_sealed, load, moved
from callboard.errors import (
    ConfigurationError,
    InvalidPayloadError,
    PayloadRejectedError,
    PayloadTooLargeError,
    TamperedPayloadError,
)

KEYS = Keys({"one": b"1" * 32})
PLACE = Place("order-1", "e" * 32, "result of task 3")
LOOKALIKE = {"$callboard": {"codec": "cloudpickle", "key": "one", "mac": "AAAA", "data": "AAAA"}}


class Matrix:
    """What JSON cannot carry."""

    def __init__(self, rows: list[list[complex]]) -> None:
        self.rows = rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Matrix) and other.rows == self.rows

    def __hash__(self) -> int:
        return 0


MATRIX = Matrix([[1j, 2], [3, Decimal("4.5")]])  # type: ignore[list-item]


def pickling(keys: Keys = KEYS, *, encrypt: bool = False, allow_pickle: bool = True) -> HubCodec:
    return HubCodec(CodecOptions(codec="cloudpickle", allow_pickle=allow_pickle, encrypt=encrypt), keys)


def encrypting(keys: Keys = KEYS) -> HubCodec:
    return HubCodec(CodecOptions(encrypt=True), keys)


def sealed(codec: Codec, value: object, place: Place = PLACE, name: str | None = None) -> str:
    payload = codec.seal(codec.encode(value, "The value", name), place)
    assert payload is not None
    return payload


def opened(codec: Codec, payload: str, place: Place = PLACE) -> Any:
    return load(codec.open(payload, place), Any, "The value")


def inner(payload: str) -> dict[str, Any]:
    envelope: dict[str, dict[str, Any]] = msgspec.json.decode(payload)
    return envelope["$callboard"]


def outer(fields: dict[str, Any]) -> str:
    return msgspec.json.encode({"$callboard": fields}).decode()


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_pickle_comes_back_as_it_was(encrypt: bool) -> None:
    codec, limit = pickling(encrypt=encrypt), 7

    def add(x: int) -> int:
        return x + limit

    payload = sealed(codec, (MATRIX, add))
    matrix, closure = opened(codec, payload)
    assert (matrix, closure(1)) == (MATRIX, 8)


def test_an_envelope_says_what_it_is_and_is_json() -> None:
    fields = inner(sealed(pickling(), MATRIX))
    assert list(fields) == ["codec", "key", "mac", "data"]
    assert (fields["codec"], fields["key"]) == ("cloudpickle", "one")
    fields = inner(sealed(encrypting(), {"iban": "DE02"}))
    assert (fields["codec"], fields["cipher"], fields["key"]) == ("json", "aes-256-gcm", "one")


def test_json_stays_plain_and_needs_no_key() -> None:
    assert sealed(HubCodec(), {"a": 1}) == '{"a":1}'
    assert opened(HubCodec(), '{"a":1}') == {"a": 1}
    assert HubCodec().encode(None, "The value") is HubCodec().seal(None, PLACE) is HubCodec().open(None, PLACE) is None


def test_encryption_hides_json_and_both_sides_read_it() -> None:
    payload = sealed(encrypting(), {"iban": "DE02"})
    assert "DE02" not in payload
    assert base64.b64decode(inner(payload)["data"]).find(b"DE02") == -1
    assert opened(HubCodec(keys=KEYS), payload) == {
        "iban": "DE02"
    }  # whoever has the key can, also without encrypting itself
    assert opened(encrypting(), '{"iban":"DE02"}') == {"iban": "DE02"}  # what was there before encryption was turned on


@pytest.mark.parametrize("codec", [pickling(), pickling(encrypt=True), encrypting()], ids=["pickle", "both", "aes"])
@pytest.mark.parametrize("place", [
    Place("order-2", PLACE.execution_id, PLACE.field), Place(PLACE.instance_id, "f" * 32, PLACE.field),
    Place(PLACE.instance_id, PLACE.execution_id, "result of task 4"),
], ids=["instance", "execution", "field"])  # fmt: skip
def test_a_value_opens_only_where_it_belongs(codec: HubCodec, place: Place) -> None:
    payload = sealed(codec, {"approved": True})
    with pytest.raises(TamperedPayloadError, match=f"of instance '{place.instance_id}' has a wrong seal"):
        codec.open(payload, place)
    assert opened(codec, str(moved(codec, payload, PLACE, place)), place) == {"approved": True}


@pytest.mark.parametrize("codec", [pickling(), pickling(encrypt=True), encrypting()], ids=["pickle", "both", "aes"])
def test_every_field_of_an_envelope_is_authentic(codec: HubCodec) -> None:
    fields = inner(sealed(codec, "value"))
    for name in fields:
        changed: dict[str, Any] = dict(fields)
        if name in ("data", "mac", "nonce"):
            raw = bytearray(base64.b64decode(fields[name]))
            raw[-1] ^= 1
            changed[name] = base64.b64encode(raw).decode()
        elif name == "codec":
            changed[name] = "json" if fields[name] == "cloudpickle" else "cloudpickle"
        else:
            continue
        with pytest.raises(TamperedPayloadError):
            codec.open(outer(changed), PLACE)


@pytest.mark.parametrize("fields", [
    {"codec": "cloudpickle", "key": "one", "data": "gASVBQAAAAAAAABLAS4="},
    {"codec": "cloudpickle", "key": "one", "mac": "", "data": "gASVBQAAAAAAAABLAS4="},
    {"codec": "cloudpickle", "key": "one", "mac": "%", "data": "gASVBQAAAAAAAABLAS4="},
    {"codec": "cloudpickle", "key": "one", "mac": "AAAA", "data": "%"},
    {"codec": "json", "cipher": "aes-256-gcm", "key": "one", "data": "AAAA"},
    {"codec": "cloudpickle"}, {"codec": "cloudpickle", "key": "one", "mac": 7, "data": []}, {}, 7,
])  # fmt: skip
def test_an_unsigned_or_broken_envelope_is_refused(fields: Any) -> None:
    with pytest.raises(TamperedPayloadError):
        pickling().open(outer(fields), PLACE)


def test_nothing_is_unpickled_before_the_seal_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return sys.exit, ("boom",)

    def explode(*_: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr("callboard.codecs.pickles.pickle.loads", explode)
    payload = sealed(pickling(Keys({"one": b"2" * 32})), Bomb())
    with pytest.raises(TamperedPayloadError):
        pickling().open(payload, PLACE)
    with pytest.raises(PayloadRejectedError, match=r"pickles are not allowed here.*allow_pickle=True"):
        pickling(allow_pickle=False).open(sealed(pickling(), Bomb()), PLACE)
    content = pickling().open(sealed(pickling(), Bomb()), PLACE)
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="boom"):
        load(content, Any, "The value")


def test_keys_rotate() -> None:
    old, both, new = Keys({"a": b"a" * 32}), Keys({"b": b"b" * 32, "a": b"a" * 32}), Keys({"b": b"b" * 32})
    by_old, by_both = sealed(pickling(old), MATRIX), sealed(pickling(both), MATRIX)
    assert (inner(by_old)["key"], inner(by_both)["key"]) == ("a", "b")
    assert opened(pickling(both), by_old) == opened(pickling(new), by_both) == MATRIX
    with pytest.raises(PayloadRejectedError, match="sealed with key 'a', which is not known here") as error:
        pickling(new).open(by_old, PLACE)
    assert not isinstance(error.value, TamperedPayloadError)  # it may be all right: wait for the key
    with pytest.raises(PayloadRejectedError, match="no keys are configured"):
        JSON.open(by_old, PLACE)


def test_seals_are_the_same_whenever_they_are_made() -> None:
    for codec in (HubCodec(CodecOptions(), KEYS), encrypting()):
        assert sealed(codec, [1, 2]) == sealed(codec, [1, 2])
    assert inner(sealed(encrypting(), [1, 2]))["nonce"] != inner(sealed(encrypting(), [1, 3]))["nonce"]
    elsewhere = Place("order-2", PLACE.execution_id, PLACE.field)
    assert inner(sealed(encrypting(), [1, 2]))["data"] != inner(sealed(encrypting(), [1, 2], elsewhere))["data"]


@pytest.mark.parametrize("codec", [HubCodec(), encrypting()], ids=["plain", "encrypting"])
@pytest.mark.parametrize("value", [
    LOOKALIKE, {"$callboard": 1}, {"$callboard": {"codec": "json", "value": 1}}, {"$callboard": LOOKALIKE}, [LOOKALIKE], {"a": LOOKALIKE},
    {"$callboard": {"ref": "order-1/" + "0" * 64}}, {"$callboard": {}, "b": 2},
])  # fmt: skip
def test_a_users_value_that_looks_like_an_envelope_stays_a_value(codec: HubCodec, value: Any) -> None:
    assert opened(codec, sealed(codec, value)) == value
    foreign = payloads.checked(msgspec.json.encode(value).decode(), "The body")
    assert opened(codec, str(codec.seal(foreign, PLACE))) == value
    assert shown(codec, sealed(codec, value), PLACE) == value


@pytest.mark.parametrize("text", [
    '{ "$callboard":{"codec":"cloudpickle"}}', '{"$callboard" :{"codec":"cloudpickle"}}', '{"\\u0024callboard":{"codec":"cloudpickle"}}',
])  # fmt: skip
def test_text_that_only_means_the_same_is_plain_json(text: str) -> None:
    assert not is_sealed(text)
    assert opened(pickling(), text) == {"$callboard": {"codec": "cloudpickle"}}


def test_a_sealed_value_that_nobody_opened_is_not_taken_for_json() -> None:
    with pytest.raises(InvalidPayloadError, match="is sealed, and nobody has opened it"):
        payloads.decode(sealed(pickling(), 1), Any, "The value")


def test_what_cannot_be_pickled_or_is_too_large_says_so() -> None:
    with pytest.raises(InvalidPayloadError, match=r"^The value cannot be pickled: .*generator"):
        pickling().encode((x for x in "ab"), "The value")
    small = HubCodec(CodecOptions(codec="cloudpickle", max_payload=20_000), KEYS)
    with pytest.raises(PayloadTooLargeError, match="limit of 20,000"):
        small.encode(b"x" * 20_001, "The value")
    with pytest.raises(PayloadTooLargeError, match="limit of 20,000"):
        small.encode("x" * 20_001, "The value", "json")


def test_a_class_that_is_not_there_says_so() -> None:
    payload = sealed(pickling(), MATRIX)
    raw = base64.b64decode(inner(payload)["data"]).replace(b"Matrix", b"Motrix")
    from callboard.codecs.pickles import Pickled  # noqa: PLC0415

    with pytest.raises(InvalidPayloadError, match=r"The value cannot be decoded here: AttributeError: .*Motrix"):
        load(Pickled(raw), Any, "The value")


@pytest.mark.parametrize(("options", "says"), [
    ({"codec": "pickle"}, "There is no codec 'pickle'. There are: json, cloudpickle"), ({"max_payload": 10}, "max_payload=10 is not possible"),
    ({"max_payload": 2**30}, "is not possible"),
])  # fmt: skip
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        CodecOptions(**options)


def test_without_keys_nothing_is_pickled_or_encrypted() -> None:
    with pytest.raises(ConfigurationError, match="The cloudpickle codec needs keys: set CALLBOARD_KEYS"):
        HubCodec().encode(MATRIX, "The value", "cloudpickle")
    with pytest.raises(ConfigurationError, match="Encryption needs keys"):
        HubCodec(CodecOptions(encrypt=True))
    with pytest.raises(ConfigurationError, match="allow it with App"):
        pickling(allow_pickle=False).require("cloudpickle")


def test_without_the_package_encryption_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = sealed(encrypting(), 1)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r"install callboard\[encryption\]"):
        encrypting()
    with pytest.raises(PayloadRejectedError, match=r"is encrypted.*install callboard\[encryption\]"):
        HubCodec(keys=KEYS).open(payload, PLACE)


def test_a_person_sees_what_a_value_is() -> None:
    payload = sealed(pickling(), MATRIX)
    about = {
        "$callboard": {"codec": "cloudpickle", "key": "one", "bytes": len(base64.b64decode(inner(payload)["data"]))}
    }
    assert shown(pickling(), payload, PLACE) == shown(JSON, payload, PLACE) == about
    assert shown(encrypting(), sealed(encrypting(), {"a": 1}), PLACE) == {"a": 1}
    assert shown(JSON, sealed(encrypting(), {"a": 1}), PLACE)["$callboard"]["cipher"] == "aes-256-gcm"
