"""The commands for messages of foreign programs that were put aside: ``rejected``, ``redrive``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from callboard.cli.places import Place, acts
from callboard.cli.showing import print_json
from callboard.client import Client
from callboard.rejecting import MESSAGE_ID, REASON, SOURCE, redrive as send_again, rejected as put_aside


def add_to(commands: typer.Typer) -> None:
    """Registers the commands."""
    commands.command("rejected")(rejected)
    commands.command("redrive")(redrive)


@acts
def rejected(place: Place) -> None:
    """List messages of foreign programs that were put aside, and why, as JSON."""

    async def listed(client: Client) -> list[dict[str, Any]]:
        return [
            {
                "source": delivery.headers.get(SOURCE),
                "reason": delivery.headers.get(REASON),
                "messageId": delivery.headers.get(MESSAGE_ID),
                "body": delivery.body.decode(errors="replace"),
            }
            for delivery in await put_aside(client.hub.broker)
        ]

    print_json(place.act(listed))


@acts
def redrive(
    place: Place,
    *,
    source: Annotated[
        str | None, typer.Option(help="Only those that were read from this queue.", show_default=False)
    ] = None,
) -> None:
    """Send messages that were put aside to their queues again, and print how many."""

    async def sent(client: Client) -> int:
        return await send_again(client.hub.broker, source=source)

    print_json(place.act(sent))
