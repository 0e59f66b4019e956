"""Seals: HMAC-SHA256 for what is only to be authentic, AES-256-GCM for what is to be secret too.

Each purpose has a key of its own, derived from the configured one. The cipher's key is one instance's alone, and its nonce is derived
from place and plain text (as SIV does): equal values at one place give equal envelopes, so nothing random is needed in a
turn, and a nonce repeats only where the whole message does. A place's nonces are 96 bits of a keyed hash: keep it under 2**32
values for one instance and key, which is more than any history holds.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

import msgspec

from callboard.codecs.envelope import Envelope, from_text, to_text
from callboard.core.codec import Place
from callboard.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

AES: Final = "aes-256-gcm"
_NONCE_SIZE: Final = 12
_encode = msgspec.json.Encoder().encode


class WrongSealError(Exception):
    """The seal does not fit the value and its place."""


def sign(codec: str, data: bytes, place: Place, *, key_id: str, key: bytes) -> Envelope:
    """Puts data into an envelope that everybody can read and only key holders can make."""
    mac = _mac(key, _about(codec, key_id, place), data)
    return Envelope(codec=codec, key=key_id, mac=to_text(mac), data=to_text(data))


def verified(envelope: Envelope, place: Place, key: bytes) -> bytes:
    """The data of a signed envelope.

    Raises:
        WrongSealError: the signature is missing or wrong.
    """
    try:
        data, mac = from_text(envelope.data), from_text(envelope.mac)
    except ValueError as error:
        raise WrongSealError from error
    if not hmac.compare_digest(mac, _mac(key, _about(envelope.codec, envelope.key, place), data)):
        raise WrongSealError
    return data


def encrypt(codec: str, data: bytes, place: Place, *, key_id: str, key: bytes) -> Envelope:
    """Puts data into an envelope that only key holders can read or make."""
    about = _about(codec, key_id, place)
    nonce = hmac.digest(_derived(key, "nonce"), about + data, "sha256")[:_NONCE_SIZE]
    encrypted = _aes(key, place).encrypt(nonce, data, about)
    return Envelope(codec=codec, cipher=AES, key=key_id, nonce=to_text(nonce), data=to_text(encrypted))


def decrypted(envelope: Envelope, place: Place, key: bytes) -> bytes:
    """The data of an encrypted envelope.

    Raises:
        WrongSealError: it was not encrypted by this key for this place, or was changed.
        ConfigurationError: the package for it is not installed.
    """
    cipher = _aes(key, place)
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra; the line above says so if it is not there

    about = _about(envelope.codec, envelope.key, place)
    try:
        return cipher.decrypt(from_text(envelope.nonce), from_text(envelope.data), about)
    except (InvalidTag, ValueError) as error:
        raise WrongSealError from error


def require_cipher() -> None:
    """Raises ConfigurationError if encryption is not installed."""
    _aes(bytes(32), Place("", "", ""))


def _about(codec: str, key_id: str, place: Place) -> bytes:
    """What is authenticated beside the data; JSON keeps its parts apart."""
    return _encode(["callboard-1", codec, key_id, place.instance_id, place.execution_id, place.field])


def _mac(key: bytes, about: bytes, data: bytes) -> bytes:
    signature = hmac.new(_derived(key, "sign"), about, "sha256")
    signature.update(data)
    return signature.digest()


def _derived(key: bytes, purpose: str) -> bytes:
    return hmac.digest(key, f"callboard-1 {purpose}".encode(), "sha256")


def _aes(key: bytes, place: Place) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError("Encryption needs the package cryptography: install callboard[encryption].") from None
    return AESGCM(_derived(key, f"encrypt {place.instance_id}"))
