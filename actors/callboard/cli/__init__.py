"""The command line: ``callboard dev``, ``worker``, ``serve``, and looking at instances."""

from __future__ import annotations

import logging
import sys

from callboard.cli.commands import commands
from callboard.cli.problems import CommandError, say_problem
from callboard.cli.secrets import read_secrets
from callboard.errors import CallboardError

__all__ = ["main"]

log = logging.getLogger("callboard.cli")


def main() -> None:
    """Runs the command line and exits. People get sentences, never a stack trace of ours."""
    try:
        read_secrets()
        commands(prog_name="callboard")
    except CommandError as error:
        say_problem(str(error))
        sys.exit(error.exit_code)
    except CallboardError as error:
        say_problem(str(error))
        sys.exit(1)
    except Exception as error:  # the last place where it can be said in words
        log.debug("Unexpected", exc_info=error)
        say_problem(
            f"This is a bug in Callboard: {type(error).__name__}: {error}. Run the command again with --log-level debug to see where, "
            "and report it, please."
        )
        sys.exit(70)
