"""A handle of one instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from callboard.client.status import InstanceStatus
from callboard.errors import OrchestrationFailedError

if TYPE_CHECKING:
    from callboard.client.client import Client

T = TypeVar("T")


class InstanceHandle(Generic[T]):
    """One instance that was started here."""

    def __init__(self, client: Client, instance_id: str, result_type: Any) -> None:
        self._client = client
        self.instance_id = instance_id
        self._result_type = result_type

    async def status(self) -> InstanceStatus:
        """Looks at it now."""
        return await self._client.get_status(self.instance_id)

    async def result(self, timeout: float | None = None) -> T:
        """Waits until it has ended, and returns its result.

        Raises:
            OrchestrationFailedError: it failed or was terminated.
            TimeoutError: it has not ended within ``timeout`` seconds.
            PayloadRejectedError: its result is sealed, and cannot be opened here.
        """
        record = await self._client.wait_for_record(self.instance_id, timeout)
        if record.runtime_status != "Completed":
            output = InstanceStatus.of(record).output
            raise OrchestrationFailedError(self.instance_id, record.runtime_status, record.failure, output)
        return cast("T", await self._client.output_of(record, self._result_type))
