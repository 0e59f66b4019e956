"""The stage, once on each backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.stage import Stage


@pytest.fixture(params=["embedded", "servers"])
def stage(request: pytest.FixtureRequest, hub: str, tmp_path: Path) -> Stage:
    """A fresh hub, on one SQLite file and then on RabbitMQ with MongoDB."""
    if request.param == "embedded":
        url = f"sqlite:///{tmp_path / 'hub.db'}"
        return Stage(hub, url, url)
    return Stage(hub, request.getfixturevalue("amqp_url"), request.getfixturevalue("mongodb_url"))
