"""Tells again of spans that a worker may have taken to its grave.

A span is told of after the commit that ends it, and waits a moment to be sent with others. A worker that is killed takes those with it,
and what hangs under them, told of elsewhere, would hang in the air. So whoever follows a worker that did not leave in order tells
again what that one may not have sent: the ids are derived, so that what was sent after all is the same span twice.

| what                                          | when it is told again                                         |
|-----------------------------------------------|---------------------------------------------------------------|
| spans of the dead worker's last commits       | when the instance is next loaded                              |
| the end of an execution (and what is open then) | when its commit is swept: it is marked as sent only once its spans are |
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from callboard.batching import Batcher, Done, retrying
from callboard.bodies import restored_all
from callboard.core.instances import Commit, author_of
from callboard.core.messages import WorkersChanged
from callboard.core.spans import perhaps_untold, spans_again
from callboard.ports import Host, LoadedInstance, Store, WorkerInfo
from callboard.tracing import UNTRACED, Tracing

#: How long before a worker's last commit it may have made others whose spans were not sent yet.
UNSENT = timedelta(seconds=10)
#: How old the last commit of a worker that is not known may be to be suspect.
RECENT = timedelta(seconds=60)
#: How many workers that have left or are gone are remembered.
MOST_KNOWN = 1_000
#: How long the ends of executions wait for others to be flushed with, in seconds.
LINGER = 0.1


class Colleagues:
    """The other workers: who is here, who has left in order, and who is gone. Of the latter the latest ones."""

    def __init__(self, host: Host, me: str) -> None:
        self._host = host
        self._me = me
        self._here: frozenset[str] = frozenset()
        self._fate: dict[str, bool] = {}

    def see(self, workers: Iterable[WorkerInfo]) -> None:
        """Takes the live workers."""
        self._here = frozenset(worker.worker_id for worker in workers)

    def hear(self, news: WorkersChanged) -> None:
        """Takes what one of them says."""
        self.note_gone(news.gone)
        if news.leaving:
            self.note_left(news.worker_id)

    def note_left(self, worker: str) -> None:
        """One has sent all that it had, and ended."""
        self._note(worker, gone=False)

    def note_gone(self, workers: Iterable[str]) -> None:
        """Some were found to be gone without having left."""
        for worker in workers:
            self._note(worker, gone=True)

    def may_have_failed(self, commit: Commit) -> bool:
        """Whether a commit's author may have ended before its spans were sent.

        Of one that is not known at all only recent commits are suspect: perhaps it left in order before we came.
        """
        author = author_of(commit)
        if author == self._me or author in self._here:
            return False
        gone = self._fate.get(author)
        return commit.at > self._host.now() - RECENT if gone is None else gone

    def _note(self, worker: str, *, gone: bool) -> None:
        self._fate[worker] = gone
        while len(self._fate) > MOST_KNOWN:
            del self._fate[next(iter(self._fate))]


class Retelling:
    """Looks after the spans of those who are gone, and sees to it that ours are sent before we call their commits done."""

    def __init__(self, store: Store, host: Host, tracing: Tracing, colleagues: Colleagues) -> None:
        self._store = store
        self._host = host
        self._tracing = tracing
        self._colleagues = colleagues
        self._flushes: Batcher[Commit, None] = Batcher(self._flush, host, name="send spans", most=10_000, linger=LINGER)

    def concerns(self, commit: Commit) -> bool:
        """Whether spans must be with their receiver before the commit may be called done."""
        ends = commit.terminal or commit.continued is not None
        return ends and self._tracing is not UNTRACED and commit.trace is not None and commit.trace.sampled

    def when_sent(self, commit: Commit, done: Done[None]) -> None:
        """Calls back once the commit's spans are sent, or cannot be."""
        self._flushes.submit(commit, done)

    def on_loaded(self, instance: LoadedInstance) -> None:
        """Tells again what the author of an instance's last commits may not have sent. Ends are swept until they are."""
        commits = instance.commits
        if commits and commits[0].n == commits[0].first and not commits[-1].terminal:
            self._tell(instance, commits[-1])

    def on_swept(self, commit: Commit) -> None:
        """Tells again how an execution ended whose last commit nobody has seen done."""
        if self.concerns(commit) and self._colleagues.may_have_failed(commit):
            self._host.spawn(self._tell_of_end(commit), name="callboard tell again")

    async def aclose(self) -> None:
        await self._flushes.aclose()

    async def _tell_of_end(self, commit: Commit) -> None:
        instance_id = commit.instance_id
        record = (await retrying(lambda: self._store.records([instance_id]), self._host, "load")).get(instance_id)
        history = await retrying(lambda: self._store.history(instance_id), self._host, "load")
        mine = [each for each in history if each.execution_id == commit.execution_id and each.n <= commit.n]
        if record is not None and mine and mine[0].n == mine[0].first:
            commits = tuple(await restored_all(self._store, mine))
            self._tell(LoadedInstance(record=record, commits=commits), commits[-1])

    def _tell(self, instance: LoadedInstance, last: Commit) -> None:
        if last.trace is None or not last.trace.sampled or not self._colleagues.may_have_failed(last):
            return
        untold = perhaps_untold(instance.commits, self._colleagues.may_have_failed, within=UNSENT)
        spans = spans_again(instance.record, instance.commits, untold)
        if spans:
            self._tracing.ended(spans)

    async def _flush(self, _commits: object) -> None:
        await self._host.in_thread(self._tracing.flush)
