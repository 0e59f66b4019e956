"""The client: starts orchestrations, looks at them, sends them messages. Works inside any asyncio service."""

from callboard.client.client import Client
from callboard.client.entities import (
    CleanEntityStorageResult,
    EntitiesPage,
    EntityMetadata,
    EntityStateResponse,
)
from callboard.client.handle import InstanceHandle
from callboard.client.purging import PurgeResult
from callboard.client.status import InstancesPage, InstanceStatus

__all__ = [
    "CleanEntityStorageResult",
    "Client",
    "EntitiesPage",
    "EntityMetadata",
    "EntityStateResponse",
    "InstanceHandle",
    "InstanceStatus",
    "InstancesPage",
    "PurgeResult",
]
