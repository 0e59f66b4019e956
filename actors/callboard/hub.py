"""A task hub, connected: its name, its partitions, its broker and its store."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Protocol, Self, TypeVar, cast
from urllib.parse import urlsplit

from callboard.app import App, check_hub
from callboard.codecs import HubCodec
from callboard.codecs.keys import Keys
from callboard.errors import ConfigurationError
from callboard.ports import Broker, Store

P = TypeVar("P")


class TaskHub:
    """What a worker or client needs of a hub. Use it with ``async with``, or call ``open`` and ``aclose``.

    Args:
        name: The hub's name.
        broker: Not opened yet.
        store: Not opened yet.
        partitions: What a new hub gets; None takes what the hub has, or 32 for a new one.
        keys: For sealed values, where the app brings none of its own.
        create: Makes the hub if it is not there yet.
    """

    def __init__(
        self,
        name: str,
        broker: Broker,
        store: Store,
        *,
        partitions: int | None = None,
        keys: Keys | None = None,
        create: bool = True,
    ) -> None:
        self.name = check_hub(name)
        self.broker = broker
        self.store = store
        self.partitions = partitions or 0
        self._wanted = partitions
        self._create = create
        self._keys = keys

    @classmethod
    def from_urls(
        cls,
        name: str,
        *,
        broker: str,
        store: str,
        partitions: int | None = None,
        keys: Keys | None = None,
        create: bool = True,
    ) -> TaskHub:
        """Finds the adapters by the URLs' schemes.

        Raises:
            ConfigurationError: no adapter is installed for a scheme; says which there are.
        """
        return cls(name, open_broker(broker), open_store(store), partitions=partitions, keys=keys, create=create)

    def codec(self, app: App | None) -> HubCodec:
        """How values are encoded and sealed by this app, or without one.

        Raises:
            ConfigurationError: the app asks for what its keys or packages do not allow.
        """
        options = app.codec_options if app is not None else None
        return HubCodec(options, (app.keys if app is not None else None) or self._keys)

    async def open(self) -> None:
        """Connects to both servers.

        Raises:
            UnavailableError: one cannot be reached or refuses the credentials; says which, and what to check.
            HubMismatchError: the hub has another number of partitions.
            HubNotFoundError: there is no such hub, and it is not to be made.
        """
        self.partitions = await self.store.open(self.name, self._wanted, create=self._create)
        await self.broker.open(self.name, self.partitions)

    async def aclose(self) -> None:
        """Disconnects from both servers. May be called more than once."""
        await self.broker.aclose()
        await self.store.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _FromUrl(Protocol):
    def __call__(self, url: str) -> Any: ...


def open_broker(url: str) -> Broker:
    """The broker adapter for a URL, not opened yet."""
    return cast("Broker", _adapter("callboard.brokers", "broker", url)(url))


def open_store(url: str) -> Store:
    """The store adapter for a URL, not opened yet."""
    return cast("Store", _adapter("callboard.stores", "store", url)(url))


def _adapter(group: str, role: str, url: str) -> Callable[[str], Any]:
    scheme = urlsplit(url).scheme
    found = {point.name: point for point in entry_points(group=group)}
    point = found.get(scheme)
    if point is None:
        known = ", ".join(f"{name}://" for name in sorted(found)) or "none (is the package installed?)"
        raise ConfigurationError(f"No {role} adapter for {scheme or 'a URL without a scheme'!r}. There are: {known}.")
    factory: _FromUrl = point.load()
    return factory
