"""kill -9 at random moments under load: what cannot be lost is not, and what is lost is what the provider says."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from broker.sandbox.faults import Mode
from tests.proof.stand import FACTOR, LOSING, Stand, open_stand
from tests.proof.witness import Witness, watching
from tests.until import moment

KEEPING = tuple(mode for mode in Mode if mode not in LOSING)
LIFE = 2.0
SHORT = 3 * FACTOR
"""The quarantine, 90 ms and more, is longer than the sandbox is slow, 70 ms, so that a request on its way when the
broker dies is over before the next one, as in production. With shorter times two overlap on a busy machine."""
SLOW = {"latency": 0.02, "latency_after": 0.05}
"""Of the sandbox, so that a kill often finds a request on its way or an answer under way."""
ROTATED_UNANSWERED = "outcome = 'issued' AND ended IS NULL"
UNTOUCHED = "outcome IS NULL AND ended IS NULL"
SETTLED_WITHIN = 120.0
"""With the protocol's real times three refusals lie a minute apart."""


async def some_moment(stand: Stand, chance: random.Random, round_: int) -> None:
    """In turn: a rotation's answer has not been sent; any moment; a request is with a provider that will drop it."""
    await asyncio.sleep(chance.uniform(0.02, 0.3))
    if round_ % 3 == 0:
        await until_some(stand, ROTATED_UNANSWERED)
    elif round_ % 3 == 2:
        stand.fault(latency=0.05, drop="before")
        await until_some(stand, UNTOUCHED)


async def until_some(stand: Stand, where: str) -> None:
    async with asyncio.timeout(SETTLED_WITHIN):
        while not stand.renewals(where):
            await moment()


async def until_all_served(stand: Stand) -> None:
    """Every account has a token that works."""
    async with asyncio.timeout(SETTLED_WITHIN):
        for name in stand.number:
            while (answer := await stand.ask("GET", f"/token/{name}")).status != 200:
                assert answer.json["code"] != "needs_reauthorization", answer
                await moment()


async def until_agreed(stand: Stand) -> set[str]:
    """The accounts given up as dead, once they are those of which the provider says that they are lost."""
    ends = time.monotonic() + SETTLED_WITHIN
    while (lost := stand.uncommitted()) != (dead := set(stand.dead())):
        assert dead <= lost, "falsely dead"
        assert time.monotonic() < ends, (
            lost - dead,
            stand.rows(),
            stand.process.output[-1].read_text()[-5000:],
        )
        await moment()
    return dead


async def kill_in_rounds(stand: Stand, chance: random.Random, rounds: int) -> int:
    """Kill, look, restart, judge, so many times; how many accounts were lost."""
    lost_in_all = 0
    stand.fault(**SLOW)
    async with watching(stand, Witness()) as witness:
        for round_ in range(rounds):
            await some_moment(stand, chance, round_)
            await stand.process.kill()
            stand.fault(**SLOW)
            assert (set(), []) == (witness.early(stand), witness.changed)
            await stand.process.start()
            if stand.mode in LOSING:
                lost = await until_agreed(stand)
                assert {"lost_rotation"} >= set(stand.dead().values())
                lost_in_all += len(lost)
                for name in lost:
                    await stand.connect(name)
            else:
                await until_all_served(stand)
                assert {} == stand.dead()
    assert 0 == stand.overlaps()
    assert witness.answers > rounds
    return lost_in_all


async def kill_one_of_many(
    folder: Path, mode: Mode, seed: int, rounds: int, accounts: int, factor: float = SHORT
) -> int:
    names = [f"acme-{number}" for number in range(accounts)]
    async with open_stand(folder, mode, *names, life=LIFE, factor=factor) as stand:
        return await kill_in_rounds(stand, random.Random(f"{mode} {seed}"), rounds)


@pytest.mark.parametrize(
    "mode",
    [*(pytest.param(mode, marks=pytest.mark.slow) for mode in (Mode.NONE, Mode.ON_USE)), Mode.GRACE_LATEST],
)
async def test_kill_loses_nothing_that_can_be_kept(tmp_path: Path, mode: Mode) -> None:
    """None lost, none falsely dead, no token handed out before it is durable."""
    assert 0 == await kill_one_of_many(tmp_path / "run", mode, 1, rounds=7, accounts=4)


@pytest.mark.parametrize("mode", [Mode.STRICT, pytest.param(Mode.FAMILY, marks=pytest.mark.slow)])
async def test_kill_loses_what_the_provider_says_exactly(tmp_path: Path, mode: Mode) -> None:
    """What is given up is what was rotated and never stored, after each round; some rounds do lose."""
    lost = await asyncio.gather(
        *(kill_one_of_many(tmp_path / str(seed), mode, seed, 5, 2) for seed in range(2))
    )

    assert all(lost), lost


@pytest.mark.proof
@pytest.mark.parametrize("mode", KEEPING)
async def test_a_thousand_kills_lose_nothing(tmp_path: Path, mode: Mode) -> None:
    """Four brokers side by side, 250 kills each: over the five modes 5,000."""
    lost = await asyncio.gather(
        *(kill_one_of_many(tmp_path / str(seed), mode, seed, 250, 4) for seed in range(4))
    )

    assert [0, 0, 0, 0] == lost


@pytest.mark.proof
@pytest.mark.parametrize("mode", sorted(LOSING))
async def test_a_thousand_kills_lose_what_the_provider_says(tmp_path: Path, mode: Mode) -> None:
    """Four brokers side by side, 250 kills each: over both modes 2,000."""
    lost = await asyncio.gather(
        *(kill_one_of_many(tmp_path / str(seed), mode, seed, 250, 5) for seed in range(4))
    )

    assert all(lost)


@pytest.mark.proof
@pytest.mark.parametrize("mode", Mode)
async def test_kills_with_the_real_times(tmp_path: Path, mode: Mode) -> None:
    """Quarantine, confirmation and backoff as in production: twelve kills each, judged in the same way."""
    lost = await asyncio.gather(
        *(kill_one_of_many(tmp_path / str(seed), mode, seed, 3, 2, factor=1.0) for seed in range(4))
    )

    assert any(lost) == (mode in LOSING)
