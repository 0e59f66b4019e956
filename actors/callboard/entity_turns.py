"""What the turns of entities need beside what all turns need: the record that their first request makes, and operations that await."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from callboard.batching import Batcher
from callboard.core.entities import EntityView, is_entity
from callboard.core.entity_turn import EntityActivation
from callboard.core.events import EntityOperationProcessed
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.messages import EntityRequest, InstanceMessage
from callboard.core.turn import Turn
from callboard.mailbox import Actor
from callboard.ports import CreateOutcome, Host, LoadedInstance, Store
from callboard.turnthread import SLICE

log = logging.getLogger("callboard")


class EntityTurns:
    """Makes entities, and runs the turns of those whose operations await something."""

    def __init__(self, store: Store, host: Host) -> None:
        self._host = host
        self._births: Batcher[InstanceRecord, CreateOutcome] = Batcher(store.create, host, name="create", parallel=2)

    async def aclose(self) -> None:
        await self._births.aclose()

    def make(self, actor: Actor, done: Callable[[BaseException | None], None]) -> None:
        """Makes the record of an entity, whose unique id decides who does; then it is loaded like any other instance."""
        now = self._host.now()
        record = InstanceRecord(
            instance_id=actor.instance_id,
            partition=actor.partition,
            execution_id=self._host.token(),
            name=actor.instance_id[1:].partition("@")[0],
            runtime_status="Running",
            created_time=now,
            last_updated_time=now,
            entity=EntityView(),
        )
        self._births.submit(record, lambda _outcome, error: done(error))  # by us or by somebody else: the same

    async def slow_turn(self, activation: EntityActivation, messages: Sequence[InstanceMessage]) -> Turn:
        """A turn in the event loop, beside the turns of others."""
        until = self._host.monotonic() + SLICE
        return await activation.slow_turn(
            messages, now=self._host.now(), token=self._host.token(), pace=lambda: self._host.monotonic() >= until
        )


def must_be_made(actor: Actor, loaded: LoadedInstance | None) -> bool:
    """Whether a request waits for an entity that does not exist, or has been cleaned up."""
    if not is_entity(actor.instance_id) or not any(isinstance(each.message, EntityRequest) for each in actor.letters):
        return False
    if loaded is None:
        return True
    return loaded.commits[-1].terminal if loaded.commits else loaded.record.terminal


def log_failures(commit: Commit) -> None:
    """Says what nobody else hears of."""
    for event in commit.events:
        if isinstance(event, EntityOperationProcessed) and event.failure is not None and event.caller is None:
            log.warning(
                "Signal %r to %s failed, and changed nothing: %s: %s",
                event.operation,
                commit.instance_id,
                event.failure.error_type,
                event.failure.error_message,
            )
