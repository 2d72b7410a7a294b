"""Ten thousand grants, and a purge of what is expired while requests go on."""

import asyncio
import time
from pathlib import Path

import pytest

from broker.model import PluginGrant, PluginPair
from broker.store.database import Transaction
from broker.store.plugin import GRANTS as GRANT_TABLE
from broker.store.plugin import PAIRS
from tests.plugin.driving import Stand, open_stand

pytestmark = pytest.mark.proof
GRANTS = 10_000
BATCH = 200
"""As the background takes them."""


async def fill(stand: Stand, now: float) -> None:
    """Grants with two pairs each; half of them expired long ago."""

    async def work(transaction: Transaction) -> None:
        for number in range(GRANTS):
            ends = now - 86400 if number % 2 else now + 86400 * 300
            grant = PluginGrant(f"{number:016x}", "kit", f"user-{number}", "", 1.0, 1.0, ends, f"c{number}")
            await GRANT_TABLE.add(transaction, grant)
            for part in ("old", "new"):
                replaced = now - 40 * 86400 if part == "old" else None
                pair = PluginPair(
                    refresh_hash=f"r-{part}-{number}",
                    access_hash=f"a-{part}-{number}",
                    grant_id=grant.id,
                    scope="",
                    created_at=1.0,
                    access_expires_at=now - 38 * 86400,
                    refresh_expires_at=ends,
                    replaced_at=replaced,
                )
                await PAIRS.add(transaction, pair)

    await stand.house.broker.context.stores.database.write(work)


async def latencies(stand: Stand, token: str, count: int) -> list[float]:
    """Of introspections and renewals, one after the other, milliseconds."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        answer = await stand.client.renew(token)
        token = answer.json["refresh_token"]
        assert await stand.client.is_active(answer.json["access_token"])
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


def told(name: str, took: list[float]) -> None:
    middle, late = took[len(took) // 2], took[int(len(took) * 0.99)]
    print(f"{name}: median {middle:.1f} ms, p99 {late:.1f} ms, worst {took[-1]:.1f} ms of {len(took)}")


async def test_purge_of_ten_thousand_grants_beside_requests(tmp_path: Path) -> None:
    """What is dead goes, batch by batch; what lives stays; every request in between is answered."""
    async with open_stand(tmp_path / "house") as stand:
        now = stand.house.clock.now()
        await fill(stand, now)
        mine, other = await stand.tokens("mine"), await stand.tokens("other")
        told("before the purge", await latencies(stand, mine["refresh_token"], 200))
        batches: list[tuple[int, float]] = []

        async def purge() -> None:
            gone = 1
            while gone:
                began = time.perf_counter()
                gone = await stand.house.broker.context.stores.plugin.purge(now, BATCH)
                batches.append((gone, (time.perf_counter() - began) * 1000))
                await asyncio.sleep(0)

        purging = asyncio.create_task(purge())
        during = await latencies(stand, other["refresh_token"], 200)
        await purging
        told("during the purge", during)
        worst = max(took for _, took in batches)
        print(f"{sum(gone for gone, _ in batches)} rows in {len(batches)} batches, worst {worst:.1f} ms")

        left = await stand.house.broker.context.stores.plugin.grants(
            subject=None, now=now, after="", limit=GRANTS
        )
        [(pairs,)] = await stand.house.broker.context.stores.database.read(
            "SELECT COUNT(*) FROM plugin_pairs"
        )

    assert GRANTS // 2 + 2 == len(left)
    assert pairs >= GRANTS // 2
    assert max(gone for gone, _ in batches) <= 3 * BATCH + 200
