"""Timers, workers, leases, quarantine."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from callboard.ports import Lease, Quarantined
from callboard.testing.store_contract.values import (
    START,
    StoreTests,
    eventually,
    seconds,
    timer,
    worker,
)


class TimerTests(StoreTests):
    """Durable timers."""

    async def test_due_timers_come_earliest_first(self) -> None:
        async with self.opened() as store:
            made = [timer("a", number, at=20 - number, partition=number % 3) for number in range(12)]
            await store.put_timers(made)
            until = START + seconds(100)
            expected = [each for each in reversed(made) if each.partition in {0, 1}]
            assert await store.due_timers([0, 1], until=until, limit=99) == expected
            assert await store.due_timers([0, 1], until=until, limit=3) == expected[:3]
            assert await store.due_timers([0, 1], until=expected[3].fire_at, limit=99) == expected[:4]
            assert await store.due_timers([3], until=until, limit=9) == []
            assert await store.due_timers([], until=until, limit=9) == []

    async def test_putting_twice_is_once(self) -> None:
        async with self.opened() as store:
            await store.put_timers([timer("a", 0)])
            await store.put_timers([timer("a", 0), timer("a", 1), timer("a", 1)])
            await store.put_timers([])
            assert await store.due_timers([0], until=START, limit=9) == [timer("a", 0), timer("a", 1)]

    async def test_limits_of_tasks_are_told_from_timers(self) -> None:
        async with self.opened() as store:
            await store.put_timers([timer("a", 0), timer("a", 1, of_task=True)])
            assert await store.due_timers([0], until=START, limit=9) == [timer("a", 0), timer("a", 1, of_task=True)]
            await store.delete_timers([timer("a", 1, of_task=True)])
            assert await store.due_timers([0], until=START, limit=9) == [timer("a", 0)]

    async def test_the_identity_counts(self) -> None:
        async with self.opened() as store:
            made = [timer("a", 1), timer("a", 11), timer("a", 1, "e11"), timer("a1", 1), timer("b", 1)]
            await store.put_timers(made)
            await store.delete_timers([timer("a", 1, at=99, partition=3), timer("unknown", 1)])
            await store.delete_timers([timer("a", 1)])
            await store.delete_timers([])
            left = await store.due_timers([0], until=START, limit=9)
            assert sorted(left, key=str) == sorted(made[1:], key=str)

    async def test_all_of_an_execution_go(self) -> None:
        async with self.opened() as store:
            kept = [timer("a", 1, "e11"), timer("a0", 1), timer("A", 2)]
            await store.put_timers([timer("a", 1), timer("a", 2), timer("b", 1, "x"), *kept])
            await store.delete_execution_timers([("a", "e1 of a"), ("b", "x of b"), ("c", "unknown")])
            await store.delete_execution_timers([])
            left = await store.due_timers([0], until=START, limit=9)
            assert sorted(left, key=str) == sorted(kept, key=str)


class LeaseTests(StoreTests):
    """Workers and leases."""

    async def test_a_new_hub_is_free(self) -> None:
        async with self.opened() as store:
            view = await store.view(ttl=10)
            assert view.workers == ()
            assert view.leases == tuple(
                Lease(partition=number, owner=None, epoch=0, expired=True) for number in range(self.partitions)
            )
            assert abs((view.now - datetime.now(UTC)).total_seconds()) < 60

    async def test_workers_are_seen_while_they_live(self) -> None:
        async with self.opened() as store, self.opened() as other:
            await store.heartbeat(worker("w2"), ttl=60)
            view = await other.heartbeat(worker("w1"), ttl=60)
            assert view.workers == (worker("w1"), worker("w2"))
            assert (await store.heartbeat(worker("w2"), ttl=60)).workers == view.workers
            await other.leave("w1")
            assert (await store.view(ttl=60)).workers == (worker("w2"),)
            await other.leave("w1")

            async def is_forgotten() -> bool:
                return (await store.view(ttl=0.1)).workers == ()

            await eventually(is_forgotten, "a silent worker is not seen")

    async def test_acquiring_makes_the_epoch_grow(self) -> None:
        async with self.opened() as store:
            lease = await store.acquire(2, "w1", epoch=0, ttl=60)
            assert lease == Lease(partition=2, owner="w1", epoch=1, expired=False)
            assert (await store.view(ttl=60)).leases[2] == lease
            assert await store.acquire(2, "w2", epoch=0, ttl=60) is None
            assert await store.acquire(2, "w2", epoch=1, ttl=60) is None
            assert await store.acquire(2, "w2", epoch=2, ttl=60, steal=True) is None
            await store.release(2, "w1")
            free = Lease(partition=2, owner=None, epoch=1, expired=True)
            assert (await store.view(ttl=60)).leases[2] == free
            lease = await store.acquire(2, "w2", epoch=1, ttl=60)
            assert lease == Lease(partition=2, owner="w2", epoch=2, expired=False)
            assert await store.acquire(99, "w1", epoch=0, ttl=60) is None

    async def test_acquiring_again_after_a_lost_answer(self) -> None:
        async with self.opened() as store:
            first = await store.acquire(0, "w1", epoch=0, ttl=60)
            assert await store.acquire(0, "w1", epoch=0, ttl=60) == first
            assert (await store.view(ttl=60)).leases[0].epoch == 1

    async def test_one_of_several_who_acquire_at_once_wins(self) -> None:
        async with self.opened() as store, self.opened() as other:
            for epoch in range(10):
                steal = epoch % 2 == 1
                leases = await asyncio.gather(
                    *(
                        each.acquire(0, f"w{epoch}-{number}", epoch=epoch, ttl=0 if steal else 60, steal=steal)
                        for number, each in enumerate((store, other, store, other))
                    )
                )
                (won,) = [lease for lease in leases if lease is not None]
                assert won.epoch == epoch + 1
                assert (await store.view(ttl=60)).leases[0].owner == won.owner

    async def test_a_held_lease_can_be_stolen(self) -> None:
        async with self.opened() as store:
            await store.acquire(0, "w1", epoch=0, ttl=60)
            stolen = await store.acquire(0, "w2", epoch=1, ttl=60, steal=True)
            assert stolen == Lease(partition=0, owner="w2", epoch=2, expired=False)
            await store.release(0, "w1")
            await store.heartbeat(worker("w1"), ttl=60)
            assert (await store.view(ttl=60)).leases[0] == stolen

    async def test_a_lease_that_is_not_extended_expires(self) -> None:
        async with self.opened() as store:
            await store.acquire(0, "w1", epoch=0, ttl=0.2)

            async def has_expired() -> bool:
                return (await store.view(ttl=60)).leases[0].expired

            await eventually(has_expired, "the lease expires")
            assert (await store.view(ttl=60)).leases[0] == Lease(partition=0, owner="w1", epoch=1, expired=True)
            assert await store.acquire(0, "w2", epoch=1, ttl=60) is not None

    async def test_a_heartbeat_extends_the_workers_leases(self) -> None:
        async with self.opened() as store:
            await store.acquire(0, "w1", epoch=0, ttl=0)
            await store.acquire(1, "w2", epoch=0, ttl=0)
            assert [lease.expired for lease in (await store.view(ttl=60)).leases[:2]] == [True, True]
            view = await store.heartbeat(worker("w1"), ttl=60)
            assert [lease.expired for lease in view.leases[:2]] == [False, True]
            assert await store.acquire(0, "w2", epoch=1, ttl=60) is None

    async def test_one_who_leaves_frees_everything(self) -> None:
        async with self.opened() as store:
            for partition in range(3):
                await store.acquire(partition, "w1" if partition < 2 else "w2", epoch=0, ttl=60)
            await store.leave("w1")
            leases = (await store.view(ttl=60)).leases
            assert [(lease.owner, lease.epoch) for lease in leases[:3]] == [(None, 1), (None, 1), ("w2", 1)]


class QuarantineTests(StoreTests):
    """Messages that nobody understood."""

    def _message(self, number: int, body: bytes) -> Quarantined:
        headers = {"$a.b": "c", "": "é", "nul\x00": "x"}
        at = START + seconds(number)
        return Quarantined(id=f"m{number}", at=at, source="partition 3", reason="$bad", body=body, headers=headers)

    async def test_they_are_kept_newest_first(self) -> None:
        async with self.opened() as store:
            bodies = [b'{"text": 1}', b"\xff\xfe\x00", b"", "é\x00".encode()]
            made = [self._message(number, body) for number, body in enumerate(bodies)]
            for message in made:
                await store.quarantine(message)
            await store.quarantine(made[0])
            assert await store.quarantined(9) == made[::-1]
            assert await store.quarantined(2) == made[:1:-1]

    async def test_a_huge_one_is_cut(self) -> None:
        async with self.opened() as store:
            await store.quarantine(self._message(0, b"x" * 20_000_000))
            (kept,) = await store.quarantined(9)
            assert kept == self._message(0, b"x" * 4 * 1024 * 1024)
