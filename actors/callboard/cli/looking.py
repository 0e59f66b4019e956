"""The commands that look: ``status``, ``history``, ``explain``, ``list``, ``count``, ``hub``, ``quarantine``.

They need the store alone, and change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias, get_args

import typer
from rich.live import Live

from callboard.bodies import restored_all
from callboard.cli.options import AsJson
from callboard.cli.places import Place, looks
from callboard.cli.problems import CommandError
from callboard.cli.retention import UNITS, span
from callboard.cli.showing import (
    console,
    counts_table,
    explanation_table,
    history_table,
    hub_table,
    instances_table,
    print_json,
    print_table,
    quarantine_table,
    quarantined_json,
    status_table,
)
from callboard.client import InstanceStatus
from callboard.client.explaining import Explanation, explain as explain_instance
from callboard.codecs import HubCodec
from callboard.codecs.keys import Keys
from callboard.codecs.showing import readable, readable_record
from callboard.core.events import RuntimeStatus
from callboard.core.folding import unfolded
from callboard.core.instances import InstanceRecord, check_instance_id
from callboard.errors import InstanceNotFoundError
from callboard.instance_json import instance_json
from callboard.ownership import LEASE
from callboard.ports import InstanceFilter, Store

#: How often a watched instance is looked at, in seconds.
WATCH_EVERY = 0.5

InstanceId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="The instance's id.", show_default=False)]
Top: TypeAlias = Annotated[int, typer.Option(min=1, max=1000, help="How many to show, newest first.")]
Statuses: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--status", help="Only those that are so, as in Failed; may be repeated.", show_default=False),
]
OfName: TypeAlias = Annotated[
    str | None, typer.Option("--name", help="Only those of this orchestration.", show_default=False)
]
Prefix: TypeAlias = Annotated[str | None, typer.Option(help="Only ids that begin so.", show_default=False)]
Tags: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="NAME=VALUE", help="Only those with this tag; may be repeated.", show_default=False),
]
Since: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Only those created since: today, 90m, 12h, 7d, or an ISO time.", show_default=False
    ),
]


def add_to(commands: typer.Typer) -> None:
    """Registers the commands."""
    commands.command("status")(status)
    commands.command("history")(history)
    commands.command("explain")(explain)
    commands.command("list")(list_instances)
    commands.command("count")(count)
    commands.command("hub")(hub_state)
    commands.command("quarantine")(quarantine)


@looks
def status(
    place: Place,
    instance_id: InstanceId,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show an instance: its status, input and output."""
    if watch and not as_json:
        record = place.look(lambda store: _follow(store, instance_id))
    elif watch:
        record = place.look(lambda store: _until_ended(store, instance_id))
    else:
        record = place.look(lambda store: _record(store, instance_id))
    if as_json:
        print_json(instance_json(InstanceStatus.of(record)))
    elif not watch:
        print_table(status_table(record))


@looks
def history(place: Place, instance_id: InstanceId, *, as_json: AsJson = False) -> None:
    """Show what happened to an instance, event by event."""

    async def read(store: Store) -> list[dict[str, Any]]:
        await _record(store, instance_id)
        return unfolded(readable(_codec(), await restored_all(store, await store.history(instance_id))))

    events = place.look(read)
    if as_json:
        print_json(events)
    else:
        print_table(history_table(events))


@looks
def explain(place: Place, instance_id: InstanceId, *, as_json: AsJson = False) -> None:
    """Say why an instance does not go on: what it waits for, who has it, and what stands in its way."""
    explanation: Explanation = place.look(lambda store: explain_instance(store, instance_id, _codec()))
    if as_json:
        print_json(explanation)
    else:
        print_table(explanation_table(explanation))


