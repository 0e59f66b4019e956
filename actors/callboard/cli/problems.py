"""How the command line says that something is wrong."""

from __future__ import annotations

import re
import sys

#: Exit code for a command that was given wrongly: an unknown option, a module that is not there, a port in use.
WRONG_USE = 2


class CommandError(Exception):
    """The command cannot be carried out; the message says what happened and what to do."""

    def __init__(self, message: str, *, exit_code: int = WRONG_USE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def say_problem(message: str) -> None:
    """Prints an error for a person."""
    sys.stderr.write(f"callboard: {masked(message)}\n")
    sys.stderr.flush()


def masked(text: str) -> str:
    """The text with the passwords and keys of URLs blanked, wherever they come from."""
    text = re.sub(r"(?<=://)([^\s:/@]*):[^\s@]*@", r"\1:***@", text)
    return re.sub(r"(?<=[?&]code=)[^&\s\"']+", "***", text, flags=re.IGNORECASE)
