"""What ``--retain`` says: how long instances are kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from callboard.cli.problems import CommandError
from callboard.core.events import TERMINAL

UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def retention_of(given: Sequence[str]) -> dict[str, timedelta]:
    """``AGE`` for all statuses in which an instance has ended, ``STATUS=AGE`` for one, which wins.

    Raises:
        CommandError: there is no such status or age.
    """
    names = {name.lower(): name for name in TERMINAL}
    for_all: dict[str, timedelta] = {}
    for_one: dict[str, timedelta] = {}
    for text in given:
        status, equals, age = text.rpartition("=")
        if not equals:
            for_all = dict.fromkeys(sorted(TERMINAL), span(age))
        elif status.lower() in names:
            for_one[names[status.lower()]] = span(age)
        else:
            raise CommandError(f"--retain {text}: instances end as {', '.join(sorted(TERMINAL))}.")
    return for_all | for_one


def span(text: str) -> timedelta:
    """A time like 90m, 12h or 7d; raises CommandError for others."""
    if not text[:-1].isdecimal() or text[-1] not in UNITS:
        raise CommandError(f"{text!r} is no length of time. Use 90m, 12h or 7d.")
    return int(text[:-1]) * UNITS[text[-1]]
