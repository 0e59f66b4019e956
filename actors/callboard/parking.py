"""Parked instances get another chance when there is code for them that has not been tried."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from callboard.core.entities import is_entity
from callboard.core.execution import Unrunnable
from callboard.core.messages import Wake
from callboard.elsewhere import Elsewhere
from callboard.errors import UnavailableError
from callboard.mailbox import Letter
from callboard.ports import Host, ParkedInstance, Store
from callboard.registry import Registry

log = logging.getLogger("callboard")

#: How often parked instances are looked at while workers of other code are alive, in seconds.
EVERY = 10.0
#: How many are looked at at a time.
PAGE = 500


class SecondChances:
    """Looks after the parked instances of the partitions that this worker owns. Costs nothing while all live workers have the same code.

    Args:
        registry: The code that is here.
        post: Puts a letter into a mailbox of this worker.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        elsewhere: Elsewhere,
        *,
        registry: Registry,
        post: Callable[[Letter], bool],
    ) -> None:
        self._store = store
        self._host = host
        self._elsewhere = elsewhere
        self._registry = registry
        self._post = post
        self._owned: frozenset[int] = frozenset()
        self._wake = asyncio.Event()
        elsewhere.company.on_change = self._wake.set

    def own(self, partitions: frozenset[int]) -> None:
        """Sets the partitions whose instances are looked after."""
        self._owned = partitions

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            changed = await self._pause()
            try:
                if self._owned and (changed or self._elsewhere.company.builds):
                    await self._look()
            except UnavailableError as error:
                log.warning("Parked instances: %s", error)

    async def _pause(self) -> bool:
        """Waits until it is time to look, or until other code comes or goes: True."""
        try:
            async with asyncio.timeout(EVERY * (0.8 + 0.4 * self._host.random())):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _look(self) -> None:
        last: str | None = None
        while page := await self._store.parked(sorted(self._owned), PAGE, after=last):
            for parked in page:
                if self._worth_trying(parked):
                    self._post(Letter(Wake(instance_id=parked.instance_id)))
            last = page[-1].instance_id

    def _worth_trying(self, parked: ParkedInstance) -> bool:
        needs = (parked.instance_id, parked.name, parked.version)
        if self._elsewhere.worth_trying(parked, here=self._registry.runs(*needs)):
            return True
        if is_entity(parked.instance_id) or self._elsewhere.exists(*needs):
            return False
        code = self._registry.code_for(parked.name, parked.version)
        return isinstance(code, Unrunnable) and code.fails  # now that nobody has it any more
