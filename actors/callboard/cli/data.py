"""Values that are given to a command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from callboard.cli.problems import CommandError
from callboard.core.payloads import is_json

Data: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="[DATA]", help="JSON; @FILE reads a file of it, - reads stdin.", show_default=False),
]


def json_of(data: str | None) -> str | None:
    """The JSON that an argument is or names; None for none and for ``null``.

    Raises:
        CommandError: it is not JSON, or its file cannot be read.
    """
    text = data
    if data == "-":
        text = sys.stdin.read()
    elif data is not None and data.startswith("@"):
        try:
            text = Path(data[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{data[1:]} cannot be read: {error}.") from None
    if text is not None and not is_json(text):
        raise CommandError(f"DATA is not JSON: {text[:64]!r}. Text must be in double quotes: '\"text\"'.")
    return None if text is None or text.strip() == "null" else text
