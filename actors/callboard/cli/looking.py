"""The commands that look at instances."""

from __future__ import annotations

import typer


def add_to(commands: typer.Typer) -> None:
    """Registers them."""
