"""Thousands of kept connections that say nothing: what each costs, whom it slows down, and how it ends."""

import asyncio
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from broker.app.listeners import OPERATORS, OTHER_FILES, SERVICES, STRANGERS, ListenerLimits
from tests.bench.load import closed_loop, get
from tests.house import open_house
from tests.process import Process, new_process
from tests.proof.idle import idling
from tests.tokens.test_waiting_crowd import PLAIN
from tests.tokens.waiting_crowd import resident

pytestmark = pytest.mark.slow

PROOF = 10_000
MOST_KIB = 40
"""Of memory for each; measured: a third of it."""
MOST_SLOWER = 3.0
"""Times, in the proof; a machine is never quite the same for two moments, and the suite's least of all."""


async def hot(process: Process, seconds: float) -> dict[float, float]:
    """Milliseconds of hot tokens over one connection: at the median, and of 99 in 100."""
    load = await closed_loop(process.internal_port, 1, seconds, lambda: asked(process))
    assert 0 == load.failed
    return {share: load.percentile(share) for share in (0.5, 0.99)}


def asked(process: Process) -> bytes:
    return get("/token/acme", f"Authorization: Bearer {process.key}")


def allow_files(count: int) -> None:
    """Let this process, and the broker that it starts, open so many; skip where the machine does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + OTHER_FILES:
        pytest.skip(f"too few open files: run the tests with `ulimit -Hn {count + OTHER_FILES}` or more")
    if soft < count + OTHER_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.mark.parametrize("count", [500, pytest.param(PROOF, marks=pytest.mark.proof)])
async def test_idle_connections_cost_little_and_slow_nobody(tmp_path: Path, count: int) -> None:
    """None is cut while it is young; in the proof each of them ends by itself, cleanly, and not too early."""
    allow_files(count)
    async with new_process(tmp_path / "run", command=PLAIN) as process:
        await process.start()
        await process.new_key()
        await process.connect()
        assert process.running is not None
        alone = await hot(process, 1.0)
        before = resident(process.running.pid)
        async with idling(process.internal_port, count, asked(process)) as connections:
            kib = (resident(process.running.pid) - before) / count / 1024
            beside = await hot(process, 1.0)
            answers = {one.answered.result() for one in connections}
            if count == PROOF:
                await asyncio.gather(*(one.ended for one in connections))
            ended = [one for one in connections if one.ended.done()]

    print(
        f"{count} idle connections: {kib:.1f} KiB each; hot tokens, median {beside[0.5] / alone[0.5]:.2f} times,"
        f" p99 {beside[0.99] / alone[0.99]:.2f} times ({alone[0.99]:.2f} to {beside[0.99]:.2f} ms)"
    )
    assert {b"HTTP/1.1 200 OK"} == answers
    assert kib < MOST_KIB
    assert count < PROOF or beside[0.5] / alone[0.5] < MOST_SLOWER
    assert [] == [one.age for one in ended if one.age < SERVICES.idle]
    assert {None} >= {one.ended.result() for one in ended}


async def test_idle_connections_end_cleanly_and_not_before_their_time(tmp_path: Path) -> None:
    """A second here instead of half a minute: each is closed without a reset, and none while it is younger."""
    short = ListenerLimits(replace(SERVICES, idle=1.0), STRANGERS, OPERATORS)
    async with open_house(tmp_path / "house", limits=short) as house:
        await house.connect()
        request = get("/token/acme", f"Authorization: Bearer {house.key}")
        async with idling(house.internal_port, 100, request) as connections:
            ends = await asyncio.gather(*(one.ended for one in connections))
        after = await house.get("/token/acme")

    assert [None] * 100 == ends
    assert 1.0 <= min(one.age for one in connections)
    assert 200 == after.status
