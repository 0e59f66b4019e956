"""Callboard: durable orchestrations in plain Python, on RabbitMQ and MongoDB."""

from callboard.activity import ActivityContext, activity_context
from callboard.app import App, Blueprint
from callboard.client import Client, InstanceHandle, InstancesPage, InstanceStatus, PurgeResult
from callboard.codecs.keys import Keys
from callboard.core.context import DurableTask, OrchestrationContext
from callboard.core.failure import FailureDetails
from callboard.core.retrying import RetryContext
from callboard.errors import (
    ActivityCancelledError,
    CallboardError,
    MessageFailedError,
    MessageRejectedError,
    OrchestrationFailedError,
    QueryFailedError,
    SubOrchestrationFailedError,
    TaskFailedError,
)
from callboard.hub import TaskHub
from callboard.ports import InstanceFilter
from callboard.retries import RetryPolicy
from callboard.worker import Worker, WorkerOptions

__all__ = [
    "ActivityCancelledError",
    "ActivityContext",
    "App",
    "Blueprint",
    "CallboardError",
    "Client",
    "DurableTask",
    "FailureDetails",
    "InstanceFilter",
    "InstanceHandle",
    "InstanceStatus",
    "InstancesPage",
    "Keys",
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
    "Worker",
    "WorkerOptions",
    "activity_context",
]
