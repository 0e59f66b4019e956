"""The turn loop: mailboxes in, commits out.

``deliver → mailbox → turn → COMMIT → settle ∥ effects``. Rules of this file:

* One thing at a time happens to an instance (`Actor.busy`): load, turn, commit. Letters wait meanwhile, and all of them go into
  its next turn.
* No letter is settled and no effect leaves before the commit that took the letter is durable. A letter that no commit takes is
  settled only if its message was consumed before, or a linearizable read says that what speaks against it is current.
* A lost race costs the activation, nothing else: load again, judge again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from callboard.batching import Batcher, retrying
from callboard.bodies import commit_size, failure_size, load_instances, stored_apart
from callboard.core import references
from callboard.core.answers import not_found, not_queried
from callboard.core.codec import JSON, Codec
from callboard.core.entities import is_entity
from callboard.core.entity_turn import EntityActivation
from callboard.core.execution import Orchestration, Unrunnable
from callboard.core.failure import FailureDetails
from callboard.core.instances import Commit, InstanceRecord, version_of
from callboard.core.messages import (
    DeliverMessage,
    EntityRequest,
    InstanceMessage,
    Query,
    Resume,
    StartExecution,
    Terminate,
    Wake,
)
from callboard.core.references import LARGE
from callboard.core.turn import NOTHING, Activation, Decider, Turn
from callboard.elsewhere import Elsewhere
from callboard.entity_turns import EntityTurns, log_failures, must_be_made
from callboard.errors import TamperedPayloadError
from callboard.fetching import Fetcher
from callboard.handover import Handover, Mailboxes
from callboard.large_values import LargeValues
from callboard.mailbox import Actor, Letter
from callboard.ports import AppendOutcome, Host, LoadedInstance, Store
from callboard.registry import Registry
from callboard.replies import Replies
from callboard.statistics import TurnStatistics
from callboard.tracing import UNTRACED, Tracing
from callboard.turnthread import Hung, StuckOrchestration, TurnJob, TurnThread

log = logging.getLogger("callboard")

#: Most messages that one turn takes.
MOST_MESSAGES = 1_000
#: Bytes of input from which on a turn takes no further message.
MOST_BYTES = 1_048_576
#: Most turns that go to the thread at once, so that the loop hears of the first ones soon.
MOST_TURNS = 200
#: Most instances that are loaded by one query.
MOST_LOADS = 200
#: Memory for activations that wait, in bytes (estimated); the least recently used are evicted beyond it.
MEMORY = 256 * 1_048_576
#: Estimated memory of an activation without its values, in bytes.
ACTIVATION_SIZE = 12_288


class TurnLoop:
    """Runs the turns of all instances that this worker owns.

    Args:
        committed: Called with each commit once it is durable, from the event loop.
        behind: Called with the last commit of an instance whose record does not show it yet.
        loaded: Called with each instance that is loaded.
        codec: Opens and seals values.
        refuse: Takes back letters whose large values have a wrong seal.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        registry: Registry,
        committed: Callable[[Commit], None],
        behind: Callable[[Commit], None],
        replies: Replies,
        *,
        codec: Codec = JSON,
        refuse: Callable[[Letter, TamperedPayloadError], None],
        memory: int = MEMORY,
        thread: TurnThread | None = None,
        tracing: Tracing = UNTRACED,
        elsewhere: Elsewhere | None = None,
        loaded: Callable[[LoadedInstance], None] = lambda _instance: None,
    ) -> None:
        self._store = store
        self._host = host
        self._registry = registry
        self._codec = codec
        self._large = LargeValues(store, host)
        self._fetcher = Fetcher(self._large, codec, refuse)
        self._committed = committed
        self._behind = behind
        self._replies = replies
        self._memory = memory
        self._thread = thread or TurnThread(host)
        self._tracing = tracing
        mailboxes = Mailboxes(partial(self._settle, turn=NOTHING), self._again, self._free)
        self._handover = Handover(elsewhere, registry, host, mailboxes) if elsewhere is not None else None
        self._tell_loaded = loaded
        self._actors: dict[str, Actor] = {}
        self._ready: OrderedDict[str, Actor] = OrderedDict()
        self._loaded: list[tuple[Actor, LoadedInstance]] = []
        self._fetched: list[tuple[Actor, list[Letter], LoadedInstance | None]] = []
        self._idle: OrderedDict[str, Actor] = OrderedDict()
        self._idle_size = 0
        self._stuck: dict[str, str] = {}
        self._just_hung: set[str] = set()
        self._wake = asyncio.Event()
        self._owned: frozenset[int] = frozenset()
        self._commits: Batcher[Commit, AppendOutcome] = Batcher(self._append, host, name="commit", most=500, parallel=2)
        self._loads: Batcher[str, LoadedInstance | None] = Batcher(
            self._load, host, name="load", most=MOST_LOADS, parallel=2
        )
        self._starts: Batcher[str, LoadedInstance | None] = Batcher(
            self._load_starts, host, name="load starts", most=MOST_LOADS, parallel=2
        )
        self._entities = EntityTurns(store, host)
        self.statistics = TurnStatistics()

    # What comes in

    def post(self, letter: Letter, partition: int) -> None:
        """Puts a letter into its instance's mailbox. The partition must be owned; if not, the letter is abandoned."""
        if partition not in self._owned:
            letter.account.abandon()
            return
        instance_id = letter.message.instance_id
        actor = self._actors.get(instance_id)
        if actor is None:
            actor = self._actors[instance_id] = Actor(instance_id, partition)
        actor.guest = False
        actor.letters.append(letter)
        if not actor.busy:
            self._make_ready(actor)

    def post_guest(self, letters: Sequence[Letter], instance_id: str, partition: int, n: int | None) -> None:
        """Puts letters into the mailbox of an instance whose owner asks for a turn here, and knows its last commit, or does not."""
        actor = self._actors.get(instance_id)
        if actor is None:
            actor = self._actors[instance_id] = Actor(instance_id, partition)
            actor.guest = True
        actor.letters.extend(letters)
        if not actor.busy:
            self._make_ready(actor)
            if n is not None and actor.activation is not None and actor.activation.state.n != n:
                self._evict(actor)  # the owner has committed meanwhile

    def own(self, partitions: frozenset[int]) -> None:
        """Sets the partitions whose instances run here; those of others are dropped, with their letters."""
        lost = self._owned - partitions
        self._owned = partitions
        if not lost:
            return
        for actor in [actor for actor in self._actors.values() if actor.partition in lost]:
            self._drop(actor)

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way and nothing waits."""
        return not self._ready and not any(actor.busy or actor.letters for actor in self._actors.values())

    @property
    def active(self) -> int:
        """How many instances are in memory that have not ended."""
        actors = list(self._actors.values())
        return sum(actor.activation is not None and not actor.activation.state.terminal for actor in actors)

    @property
    def waiting(self) -> int:
        """How many messages wait for a turn."""
        return sum(len(actor.letters) for actor in list(self._actors.values()))

    def is_active(self, instance_id: str) -> bool:
        """Whether the instance is held here, with something under way or waiting."""
        actor = self._actors.get(instance_id)
        return actor is not None and (actor.busy or bool(actor.letters))

    def runs(self, instance_id: str) -> bool:
        """Whether the instance is hot here and has not ended."""
        actor = self._actors.get(instance_id)
        return actor is not None and actor.activation is not None and not actor.activation.state.terminal

    def rests(self, partitions: frozenset[int]) -> bool:
        """Whether no turn or commit of these partitions is under way."""
        return not any(actor.busy and actor.partition in partitions for actor in self._actors.values())

    # The loop

    async def run(self) -> None:
        """Runs turns until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            jobs = self._next_jobs()
            if jobs:
                await self._run_turns(jobs)
            if self._ready or self._loaded or self._fetched:
                self._wake.set()

    async def aclose(self) -> None:
        """Stops committing and closes all activations, without running their code in a live context."""
        await self._commits.aclose()
        await self._loads.aclose()
        await self._starts.aclose()
        await self._entities.aclose()
        for actor in list(self._actors.values()):
            actor.busy = (
                False  # nothing is under way any more; the thread closes activations after the turn that it is in
            )
            self._drop(actor)
        await self._thread.run((), self._host.now())
        self._thread.close()

    def _next_jobs(self) -> list[tuple[Actor, list[Letter], TurnJob]]:
        fetched, self._fetched = self._fetched[:MOST_TURNS], self._fetched[MOST_TURNS:]
        jobs: list[tuple[Actor, list[Letter], TurnJob]] = []
        for actor, letters, instance in fetched:
            self._start(actor, letters, instance, jobs)
        loaded, self._loaded = self._loaded[:MOST_TURNS], self._loaded[MOST_TURNS:]
        for actor, instance in loaded:
            self._begin(actor, instance, jobs)
        while self._ready and len(jobs) < MOST_TURNS:
            _, actor = self._ready.popitem(last=False)  # first come, first served
            actor.busy = True
            if actor.activation is not None:
                self._begin(actor, None, jobs)
            elif self._handover is not None and (runner := self._handover.runner_again(actor)) is not None:
                self._handover.send(actor, _take(actor), runner)
            else:
                only_starts = not actor.lost and all(isinstance(x.message, StartExecution) for x in actor.letters)
                loads = self._starts if only_starts else self._loads
                loads.submit(actor.instance_id, self._on_loaded(actor))
        return jobs

    def _begin(
        self, actor: Actor, loaded: LoadedInstance | None, jobs: list[tuple[Actor, list[Letter], TurnJob]]
    ) -> None:
        """Takes the letters of a turn, which comes at once or when its large values are here."""
        letters = _take(actor)
        if not letters:  # dropped meanwhile
            self._free(actor)
        elif loaded is not None and self._handover is not None and self._handover.takes(actor, loaded, letters):
            pass
        elif self._fetcher.needed(letters, loaded, actor.activation):
            self._host.spawn(self._fetch(actor, letters, loaded), name="callboard fetch")
        else:
            self._start(actor, letters, loaded, jobs)

    def _start(
        self,
        actor: Actor,
        letters: list[Letter],
        loaded: LoadedInstance | None,
        jobs: list[tuple[Actor, list[Letter], TurnJob]],
    ) -> None:
        if isinstance(actor.activation, EntityActivation) and actor.activation.slow:
            self._host.spawn(self._run_slowly(actor, letters, actor.activation), name="callboard operations")
        else:
            jobs.append(self._job(actor, letters, loaded))

    async def _fetch(self, actor: Actor, letters: list[Letter], loaded: LoadedInstance | None) -> None:
        whole = await self._fetcher.letters(letters)
        if not whole:
            self._free(actor)
            return
        if actor.activation is not None:
            await self._fetcher.supply(actor.activation)
        instance = await self._fetcher.instance(loaded)
        self._fetched.append((actor, whole, instance))  # not earlier: the list is replaced while we wait
        self._wake.set()

    def _job(
        self, actor: Actor, letters: list[Letter], loaded: LoadedInstance | None
    ) -> tuple[Actor, list[Letter], TurnJob]:
        make = self._maker(loaded, letters) if loaded else None
        messages = [letter.message for letter in letters]
        return actor, letters, TurnJob(actor.instance_id, messages, actor.activation, make)

    def _maker(self, loaded: LoadedInstance, letters: Sequence[Letter]) -> Callable[[], Decider]:
        """How to make the instance's activation, in the turns' thread: it may replay."""
        record, commits, registry, codec = loaded.record, loaded.commits, self._registry, self._codec
        stuck = self._stuck_at(record.instance_id, letters)
        if is_entity(record.instance_id):
            code = registry.entities.get(record.name)
            return lambda: EntityActivation(record, commits, code, registry, codec, stuck=stuck)
        orchestration, traced = self._code_for(loaded, stuck), self._tracing.begin(record)
        return lambda: Activation(traced, commits, orchestration, registry, codec, registry.rules)

    def _stuck_at(self, instance_id: str, letters: Sequence[Letter]) -> str | None:
        """Where the instance's code hung, unless somebody asks to try it again."""
        if instance_id in self._just_hung:  # it parks first, even if what it hung in was an attempt to resume it
            self._just_hung.discard(instance_id)
        elif any(isinstance(letter.message, (Resume, Wake)) for letter in letters):
            self._stuck.pop(instance_id, None)
        return self._stuck.get(instance_id)

    def _code_for(self, loaded: LoadedInstance, stuck: str | None) -> Orchestration | Unrunnable:
        if stuck is not None:
            return StuckOrchestration(stuck)
        record = loaded.record
        version = version_of(record, loaded.commits)
        code = self._registry.code_for(record.name, version)
        if isinstance(code, Unrunnable) and code.fails and self._handover and self._handover.exists(record, version):
            return Unrunnable(code.reason)  # it does not fail for want of what somebody has
        return code

    async def _run_turns(self, jobs: Sequence[tuple[Actor, list[Letter], TurnJob]]) -> None:
        hung = await self._thread.run([job for _, _, job in jobs], self._host.now())
        for position, (actor, letters, job) in enumerate(jobs):
            if hung is not None and position == hung.position:
                self._on_hung(actor, letters, hung)
            elif hung is not None and position > hung.position:
                self._again(actor, letters)
            elif job.turn is None:
                self._on_turn_failed(actor, letters, job)
            else:
                actor.activation = job.activation
                self.statistics.turned(job.seconds, len(job.messages), hot=job.make is None)
                self._on_turn(actor, letters, job.turn)

    async def _run_slowly(self, actor: Actor, letters: list[Letter], activation: EntityActivation) -> None:
        try:
            turn = await self._entities.slow_turn(activation, [letter.message for letter in letters])
        except Exception:
            log.exception("The turn of %s failed", actor.instance_id)
            await self._later(actor, letters)
        else:
            self._on_turn(actor, letters, turn)

    # What becomes of a turn

    def _on_turn(self, actor: Actor, letters: list[Letter], turn: Turn) -> None:
        self.statistics.turns += 1
        self._replies.remember(turn.waiting)
        if turn.in_vain and self._handover is not None:
            self._handover.tried_in_vain(actor, letters)
        if turn.commit is not None:
            size = commit_size(turn.commit)
            if size > LARGE:
                self._host.spawn(self._submit_large(actor, letters, turn, turn.commit, size), name="callboard large")
            else:
                self._commits.submit(turn.commit, self._on_committed(actor, letters, turn, turn.commit, size))
        elif turn.unknown or turn.replies:
            self._host.spawn(self._confirm(actor, letters, turn), name="callboard confirm")
        else:
            self._settle(actor, letters, turn)

    async def _submit_large(self, actor: Actor, letters: list[Letter], turn: Turn, commit: Commit, size: int) -> None:
        """Commits what is too much for one document, or holds large values: those are in the store before it."""
        try:
            kept = await self._large.kept_apart(commit)
            stored = await retrying(lambda: stored_apart(self._store, kept), self._host, "commit")
        except Exception as error:  # noqa: BLE001 - whatever it is, the letters must not be lost
            log.error("Commit %d of %s was refused: %s", commit.n, commit.instance_id, error)  # noqa: TRY400
            await self._later(actor, letters)
        else:
            self._commits.submit(stored, self._on_committed(actor, letters, turn, kept, size))

    def _on_committed(
        self, actor: Actor, letters: list[Letter], turn: Turn, commit: Commit, size: int
    ) -> Callable[[AppendOutcome | None, BaseException | None], None]:
        def done(outcome: AppendOutcome | None, error: BaseException | None) -> None:
            if outcome is AppendOutcome.COMMITTED:
                self.statistics.committed(commit, actor.activation)
                if turn.spans:
                    self._tracing.ended(turn.spans)
                if commit.entity is not None:
                    log_failures(commit)
                self._committed(commit)
                retry = self._handover is not None and self._handover.committed(actor, letters, commit)
                self._keep(actor, commit, size)
                self._settle(actor, letters, turn)
                if retry:
                    self.post(Letter(Wake(instance_id=commit.instance_id)), commit.partition)
                return
            if error is None:
                self.statistics.lost_races += 1
                actor.lost = True
                log.info("Lost the race for commit %d of %s; judging again", commit.n, commit.instance_id)
                self._again(actor, letters)
            else:
                log.error("Commit %d of %s was refused: %s", commit.n, commit.instance_id, error)
                self._host.spawn(self._later(actor, letters), name="callboard retry")

        return done

    async def _confirm(self, actor: Actor, letters: list[Letter], turn: Turn | None) -> None:
        """Answers, and drops letters that fit nothing known, if a linearizable read says that what is known is current.

        Without a turn: there is no instance.
        """
        state = actor.activation.state if actor.activation else None
        n, execution = (state.n, state.execution_id) if state else (-1, None)
        current = await retrying(lambda: self._store.confirm(actor.instance_id, n, execution), self._host, "confirm")
        if not current:
            self._again(actor, letters)
            return
        for message in [letter.message for letter in letters] if turn is None else turn.unknown:
            log.info("Dropped %s for %s: nothing waits for it", type(message).__name__, actor.instance_id)
        if turn is None:
            self._refuse_all(letters, not_found(actor.instance_id))
            self._free(actor)
        else:
            self._settle(actor, letters, turn)

    def _settle(self, actor: Actor, letters: Sequence[Letter], turn: Turn) -> None:
        replies = {id(reply.question): reply for reply in turn.replies}
        postponed = {id(query) for query in turn.postponed}
        if postponed:
            actor.letters.extendleft(reversed([letter for letter in letters if id(letter.message) in postponed]))
        for letter in letters:
            if (reply := replies.get(id(letter.message))) is not None:
                self._replies.send(reply, letter.account)
            elif id(letter.message) not in postponed:
                letter.account.settle()
        if turn.commit is None and actor.activation is not None:
            self._look_over(actor, actor.activation)
        self._free(actor)

    def _look_over(self, actor: Actor, activation: Decider) -> None:
        """Keeps an activation that committed nothing, if anything more is to come of it."""
        if activation.state.terminal or activation.state.parked is not None or not activation.hot:
            self._evict(actor)
        else:
            actor.size = max(actor.size, ACTIVATION_SIZE)

    def _refuse_all(self, letters: Sequence[Letter], failure: FailureDetails) -> None:
        """Settles letters that nothing will come of, and tells those who ask."""
        for letter in letters:
            if isinstance(letter.message, DeliverMessage | Query):
                self._replies.refuse(letter.message, letter.account, failure)
            else:
                letter.account.settle()

    def _again(self, actor: Actor, letters: Sequence[Letter]) -> None:
        """Throws the activation away and puts the letters back, in front, to be judged by what the store says."""
        self._evict(actor)
        actor.letters.extendleft(reversed(letters))
        self._free(actor)

    def _free(self, actor: Actor) -> None:
        actor.busy = False
        if actor.partition not in self._owned and not actor.guest:
            self._drop(actor)
        elif actor.letters:
            self._make_ready(actor)
        elif actor.activation is None:
            self._actors.pop(actor.instance_id, None)
        else:
            self._rest(actor)

    def _on_hung(self, actor: Actor, letters: list[Letter], hung: Hung) -> None:
        actor.activation = None  # the thread that is still in it closes it, if it ever comes back
        if all(isinstance(letter.message, Query) for letter in letters):  # none of the orchestration's own doing
            self._refuse_all(letters, not_queried("A query handler hangs. The worker's log says where."))
            self._free(actor)
            return
        self._stuck[actor.instance_id] = hung.place
        self._just_hung.add(actor.instance_id)
        self._again(actor, letters)

    def _on_turn_failed(self, actor: Actor, letters: list[Letter], job: TurnJob) -> None:
        """An error of ours, or a history that cannot be read: the letters stay unsettled, others are not held up."""
        log.error("The turn of %s failed", actor.instance_id, exc_info=job.error)
        actor.activation = job.activation
        self._host.spawn(self._later(actor, letters), name="callboard retry")

    async def _later(self, actor: Actor, letters: list[Letter]) -> None:
        await self._host.sleep(1 + self._host.random())
        self._again(actor, letters)

    # Loading

    async def _load_starts(self, instance_ids: Sequence[str]) -> list[LoadedInstance | None]:
        """Pending records are taken at their word that no commit follows them yet: if one does, the commit loses its race."""
        records = await self._store.records(list(dict.fromkeys(instance_ids)))
        others = [instance_id for instance_id in records if records[instance_id].runtime_status != "Pending"]
        loaded = await load_instances(self._store, others) if others else {}
        for instance_id, record in records.items():
            if record.runtime_status == "Pending":
                loaded[instance_id] = LoadedInstance(record=record, commits=())
        self.statistics.loads += len(loaded)
        return [loaded.get(instance_id) for instance_id in instance_ids]

    async def _load(self, instance_ids: Sequence[str]) -> list[LoadedInstance | None]:
        loaded = await load_instances(self._store, list(dict.fromkeys(instance_ids)))
        self.statistics.loads += len(loaded)
        return [loaded.get(instance_id) for instance_id in instance_ids]

    def _on_loaded(self, actor: Actor) -> Callable[[LoadedInstance | None, BaseException | None], None]:
        def done(loaded: LoadedInstance | None, error: BaseException | None) -> None:
            if error is not None:
                log.error("Loading %s failed: %s", actor.instance_id, error)
                self._host.spawn(self._later(actor, []), name="callboard retry")
            elif must_be_made(actor, loaded):
                self._make(actor, loaded)
            elif loaded is None:
                self._host.spawn(self._on_missing(actor), name="callboard missing")
            else:
                if loaded.commits and loaded.record.head < loaded.commits[-1].n:
                    self._behind(loaded.commits[-1])
                self._tell_loaded(loaded)
                self.statistics.replays += bool(loaded.commits)
                self._loaded.append((actor, loaded))
                self._wake.set()

        return done

    def _make(self, actor: Actor, loaded: LoadedInstance | None) -> None:
        if loaded is not None and loaded.commits and loaded.record.head < loaded.commits[-1].n:
            self._behind(loaded.commits[-1])  # the entity was cleaned up; only its record does not say so yet
            self._host.spawn(self._later(actor, []), name="callboard retry")
        else:
            self._entities.make(actor, self._on_made(actor))

    def _on_made(self, actor: Actor) -> Callable[[BaseException | None], None]:
        def done(error: BaseException | None) -> None:
            if error is None:
                self._again(actor, ())
            else:
                log.error("Entity %s could not be made: %s", actor.instance_id, error)
                self._host.spawn(self._later(actor, []), name="callboard retry")

        return done

    async def _on_missing(self, actor: Actor) -> None:
        """Messages for an instance without a record: a child's early termination is recorded, the others may be dropped."""
        letters = _take(actor)
        for letter in letters:
            if isinstance(letter.message, Terminate) and letter.message.execution_id is not None:
                await self._record_terminated(letter.message, letter.message.execution_id, actor.partition)
                # The start may have come first after all: then it is terminated like any other.
                self._again(actor, letters)
                return
        await self._confirm(actor, letters, None)

    async def _record_terminated(self, message: Terminate, execution_id: str, partition: int) -> None:
        record = InstanceRecord(
            instance_id=message.instance_id,
            partition=partition,
            execution_id=execution_id,
            name=message.name or "",
            runtime_status="Terminated",
            output=message.reason,
            created_time=message.at,
            last_updated_time=message.at,
            completed_time=message.at,
        )
        await retrying(lambda: self._store.create([record]), self._host, "create")

    async def _append(self, commits: Sequence[Commit]) -> list[AppendOutcome]:
        began = self._host.monotonic()
        outcomes = await self._store.append(commits)
        self.statistics.commit_seconds.observe(self._host.monotonic() - began)
        self.statistics.commit_batch.observe(len(commits))
        return outcomes

    # Hot activations

    def _make_ready(self, actor: Actor) -> None:
        if self._idle.pop(actor.instance_id, None) is not None:
            self._idle_size -= actor.size
        self._ready[actor.instance_id] = actor
        self._wake.set()

    def _keep(self, actor: Actor, commit: Commit, size: int) -> None:
        """Counts a commit's values to the activation's memory; ends one that goes no further."""
        activation = actor.activation
        if activation is None:
            return
        if commit.terminal:
            self._stuck.pop(actor.instance_id, None)
        if commit.terminal or commit.parked is not None or not activation.hot:
            self._evict(actor)
        elif isinstance(activation, EntityActivation):
            actor.size = activation.size
        else:
            actor.size = max(actor.size, ACTIVATION_SIZE) + size

    def _rest(self, actor: Actor) -> None:
        self._idle[actor.instance_id] = actor
        self._idle_size += actor.size
        while self._idle_size > self._memory and self._idle:
            _, oldest = self._idle.popitem(last=False)
            self._idle_size -= oldest.size
            self._evict(oldest)
            self._actors.pop(oldest.instance_id, None)
            self.statistics.evictions += 1

    def _evict(self, actor: Actor) -> None:
        if actor.activation is not None:
            self._thread.discard(actor.activation)
            actor.activation = None
            actor.size = 0

    def _drop(self, actor: Actor) -> None:
        """Forgets an instance that is not ours any more. What is under way for it ends by itself."""
        for letter in actor.letters:
            letter.account.abandon()
        actor.letters.clear()
        self._ready.pop(actor.instance_id, None)
        if self._idle.pop(actor.instance_id, None) is not None:
            self._idle_size -= actor.size
        if not actor.busy:
            self._evict(actor)
            self._actors.pop(actor.instance_id, None)


def _take(actor: Actor) -> list[Letter]:
    """The letters of the next turn: as many as its limits allow."""
    if len(actor.letters) == 1:
        return [actor.letters.popleft()]
    letters: list[Letter] = []
    size = 0
    while actor.letters and len(letters) < MOST_MESSAGES and size < MOST_BYTES:
        letter = actor.letters.popleft()
        size += message_size(letter.message)
        letters.append(letter)
    return letters


def message_size(message: InstanceMessage) -> int:
    """Estimate of what a message adds to a commit, in bytes."""
    if isinstance(message, EntityRequest):
        return 256 + len(getattr(message.request, "input", None) or "")
    payload = getattr(message, "result", None) or getattr(message, "input", None) or getattr(message, "reason", None)
    carried = references.size(payload)
    details = getattr(message, "heartbeat_details", None)
    return 256 + carried + len(details or "") + failure_size(getattr(message, "failure", None))
