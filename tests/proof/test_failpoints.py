"""Death at every step of a renewal, in every mode of rotation: the outcome is what the crash table says.

The case's name begins with its row in the table of the protocol. Inside R6 (C8 to C10) only single system calls can
tell the moments apart: test_system_calls.py; C12 is test_full_disk.py, C16 test_crowds.py, C18 test_installs.py.
"""

import asyncio
import random
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from broker.sandbox.faults import Mode
from broker.tokens.schedule import Step
from tests.proof.stand import LOSING, Stand, open_stand
from tests.proof.witness import Witness, watching
from tests.until import moment

NONE: frozenset[Mode] = frozenset()
UNSENT = (Step.GATE_PASSED, Step.CONNECTED, Step.INTENT_DURABLE)


@dataclass(frozen=True, slots=True)
class Crash:
    """One row of the table: where the broker dies, under which fault, and in which modes that loses the account."""

    name: str
    step: Step | None
    """None: it dies while its request is with the provider."""
    lost: frozenset[Mode] = NONE
    fault: Mapping[str, object] = field(default_factory=dict)
    no_room: bool = False
    salvaged: bool = False
    """Two rotations then end in one commit, so the account begins anew for the count of what was lost."""


CRASHES = (
    Crash("C0 before the intent", Step.GATE_PASSED),
    Crash("C1 connected", Step.CONNECTED),
    Crash("C2 intent durable, nothing sent", Step.INTENT_DURABLE),
    Crash("C3 request never arrives", Step.SETTLED, fault={"drop": "before", "times": 1}),
    Crash("C4 request arrives after the death", None, LOSING, {"latency": 0.2, "times": 1}),
    Crash("C5 rotated, answer never received", None, LOSING, {"latency_after": 0.2, "times": 1}),
    Crash("C5 answer dropped, then death", Step.SETTLED, LOSING, {"drop": "after", "times": 1}),
    Crash("C6 answer cut in the token", Step.SETTLED, LOSING, {"truncate": 30, "times": 1}),
    Crash("C6 answer cut behind the token", Step.SETTLED, fault={"truncate": -2, "times": 1}, salvaged=True),
    Crash("C7 answer in memory", Step.ANSWERED, LOSING),
    Crash("C11 durable, before the answer", Step.COMMIT_DURABLE),
    Crash("C13 spooled", Step.SPOOLED, fault={"latency_after": 0.2, "times": 1}, no_room=True),
)


async def die(stand: Stand, crash: Crash, name: str, *, to_its_end: bool = True) -> None:
    """Demand a renewal of `name` that ends in the crash; `to_its_end`: wait for what the provider was at."""
    stand.fault(**crash.fault)
    if crash.step is not None:
        stand.order_death(crash.step)
    demanded = asyncio.create_task(stand.force(name))
    if crash.no_room:
        await until_outstanding(stand)
    with stand.no_room() if crash.no_room else nullcontext():
        if crash.step is None:
            await until_outstanding(stand)
            await stand.process.kill()
            if to_its_end:
                # The shrunk quarantine is shorter than the provider is slow; as it stands it is longer.
                await until_outstanding(stand, 0)
        else:
            await stand.killed()
    assert await demanded is None


async def until_outstanding(stand: Stand, count: int = 1) -> None:
    async with asyncio.timeout(60):
        while stand.outstanding() != count:
            await moment()


async def die_again(stand: Stand, step: Step, name: str) -> None:
    """C15: the restarted broker dies as well, before it has sent anything."""
    stand.order_death(step)
    await stand.process.start()
    with suppress(aiohttp.ClientError):
        await stand.insist(name)
    await stand.killed()


async def crash_and_judge(stand: Stand, crash: Crash, name: str, again: Step | None = None) -> bool:
    """One crash, the restart, and the account as the table has it; whether it was lost, and is connected again."""
    async with watching(stand, Witness()) as witness:
        refused = stand.refusals()
        await die(stand, crash, name)
        early = witness.early(stand)
        if again is not None:
            await die_again(stand, again, name)
        await stand.process.start()
        answer = await stand.insist(name)
    lost, dead = stand.uncommitted(), stand.dead()

    assert (set(), []) == (early, witness.changed)
    if stand.mode in crash.lost:
        assert (409, "lost_rotation") == (answer.status, answer.json.get("reason")), answer
        assert ({name}, {name: "lost_rotation"}) == (lost, dead)
        assert 3 <= stand.refusals() - refused
    else:
        assert 200 == answer.status, answer
        assert 200 == await stand.use(answer.json["access_token"])
        assert {} == dead
    assert 0 == stand.overlaps()
    if dead or crash.salvaged:
        await stand.connect(name)
    return bool(dead)


@pytest.mark.parametrize("mode", [pytest.param(Mode.ON_USE, marks=pytest.mark.slow), Mode.STRICT])
async def test_every_crash_ends_as_the_table_says(tmp_path: Path, mode: Mode) -> None:
    """Lost only where the table says lost, and then told as such; nothing released early, no two POSTs at once."""
    async with open_stand(tmp_path / "run", mode, "acme", "globex") as stand:
        lost = [
            await crash_and_judge(stand, crash, ("acme", "globex")[number % 2])
            for number, crash in enumerate(CRASHES)
        ]

    assert [mode in crash.lost for crash in CRASHES] == lost


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.GRACE_LATEST, Mode.FAMILY])
async def test_crashes_that_leave_most_in_doubt(tmp_path: Path, mode: Mode) -> None:
    """Where a replay kills siblings or everything: answers in part and in memory, and a second death at boot."""
    doubtful = [crash for crash in CRASHES if crash.name.startswith(("C6", "C7", "C11"))]

    async with open_stand(tmp_path / "run", mode, "acme", "globex") as stand:
        lost = [
            await crash_and_judge(
                stand, crash, ("acme", "globex")[number % 2], Step.INTENT_DURABLE if number == 1 else None
            )
            for number, crash in enumerate(doubtful)
        ]

    assert [mode in crash.lost for crash in doubtful] == lost


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mode", Mode)
async def test_crashes_in_any_order_and_twice(tmp_path: Path, mode: Mode, seed: int) -> None:
    """Every crash in every mode, in an order of its own, every third followed by another death during recovery."""
    chance = random.Random(f"{mode} {seed}")
    crashes = chance.sample(CRASHES, len(CRASHES))

    async with open_stand(tmp_path / "run", mode, "acme", "globex") as stand:
        lost = []
        for number, crash in enumerate(crashes):
            again = chance.choice(UNSENT) if chance.random() < 0.33 else None
            lost.append(await crash_and_judge(stand, crash, ("acme", "globex")[number % 2], again))

    assert [mode in crash.lost for crash in crashes] == lost


@pytest.mark.slow
async def test_quarantine_outlives_the_broker(tmp_path: Path) -> None:
    """With the protocol's real times: a request on its way when the broker dies is never joined by a second."""
    async with open_stand(tmp_path / "run", Mode.GRACE_LATEST, "acme", factor=1.0) as stand:
        await die(stand, Crash("C4", None, fault={"latency": 2.0, "times": 1}), "acme", to_its_end=False)
        assert 1 == stand.outstanding()
        await stand.process.start()

        answer = await stand.insist("acme")

        assert 200 == answer.status, answer
        assert 0 == stand.overlaps()
        assert 2 == stand.renewals()
