"""Callboard: durable orchestrations in plain Python, on RabbitMQ and MongoDB."""

from callboard.activity import ActivityContext, activity_context
from callboard.app import App, Blueprint
from callboard.client import (
    CleanEntityStorageResult,
    Client,
    EntitiesPage,
    EntityMetadata,
    EntityStateResponse,
    InstanceHandle,
    InstancesPage,
    InstanceStatus,
    PurgeResult,
)
from callboard.codecs.keys import Keys
from callboard.core.context import DurableTask, OrchestrationContext
from callboard.core.entities import EntityId
from callboard.core.entity_context import EntityContext
from callboard.core.failure import FailureDetails
from callboard.core.http_calls import DurableHttpResponse
from callboard.core.retrying import RetryContext
from callboard.errors import (
    ActivityCancelledError,
    CallboardError,
    EntityOperationFailedError,
    HttpRequestError,
    HttpStatusError,
    LockingRulesError,
    MessageFailedError,
    MessageRejectedError,
    OrchestrationFailedError,
    QueryFailedError,
    SubOrchestrationFailedError,
    TaskFailedError,
)
from callboard.hub import TaskHub
from callboard.ports import EntityFilter, InstanceFilter
from callboard.retries import RetryPolicy
from callboard.trigger import TriggerMessage
from callboard.worker import Worker, WorkerOptions

__all__ = [
    "ActivityCancelledError",
    "ActivityContext",
    "App",
    "Blueprint",
    "CallboardError",
    "CleanEntityStorageResult",
    "Client",
    "DurableHttpResponse",
    "DurableTask",
    "EntitiesPage",
    "EntityContext",
    "EntityFilter",
    "EntityId",
    "EntityMetadata",
    "EntityOperationFailedError",
    "EntityStateResponse",
    "FailureDetails",
    "HttpRequestError",
    "HttpStatusError",
    "InstanceFilter",
    "InstanceHandle",
    "InstanceStatus",
    "InstancesPage",
    "Keys",
    "LockingRulesError",
    "MessageFailedError",
    "MessageRejectedError",
    "OrchestrationContext",
    "OrchestrationFailedError",
    "PurgeResult",
    "QueryFailedError",
    "RetryContext",
    "RetryPolicy",
    "SubOrchestrationFailedError",
    "TaskFailedError",
    "TaskHub",
    "TriggerMessage",
    "Worker",
    "WorkerOptions",
    "activity_context",
]
