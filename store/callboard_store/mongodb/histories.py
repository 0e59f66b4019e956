"""Histories: commits appended in groups, read as ranges of their keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, TypeVar

from callboard.core.instances import Commit, InstanceRecord
from callboard.errors import CallboardError, StoreUnavailableError
from callboard.ports import AppendOutcome, LoadedInstance
from callboard_store.documents import PURGED, Document, commit_document, commit_id, commit_of, commit_range
from callboard_store.mongodb.driver import ASCENDING, BulkWriteError, duplicates
from callboard_store.mongodb.records import Records
from callboard_store.rules import current_execution

T = TypeVar("T")

#: Ranges in one query: more make the planner slow.
_RANGES: Final = 500
_ATTEMPTS: Final = 3
_NUDGE_AFTER_SECONDS: Final = (0.005, 0.05)
#: Leaves out the numbers that trimmed and purged commits still take.
_KEPT: Final = {"expires": {"$exists": False}}


class Histories(Records):
    """Adds the commits of instances."""

    _nudge: asyncio.Future[None] | None = None

    async def append(self, commits: Sequence[Commit]) -> list[AppendOutcome]:
        outcomes = [AppendOutcome.COMMITTED] * len(commits)
        left = list(range(len(commits)))
        for _ in range(_ATTEMPTS):
            if not left:
                return outcomes
            taken = await self._insert([commits[index] for index in left])
            if not taken:
                return outcomes
            left = await self._judge(commits, [left[at] for at in taken], outcomes)
        raise StoreUnavailableError(
            f"MongoDB at {self._server} has a commit of instance {commits[left[0]].instance_id!r} in the way, but does not show it. "
            f"Append it again."
        )

    async def _insert(self, commits: Sequence[Commit]) -> list[int]:
        """Inserts commits behind a note of them; returns which of their numbers were taken."""
        documents = [commit_document(commit) for commit in commits]
        note = self._note(commits)
        if self._sharded:
            await self._call(self._in.history.insert_one(note))
        else:
            documents.insert(0, note)
        try:
            await self._call(self._in.history.insert_many(documents, ordered=False))
        except BulkWriteError as error:
            return [at - len(documents) + len(commits) for at in duplicates(error, self._server)]
        return []

    async def _judge(self, commits: Sequence[Commit], taken: list[int], outcomes: list[AppendOutcome]) -> list[int]:
        """Decides by their tokens whose the commits are that have a number already; returns those that are not there (any more)."""
        keys = [commit_id(commits[index].instance_id, commits[index].n) for index in taken]
        found = await self._call(self._in.history.find({"_id": {"$in": keys}}, {"token": True}).to_list(None))
        tokens = {document["_id"]: document["token"] for document in found}
        again: list[int] = []
        for index, key in zip(taken, keys, strict=True):
            if key not in tokens:
                again.append(index)
                continue
            self._mark(key)  # whose it is, or an earlier attempt of ours, has a note of it
            if tokens[key] != commits[index].token:
                outcomes[index] = AppendOutcome.LOST
        return again

    async def load(self, instance_ids: Sequence[str]) -> dict[str, LoadedInstance]:
        chunks = [instance_ids[at : at + _RANGES] for at in range(0, len(instance_ids), _RANGES)]
        loaded: dict[str, LoadedInstance] = {}
        for part in await asyncio.gather(*map(self._load_some, chunks)):
            loaded |= part
        return loaded

    async def _load_some(self, instance_ids: Sequence[str]) -> dict[str, LoadedInstance]:
        records = await self.records(instance_ids)
        if not records:
            return {}
        ranges: list[Document] = [
            {"_id": commit_range(instance_id, start=max(record.first - 1, 0))}
            for instance_id, record in records.items()
        ]
        commits: dict[str, list[Commit]] = {instance_id: [] for instance_id in records}
        documents = await self._call(self._in.history.find({"$or": ranges}).to_list(None))
        for document in documents:
            if "expires" not in document:
                commits[document["instanceId"]].append(commit_of(document))
        return {
            instance_id: LoadedInstance(record=record, commits=_current(record, commits[instance_id]))
            for instance_id, record in records.items()
        }

    async def confirm(self, instance_id: str, n: int, execution_id: str | None) -> bool:
        # What two reads at once see of different moments fits together: a record that was replaced in between is Pending, or has a
        # head above n.
        known = {"_id": {"$eq": instance_id}, "runtimeStatus": {"$ne": PURGED}}
        # Any later commit, not only the next: that one may have been trimmed.
        later: Document = {"_id": commit_range(instance_id, start=n + 1), **(_KEPT if execution_id is None else {})}
        async with self._confirming:
            reads = asyncio.gather(
                self._call(self._in.confirmed_instances.find_one(known)),
                self._call(self._in.confirmed_history.find_one(later, {"_id": True})),
            )
            record, commit = await self._with_nudges(reads)
        if record is None or execution_id is None:
            return record is None and execution_id is None and commit is None
        replaced = record["runtimeStatus"] == "Pending" and record["executionId"] != execution_id
        return commit is None and record["head"] <= n and not replaced

    async def _with_nudges(self, reads: asyncio.Future[T]) -> T:
        """Awaits linearizable reads.

        The server answers one when it next writes its journal, after up to 100 ms if it has nothing else to do; a journaled write of
        ours makes it do so at once.
        """
        for patience in _NUDGE_AFTER_SECONDS:
            await asyncio.wait([reads], timeout=patience)
            if reads.done():
                break
            if self._nudge is None or self._nudge.done():
                self._nudge = asyncio.ensure_future(self._journaled_write())
            await asyncio.wait([self._nudge])
        return await reads

    async def _journaled_write(self) -> None:
        with contextlib.suppress(CallboardError):  # the reads will say what is wrong
            touched = {"$currentDate": {"lastConfirmed": True}}
            await self._call(self._in.hubs.update_one({"_id": self._in.name}, touched))

    async def history(self, instance_id: str) -> list[Commit]:
        which = {"_id": commit_range(instance_id), **_KEPT}
        documents = await self._call(self._in.history.find(which).sort([("_id", ASCENDING)]).to_list(None))
        return [commit_of(document) for document in documents]


def _current(record: InstanceRecord, commits: list[Commit]) -> tuple[Commit, ...]:
    commits.sort(key=_n)
    return current_execution(record, commits)


def _n(commit: Commit) -> int:
    return commit.n
