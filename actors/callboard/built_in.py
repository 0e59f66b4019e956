"""The activities that every worker has, besides its app's."""

from __future__ import annotations

from callboard.core.http_calls import BUILT_IN_QUEUE, HTTP_ACTIVITY
from callboard.http_activity import HttpActivity
from callboard.ports import Host
from callboard.registry import ActivityDefinition, Registry


class WithBuiltIn:
    """An app's activities, and those that are built in.

    Args:
        registry: The app's functions.
        host: Clock and threads.
        limit: Largest encoded value, in bytes.
    """

    def __init__(self, registry: Registry, host: Host, *, limit: int) -> None:
        self._registry = registry
        self._http = HttpActivity(host, registry.token_sources, limit=limit)
        http = ActivityDefinition(HTTP_ACTIVITY, self._http.perform, BUILT_IN_QUEUE, codec="json")
        self._own = {http.name: http}

    def knows_activity(self, name: str) -> bool:
        return name in self._own or self._registry.knows_activity(name)

    def require_activity(self, name: str) -> ActivityDefinition:
        """Raises ActivityNotRegisteredError for names that neither knows."""
        return self._own.get(name) or self._registry.require_activity(name)

    async def aclose(self) -> None:
        await self._http.aclose()
