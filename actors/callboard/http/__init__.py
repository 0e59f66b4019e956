"""The HTTP API of Durable Functions, and the starter: an app to serve, or to mount in your own."""

from callboard.http.application import create_http_app
from callboard.http.keys import HttpKeys
from callboard.http.replies import check_status_payload, create_check_status_response

__all__ = ["HttpKeys", "check_status_payload", "create_check_status_response", "create_http_app"]
