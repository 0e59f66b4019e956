"""Everything that Callboard raises on purpose.

CallboardError
├── ConfigurationError              what was configured cannot work
│   ├── HubMismatchError            the hub exists with another number of partitions
│   └── RegistrationError           a function cannot be registered as it is
├── UnavailableError                a server cannot be reached, or refuses us; retried inside a worker
│   ├── BrokerUnavailableError
│   └── StoreUnavailableError
├── UnroutableError                 nobody listens at that destination
├── InvalidInstanceIdError          an id that is not allowed            (also ValueError)
├── InvalidEntityIdError            an entity's name or key that is not allowed (also ValueError)
├── InvalidPayloadError             a value that cannot be encoded or decoded (also ValueError)
│   └── PayloadTooLargeError
├── PayloadRejectedError            a sealed value that cannot be opened here: no key for it, or pickles are not allowed
│   └── TamperedPayloadError        its seal is missing or wrong
├── MalformedMessageError           bytes from the broker that are no message of ours
├── OrchestrationNotRegisteredError no orchestration of that name
├── ActivityNotRegisteredError      no activity of that name
├── ActivityCancelledError          raised in activities that should stop
├── EntityNotRegisteredError        no entity of that name
├── OperationNotFoundError          an entity has no operation of that name
├── LockingRulesError               what a critical section does not allow
├── InstanceNotFoundError
├── InstanceAlreadyExistsError      the id is in use by an instance that is not finished
├── InstanceNotRunningError         the operation needs an instance that is not finished
├── InstanceNotFinishedError        the operation needs an instance that is finished
├── CorruptHistoryError             commits are missing in the middle of a history
├── NonDeterminismError             code and history disagree
├── ReadOnlyError                   a query handler or validator asked for something durable
├── QueryFailedError                a query was not answered
├── HttpRequestError                a request of call_http got no answer
├── HttpStatusError                 … or one with a status of 400 or more
├── OrchestrationStuckError         the code kept a turn running too long
└── TaskFailedError                 raised in orchestrations: an activity failed
    ├── SubOrchestrationFailedError … a child failed
    ├── MessageFailedError          (also in clients) what was asked was not answered
    │   └── MessageRejectedError    … because its validator refused it
    └── EntityOperationFailedError  … an operation of an entity failed

OrchestrationFailedError (a CallboardError) is raised by the client's ``result`` for an instance that did not complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from callboard.core.failure import FailureDetails


class CallboardError(Exception):
    """Base of all errors that Callboard raises on purpose. Its message says what happened and what to do."""


class ConfigurationError(CallboardError):
    """What was configured cannot work."""


class HubMismatchError(ConfigurationError):
    """The task hub exists and was made with other settings."""

    def __init__(self, hub: str, *, existing: int, requested: int) -> None:
        super().__init__(
            f"Task hub {hub!r} was created with {existing} partitions, but {requested} were asked for. The number is fixed for "
            f"a hub's life: use partitions={existing} (or leave it out), or start a hub under another name."
        )
        self.hub, self.existing, self.requested = hub, existing, requested


class HubNotFoundError(ConfigurationError):
    """There is no task hub of that name."""

    def __init__(self, hub: str, existing: Sequence[str]) -> None:
        known = f"There are: {', '.join(sorted(existing))}." if existing else "There is none at all yet."
        super().__init__(f"There is no task hub {hub!r} in this store. {known} A worker makes its hub when it starts.")
        self.hub = hub


class RegistrationError(ConfigurationError):
    """A function cannot be registered as it is."""


class UnavailableError(CallboardError):
    """A server cannot be reached, or refuses us."""


class BrokerUnavailableError(UnavailableError):
    """The broker cannot be reached, refuses us, or has closed the connection. What was being published may have arrived."""


class StoreUnavailableError(UnavailableError):
    """The store cannot be reached, or refuses us. What was being written may have been written."""


class UnroutableError(CallboardError):
    """Nobody listens at the destination, so the broker returned the message."""

    def __init__(self, destination: object) -> None:
        super().__init__(f"No queue is bound for {destination}.")
        self.destination = destination


class InvalidInstanceIdError(CallboardError, ValueError):
    """An instance id that is not allowed."""

    def __init__(self, instance_id: str, reason: str) -> None:
        super().__init__(
            f"Instance id {instance_id[:64]!r} is not allowed: {reason}. Use 1 to 256 characters, none of them / \\ # ? or a "
            f"control character, and no '@' at the start."
        )
        self.instance_id = instance_id


class InvalidEntityIdError(CallboardError, ValueError):
    """An entity's name or key that is not allowed."""

    def __init__(self, instance_id: str, reason: str) -> None:
        super().__init__(
            f"Entity id {instance_id[:64]!r} is not allowed: {reason}. Use @name@key with none of / \\ # ? or a control character, "
            "and no '@' in the name."
        )
        self.instance_id = instance_id


