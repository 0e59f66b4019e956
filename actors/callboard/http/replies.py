"""What the API answers: check-status and status payloads, in Durable Functions' form."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from fastapi import Request, Response

from callboard.http.keys import CODE
from callboard.http.paths import PREFIX

#: When to look again after a start, and while an instance runs, in seconds.
LOOK_AFTER_START, LOOK_AGAIN = "10", "5"


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, headers=headers, media_type="application/json")


def root_url(request: Request) -> str:
    """Where this app is, as the client reaches it: scheme, host and the path it is mounted at."""
    return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}"


def check_status_payload(
    root: str, hub: str, instance_id: str, *, error_on_failure: bool = False, code: str | None = None
) -> dict[str, str]:
    """The URIs with which an instance is managed.

    Args:
        root: Where the API is mounted, without a slash at the end.
        hub: The task hub.
        instance_id: The instance.
        error_on_failure: Whether looking at it should give 500 once it has failed.
        code: The key that the URIs carry, so that who is given them can use them.
    """
    instance = f"{root}{PREFIX}/instances/{quote(instance_id, safe='')}"
    query = urlencode({"taskHub": hub} | ({"code": code} if code else {}))
    flag = "&returnInternalServerErrorOnFailure=true" if error_on_failure else ""
    return {
        "id": instance_id,
        "statusQueryGetUri": f"{instance}?{query}{flag}",
        "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{query}",
        "terminatePostUri": f"{instance}/terminate?reason={{text}}&{query}",
        "purgeHistoryDeleteUri": f"{instance}?{query}",
        "restartPostUri": f"{instance}/restart?{query}",
        "suspendPostUri": f"{instance}/suspend?reason={{text}}&{query}",
        "resumePostUri": f"{instance}/resume?reason={{text}}&{query}",
    }


def create_check_status_response(
    request: Request, hub: str, instance_id: str, *, mounted_at: str | None = None, error_on_failure: bool = False
) -> Response:
    """The 202 that tells a caller where to follow an instance (Durable Functions' ``CreateCheckStatusResponse``).

    Args:
        request: The caller's, for the host it used.
        hub: The task hub.
        instance_id: The instance.
        mounted_at: In a route of your own: the path at which the API is mounted in your app.
        error_on_failure: Whether looking at it should give 500 once it has failed.
    """
    root = root_url(request) + (mounted_at or "").rstrip("/")
    code = request.scope.get(CODE)
    payload = check_status_payload(root, hub, instance_id, error_on_failure=error_on_failure, code=code)
    headers = {"Location": payload["statusQueryGetUri"], "Retry-After": LOOK_AFTER_START}
    return json_response(payload, 202, headers)
