"""URLs, which contain passwords, from files: ``CALLBOARD_BROKER_FILE`` names one that holds what ``CALLBOARD_BROKER`` would."""

from __future__ import annotations

import os
from pathlib import Path

from callboard.cli.problems import CommandError

#: What can come from a file.
VARIABLES = ("CALLBOARD_BROKER", "CALLBOARD_STORE")


def read_secrets() -> None:
    """Puts what the files hold where it is looked for.

    Raises:
        CommandError: a file cannot be read, or both the variable and its file are given.
    """
    for name in VARIABLES:
        path = os.environ.get(f"{name}_FILE")
        if path is None:
            continue
        if name in os.environ:
            raise CommandError(f"{name} and {name}_FILE are both set: keep one of them.")
        try:
            os.environ[name] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise CommandError(f"{name}_FILE={path} cannot be read: {error.strerror}.") from None
        del os.environ[f"{name}_FILE"]
