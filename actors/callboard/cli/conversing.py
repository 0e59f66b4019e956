"""The commands that talk to a running instance: ``send``, ``ask``, ``query``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from callboard.cli.logs import set_up_logs
from callboard.cli.looking import Folder, InstanceId, StoreUrl, where
from callboard.cli.options import HubName, Level
from callboard.cli.problems import CommandError
from callboard.cli.running import run
from callboard.cli.showing import print_json
from callboard.client import Client
from callboard.codecs.keys import Keys
from callboard.core.payloads import is_json
from callboard.hub import TaskHub

T = TypeVar("T")

MessageName: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="The message's name.", show_default=False)]
Data: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="[DATA]", help="What goes with it, as JSON.", show_default=False)
]
BrokerUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--broker", envvar="CALLBOARD_BROKER", metavar="URL", help="With --store: amqp://…", show_default=False
    ),
]
MessageId: TypeAlias = Annotated[
    str | None, typer.Option("--id", help="Sent again under the same id, it is handled once.", show_default=False)
]
Timeout: TypeAlias = Annotated[float, typer.Option(min=0, help="How many seconds to wait for the answer.")]


def add_to(commands: typer.Typer) -> None:
    """Registers the commands."""
    commands.command("send")(send)
    commands.command("ask")(ask)
    commands.command("query")(query)


def send(
    instance_id: InstanceId,
    name: MessageName,
    data: Data = None,
    *,
    message_id: MessageId = None,
    folder: Folder = None,
    broker: BrokerUrl = None,
    store: StoreUrl = None,
    hub: HubName = None,
    log_level: Level = "warning",
) -> None:
    """Send a message to a handler of an instance."""
    set_up_logs(log_level)
    payload = _checked(data)
    _with_client(
        folder,
        broker,
        store,
        hub,
        lambda client: client.send_encoded(instance_id, name, payload, message_id=message_id),
    )


def ask(
    instance_id: InstanceId,
    name: MessageName,
    data: Data = None,
    *,
    message_id: MessageId = None,
    timeout: Timeout = 30.0,
    folder: Folder = None,
    broker: BrokerUrl = None,
    store: StoreUrl = None,
    hub: HubName = None,
    log_level: Level = "warning",
) -> None:
    """Send a message to a handler of an instance, and print its answer."""
    set_up_logs(log_level)
    payload = _checked(data)

    async def asked(client: Client) -> Any:
        return await client.ask_encoded(instance_id, name, payload, timeout=timeout, message_id=message_id)

    print_json(_with_client(folder, broker, store, hub, asked))


def query(
    instance_id: InstanceId,
    name: MessageName,
    data: Data = None,
    *,
    timeout: Timeout = 30.0,
    folder: Folder = None,
    broker: BrokerUrl = None,
    store: StoreUrl = None,
    hub: HubName = None,
    log_level: Level = "warning",
) -> None:
    """Print what a query handler of an instance says; it may have ended."""
    set_up_logs(log_level)
    payload = _checked(data)

    async def queried(client: Client) -> Any:
        return await client.query_encoded(instance_id, name, payload, timeout=timeout)

    print_json(_with_client(folder, broker, store, hub, queried))


def _checked(data: str | None) -> str | None:
    if data is not None and not is_json(data):
        raise CommandError(f"DATA is not JSON: {data[:64]!r}. Text must be in double quotes: '\"text\"'.")
    return None if data == "null" else data


def _with_client(
    folder: Path | None,
    broker: str | None,
    store: str | None,
    hub: str | None,
    work: Callable[[Client], Awaitable[T]],
) -> T:
    url, name = where(folder, store, hub)
    if store is not None and folder is None and broker is None:
        raise CommandError("Which broker? Name it: --broker URL, or set CALLBOARD_BROKER.")
    at_broker = broker if store is not None and folder is None and broker is not None else url

    async def talk() -> T:
        task_hub = TaskHub.from_urls(name, broker=at_broker, store=url, keys=Keys.from_env())
        async with task_hub, Client(task_hub) as client:
            return await work(client)

    try:
        return run(talk())
    except TimeoutError as error:
        raise CommandError(str(error), exit_code=1) from None
