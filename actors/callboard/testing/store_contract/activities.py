"""Claims on long activities, and hub-wide limits."""

from __future__ import annotations

import asyncio

from callboard.ports import Heartbeat, Permits, Starts
from callboard.testing.store_contract.values import START, StoreTests, claim, eventually, lapsed, seconds, task


class ClaimTests(StoreTests):
    """Claims on long activities."""

    async def test_a_claim_is_one_workers(self) -> None:
        async with self.opened() as store, self.opened() as other:
            assert not await store.claimed(task("a", 0))
            assert await store.claim(claim("a", 0, "w1"), ttl=60)
            assert await other.claimed(task("a", 0))
            assert not await other.claim(claim("a", 0, "w2"), ttl=60)
            assert await store.claim(claim("a", 0, "w1"), ttl=60)
            assert await other.claim(claim("a", 1, "w2"), ttl=60)
            assert await other.claim(claim("a", 0, "w2", execution="e2"), ttl=60)
            assert await store.expired_claims([0], 9) == []

    async def test_one_of_two_who_claim_at_once_wins(self) -> None:
        async with self.opened() as store, self.opened() as other:
            for number in range(20):
                won = await asyncio.gather(
                    store.claim(claim("a", number, "w1"), ttl=60), other.claim(claim("a", number, "w2"), ttl=60)
                )
                assert sorted(won) == [False, True]

    async def test_a_released_claim_is_free(self) -> None:
        async with self.opened() as store:
            await store.claim(claim("a", 0, "w1"), ttl=60)
            await store.claim(claim("a", 1, "w1"), ttl=60)
            await store.release_claim(task("a", 0), "w2")
            assert await store.claimed(task("a", 0))
            await store.release_claim(task("a", 0), "w1")
            await store.release_claim(task("a", 0), "w1")
            assert not await store.claimed(task("a", 0))
            assert await store.claimed(task("a", 1))
            assert await store.claim(claim("a", 0, "w2"), ttl=60)

    async def test_a_claim_that_was_renewed_meanwhile_is_not_taken_for_lapsed(self) -> None:
        async with self.opened() as store:
            await store.claim(claim("a", 0, "w1"), ttl=0)
            await store.claim(claim("a", 1, "w1"), ttl=0)
            await store.claim(claim("a", 0, "w1"), ttl=60)
            await store.release_claim(task("a", 0), "w1", if_expired=True)
            await store.release_claim(task("a", 1), "w1", if_expired=True)
            assert await store.claims("a") == [claim("a", 0, "w1")]
            await store.release_claim(task("a", 0), "w1")
            assert await store.claims("a") == []

    async def test_a_claim_that_is_not_renewed_expires(self) -> None:
        async with self.opened() as store:
            mine = claim("a", 0, "w1", partition=2)
            await store.claim(mine, ttl=0.2)

            async def has_expired() -> bool:
                return not await store.claimed(task("a", 0))

            await eventually(has_expired, "the claim expires")
            assert await store.expired_claims([0, 1, 3], 9) == []
            assert await store.expired_claims([2, 3], 9) == [lapsed(mine)]
            assert await store.claim(claim("a", 0, "w2", partition=2), ttl=60)
            assert await store.expired_claims([2], 9) == []
            assert not await store.claim(mine, ttl=60)

    async def test_renewing_extends_all_of_a_worker(self) -> None:
        async with self.opened() as store:
            for number in range(3):
                await store.claim(claim("a", number, "w1"), ttl=0)
            await store.claim(claim("a", 3, "w2"), ttl=0)
            assert len(await store.expired_claims([0], 2)) == 2
            held = await store.renew_claims("w1", ttl=60)
            assert held == {task("a", number): False for number in range(3)}
            assert await store.renew_claims("w3", ttl=60) == {}
            assert await store.expired_claims([0], 9) == [lapsed(claim("a", 3, "w2"))]
            assert [await store.claimed(task("a", number)) for number in range(4)] == [True, True, True, False]
            assert not await store.claim(claim("a", 0, "w3"), ttl=60)
            await store.release_claim(task("a", 3), "w2")
            assert await store.expired_claims([0], 9) == []

    async def test_a_claim_says_who_runs_what_since_when(self) -> None:
        async with self.opened() as store, self.opened() as other:
            first = claim("a", 2, "w1", started=START, heartbeat=START + seconds(1.001), details='{"$row": 5}')
            later = claim("a", 10, "w2")
            gone = claim("a", 3, "w3", execution="e2", started=START)
            for each in (gone, later, first, claim("a0", 0, "w1"), claim("b", 0, "w1")):
                assert await store.claim(each, ttl=0 if each is gone else 60)
            assert await other.claims("a") == [first, later, lapsed(gone)]
            assert await other.claims("unknown") == []
            assert await store.claim(claim("a", 2, "w1"), ttl=60)
            assert (await other.claims("a"))[0] == claim("a", 2, "w1")

    async def test_heartbeats_are_noted_while_the_claim_is_held(self) -> None:
        async with self.opened() as store:
            for number in range(3):
                await store.claim(claim("a", number, "w1", started=START), ttl=60)
            await store.claim(claim("a", 3, "w2"), ttl=60)
            first = [Heartbeat(task("a", number), START + seconds(number), f"{number}") for number in (0, 1, 3, 9)]
            held = await store.renew_claims("w1", first, ttl=60)
            assert held == {task("a", number): False for number in range(3)}
            assert [each.details for each in await store.claims("a")] == ["0", "1", None, None]
            await store.renew_claims("w1", [Heartbeat(task("a", 1), START + seconds(9), None)], ttl=60)
            kept = claim("a", 0, "w1", started=START, heartbeat=START, details="0")
            newer = claim("a", 1, "w1", started=START, heartbeat=START + seconds(9))
            assert (await store.claims("a"))[:2] == [kept, newer]

    async def test_what_was_said_last_outlives_its_worker(self) -> None:
        async with self.opened() as store:
            await store.claim(claim("a", 0, "w1", started=START), ttl=60)
            await store.renew_claims("w1", [Heartbeat(task("a", 0), START, '"half"')], ttl=0)
            said = claim("a", 0, "w1", started=START, heartbeat=START, details='"half"')
            assert await store.expired_claims([0], 9) == [lapsed(said)]
            assert not await store.claimed(task("a", 0))

    async def test_a_cancelled_claim_is_nobodys(self) -> None:
        async with self.opened() as store:
            await store.claim(claim("a", 0, "w1"), ttl=60)
            await store.claim(claim("a", 1, "w1"), ttl=60)
            await store.claim(claim("a", 2, "w2"), ttl=0)
            asked = [task("a", 0), task("a", 2), task("a", 7)]
            assert await store.cancel_claims(asked) == {task("a", 0): "w1", task("a", 2): "w2"}
            assert await store.cancel_claims(asked) == {task("a", 0): "w1", task("a", 2): "w2"}
            assert await store.cancel_claims([]) == {}
            assert not await store.claim(claim("a", 0, "w1"), ttl=60)
            assert not await store.claim(claim("a", 2, "w3"), ttl=60)
            assert await store.claimed(task("a", 0))
            assert await store.renew_claims("w1", ttl=60) == {task("a", 0): True, task("a", 1): False}
            assert await store.expired_claims([0], 9) == [lapsed(claim("a", 2, "w2", cancelled=True))]
            await store.release_claim(task("a", 0), "w1")
            assert await store.cancel_claims(asked) == {task("a", 2): "w2"}
            assert await store.claim(claim("a", 0, "w1"), ttl=60)


