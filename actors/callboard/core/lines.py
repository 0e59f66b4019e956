"""Where in the user's code something happens: for the explanations that a person has to act on."""

from __future__ import annotations

import inspect
from typing import Any

_OURS = ("callboard", "asyncio")
#: Below this function is not the orchestration any more, but what runs it.
_BOTTOM = ("callboard.core.loop", "run_until_quiescent")


def calling_line() -> str | None:
    """The innermost line of the orchestration's code that is running; None if none of it is."""
    frame: Any = inspect.currentframe()
    while frame is not None:
        module = _module(frame)
        if (module, frame.f_code.co_name) == _BOTTOM:
            return None
        if not _is_ours(module):
            return _named(frame)
        frame = frame.f_back
    return None


def waiting_line(coroutine: Any) -> str | None:
    """The innermost line of the orchestration's code at which a suspended coroutine waits."""
    line: str | None = None
    while coroutine is not None:
        frame: Any = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        if not _is_ours(_module(frame)):
            line = _named(frame)
        driven = frame.f_locals.get("generator") if _is_ours(_module(frame)) else None  # a generator orchestrator
        coroutine = driven or getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return line


def _module(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS


def _named(frame: Any) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
