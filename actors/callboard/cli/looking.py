"""The commands that look: ``status``, ``history``, ``list``, ``quarantine``. They need the store alone, and change nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

import typer

from callboard.bodies import restored_all
from callboard.cli.embedded import DEFAULT_FOLDER, DataFolder
from callboard.cli.logs import set_up_logs
from callboard.cli.options import AsJson, HubName, Level
from callboard.cli.problems import CommandError
from callboard.cli.running import run
from callboard.cli.showing import (
    history_table,
    instances_table,
    print_json,
    print_table,
    quarantine_table,
    quarantined_json,
    status_table,
)
from callboard.client import InstanceStatus
from callboard.codecs import HubCodec
from callboard.codecs.keys import Keys
from callboard.codecs.showing import readable, readable_record
from callboard.core.events import RuntimeStatus
from callboard.core.folding import unfolded
from callboard.core.instances import InstanceRecord, check_instance_id
from callboard.errors import InstanceNotFoundError
from callboard.hub import open_store
from callboard.instance_json import instance_json
from callboard.ports import InstanceFilter, Store

T = TypeVar("T")

InstanceId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="The instance's id.", show_default=False)]
Folder: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The data folder of `callboard dev`.", show_default=str(DEFAULT_FOLDER)),
]
StoreUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="CALLBOARD_STORE",
        metavar="URL",
        help="Look there, and not in a data folder: mongodb://…",
        show_default=False,
    ),
]
Top: TypeAlias = Annotated[int, typer.Option(min=1, max=1000, help="How many to show, newest first.")]


def add_to(commands: typer.Typer) -> None:
    """Registers the commands."""
    commands.command("status")(status)
    commands.command("history")(history)
    commands.command("list")(list_instances)
    commands.command("quarantine")(quarantine)


def status(
    instance_id: InstanceId,
    *,
    data: Folder = None,
    store: StoreUrl = None,
    hub: HubName = None,
    as_json: AsJson = False,
    log_level: Level = "warning",
) -> None:
    """Show an instance: its status, input and output."""
    set_up_logs(log_level)
    record = _readable(_look(data, store, hub, lambda opened: _record(opened, instance_id)))
    if as_json:
        print_json(instance_json(InstanceStatus.of(record)))
    else:
        print_table(status_table(record))


def history(
    instance_id: InstanceId,
    *,
    data: Folder = None,
    store: StoreUrl = None,
    hub: HubName = None,
    as_json: AsJson = False,
    log_level: Level = "warning",
) -> None:
    """Show what happened to an instance, event by event."""
    set_up_logs(log_level)

    async def read(opened: Store) -> list[dict[str, Any]]:
        await _record(opened, instance_id)
        commits = await restored_all(opened, await opened.history(instance_id))
        return unfolded(readable(HubCodec(keys=Keys.from_env()), commits))

    events = _look(data, store, hub, read)
    if as_json:
        print_json(events)
    else:
        print_table(history_table(events))


def list_instances(
    *,
    statuses: Annotated[
        list[str] | None,
        typer.Option("--status", help="Only those that are so, as in Failed; may be repeated.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only those of this orchestration.", show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option(help="Only ids that begin so.", show_default=False)] = None,
    parked: Annotated[bool, typer.Option("--parked", help="Only those whose code cannot run at present.")] = False,
    top: Top = 50,
    data: Folder = None,
    store: StoreUrl = None,
    hub: HubName = None,
    as_json: AsJson = False,
    log_level: Level = "warning",
) -> None:
    """List instances, newest first."""
    set_up_logs(log_level)
    which = InstanceFilter(
        statuses=tuple(_status_name(status) for status in statuses or ()),
        names=(name,) if name else (),
        id_prefix=prefix,
        parked=True if parked else None,
    )
    page = _look(data, store, hub, lambda opened: opened.query(which, limit=top))
    records = [_readable(record) for record in page.records]
    if as_json:
        print_json([instance_json(InstanceStatus.of(record)) for record in records])
    else:
        print_table(instances_table(records, more=page.continuation is not None))


def quarantine(
    *,
    top: Top = 50,
    data: Folder = None,
    store: StoreUrl = None,
    hub: HubName = None,
    as_json: AsJson = False,
    log_level: Level = "warning",
) -> None:
    """List messages that no worker could understand, newest first."""
    set_up_logs(log_level)
    messages = _look(data, store, hub, lambda opened: opened.quarantined(top))
    if as_json:
        print_json(quarantined_json(messages))
    else:
        print_table(quarantine_table(messages))


def _readable(record: InstanceRecord) -> InstanceRecord:
    return readable_record(HubCodec(keys=Keys.from_env()), record)


def _status_name(text: str) -> str:
    names: dict[str, str] = {name.lower(): name for name in get_args(RuntimeStatus)}
    if text.lower() not in names:
        raise CommandError(f"There is no status {text!r}. There are: {', '.join(names.values())}.")
    return names[text.lower()]


def _look(data: Path | None, store: str | None, hub: str | None, work: Callable[[Store], Awaitable[T]]) -> T:
    url, name = where(data, store, hub)

    async def look() -> T:
        opened = open_store(url)
        try:
            await opened.open(name, None, create=False)
            return await work(opened)
        finally:
            await opened.aclose()

    return run(look())


def where(data: Path | None, store: str | None, hub: str | None) -> tuple[str, str]:
    """The store and the hub to look at: an explicit folder, else a named store, else the default folder."""
    if store is not None and data is None:
        if hub is None:
            raise CommandError("Which hub? Name it: --hub NAME, or set CALLBOARD_HUB.")
        return store, hub
    folder = DataFolder(data or DEFAULT_FOLDER)
    if not folder.file.exists():
        raise CommandError(
            f"There are no data at {folder.file}. Start `callboard dev` in this folder first, name its folder (--data DIR), or name a "
            "store (--store URL)."
        )
    hub = hub or folder.hub
    if hub is None:
        raise CommandError(f"Which hub in {folder.file}? Name it: --hub NAME")
    return folder.url, hub


async def _record(store: Store, instance_id: str) -> InstanceRecord:
    record = (await store.records([check_instance_id(instance_id)])).get(instance_id)
    if record is None:
        raise InstanceNotFoundError(instance_id)
    return record
