"""What the real process tells its supervisor."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.process import Process, new_process
from tests.until import moment


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run") as process:
        yield process


async def test_signs_of_life_go_on_while_a_renewal_is_outstanding(process: Process) -> None:
    """A slow provider is no hang: three signs come between the request to it and its answer."""
    process.environ = {"WATCHDOG_USEC": "300000"}
    await process.start()
    await process.connect()
    process.sandbox.faults.set("kit", latency_after=1.5)

    demanded = asyncio.create_task(process.run("accounts", "refresh", "acme"))
    while not any(request["kind"] == "refresh" for request in (await process.judge())["requests"]):
        await moment()
    for _ in range(3):
        await process.until("WATCHDOG=1")
    meanwhile = demanded.done()
    code, _, _ = await demanded

    assert (False, 0) == (meanwhile, code)
