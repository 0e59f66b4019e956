"""How the values of a hub are encoded and sealed: JSON, cloudpickle, encryption. The core's rules are in `callboard.core.codec`."""

from __future__ import annotations

import typing
from typing import Any, Final, Literal, TypeAlias

import msgspec

from callboard.codecs import seals
from callboard.codecs.envelope import Envelope, read, written
from callboard.codecs.keys import Keys
from callboard.codecs.pickles import Pickled
from callboard.core import payloads
from callboard.core.codec import Content, Place, is_sealed, named, refuse_reference
from callboard.core.events import Payload
from callboard.errors import (
    ConfigurationError,
    InvalidPayloadError,
    PayloadRejectedError,
    PayloadTooLargeError,
    TamperedPayloadError,
)

#: How a function's values can travel.
CodecName: TypeAlias = Literal["json", "cloudpickle"]

#: Most that `CodecOptions.max_payload` may be, in bytes.
LARGEST: Final = 64 * 1024 * 1024


class CodecOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an app says of its values."""

    codec: CodecName = "json"
    """Of functions that name none."""
    allow_pickle: bool = False
    """Whether pickles may be decoded here."""
    encrypt: bool = False
    """Whether everything that is written from here is encrypted."""
    max_payload: int = payloads.MAX_PAYLOAD
    """Largest encoded value, in bytes."""

    def __post_init__(self) -> None:
        check_codec(self.codec)
        if not payloads.MAX_CUSTOM_STATUS <= self.max_payload <= LARGEST:
            raise ConfigurationError(
                f"max_payload={self.max_payload} is not possible: use {payloads.MAX_CUSTOM_STATUS:,} to {LARGEST:,} bytes."
            )


def check_codec(codec: str | None) -> str | None:
    """Returns the name of a codec unchanged, if there is one of that name; raises ConfigurationError otherwise."""
    known: tuple[str, ...] = typing.get_args(CodecName)
    if codec is not None and codec not in known:
        raise ConfigurationError(f"There is no codec {codec!r}. There are: {', '.join(known)}.")
    return codec


class HubCodec:
    """Encodes, seals and opens the values of a hub.

    Raises:
        ConfigurationError: encryption is asked for without keys, or is not installed.
    """

    def __init__(self, options: CodecOptions | None = None, keys: Keys | None = None) -> None:
        self.options = options or CodecOptions()
        self._keys = keys
        if self.options.encrypt:
            self._require_keys("Encryption")
            seals.require_cipher()

    def encode(self, value: object, what: str, codec: str | None = None) -> Content | None:
        if value is None:
            return None
        if (codec or self.options.codec) != "cloudpickle":
            return payloads.encode(value, what, limit=self.options.max_payload)
        self._require_pickle()
        try:
            pickled = Pickled.of(value)
        except Exception as error:  # a value's own __reduce__ raises what it likes
            raise InvalidPayloadError(f"{what} cannot be pickled: {error}") from error
        if len(pickled.data) > self.options.max_payload:
            raise PayloadTooLargeError(what, len(pickled.data), self.options.max_payload)
        return pickled

    def seal(self, content: Content | None, place: Place) -> Payload | None:
        if content is None or (isinstance(content, str) and not self.options.encrypt):
            return content
        codec, data = ("json", content.encode()) if isinstance(content, str) else ("cloudpickle", _data(content))
        keys = self._require_keys("A pickle")
        close = seals.encrypt if self.options.encrypt else seals.sign
        return written(close(codec, data, place, key_id=keys.first, key=keys.find(keys.first) or b""))

    def open(self, payload: Payload | None, place: Place) -> Content | None:
        if payload is None or not is_sealed(payload):
            return payload
        refuse_reference(payload, place)
        try:
            envelope = read(payload)
        except ValueError as error:
            raise TamperedPayloadError(f"{named(place)} is no whole envelope: {error}.") from error
        data = self._data_of(envelope, place)
        if envelope.codec == "json":
            return data.decode()
        if envelope.codec != "cloudpickle":
            raise PayloadRejectedError(f"{named(place)} has the codec {envelope.codec!r}, which is not known here.")
        if not self.options.allow_pickle:
            raise PayloadRejectedError(
                f"{named(place)} is a pickle, and pickles are not allowed here. If you trust all who hold its key: "
                "App(…, allow_pickle=True)."
            )
        return Pickled(data)

    def _data_of(self, envelope: Envelope, place: Place) -> bytes:
        if envelope.cipher is None and envelope.mac is None:
            raise TamperedPayloadError(f"{named(place)} is not signed.")
        key = self._keys.find(envelope.key) if self._keys is not None else None
        if key is None:
            raise PayloadRejectedError(
                f"{named(place)} is sealed with key {envelope.key[:64]!r}, which is not known here: add it to CALLBOARD_KEYS."
            )
        if envelope.cipher not in (None, seals.AES):
            raise PayloadRejectedError(f"{named(place)} has the cipher {envelope.cipher!r}, not known here.")
        try:
            return (seals.verified if envelope.cipher is None else seals.decrypted)(envelope, place, key)
        except seals.WrongSealError:
            raise TamperedPayloadError(
                f"{named(place)} has a wrong seal: it was changed, belongs elsewhere, or two keys have the id {envelope.key!r}."
            ) from None
        except ConfigurationError as error:
            raise PayloadRejectedError(f"{named(place)} is encrypted. {error}") from None

    def require(self, codec: str | None) -> None:
        """Raises ConfigurationError if values of this codec could not travel both ways here."""
        if (codec or self.options.codec) == "cloudpickle":
            self._require_pickle()
            if not self.options.allow_pickle:
                raise ConfigurationError(
                    "The cloudpickle codec runs code from values: allow it with App(…, allow_pickle=True), where you trust all who "
                    "hold its keys."
                )

    def _require_pickle(self) -> None:
        self._require_keys("The cloudpickle codec")

    def _require_keys(self, what: str) -> Keys:
        if self._keys is None:
            raise ConfigurationError(
                f"{what} needs keys: set CALLBOARD_KEYS or CALLBOARD_KEYS_FILE, or give App(…, keys=Keys.parse(…))."
            )
        return self._keys


def _data(content: Any) -> bytes:
    assert isinstance(content, Pickled)
    return content.data
