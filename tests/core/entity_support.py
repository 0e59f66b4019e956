"""An entity in a test tube: its turns and its commits, all in memory, all time virtual."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import msgspec

from callboard.core import payloads
from callboard.core.effects import Effect, Tell, derive
from callboard.core.entities import Caller, CleanUp, Lock, Operation, Position, Request, Unlock
from callboard.core.entity_context import EntityContext
from callboard.core.entity_state import EntityState
from callboard.core.entity_turn import EntityActivation
from callboard.core.events import EntityYielded, HistoryEvent
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.messages import ChildResult, EntityRequest, InstanceMessage, TimerDue, Wake
from callboard.core.turn import Pace, Turn, unhurried
from tests.core.support import EPOCH, PARTITIONS, Targets, through_json

#: The execution of an orchestration that asks.
CALLER = "c" * 32


class Code:
    """An entity out of a function of the context; what it returns is the result."""

    codec = None

    def __init__(self, function: Callable[[EntityContext], Any], slow: frozenset[str] = frozenset()) -> None:
        self.function = function
        self.slow = slow

    def is_async(self, operation: str) -> bool:
        return operation in self.slow

    async def run(self, context: EntityContext) -> None:
        result = self.function(context)
        context.returned(await result if inspect.isawaitable(result) else result)


def counter(context: EntityContext) -> Any:
    """Adds, tells, deletes, fails, signals on."""
    value = context.get_state(int)
    match context.operation_name:
        case "add":
            context.set_state(value + context.get_input(int))
        case "get":
            return value
        case "delete":
            context.delete_state()
        case "fail":
            context.set_state(-1)
            raise ValueError(f"no: {context.get_input()}")
        case _:
            raise AssertionError(context.operation_name)
    return context.get_state()


class Entity:
    """One entity and all its commits. `forget` loses what is in memory; the next delivery loads it."""

    def __init__(
        self,
        function: Callable[[EntityContext], Any] | None = counter,
        *,
        instance_id: str = "@counter@one",
        head: int = -1,
        slow: frozenset[str] = frozenset(),
    ) -> None:
        self.code = Code(function, slow) if function is not None else None
        self.record = InstanceRecord(
            instance_id=instance_id,
            partition=3,
            execution_id="e" * 32,
            name="counter",
            runtime_status="Running",
            created_time=EPOCH,
            last_updated_time=EPOCH,
            head=head,
            first=head + 1,
        )
        self.commits: list[Commit] = []
        self.now = EPOCH
        self.activation: EntityActivation | None = None
        self._numbers = count()
        self._lines: dict[str, tuple[int, datetime | None]] = {}

    # Turns

    def deliver(self, *messages: InstanceMessage, after: float = 0, pace: Pace = unhurried) -> Turn:
        """One turn, some time later."""
        self.now += timedelta(seconds=after)
        turn = self.loaded().turn(messages, now=self.now, token=f"token-{len(self.commits)}", pace=pace)
        if turn.commit is not None:
            self.commits.append(turn.commit)
        return turn

    def commit(self, *messages: InstanceMessage, after: float = 0, pace: Pace = unhurried) -> Commit:
        """One turn that must end in a commit, leave nothing unknown, and be the same when it is loaded again."""
        turn = self.deliver(*messages, after=after, pace=pace)
        assert turn.commit is not None
        assert turn.unknown == ()
        self.check()
        return turn.commit

    def ask(self, *requests: Request, after: float = 0, pace: Pace = unhurried) -> Commit:
        return self.commit(*(self.message(request) for request in requests), after=after, pace=pace)

    def message(self, request: Request) -> EntityRequest:
        return EntityRequest(instance_id=self.record.instance_id, request=request)

    def loaded(self) -> EntityActivation:
        if self.activation is None:
            commits = [commit for commit in self.commits if commit.n >= self.commits[-1].first]
            self.activation = EntityActivation(self.record, through_json(commits), self.code, Targets())
        return self.activation

    def forget(self) -> None:
        self.activation = None

    def become(self, function: Callable[[EntityContext], Any] | None) -> None:
        """Deploys other code."""
        self.code = Code(function) if function is not None else None
        self.forget()

    def check(self) -> None:
        """The state in memory is the one that whoever loads the commits has."""
        assert self.activation is not None
        stored = [commit for commit in self.commits if commit.n >= self.commits[-1].first]
        again = EntityState.fold(self.record, through_json(stored))
        live = self.activation.state
        assert again.memory() == live.memory()
        assert again.view == live.view
        assert again.memory_size == live.memory_size
        for name in ("n", "first", "at", "status", "parked", "value", "since_memory", "deltas", "execution_id"):
            assert getattr(again, name) == getattr(live, name), name

    # Requests

    def signal(
        self, operation: str, value: object = None, *, sender: str | None = None, due: float | None = None
    ) -> Operation:
        """A client's signal, or the next one in a sender's line."""
        line = self._position(sender)
        return Operation(
            line=line,
            sent=self.now,
            request_id=str(line),
            operation=operation,
            input=payloads.encode(value, "The input"),
            due=None if due is None else EPOCH + timedelta(seconds=due),
        )

    def call(self, operation: str, value: object = None, *, sender: str = CALLER, task: int | None = None) -> Operation:
        line = self._position(sender)
        return Operation(
            line=line,
            sent=self.now,
            request_id=str(line),
            operation=operation,
            input=payloads.encode(value, "The input"),
            caller=self.caller(sender, line.number if task is None else task),
        )

    def lock(self, sender: str = CALLER, task: int = 100) -> Lock:
        return Lock(line=self._position(sender), sent=self.now, caller=self.caller(sender, task))

    def unlock(self, sender: str = CALLER, task: int = 100) -> Unlock:
        return Unlock(line=self._position(sender), sent=self.now, caller=self.caller(sender, task))

    def clean(self, idle: float = 60) -> CleanUp:
        return CleanUp(line=self._position(None), sent=self.now, idle=idle)

    def caller(self, execution_id: str, task: int) -> Caller:
        return Caller(instance_id=f"of {execution_id}", execution_id=execution_id, task_scheduled_id=task)

    def _position(self, sender: str | None) -> Position:
        if sender is None:
            return Position(sender=f"message-{next(self._numbers)}")
        number, after = self._lines.get(sender, (0, None))
        self._lines[sender] = number + 1, self.now
        return Position(sender=sender, number=number, after=after)

    def timer(self, timer_id: int) -> TimerDue:
        return TimerDue(
            instance_id=self.record.instance_id,
            execution_id=self.record.execution_id,
            timer_id=timer_id,
            fire_at=self.now,
        )

    def ended(self, number: int, value: object = None, failure: FailureDetails | None = None) -> ChildResult:
        return ChildResult(
            instance_id=self.record.instance_id,
            execution_id=self.record.execution_id,
            task_scheduled_id=number,
            at=self.now,
            result=payloads.encode(value, "The result"),
            failure=failure,
        )

    def wake(self) -> Wake:
        return Wake(instance_id=self.record.instance_id)

    # What is known afterwards

    @property
    def state(self) -> Any:
        view = self.commits[-1].entity
        assert view is not None
        return None if view.state is None else msgspec.json.decode(view.state)

    @property
    def last(self) -> tuple[HistoryEvent, ...]:
        return self.commits[-1].events

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.last]

    @property
    def yielded(self) -> bool:
        return any(isinstance(event, EntityYielded) for event in self.last)

    def effects(self) -> list[Effect]:
        return derive(self.commits[-1], PARTITIONS)

    def told(self) -> list[InstanceMessage]:
        """What the last commit tells others."""
        return [effect.message for effect in self.effects() if isinstance(effect, Tell)]