class InvalidPayloadError(CallboardError, ValueError):
    """A value that cannot be encoded, or does not fit the declared type."""


class PayloadTooLargeError(InvalidPayloadError):
    """A value whose encoded form is over the limit."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(
            f"{what} is {size:,} bytes when encoded, more than the limit of {limit:,}. Keep large data elsewhere (object "
            f"storage, a collection) and pass a reference to it."
        )
        self.size, self.limit = size, limit


class PayloadRejectedError(CallboardError):
    """A sealed value that cannot be opened here: its key is not known, or pickles are not allowed. Nothing of it was decoded."""


class TamperedPayloadError(PayloadRejectedError):
    """A value whose seal is missing or wrong: it was changed, or belongs elsewhere. Nothing of it was decoded."""

    non_retriable = True


class MalformedMessageError(CallboardError):
    """Bytes from the broker that are no message of ours."""


class OrchestrationNotRegisteredError(CallboardError):
    """No orchestration of that name is registered."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"No orchestration is registered as {name!r}. {_known('Orchestrations', known)}")
        self.name = name


class ActivityNotRegisteredError(CallboardError):
    """No activity of that name is registered."""

    non_retriable = True

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"No activity is registered as {name!r}. {_known('Activities', known)}")
        self.name = name


class ActivityCancelledError(CallboardError):
    """Raised by ``heartbeat`` in an activity that should stop. Let it through, after cleaning up."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Activity {name!r} should stop: {reason}.")
        self.name, self.reason = name, reason


class EntityNotRegisteredError(CallboardError):
    """No entity of that name is registered."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"No entity is registered as {name!r}. {_known('Entities', known)}")
        self.name = name


class OperationNotFoundError(CallboardError):
    """An entity has no operation of that name."""

    non_retriable = True

    def __init__(self, entity: str, operation: str, known: list[str]) -> None:
        super().__init__(f"Entity {entity!r} has no operation {operation!r}. {_known('Operations', known)}")
        self.entity, self.operation = entity, operation


class LockingRulesError(CallboardError):
    """An orchestration asked for something that its critical section does not allow: it could wait for itself for ever."""


def _known(what: str, names: list[str]) -> str:
    if not names:
        return f"{what}: none are registered; decorate a function and import its module where the App is made."
    listed = ", ".join(sorted(names)[:10]) + (", …" if len(names) > 10 else "")
    return f"{what} that are: {listed}."


