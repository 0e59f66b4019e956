"""Secret keys, by id. They are configuration: never logged, never shown, never part of a value."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from callboard.errors import ConfigurationError

#: Fewest bytes of a key.
SHORTEST = 32
#: The environment variables that `Keys.from_env` reads.
VARIABLE, FILE_VARIABLE = "CALLBOARD_KEYS", "CALLBOARD_KEYS_FILE"

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HOW = "Write id:base64, as in 2026-11:$(openssl rand -base64 32), several separated by commas or lines."


class Keys:
    """Keys that seal and open values: the first seals, all of them open.

    To change keys, add the new one at the *end* everywhere; once every process knows it, put it first; take the old one away when
    nothing that it sealed is needed any more.

    Args:
        keys: At least 32 random bytes for each id (letters, digits, ``_ . -``).

    Raises:
        ConfigurationError: there is none, or one is too short or has a wrong id.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ConfigurationError(f"There are no keys. {_HOW}")
        for number, (key_id, key) in enumerate(keys.items(), start=1):
            if not _ID.fullmatch(key_id):
                raise ConfigurationError(
                    f"The id of key {number} is not allowed: use 1 to 64 letters, digits, '_', '.' and '-'. {_HOW}"
                )
            if len(key) < SHORTEST:
                raise ConfigurationError(f"Key {key_id!r} is {len(key)} bytes long: use at least {SHORTEST}. {_HOW}")
        self._keys = dict(keys)
        self.first = next(iter(self._keys))

    @classmethod
    def parse(cls, text: str, *, source: str = "The keys") -> Keys:
        """Reads ``id:base64`` entries, separated by commas or lines; lines that begin with ``#`` are comments.

        Raises:
            ConfigurationError: an entry is none; says which one, never what it holds.
        """
        keys: dict[str, bytes] = {}
        for number, entry in enumerate(_entries(text), start=1):
            key_id, colon, encoded = entry.partition(":")
            try:
                if not colon:
                    raise ValueError
                key = base64.b64decode(encoded.strip().replace("-", "+").replace("_", "/"), validate=True)
            except (ValueError, binascii.Error):
                raise ConfigurationError(f"{source}: entry {number} is not id:base64. {_HOW}") from None
            if key_id.strip() in keys:
                raise ConfigurationError(f"{source}: entry {number} has the id of an earlier one. Give each its own.")
            keys[key_id.strip()] = key
        return cls(keys)

    @classmethod
    def from_file(cls, path: str | Path) -> Keys:
        """Reads a file of ``id:base64`` lines.

        Raises:
            ConfigurationError: it cannot be read, or an entry is wrong.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The key file {path} cannot be read: {error}") from None
        return cls.parse(text, source=f"The key file {path}")

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Keys | None:
        """Reads ``CALLBOARD_KEYS``, or the file that ``CALLBOARD_KEYS_FILE`` names; None if neither is set.

        Raises:
            ConfigurationError: both are set, or an entry is wrong.
        """
        environment = os.environ if environment is None else environment
        text, path = environment.get(VARIABLE, ""), environment.get(FILE_VARIABLE, "")
        if text and path:
            raise ConfigurationError(f"Both {VARIABLE} and {FILE_VARIABLE} are set: leave one of them out.")
        if path:
            return cls.from_file(path)
        return cls.parse(text, source=VARIABLE) if text else None

    def find(self, key_id: str) -> bytes | None:
        """The key of that id, if it is known."""
        return self._keys.get(key_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __repr__(self) -> str:
        return f"<Keys {', '.join(self._keys)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Keys are secrets: they are not pickled, so that no value can carry them away.")


def _entries(text: str) -> list[str]:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
