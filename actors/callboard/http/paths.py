"""Where the API's routes begin."""

from __future__ import annotations

from typing import Final

#: Where Durable Functions keeps its API, and so do we.
PREFIX: Final = "/runtime/webhooks/durabletask"
