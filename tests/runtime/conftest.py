"""Fixtures of the runtime's tests."""

from __future__ import annotations

import pytest

from callboard import effects, projecting, sweeping, turnthread
from callboard.activities import runner
from callboard.client import endings


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps, looks and marks come many times a second."""
    monkeypatch.setattr(sweeping, "EVERY", 0.04)
    monkeypatch.setattr(sweeping, "AGE", 0.0)
    monkeypatch.setattr(runner, "LOOK", 0.02)
    monkeypatch.setattr(turnthread, "LOOK", 0.02)
    monkeypatch.setattr(turnthread, "GRACE", 0.2)
    monkeypatch.setattr(projecting, "DELAY", 0.02)
    monkeypatch.setattr(effects, "MARK_LINGER", 0.01)
    monkeypatch.setattr(endings, "LOOK_AGAIN", 5.0)