class LimitTests(StoreTests):
    """Permits that lapse, and evenly spaced starts."""

    async def test_permits_are_shared_by_who_comes_first(self) -> None:
        async with self.opened() as store, self.opened() as other:
            assert await store.hold_permits("w1", [_of("pay", 3, 5)], ttl=60) == [3]
            assert await other.hold_permits("w2", [_of("pay", 9, 5)], ttl=60) == [2]
            assert await other.hold_permits("w3", [_of("pay", 1, 5)], ttl=60) == [0]
            assert await other.hold_permits("w2", [_of("pay", 9, 5)], ttl=60) == [2]
            assert await store.hold_permits("w1", [_of("pay", 1, 5)], ttl=60) == [1]
            assert await other.hold_permits("w3", [_of("pay", 9, 5)], ttl=60) == [2]

    async def test_limits_are_held_for_themselves(self) -> None:
        async with self.opened() as store:
            wanted = [_of("pay", 1, 1), _of("$ship.it", 2, 2), _of("mail", 0, 1)]
            assert await store.hold_permits("w1", wanted, ttl=60) == [1, 2, 0]
            assert await store.hold_permits("$w2", wanted, ttl=60) == [0, 0, 0]
            assert await store.hold_permits("w1", [_of("$ship.it", 0, 2)], ttl=60) == [0]
            assert await store.hold_permits("$w2", wanted, ttl=60) == [0, 2, 0]
            assert await store.hold_permits("w1", [], ttl=60) == []

    async def test_permits_that_are_not_renewed_lapse(self) -> None:
        async with self.opened() as store:
            assert await store.hold_permits("w1", [_of("pay", 2, 2)], ttl=0.3) == [2]

            async def is_free() -> bool:
                return await store.hold_permits("w2", [_of("pay", 1, 2)], ttl=60) == [1]

            await eventually(is_free, "a permit lapses")
            assert await store.hold_permits("w1", [_of("pay", 2, 2)], ttl=60) == [1]

    async def test_a_lowered_limit_grants_nothing_new(self) -> None:
        async with self.opened() as store:
            assert await store.hold_permits("w1", [_of("pay", 5, 5)], ttl=60) == [5]
            assert await store.hold_permits("w2", [_of("pay", 1, 3)], ttl=60) == [0]
            assert await store.hold_permits("w1", [_of("pay", 5, 3)], ttl=60) == [3]

    async def test_those_who_ask_at_once_never_get_more_than_there_is(self) -> None:
        async with self.opened() as store, self.opened() as other:
            held = await asyncio.gather(
                *(
                    (store if number % 2 else other).hold_permits(f"w{number}", [_of("pay", 3, 7)], ttl=60)
                    for number in range(8)
                )
            )
            assert sum(count for (count,) in held) == 7

    async def test_starts_are_spaced_evenly(self) -> None:
        async with self.opened() as store, self.opened() as other:
            assert await store.reserve_starts("pay", count=3, every=100, ahead=1000) == Starts(3, 0)
            second = await other.reserve_starts("pay", count=2, every=100, ahead=1000)
            assert second.count == 2
            assert 295 < second.wait <= 300
            rest = await store.reserve_starts("pay", count=99, every=100, ahead=1000)
            assert rest.count == 6  # at 500, 600, … 1000
            assert 495 < rest.wait <= 500
            none = await store.reserve_starts("pay", count=1, every=100, ahead=1000)
            assert none.count == 0
            assert 95 < none.wait <= 100
            assert await store.reserve_starts("$mail.it", count=1, every=1, ahead=0) == Starts(1, 0)

    async def test_what_was_not_used_in_time_is_not_saved_up(self) -> None:
        async with self.opened() as store:
            assert (await store.reserve_starts("pay", count=1, every=0.05, ahead=0)).count == 1

            async def is_free() -> bool:
                return (await store.reserve_starts("pay", count=9, every=0.05, ahead=0)).count > 0

            await eventually(is_free, "the next start may take place")
            assert (await store.reserve_starts("pay", count=9, every=30, ahead=0)).count == 0

    async def test_a_raised_rate_is_in_force_at_once(self) -> None:
        async with self.opened() as store:
            assert (await store.reserve_starts("pay", count=1, every=3600, ahead=1)).count == 1
            waits = await store.reserve_starts("pay", count=1, every=0.01, ahead=1)
            assert waits.wait <= 0.011

    async def test_those_who_start_at_once_never_start_more_than_allowed(self) -> None:
        async with self.opened() as store, self.opened() as other:
            reserved = await asyncio.gather(
                *((store if n % 2 else other).reserve_starts("pay", count=3, every=60, ahead=600) for n in range(8))
            )
            assert sum(starts.count for starts in reserved) == 11


def _of(name: str, wanted: int, limit: int) -> Permits:
    return Permits(name=name, wanted=wanted, limit=limit)
