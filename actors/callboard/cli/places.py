"""Where a command finds its hub: the options that say so, and the connections to it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
import typer

from callboard.cli.embedded import DEFAULT_FOLDER, DataFolder
from callboard.cli.logs import set_up_logs
from callboard.cli.options import HubName, Level
from callboard.cli.problems import CommandError
from callboard.cli.running import run
from callboard.client import Client
from callboard.codecs.keys import Keys
from callboard.hub import TaskHub, open_store
from callboard.ports import Store

T = TypeVar("T")

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
BrokerUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--broker",
        envvar="CALLBOARD_BROKER",
        metavar="URL",
        help="What goes with that store: amqp://…",
        show_default=False,
    ),
]


class Place(msgspec.Struct, frozen=True):
    """What was said of where the hub is."""

    folder: Path | None
    store: str | None
    hub: str | None
    broker: str | None = None

    def look(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Does something with the store, which needs no broker and makes no hub."""
        url, hub = self._store()

        async def look() -> T:
            opened = open_store(url)
            try:
                await opened.open(hub, None, create=False)
                return await work(opened)
            finally:
                await opened.aclose()

        return run(look())

    def act(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Does something with a client."""
        store, hub = self._store()
        broker = self.broker if self._on_servers else store
        if broker is None:
            raise CommandError("Which broker goes with that store? Name it: --broker URL, or set CALLBOARD_BROKER.")

        async def act() -> T:
            task_hub = TaskHub.from_urls(hub, broker=broker, store=store, create=False, keys=Keys.from_env())
            async with task_hub, Client(task_hub) as client:
                return await work(client)

        try:
            return run(act())
        except TimeoutError as error:
            raise CommandError(str(error), exit_code=1) from None

    @property
    def _on_servers(self) -> bool:
        return self.store is not None and self.folder is None

    def _store(self) -> tuple[str, str]:
        """The store and the hub: an explicit folder, else a named store, else the default folder."""
        if self.store is not None and self.folder is None:
            if self.hub is None:
                raise CommandError("Which hub? Name it: --hub NAME, or set CALLBOARD_HUB.")
            return self.store, self.hub
        kept = DataFolder(self.folder or DEFAULT_FOLDER)
        if not kept.file.exists():
            raise CommandError(
                f"There are no data at {kept.file}. Start `callboard dev` in this folder first, name its folder (--data DIR), or name "
                "a store (--store URL)."
            )
        hub = self.hub or kept.hub
        if hub is None:
            raise CommandError(f"Which hub in {kept.file}? Name it: --hub NAME")
        return kept.url, hub


def _looking(
    *, folder: Folder = None, store: StoreUrl = None, hub: HubName = None, log_level: Level = "warning"
) -> Place:
    set_up_logs(log_level)
    return Place(folder, store, hub)


def _acting(
    *,
    folder: Folder = None,
    store: StoreUrl = None,
    broker: BrokerUrl = None,
    hub: HubName = None,
    log_level: Level = "warning",
) -> Place:
    set_up_logs(log_level)
    return Place(folder, store, hub, broker)


def looks(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say where the store is; it gets a `Place` as its first argument."""
    return _placed(command, _looking)


def acts(command: Callable[..., None]) -> Callable[..., None]:
    """As `looks`, with the broker."""
    return _placed(command, _acting)


def _placed(command: Callable[..., None], place: Callable[..., Place]) -> Callable[..., None]:
    own = inspect.signature(command, eval_str=True)
    shared = inspect.signature(place, eval_str=True)

    @functools.wraps(command)
    def placed(**options: Any) -> None:
        chosen = {name: options.pop(name) for name in shared.parameters}
        command(place(**chosen), **options)

    parameters = [*list(own.parameters.values())[1:], *shared.parameters.values()]
    keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    placed.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    placed.__annotations__ = {each.name: each.annotation for each in parameters}
    del placed.__wrapped__
    return placed
