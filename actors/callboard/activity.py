"""What an activity may ask of the run that it is in, and what it is registered with."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, overload

import msgspec

from callboard.core import payloads
from callboard.core.codec import JSON, Codec, Place, load, progress_place
from callboard.core.events import Payload
from callboard.core.messages import ActivityCall
from callboard.core.timeouts import NONE, Timeouts
from callboard.errors import ActivityCancelledError, RegistrationError

T = TypeVar("T")


class ActivityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an activity is registered with, besides its name and queue."""

    timeouts: Timeouts = NONE
    concurrency: int | None = None
    """Most runs at a time in one worker."""
    hub_concurrency: int | None = None
    """Most runs at a time in the whole hub."""
    every: float | None = None
    """Least time between the beginnings of two runs in one worker, in seconds."""
    hub_every: float | None = None
    """The same in the whole hub."""

    @property
    def limited(self) -> bool:
        return any(limit is not None for limit in (self.concurrency, self.hub_concurrency, self.every, self.hub_every))


def check_concurrency(limit: int | None, what: str) -> int | None:
    """Returns a limit unchanged when it allows anything at all; raises RegistrationError otherwise."""
    if limit is not None and limit < 1:
        raise RegistrationError(f"{what}={limit} would let nothing run: use 1 or more.")
    return limit


def spacing(rate: str | None, what: str) -> float | None:
    """How far apart the starts under a rate limit are, in seconds.

    Args:
        rate: How many in which time: ``"10/s"``, ``"100/m"``, ``"5000/h"``.
        what: How an error names it.

    Raises:
        RegistrationError: it is none of these.
    """
    if rate is None:
        return None
    found = _RATE.fullmatch(rate)
    if found is None or float(found[1]) <= 0:
        raise RegistrationError(
            f'{what}={rate!r} is no rate: write how many per second, minute, hour or day, as in "100/m".'
        )
    return _SECONDS[found[2]] / float(found[1])


_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)/([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


#: Most bytes of progress that one heartbeat may carry.
MAX_DETAILS = 65_536


class CurrentRun(Protocol):
    """The run behind a context."""

    @property
    def call(self) -> ActivityCall: ...

    @property
    def worker_id(self) -> str: ...

    @property
    def cancelled(self) -> str | None:
        """Why it should stop; None while it should not."""
        ...

    def beat(self, details: Payload | None) -> None:
        """Takes a heartbeat. From any thread."""
        ...


class ActivityContext:
    """The run that an activity is in: `callboard.activity_context` returns it, and a parameter annotated with this class is handed it.

    It may be used from any thread of the run.
    """

    __slots__ = ("_codec", "_run", "logger")

    def __init__(self, run: CurrentRun, codec: Codec = JSON) -> None:
        self._run = run
        self._codec = codec
        self.logger = logging.LoggerAdapter(
            logging.getLogger(f"callboard.activity.{run.call.name}"),
            {
                "instance_id": run.call.instance_id,
                "execution_id": run.call.execution_id,
                "task_id": run.call.task_scheduled_id,
                "attempt": run.call.attempt,
            },
        )

    @property
    def name(self) -> str:
        """The name that the activity was called by."""
        return self._run.call.name

    @property
    def instance_id(self) -> str:
        """The instance that called it."""
        return self._run.call.instance_id

    @property
    def execution_id(self) -> str:
        """The execution of that instance: changes with every ``continue_as_new``."""
        return self._run.call.execution_id

    @property
    def task_id(self) -> int:
        """The number of the call in that execution."""
        return self._run.call.task_scheduled_id

    @property
    def attempt(self) -> int:
        """1 for the first attempt; a retry policy makes more. A run that a crash repeats is the same attempt again."""
        return self._run.call.attempt

    @property
    def idempotency_key(self) -> str:
        """The same for all runs and all attempts of one call, and for no other: hand it to whatever must not happen twice."""
        call = self._run.call
        first = call.task_scheduled_id if call.first_attempt is None else call.first_attempt
        return f"{call.execution_id}:{first:04x}"

    @property
    def worker_id(self) -> str:
        """The worker that runs it."""
        return self._run.worker_id

    @property
    def cancelled(self) -> bool:
        """Whether it should stop: nobody waits for its result any more, or it is over a time limit.

        An ``async def`` activity is also cancelled (``asyncio.CancelledError``).
        """
        return self._run.cancelled is not None

    def heartbeat(self, details: object = None) -> None:
        """Says that the activity makes progress, and how far it has come. Costs little: call it as often as you like.

        The last details are kept in the store, written every few seconds; whoever runs the activity after a crash, and the next attempt
        after a failure, reads them with `heartbeat_details`.

        Args:
            details: Anything that JSON can carry, up to 64 KiB.

        Raises:
            ActivityCancelledError: it should stop (see `cancelled`).
            InvalidPayloadError: the details have no JSON form.
            PayloadTooLargeError: they are too large.
        """
        what = f"The progress of activity {self.name!r}"
        self._run.beat(self._codec.seal(payloads.encode(details, what, limit=MAX_DETAILS), self._place))
        if (reason := self._run.cancelled) is not None:
            raise ActivityCancelledError(self.name, reason)

    @overload
    def heartbeat_details(self, expected: type[T]) -> T | None: ...

    @overload
    def heartbeat_details(self, expected: Any = Any) -> Any: ...

    def heartbeat_details(self, expected: Any = Any) -> Any:
        """The progress that an earlier run or attempt reported last; None if none did.

        Args:
            expected: The type to decode it into.

        Raises:
            InvalidPayloadError: it does not fit the type.
            PayloadRejectedError: it is encrypted, and cannot be opened here.
        """
        content = self._codec.open(self._run.call.heartbeat_details, self._place)
        return load(content, expected, f"The progress of activity {self.name!r}")

    @property
    def _place(self) -> Place:
        return progress_place(self.instance_id, self.execution_id, self.name)


_current: ContextVar[ActivityContext] = ContextVar("callboard activity")


def activity_context() -> ActivityContext:
    """The context of the activity that is running here.

    Raises:
        RuntimeError: none is; or it started this thread itself, without ``contextvars.copy_context``.
    """
    context = _current.get(None)
    if context is None:
        raise RuntimeError(
            "activity_context() works inside an activity that a worker runs. In a thread of your own, hand the context over: call it "
            "before, or run the thread in contextvars.copy_context()."
        )
    return context


@contextmanager
def entered(context: ActivityContext) -> Generator[None]:
    """Lets `activity_context` return this one."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
