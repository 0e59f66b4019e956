"""The commands that talk to a running instance: ``send``, ``ask``, ``query``."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from callboard.cli.data import Data, json_of
from callboard.cli.looking import InstanceId
from callboard.cli.places import Place, acts
from callboard.cli.showing import print_json

MessageName: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="The message's name.", show_default=False)]
MessageId: TypeAlias = Annotated[
    str | None, typer.Option("--id", help="Sent again under the same id, it is handled once.", show_default=False)
]
Timeout: TypeAlias = Annotated[float, typer.Option(min=0, help="How many seconds to wait for the answer.")]


def add_to(commands: typer.Typer) -> None:
    """Registers the commands."""
    commands.command("send")(send)
    commands.command("ask")(ask)
    commands.command("query")(query)


@acts
def send(
    place: Place, instance_id: InstanceId, name: MessageName, data: Data = None, *, message_id: MessageId = None
) -> None:
    """Send a message to a handler of an instance."""
    payload = json_of(data)
    place.act(lambda client: client.send_encoded(instance_id, name, payload, message_id=message_id))


@acts
def ask(
    place: Place,
    instance_id: InstanceId,
    name: MessageName,
    data: Data = None,
    *,
    message_id: MessageId = None,
    timeout: Timeout = 30.0,
) -> None:
    """Send a message to a handler of an instance, and print its answer."""
    payload = json_of(data)
    print_json(
        place.act(lambda client: client.ask_encoded(instance_id, name, payload, timeout=timeout, message_id=message_id))
    )


@acts
def query(
    place: Place, instance_id: InstanceId, name: MessageName, data: Data = None, *, timeout: Timeout = 30.0
) -> None:
    """Print what a query handler of an instance says; it may have ended."""
    payload = json_of(data)
    print_json(place.act(lambda client: client.query_encoded(instance_id, name, payload, timeout=timeout)))