@looks
def list_instances(
    place: Place,
    *,
    statuses: Statuses = None,
    name: OfName = None,
    prefix: Prefix = None,
    tags: Tags = None,
    since: Since = None,
    parked: Annotated[bool, typer.Option("--parked", help="Only those whose code cannot run at present.")] = False,
    top: Top = 50,
    as_json: AsJson = False,
) -> None:
    """List instances, newest first."""
    which = which_of(statuses, name, prefix, tags, since, parked=True if parked else None)
    page = place.look(lambda store: store.query(which, limit=top))
    records = [readable_record(_codec(), record) for record in page.records]
    if as_json:
        print_json([instance_json(InstanceStatus.of(record)) for record in records])
    else:
        print_table(instances_table(records, more=page.continuation is not None))


@looks
def count(
    place: Place,
    *,
    statuses: Statuses = None,
    name: OfName = None,
    prefix: Prefix = None,
    tags: Tags = None,
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """Count instances by status."""
    which = which_of(statuses, name, prefix, tags, since)
    counts = place.look(lambda store: store.count(which))
    if as_json:
        print_json(counts)
    else:
        print_table(counts_table(counts))


@looks
def hub_state(place: Place, *, as_json: AsJson = False) -> None:
    """Show a hub: its live workers, and who owns which partitions."""
    view = place.look(lambda store: store.view(ttl=LEASE))
    if as_json:
        print_json(view)
    else:
        print_table(hub_table(view))


@looks
def quarantine(place: Place, *, top: Top = 50, as_json: AsJson = False) -> None:
    """List messages that no worker could understand, newest first."""
    messages = place.look(lambda store: store.quarantined(top))
    if as_json:
        print_json(quarantined_json(messages))
    else:
        print_table(quarantine_table(messages))


def which_of(
    statuses: list[str] | None,
    name: str | None,
    prefix: str | None,
    tags: list[str] | None,
    since: str | None,
    *,
    parked: bool | None = None,
) -> InstanceFilter:
    """The filter that options name."""
    return InstanceFilter(
        statuses=tuple(_status_name(status) for status in statuses or ()),
        names=(name,) if name else (),
        id_prefix=prefix,
        tags=named_values(tags, "--tag"),
        created_from=_time(since) if since else None,
        parked=parked,
    )


def named_values(given: list[str] | None, option: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping."""
    pairs = [each.partition("=") for each in given or ()]
    if not all(equals for _, equals, _ in pairs):
        raise CommandError(f"{option} takes NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def _status_name(text: str) -> str:
    names: dict[str, str] = {name.lower(): name for name in get_args(RuntimeStatus)}
    if text.lower() not in names:
        raise CommandError(f"There is no status {text!r}. There are: {', '.join(names.values())}.")
    return names[text.lower()]


def _time(text: str) -> datetime:
    now = datetime.now(UTC)
    if text == "today":
        return now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    if text[:-1].isdecimal() and text[-1] in UNITS:
        return now - span(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is no time. Use today, 90m, 12h, 7d, or 2026-01-31T08:00.") from None
    return time if time.tzinfo else time.astimezone()


async def _record(store: Store, instance_id: str) -> InstanceRecord:
    record = (await store.records([check_instance_id(instance_id)])).get(instance_id)
    if record is None:
        raise InstanceNotFoundError(instance_id)
    return readable_record(_codec(), record)


def _codec() -> HubCodec:
    """Opens what is encrypted, where the environment has the keys."""
    return HubCodec(keys=Keys.from_env())


async def _follow(store: Store, instance_id: str) -> InstanceRecord:
    """Shows an instance, and what it waits for, until it has ended."""
    with Live(console=console(), auto_refresh=False) as live:

        async def show(record: InstanceRecord) -> None:
            explanation = None if record.terminal else await explain_instance(store, instance_id, _codec())
            live.update(status_table(record, explanation), refresh=True)

        return await _until_ended(store, instance_id, show)


async def _until_ended(
    store: Store, instance_id: str, show: Callable[[InstanceRecord], Awaitable[None]] | None = None
) -> InstanceRecord:
    while True:
        record = await _record(store, instance_id)
        if show is not None:
            await show(record)
        if record.terminal:
            return record
        await asyncio.sleep(WATCH_EVERY)
