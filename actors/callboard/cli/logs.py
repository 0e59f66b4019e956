"""Log lines on stderr: short, one line each, without secrets."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TypeAlias

from callboard.cli.problems import masked

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

#: Drivers that say at length what the runtime says in a line.
_TALKATIVE = ("aio_pika", "aiormq", "pymongo", "motor", "asyncio", "uvicorn.error")


class _Masking(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def set_up_logs(level: LogLevel, *, process: bool = False) -> None:
    """Sends log lines to stderr. ``process``: each says which process it is from."""
    origin = " %(process)d" if process else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masking(f"%(asctime)s{origin} %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
