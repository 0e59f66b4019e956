"""cloudpickle, for values that JSON cannot carry. Nothing here checks anything: see `callboard.codecs.HubCodec`."""

from __future__ import annotations

import pickle
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]

_PROTOCOL: Final = 5  # read by every Python that we run on


class Pickled:
    """A pickle whose seal was checked, or that was just made."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @classmethod
    def of(cls, value: object) -> Pickled:
        """Pickles a value. Raises what its own classes raise."""
        data: bytes = cloudpickle.dumps(value, protocol=_PROTOCOL)  # pyright: ignore[reportUnknownMemberType]
        return cls(data)

    def load(self) -> Any:
        """Makes the value again, and so runs what its classes say."""
        return pickle.loads(self.data)  # noqa: S301 - opt-in, and only behind a seal