class InstanceNotFoundError(CallboardError):
    """No instance has that id."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(f"No instance {instance_id!r} exists in this task hub.")
        self.instance_id = instance_id


class InstanceAlreadyExistsError(CallboardError):
    """The id is in use by an instance that is not finished."""

    def __init__(self, instance_id: str, status: str) -> None:
        super().__init__(
            f"Instance {instance_id!r} already exists and is {status}. Use another id, or wait until it has ended, or terminate it."
        )
        self.instance_id, self.status = instance_id, status


class InstanceNotRunningError(CallboardError):
    """The operation needs an instance that is not finished."""

    def __init__(self, instance_id: str, status: str) -> None:
        super().__init__(f"Instance {instance_id!r} is {status}: it is finished and takes no more messages.")
        self.instance_id, self.status = instance_id, status


class InstanceNotFinishedError(CallboardError):
    """The operation needs an instance that is finished, with all its effects done."""

    def __init__(self, instance_id: str, status: str) -> None:
        super().__init__(f"Instance {instance_id!r} is {status}: wait until it has ended, or terminate it first.")
        self.instance_id, self.status = instance_id, status


class CorruptHistoryError(CallboardError):
    """Commits of an instance are missing in the middle. Restore them from a backup, or purge the instance."""

    def __init__(self, instance_id: str, *, missing: int) -> None:
        super().__init__(
            f"The history of instance {instance_id!r} is damaged: commit {missing} is missing. Restore it from a backup, or purge "
            f"the instance."
        )
        self.instance_id, self.missing = instance_id, missing


class NonDeterminismError(CallboardError):
    """The code asks for something else than the history says it did."""


class ReadOnlyError(CallboardError):
    """A query handler or a validator asked for something that history would have to hold."""

    def __init__(self) -> None:
        super().__init__(
            "A query handler or a validator may only look: it must not call activities, set timers, send, wait, draw random numbers "
            "or change the custom status. Do that in a message handler, or in the body of the orchestration."
        )


class OrchestrationStuckError(CallboardError):
    """The orchestrator's code kept a turn running too long without awaiting anything durable."""


class TaskFailedError(CallboardError):
    """An activity failed; raised where its task is awaited. Of several attempts, it tells of the last."""

    heartbeat_details: str | None = None
    """The progress that it had reported, as JSON text: what its next attempt may read."""

    def __init__(self, name: str, task_id: int, failure: FailureDetails, *, attempts: int = 1) -> None:
        failed = "failed" if attempts == 1 else f"failed after {attempts} attempts"
        super().__init__(
            f"{self._what} {name!r} (task {task_id}) {failed}: {failure.error_type}: {failure.error_message}"
        )
        self.name, self.task_id, self.failure, self.attempts = name, task_id, failure, attempts

    _what = "Activity"


class HttpRequestError(CallboardError):
    """A request of ``call_http`` got no answer that can be used.

    Args:
        message: Without what may be secret in the URI.
        non_retriable: Whether another attempt would end alike.
    """

    def __init__(self, message: str, *, non_retriable: bool = False) -> None:
        super().__init__(message)
        self.non_retriable = non_retriable


class HttpStatusError(CallboardError):
    """The answer to a request of ``call_http`` has a status of 400 or more."""

    def __init__(self, status_code: int, content: str) -> None:
        shown = content if len(content) <= 200 else f"{content[:200]}…"
        super().__init__(f"The server answered with status {status_code}" + (f": {shown}" if shown else "."))
        self.status_code, self.content = status_code, content


class SubOrchestrationFailedError(TaskFailedError):
    """A child orchestration failed or was terminated; raised where its task is awaited."""

    _what = "Sub-orchestration"


class MessageFailedError(TaskFailedError):
    """An instance did not answer what it was asked: its handler raised, or it ended before. Raised by ``ask``, in clients as well."""

    def __init__(self, name: str, task_id: int, failure: FailureDetails) -> None:
        CallboardError.__init__(
            self, f"Message {name!r} was not answered: {failure.error_type}: {failure.error_message}"
        )
        self.name, self.task_id, self.failure = name, task_id, failure


class MessageRejectedError(MessageFailedError):
    """What was asked does not fit the handler's annotations, or its validator refused it. The instance was not changed by it."""


class QueryFailedError(CallboardError):
    """A query was not answered: its handler raised, there is none, or the instance's code cannot run."""

    def __init__(self, name: str, failure: FailureDetails) -> None:
        super().__init__(f"Query {name!r} was not answered: {failure.error_type}: {failure.error_message}")
        self.name, self.failure = name, failure


class EntityOperationFailedError(TaskFailedError):
    """An operation of an entity failed, and left no trace in its state; raised where its task is awaited."""

    _what = "Entity operation"


class OrchestrationFailedError(CallboardError):
    """An instance whose result was asked for ended as Failed or Terminated."""

    def __init__(self, instance_id: str, status: str, failure: FailureDetails | None, output: object) -> None:
        detail = f"{failure.error_type}: {failure.error_message}" if failure else str(output)
        super().__init__(f"Instance {instance_id!r} ended as {status}: {detail}")
        self.instance_id, self.status, self.failure = instance_id, status, failure
