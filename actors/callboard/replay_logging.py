"""Loggers for orchestrations: silent while the past is repeated."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter


class ReplaySafeLogger(Adapter):
    """Lets records pass unless the code is quiet, and marks them with whose they are.

    Args:
        logger: Where they go.
        marks: What each record gets as attributes.
        quiet: Whether the code repeats its past, or is being thrown away.
    """

    def __init__(self, logger: logging.Logger, marks: dict[str, Any], quiet: Callable[[], bool]) -> None:
        super().__init__(logger, marks)
        self._marks = marks
        self._quiet = quiet

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's own name
        return not self._quiet() and self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **self._marks}
        return msg, kwargs
