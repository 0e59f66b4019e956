"""Which commits have effects that are not known to be done.

Each ``append`` writes one *note* in front of its commits. It lists them, and goes when the effects of all of them are done, so that a commit
costs an entry in a list, and neither an index entry nor an update of its own. A note stands in ``history`` under a key
``/unsent/…``, which no instance has, and is inserted by the same call as its commits and before them: a server applies and journals
in order, so no commit is durable without its note. Shards have no common order: there the note is written first.

What this process remembers of its own notes saves writes, nothing else: whoever sweeps finds all of it in the notes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from callboard.core.instances import Commit, CommitKey
from callboard_store.documents import Document, commit_id, commit_of, commit_range, note_document
from callboard_store.mongodb.driver import ASCENDING, ObjectId
from callboard_store.mongodb.payloads import Payloads

#: Notes that one sweep reads.
_NOTES: Final = 1000
#: How long marks wait for the rest of their note before they are written one by one, in seconds.
_PATIENCE_SECONDS: Final = 2.0
#: How old an entry is whose commit was never stored, because its append was cut short.
_ORPHANED: Final = timedelta(hours=1)
_NOTED: Final = {"$exists": True}


class _Note:
    """A note of ours: how many of its commits are still to be marked."""

    __slots__ = ("id", "left", "marked", "since")

    def __init__(self, note_id: str, entries: int) -> None:
        self.id = note_id
        self.left = entries
        self.marked: list[str] = []
        self.since = asyncio.get_running_loop().time()


class Outbox(Payloads):
    """Adds the notes of unsent commits."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._mine: dict[str, _Note] = {}
        self._half_marked: dict[str, _Note] = {}
        self._done_with: list[str] = []

    async def mark_sent(self, keys: Sequence[CommitKey]) -> None:
        others = [key for key in (commit_id(key.instance_id, key.n) for key in keys) if not self._mark(key)]
        done, self._done_with = self._done_with, []
        if done:
            await self._call(self._in.losable_history.delete_many({"_id": {"$in": done}}))
        tired = asyncio.get_running_loop().time() - _PATIENCE_SECONDS
        await self._strike_out(others, [note for note in self._half_marked.values() if note.since < tired])

    async def unsent(self, partitions: Sequence[int], *, before: datetime, limit: int) -> list[Commit]:
        which = {"unsent": _NOTED, "partitions": {"$in": list(partitions)}, "at": {"$lte": before}}
        cursor = self._in.history.find(which).sort([("at", ASCENDING)]).limit(_NOTES)
        notes = await self._call(cursor.to_list(None))
        marked = {key for note in self._half_marked.values() for key in note.marked}
        old = {key for note in notes if _age(note, before) > _ORPHANED for key in note["unsent"]}
        open_notes = [note for note in notes if note["_id"] not in self._done_with]
        keys = [key for note in open_notes for key in note["unsent"] if key not in marked]
        commits: list[Commit] = []
        for at in range(0, len(keys), 2 * limit):
            chunk = keys[at : at + 2 * limit]
            found = await self._call(self._in.history.find({"_id": {"$in": chunk}}).to_list(None))
            stored = {document["_id"]: document for document in found if "expires" not in document}
            commits.extend(map(commit_of, stored.values()))
            await self._strike_out(old.intersection(chunk) - stored.keys(), ())
            commits = [commit for commit in commits if commit.partition in partitions and commit.at <= before]
            if len(commits) >= limit:
                break
        return sorted(commits, key=_order)[:limit]

    def _note(self, commits: Sequence[Commit]) -> Document:
        """A new note of commits that are about to be appended."""
        document = note_document(f"/unsent/{ObjectId()}", commits)
        note = _Note(document["_id"], len(commits))
        self._mine.update(dict.fromkeys(document["unsent"], note))
        return document

    def _mark(self, key: str) -> bool:
        """Marks a commit in its note, if that is one of ours."""
        note = self._mine.pop(key, None)
        if note is None:
            return False
        note.left -= 1
        note.marked.append(key)
        if note.left:
            self._half_marked[note.id] = note
        else:
            self._half_marked.pop(note.id, None)
            self._done_with.append(note.id)
        return True

    async def _strike_out(self, keys: Iterable[str], notes: Sequence[_Note]) -> None:
        """Takes commits out of the notes, and with them those that were marked in these notes of ours."""
        struck = [*keys, *(key for note in notes for key in note.marked)]
        if not struck:
            return
        history = self._in.losable_history
        await self._call(
            history.update_many({"unsent": {**_NOTED, "$in": struck}}, {"$pull": {"unsent": {"$in": struck}}})
        )
        await self._call(history.delete_many({"unsent": {**_NOTED, "$size": 0}}))
        for note in notes:
            note.marked.clear()
            self._half_marked.pop(note.id, None)

    async def _unsent_of(self, instance_id: str) -> set[str]:
        """The keys of an instance's unsent commits."""
        mine = commit_range(instance_id)
        half = [note for note in self._half_marked.values() if any(_within(key, mine) for key in note.marked)]
        await self._strike_out((), half)
        # The local state, because marks do not wait for the majority; losing one changes nothing here.
        which = {"unsent": {**_NOTED, "$elemMatch": mine}}
        notes = await self._call(self._in.losable_history.find(which, {"unsent": True}).to_list(None))
        finished = set(self._done_with)
        return {key for note in notes if note["_id"] not in finished for key in note["unsent"] if _within(key, mine)}

    async def _close_outbox(self) -> None:
        """Writes the marks that waited for company."""
        await self._strike_out((), list(self._half_marked.values()))


def _within(key: str, bounds: Document) -> bool:
    lower: str = bounds["$gte"]
    upper: str = bounds["$lt"]
    return lower <= key < upper


def _age(note: Document, now: datetime) -> timedelta:
    return now - ObjectId(note["_id"].rpartition("/")[2]).generation_time


def _order(commit: Commit) -> tuple[datetime, str, int]:
    return commit.at, commit.instance_id, commit.n
