"""The contract of `callboard.ports.Store`, as tests.

An adapter's author runs them with any test runner that can await a test method::

    class TestMyStore(StoreContract):
        def make_store(self) -> Store:
            return MyStore(...)

Each test has a hub of its own; all tests may share one database.
"""

from __future__ import annotations

from callboard.testing.store_contract.activities import ClaimTests, LimitTests
from callboard.testing.store_contract.deletion import PayloadTests, PurgingTests, TrimmingTests
from callboard.testing.store_contract.entities import EntityTests
from callboard.testing.store_contract.histories import AppendingTests, LoadingTests, SweepingTests
from callboard.testing.store_contract.listing import ListingTests
from callboard.testing.store_contract.ownership import LeaseTests, QuarantineTests, TimerTests
from callboard.testing.store_contract.records import CreatingTests, OpeningTests, ProjectingTests

__all__ = ["StoreContract"]


class StoreContract(
    OpeningTests,
    CreatingTests,
    ProjectingTests,
    ListingTests,
    AppendingTests,
    LoadingTests,
    SweepingTests,
    EntityTests,
    TrimmingTests,
    PurgingTests,
    PayloadTests,
    TimerTests,
    ClaimTests,
    LimitTests,
    LeaseTests,
    QuarantineTests,
):
    """Every promise of the port; give it a ``make_store``."""
