"""Many who wait cost little, and all hear of a renewal."""

import sys
from pathlib import Path

import pytest

from tests.process import new_process
from tests.tokens.waiting_crowd import measure

pytestmark = pytest.mark.slow

PLAIN = (sys.executable, "-m", "broker")
"""Not the tests' usual one: Python's development mode keeps a traceback for each task."""


@pytest.mark.parametrize(
    "crowd", [200, pytest.param(1000, marks=pytest.mark.proof), pytest.param(4000, marks=pytest.mark.proof)]
)
async def test_crowd_that_waits_costs_little(tmp_path: Path, crowd: int) -> None:
    """Each holds a few tens of kilobytes in the one process, its connection included; one renewal answers all."""
    async with new_process(tmp_path / "run", command=PLAIN) as process:
        await process.start()
        await process.new_key()
        await process.connect()

        kilobytes, etags = await measure(process, crowd)
        refreshes = [one for one in (await process.judge())["requests"] if one["kind"] == "refresh"]

    print(f"{crowd} waiters: {kilobytes:.1f} KiB each")
    assert {b'ETag: "2"'} == etags
    assert kilobytes < 60
    assert 1 == len(refreshes)
