"""Turns that do not run where their letters are: the turn loop's way to `callboard.elsewhere`, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from callboard.core.events import ExecutionParked
from callboard.core.instances import Commit, InstanceRecord, version_of
from callboard.core.messages import Resume, Wake
from callboard.core.state import InstanceState
from callboard.elsewhere import Elsewhere, GuestAccount
from callboard.mailbox import Actor, Letter
from callboard.ports import Host, LoadedInstance, WorkerInfo
from callboard.registry import Registry


class Mailboxes(msgspec.Struct, frozen=True):
    """What the turn loop does with letters that it has taken."""

    settle: Callable[[Actor, Sequence[Letter]], None]
    """They are committed, or rightly dropped."""
    again: Callable[[Actor, Sequence[Letter]], None]
    """They are to be judged by what the store says."""
    free: Callable[[Actor], None]
    """Nothing is under way for the instance any more."""


class Handover:
    """Decides of each turn whether it runs here, and hands those on that do not."""

    def __init__(self, elsewhere: Elsewhere, registry: Registry, host: Host, mailboxes: Mailboxes) -> None:
        self._elsewhere = elsewhere
        self._registry = registry
        self._host = host
        self._mailboxes = mailboxes

    def runner_again(self, actor: Actor) -> WorkerInfo | None:
        """Who runs the next turn of an instance whose last one was run elsewhere; it need not be loaded for that."""
        if actor.guest or actor.declined or any(isinstance(letter.message, Wake) for letter in actor.letters):
            return None
        return self._elsewhere.runner_again(actor.instance_id)

    def takes(self, actor: Actor, loaded: LoadedInstance, letters: Sequence[Letter]) -> bool:
        """Takes the letters of a turn that does not run here, and brings them where it does."""
        declined, actor.declined = actor.declined, False
        record = loaded.record
        version = version_of(record, loaded.commits)
        here = self._registry.runs(record.instance_id, record.name, version)
        if actor.guest:
            if not here:
                self._decline(actor, letters)
            return not here
        if any(isinstance(letter.message, Resume) for letter in letters):
            self._elsewhere.note_running(record.instance_id)
        asked = any(isinstance(letter.message, Wake) for letter in letters)
        if declined:
            return False
        runner = self._elsewhere.runner(record.instance_id, record.name, version, here=here, asked=asked)
        if runner is None:
            return False
        self.send(actor, letters, runner, n=loaded.commits[-1].n if loaded.commits else record.head)
        return True

    def send(self, actor: Actor, letters: Sequence[Letter], runner: WorkerInfo, *, n: int | None = None) -> None:
        """Hands a turn to another worker."""
        self._host.spawn(self._send(actor, letters, runner, n), name="callboard turn elsewhere")

    def exists(self, record: InstanceRecord, version: str | None) -> bool:
        """Whether another worker that is alive has the instance's code."""
        return self._elsewhere.exists(record.instance_id, record.name, version)

    def tried_in_vain(self, actor: Actor, letters: Sequence[Letter]) -> None:
        """A parked instance was tried again, and there is nothing new to record."""
        if not actor.guest:
            self._elsewhere.note_parked(actor.instance_id)
        for account in _guest_accounts(letters):
            account.tried_in_vain()

    def committed(self, actor: Actor, letters: Sequence[Letter], commit: Commit) -> bool:
        """Takes note of a commit. True: the instance is parked, and somebody else's code should be tried on it."""
        if actor.guest:
            for account in _guest_accounts(letters):
                account.committed(commit)
            return False
        if commit.parked is None:
            self._elsewhere.note_running(commit.instance_id)
            return False
        if commit.parked.kind == "unrunnable" or not any(isinstance(each, ExecutionParked) for each in commit.events):
            return False
        self._elsewhere.note_parked(commit.instance_id)
        state = actor.activation.state if actor.activation else None
        if not isinstance(state, InstanceState):
            return False
        return self._elsewhere.runner(commit.instance_id, state.name, state.version, here=True, asked=True) is not None

    async def _send(self, actor: Actor, letters: Sequence[Letter], runner: WorkerInfo, n: int | None) -> None:
        messages = [letter.message for letter in letters]
        if await self._elsewhere.run(runner, actor.instance_id, messages, n=n):
            self._mailboxes.settle(actor, letters)
        else:
            actor.declined = True
            self._mailboxes.again(actor, letters)

    def _decline(self, actor: Actor, letters: Sequence[Letter]) -> None:
        for letter in letters:
            letter.account.abandon()
        self._mailboxes.free(actor)


def _guest_accounts(letters: Sequence[Letter]) -> list[GuestAccount]:
    accounts = dict.fromkeys(letter.account for letter in letters)
    return [account for account in accounts if isinstance(account, GuestAccount)]
