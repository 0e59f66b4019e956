"""What is everybody waiting for? `python -m tests.chaos.waiting HUB BROKER_URL STORE_URL`.

For each instance that is not over: what its code waits for, and where the thing it waits for is: the row of a timer, the record of a
child, the depth of a queue, the owner of a partition, a commit whose effects are not done.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence

from callboard.core.events import HistoryEvent, SubOrchestrationInstanceCreated, TaskScheduled, TimerCreated
from callboard.core.instances import Commit, InstanceRecord
from callboard.core.state import InstanceState
from callboard.hub import TaskHub
from callboard.ports import Destination, HubView
from tests.chaos.checker import Snapshot, read

#: Most instances that are described.
MOST = 25


async def describe(hub: TaskHub, queues: Sequence[str] = ("default",), *, ttl: float = 15.0) -> str:
    """Says what each instance that is not over waits for, and what the queues and leases look like."""
    snapshot = await read(hub.store, hub.partitions)
    view = await hub.store.view(ttl=ttl)
    lines = _leases(view)
    for name, destination in _destinations(hub, queues):
        if depth := await hub.broker.depth(destination):
            lines.append(f"{depth} messages wait in {name}")
    lines.append(f"{len(snapshot.unsent)} commits are not sent, {len(snapshot.timers)} timers are pending")
    unfinished = [record for record in snapshot.records.values() if not record.terminal]
    lines.append(f"{len(unfinished)} of {len(snapshot.records)} instances are not over")
    for record in unfinished[:MOST]:
        lines.extend(_waits(record, snapshot, view))
    lines.extend(f"not sent: commit {each.n} of {each.instance_id} of {each.at}" for each in snapshot.unsent[:MOST])
    return "\n".join(lines)


def _destinations(hub: TaskHub, queues: Sequence[str]) -> list[tuple[str, Destination]]:
    found = [Destination.partition(number) for number in range(hub.partitions)]
    found += [Destination.activities(queue) for queue in queues]
    return [(str(each), each) for each in [*found, Destination.dead_letters()]]


def _leases(view: HubView) -> list[str]:
    held: dict[str, list[int]] = defaultdict(list)
    for lease in view.leases:
        held[f"{lease.owner}{' (expired)' if lease.expired else ''}"].append(lease.partition)
    lines = [f"now {view.now}; live workers: {', '.join(worker.worker_id for worker in view.workers) or 'none'}"]
    lines.extend(f"{owner} holds partitions {numbers}" for owner, numbers in sorted(held.items()))
    return lines


def _waits(record: InstanceRecord, snapshot: Snapshot, view: HubView) -> list[str]:
    commits = snapshot.histories[record.instance_id]
    owner = view.leases[record.partition].owner
    head = f"{record.instance_id}: {record.name}, {record.runtime_status}, partition {record.partition} of {owner}"
    lines = [f"{head}, {len(commits)} commits, record at {record.head}"]
    if record.parked:
        lines.append(f"    parked: {record.parked.reason}")
    if not commits:
        return [*lines, "    it has not begun"]
    current = commits[-1]
    state = InstanceState.fold(record, [each for each in commits if each.execution_id == current.execution_id])
    lines.append(f"    last commit {current.n} at {current.at}: {_names(current)}")
    if state.waiting_to_begin:
        lines.append("    its next execution has not begun")
    lines.extend(f"    waits for {_thing(action, record, snapshot)}" for action in state.open.values())
    if not state.open:
        lines.append("    waits for events only")
    return lines


def _names(commit: Commit) -> str:
    return ", ".join(type(event).__name__ for event in commit.events)


def _thing(action: HistoryEvent, record: InstanceRecord, snapshot: Snapshot) -> str:
    match action:
        case TaskScheduled():
            return f"activity {action.name!r} ({action.event_id}) on queue {action.queue!r}, input {action.input}"
        case TimerCreated():
            there = any(
                (row.instance_id, row.timer_id) == (record.instance_id, action.event_id) for row in snapshot.timers
            )
            return f"timer {action.event_id}, due {action.fire_at}, {'pending' if there else 'WHICH HAS NO ROW'}"
        case SubOrchestrationInstanceCreated():
            child = snapshot.records.get(action.instance_id)
            return f"child {action.instance_id}, {child.runtime_status if child else 'WHICH DOES NOT EXIST'}"
        case _:
            return repr(action)


async def main(name: str, broker: str, store: str) -> None:
    async with TaskHub.from_urls(name, broker=broker, store=store) as hub:
        print(await describe(hub))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
