"""A worker's and a client's numbers as metrics: OpenTelemetry's names and units, and words for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from callboard.ports import Broker
from callboard.statistics import Histogram, NamedCounts, NamedHistograms

Labels: TypeAlias = Mapping[str, str]
Value: TypeAlias = float | Histogram


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One metric."""

    name: str
    """With dots, as OpenTelemetry has it."""
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    """UCUM: ``s``, ``{turn}``."""
    description: str
    read: Callable[[], Iterable[tuple[Labels, Value]]]
    """Its values now."""
    named: tuple[NamedHistograms, str] | None = None
    """For histograms by name: where new ones come up, and the label that tells them apart."""


_NONE: Labels = {}


def worker_instruments(worker: Any) -> list[Instrument]:
    """A worker's metrics.

    Args:
        worker: A `callboard.Worker`; what is read of it is public.
    """
    return [*_turns(worker), *_activities(worker), *_ownership(worker), *_messages(worker.packer, worker.broker)]


def _turns(worker: Any) -> Iterator[Instrument]:
    turns, counted = worker.turns, worker.turns.statistics
    yield _counts(
        "callboard.orchestration.started",
        "{orchestration}",
        "Orchestrations that began here, by name.",
        counted.started,
    )
    yield _counts(
        "callboard.orchestration.ended",
        "{orchestration}",
        "Executions that ended here, by name and how: Completed, Failed, Terminated or ContinuedAsNew.",
        counted.ended,
        outcome="status",
    )
    yield _gauge(
        "callboard.orchestration.active",
        "{orchestration}",
        "Instances that this worker holds in memory and that have not ended.",
        lambda: turns.active,
    )
    yield _gauge(
        "callboard.mailbox.messages",
        "{message}",
        "Messages that wait for their instance's next turn.",
        lambda: turns.waiting,
    )
    yield _counter("callboard.turn.count", "{turn}", "Turns that were run.", lambda: counted.turns)
    yield _histogram(
        "callboard.turn.duration", "s", "How long a turn's code ran, replay included.", counted.turn_seconds
    )
    yield _histogram("callboard.turn.messages", "{message}", "How many messages a turn took.", counted.turn_messages)
    yield _counter(
        "callboard.turn.hot",
        "{turn}",
        "Turns that went on where the one before stopped, without a load.",
        lambda: counted.hot,
    )
    yield _counter("callboard.turn.loads", "{load}", "Instances that were read from the store.", lambda: counted.loads)
    yield _counter(
        "callboard.turn.replays", "{replay}", "Instances whose history had to be repeated.", lambda: counted.replays
    )
    yield _counter(
        "callboard.turn.evictions",
        "{instance}",
        "Instances that left memory because others needed the room.",
        lambda: counted.evictions,
    )
    yield _counter("callboard.commit.count", "{commit}", "Commits that became durable.", lambda: counted.commits)
    yield _histogram(
        "callboard.commit.duration", "s", "How long the store took for a batch of commits.", counted.commit_seconds
    )
    yield _histogram("callboard.commit.batch", "{commit}", "How many commits went in one batch.", counted.commit_batch)
    yield _counter(
        "callboard.commit.lost_races",
        "{commit}",
        "Commits that came too late: another worker had committed first.",
        lambda: counted.lost_races,
    )


def _activities(worker: Any) -> Iterator[Instrument]:
    runner, counted = worker.activities, worker.activities.statistics
    yield _by_name("callboard.activity.duration", "s", "How long an activity ran, by name.", counted.seconds)
    yield _by_name(
        "callboard.activity.wait", "s", "How long a call waited from its schedule to its begin, by name.", counted.wait
    )
    yield _counts(
        "callboard.activity.ended",
        "{activity}",
        "Activity runs that ended, by name and how: completed or failed.",
        counted.ended,
        outcome="outcome",
    )
    yield _counts(
        "callboard.activity.retries",
        "{activity}",
        "Runs that were a later attempt of a retried call, by name.",
        counted.retries,
    )
    yield _gauge("callboard.activity.running", "{activity}", "Activities that run here now.", lambda: runner.running)
    yield _gauge(
        "callboard.activity.waiting", "{activity}", "Calls that wait here for a free place.", lambda: runner.waiting
    )


def _ownership(worker: Any) -> Iterator[Instrument]:
    yield _gauge(
        "callboard.partition.owned",
        "{partition}",
        "Partitions that this worker acts for.",
        lambda: len(worker.ownership.owned),
    )
    yield _counts(
        "callboard.partition.changes",
        "{partition}",
        "Partitions that were gained or lost.",
        worker.partition_changes,
        outcome="change",
        label=None,
    )
    yield _counter(
        "callboard.sweep.found",
        "{effect}",
        "What had been left undone, by a crash or a lost message, and was done by a sweep.",
        lambda: worker.sweeper.swept,
    )
    yield _histogram("callboard.timer.lateness", "s", "How long after its time a timer fired.", worker.timers.lateness)
    yield _counter(
        "callboard.quarantine.messages",
        "{message}",
        "Messages that could not be understood and went to quarantine.",
        lambda: worker.quarantine.kept,
    )


def _messages(packer: Any, broker: Broker) -> Iterator[Instrument]:
    yield _gauge(
        "callboard.publish.waiting", "{message}", "Messages that wait to be published.", lambda: packer.waiting
    )
    yield _gauge(
        "callboard.publish.unconfirmed",
        "{pack}",
        "Published packs that the broker has not confirmed yet.",
        lambda: packer.under_way,
    )
    yield _gauge(
        "callboard.broker.blocked",
        "1",
        "1 while the broker does not take messages, because its memory or disk runs out.",
        lambda: int(bool(getattr(broker, "blocked", False))),
    )


def client_instruments(client: Any) -> list[Instrument]:
    """A client's metrics.

    Args:
        client: A `callboard.Client`; what is read of it is public.
    """
    return [
        _counts(
            "callboard.client.starts",
            "{orchestration}",
            "Orchestrations that were started from here, by name.",
            client.starts,
        ),
        *_messages(client.packer, client.hub.broker),
    ]


def _counter(name: str, unit: str, description: str, read: Callable[[], float]) -> Instrument:
    return Instrument(name=name, kind="counter", unit=unit, description=description, read=lambda: [(_NONE, read())])


def _gauge(name: str, unit: str, description: str, read: Callable[[], float]) -> Instrument:
    return Instrument(name=name, kind="gauge", unit=unit, description=description, read=lambda: [(_NONE, read())])


def _histogram(name: str, unit: str, description: str, histogram: Histogram) -> Instrument:
    return Instrument(
        name=name, kind="histogram", unit=unit, description=description, read=lambda: [(_NONE, histogram)]
    )


def _counts(
    name: str,
    unit: str,
    description: str,
    counts: NamedCounts,
    *,
    outcome: str | None = None,
    label: str | None = "name",
) -> Instrument:
    def labels(key: tuple[str, str]) -> Labels:
        pairs = zip((label, outcome), key, strict=True)
        return {word: value for word, value in pairs if word is not None}

    def read() -> Sequence[tuple[Labels, Value]]:
        return [(labels(key), count) for key, count in list(counts.counts.items())]

    return Instrument(name=name, kind="counter", unit=unit, description=description, read=read)


def _by_name(name: str, unit: str, description: str, histograms: NamedHistograms) -> Instrument:
    def read() -> Sequence[tuple[Labels, Value]]:
        return [({"name": each}, histogram) for each, histogram in list(histograms.by_name.items())]

    named = (histograms, "name")
    return Instrument(name=name, kind="histogram", unit=unit, description=description, read=read, named=named)
