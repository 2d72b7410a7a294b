"""Crowds, callers who hang up, and a stop in the middle: what callers do never changes the outcome of a renewal."""

import asyncio
import random
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from broker.sandbox.faults import Mode
from tests.proof.stand import LONG_LIFE, Stand, open_stand

pytestmark = pytest.mark.slow

NEVER_LIVING = 1.0
"""A token of one second is never handed out, so every request needs a renewal."""
AT_ONCE = 40


async def crowd(stand: Stand, names: list[str], each: int) -> list[tuple[int, str | None]]:
    """So many callers for each account at the same time; what each got."""
    connector = aiohttp.TCPConnector(limit=400)
    headers = {"Authorization": f"Bearer {stand.process.key}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(name: str) -> tuple[int, str | None]:
            async with session.get(f"{stand.process.internal}/token/{name}") as response:
                return response.status, (await response.json()).get("access_token")

        return await asyncio.gather(*(ask(name) for name in names for _ in range(each)))


@pytest.mark.parametrize(
    ("accounts", "callers"), [(1, 1000), (20, 20), pytest.param(100, 100, marks=pytest.mark.proof)]
)
async def test_crowd_costs_one_request_for_each_account(tmp_path: Path, accounts: int, callers: int) -> None:
    """Everybody gets the account's one new token."""
    names = [f"acme-{number}" for number in range(accounts)]
    async with open_stand(tmp_path / "run", Mode.STRICT, *names, life=NEVER_LIVING) as stand:
        stand.fault(life=LONG_LIFE, latency_after=0.3)

        answers = await crowd(stand, names, callers)

        assert {200} == {status for status, _ in answers}
        assert accounts == len({token for _, token in answers})
        assert (accounts, 0) == (stand.renewals(), stand.overlaps())


async def hang_up(stand: Stand, name: str, after: float) -> None:
    """Ask for a token and be gone after so many seconds, or when the answer comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.process.internal_port)
    writer.write(
        f"GET /token/{name} HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer {stand.process.key}\r\n\r\n".encode()
    )
    await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=after)
    writer.transport.abort()


async def usual_time(stand: Stand) -> float:
    """Seconds that a renewed token takes to come, here and now: on a slow disk people hang up later."""
    began = time.perf_counter()
    for _ in range(5):
        await crowd(stand, ["acme"], 1)
    return (time.perf_counter() - began) / 5


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.proof)])
async def test_hang_ups_change_nothing(tmp_path: Path, count: int) -> None:
    """So many hang up in the middle of renewals: every rotation is stored, none is asked for twice."""
    chance, places = random.Random(count), asyncio.Semaphore(AT_ONCE)
    async with open_stand(tmp_path / "run", Mode.FAMILY, "acme", "globex", life=NEVER_LIVING) as stand:
        stand.fault(latency=0.01, latency_after=0.01)

        longest = await usual_time(stand)
        asked = stand.renewals()

        async def one(name: str) -> None:
            async with places:
                await hang_up(stand, name, chance.uniform(0.0, longest))

        await asyncio.gather(*(one(chance.choice(("acme", "globex"))) for _ in range(count)))
        renewals = stand.renewals() - asked
        stand.fault(life=LONG_LIFE)
        answers = [await stand.insist(name) for name in stand.number]

        assert [200, 200] == [answer.status for answer in answers]
        assert count / 100 < renewals
        assert (set(), {}, 0, 0) == (stand.uncommitted(), stand.dead(), stand.overlaps(), stand.refusals())


async def test_sigterm_waits_for_every_outstanding_request(tmp_path: Path) -> None:
    """Six renewals are with the provider when the stop comes, and no caller waits any more: all are stored, exit 0."""
    names = [f"acme-{number}" for number in range(6)]
    impatient = '[refresh]\npatience = "1s"'
    async with open_stand(tmp_path / "run", Mode.STRICT, *names, extra=impatient) as stand:
        stand.fault(latency_after=2.0)
        refused = await asyncio.gather(*(stand.force(name) for name in names))

        await stand.process.signal(signal.SIGTERM)
        outstanding = stand.outstanding()
        code = await stand.process.wait()

        assert [503] * 6 == [answer and answer.status for answer in refused]
        assert (6, 0) == (outstanding, code)
        assert (set(), 6) == (stand.uncommitted(), stand.renewals())
