"""Versions of orchestrations: how they compare, and which code may run which instance.

The rules are Durable Functions': versions that are dotted numbers compare as numbers, all others as text without regard to case, and
no version is older than any. Code that is registered *for* a version runs that version and no other; code that is registered without
one runs what the app's strategy lets it run.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import Literal, TypeAlias

import msgspec

#: Which instances code without a version of its own may run: all, those of the app's version, or those and older ones.
MatchStrategy: TypeAlias = Literal["none", "strict", "current_or_older"]
#: What becomes of an instance that the strategy does not let any live worker run: it waits, visibly, or it fails.
FailureStrategy: TypeAlias = Literal["reject", "fail"]


def compare(one: str | None, other: str | None) -> int:
    """Negative if the first version is older, positive if it is newer, 0 if they are the same (as ``1.0`` and ``1.0.0`` are)."""
    if not one or not other:
        return bool(one) - bool(other)
    numbers, others = _numbers(one), _numbers(other)
    if numbers is None or others is None:
        text, text_of_other = one.casefold(), other.casefold()
        return (text > text_of_other) - (text < text_of_other)
    for left, right in zip_longest(numbers, others, fillvalue=0):
        if left != right:
            return 1 if left > right else -1
    return 0


def newest(versions: Iterable[str | None]) -> str | None:
    """The newest of some versions (at least one)."""
    first, *others = versions
    for each in others:
        first = each if compare(each, first) > 0 else first
    return first


class VersionRule(msgspec.Struct, frozen=True, kw_only=True):
    """An app's versioning."""

    default: str | None = None
    """What instances are given that are started without a version, and what code without a version of its own counts as."""
    match: MatchStrategy = "none"
    failure: FailureStrategy = "reject"

    def admits(self, version: str | None) -> bool:
        """Whether code without a version of its own may run an instance of that version."""
        match self.match:
            case "none":
                return True
            case "strict":
                return compare(version, self.default) == 0
            case "current_or_older":
                return compare(version, self.default) <= 0

    def choose(self, registered: Iterable[str | None], version: str | None) -> Chosen | None:
        """Which of the versions that a name is registered for runs an instance of the given one; None: none of them."""
        without = False
        for each in registered:
            if not each:
                without = True
            elif version and compare(each, version) == 0:
                return Chosen(each)
        return Chosen(None) if without and self.admits(version) else None

    def default_for(self, registered: Iterable[str | None]) -> str | None:
        """The version of an instance that is started, by name, without one: the app's, or the newest that there is code for."""
        known = tuple(registered)
        if not known or self.choose(known, self.default) is not None:
            return self.default
        return newest(known) or None


class Chosen(msgspec.Struct, frozen=True):
    """Code that was found: the version it is registered for (None: without one)."""

    version: str | None


def _numbers(version: str) -> list[int] | None:
    parts = version.removeprefix("v").removeprefix("V").split(".")
    return [int(part) for part in parts] if all(part.isdecimal() for part in parts) else None
