"""The commands that start, send and change: they need the broker and the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import typer

from callboard.cli.data import Data, json_of
from callboard.cli.looking import InstanceId, named_values
from callboard.cli.options import AsJson
from callboard.cli.places import Place, acts
from callboard.cli.problems import CommandError
from callboard.cli.showing import print_json
from callboard.client import Client, InstanceStatus
from callboard.client.starts import StartOptions
from callboard.instance_json import instance_json

#: Exit code of a command that waited for an instance which then failed or was terminated.
FAILED = 3

Reason: TypeAlias = Annotated[str | None, typer.Option(help="Why; kept in the history.", show_default=False)]


def add_to(commands: typer.Typer) -> None:
    """Registers the commands."""
    commands.command("start")(start)
    commands.command("raise-event")(raise_event)
    commands.command("terminate")(terminate)
    commands.command("suspend")(suspend)
    commands.command("resume")(resume)
    commands.command("restart")(restart)


@acts
def start(
    place: Place,
    name: Annotated[str, typer.Argument(metavar="ORCHESTRATION", help="Its registered name.", show_default=False)],
    data: Data = None,
    *,
    instance_id: Annotated[str | None, typer.Option("--id", help="The instance's id.", show_default="random")] = None,
    version: Annotated[str | None, typer.Option(help="Its version.", show_default=False)] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="May be repeated.", show_default=False)
    ] = None,
    at: Annotated[datetime | None, typer.Option(help="Not before this time.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended, and print its output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start an orchestration."""
    options = StartOptions(tags=named_values(tags, "--tag") or None)
    if instance_id is not None:
        options["instance_id"] = instance_id
    if version is not None:
        options["version"] = version
    if at is not None:
        options["start_at"] = at.astimezone()

    async def work(client: Client) -> tuple[str, InstanceStatus | None]:
        started = await client.start_encoded(name, json_of(data), **options)
        return started, await client.wait(started) if wait else None

    started, ended = place.act(work)
    if ended is None:
        _say(f"Started {started}.", {"id": started}, as_json=as_json)
        return
    print_json(instance_json(ended) if as_json else ended.output)
    if ended.runtime_status != "Completed":
        raise CommandError(f"{started} is {ended.runtime_status}.", exit_code=FAILED)


@acts
def raise_event(
    place: Place,
    instance_id: InstanceId,
    name: Annotated[str, typer.Argument(metavar="EVENT", help="The event's name.", show_default=False)],
    data: Data = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Raise an external event on an instance."""
    payload = json_of(data)
    place.act(lambda client: client.raise_event_encoded(instance_id, name, payload))
    _say(f"Raised {name} on {instance_id}.", {"id": instance_id, "event": name}, as_json=as_json)


@acts
def terminate(
    place: Place,
    instance_id: InstanceId,
    *,
    reason: Reason = None,
    recursive: Annotated[bool, typer.Option(help="Its children too.")] = True,
    as_json: AsJson = False,
) -> None:
    """End an instance."""
    _order(
        place,
        instance_id,
        "terminate",
        lambda it: it.terminate(instance_id, reason, recursive=recursive),
        as_json=as_json,
    )


@acts
def suspend(place: Place, instance_id: InstanceId, *, reason: Reason = None, as_json: AsJson = False) -> None:
    """Pause an instance: what comes in is kept, its code does not advance."""
    _order(place, instance_id, "suspend", lambda client: client.suspend(instance_id, reason), as_json=as_json)


@acts
def resume(place: Place, instance_id: InstanceId, *, reason: Reason = None, as_json: AsJson = False) -> None:
    """Let a suspended or parked instance go on."""
    _order(place, instance_id, "resume", lambda client: client.resume(instance_id, reason), as_json=as_json)


@acts
def restart(
    place: Place,
    instance_id: InstanceId,
    *,
    same_id: Annotated[bool, typer.Option("--same-id", help="Under the same id; it must have ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start an orchestration again with the input that an instance has, under a new id."""
    again = place.act(lambda client: client.restart(instance_id, restart_with_new_instance_id=not same_id))
    _say(f"Started {again.instance_id}.", {"id": again.instance_id}, as_json=as_json)


def _order(
    place: Place, instance_id: str, what: str, give: Callable[[Client], Awaitable[None]], *, as_json: bool
) -> None:
    """Gives an order that its owner carries out soon."""
    place.act(give)
    _say(f"{instance_id} is told to {what}.", {"id": instance_id, "order": what}, as_json=as_json)


def _say(text: str, answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        typer.echo(text)
