"""An install that dies between the code and the account: the old grant stays, and a new one that came is kept."""

import asyncio
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from broker.sandbox.faults import Mode
from tests.proof.stand import Stand, open_stand
from tests.until import moment


async def until_exchanging(stand: Stand) -> None:
    """Wait until the sandbox is at the exchange of a code."""
    async with asyncio.timeout(60):
        while not stand.judge("SELECT 1 FROM requests WHERE kind = 'code' AND ended IS NULL"):
            await moment()


async def connect(stand: Stand, name: str) -> None:
    """What a person does whose browser may meet a broker that dies or cannot store."""
    with suppress(aiohttp.ClientError, AssertionError):
        await stand.connect(name)


@pytest.mark.parametrize("mode", [Mode.ON_USE, Mode.STRICT])
async def test_death_during_an_install_leaves_the_older_grant(tmp_path: Path, mode: Mode) -> None:
    """C18: the code was sent and no answer came; the account goes on as it was, and connects again."""
    async with open_stand(tmp_path / "run", mode, "acme") as stand:
        stand.fault(latency_after=0.5, times=1)
        trip = asyncio.create_task(connect(stand, "acme"))
        await until_exchanging(stand)
        await stand.process.kill()
        await trip

        await stand.process.start()
        renewed = await stand.insist("acme")
        await stand.connect("acme")
        again = await stand.ask("GET", "/token/acme")

        assert (200, 200) == (renewed.status, again.status)
        assert renewed.json["generation"] < again.json["generation"]
        assert 200 == await stand.use(again.json["access_token"])
        assert {} == stand.dead()


@pytest.mark.slow
async def test_grant_that_could_not_be_held_outlives_a_kill(tmp_path: Path) -> None:
    """The disk is full between the code and the account, then kill -9: the spool holds the new grant."""
    async with open_stand(tmp_path / "run", Mode.STRICT, "acme") as stand:
        stand.number["globex"] = 2000
        stand.fault(latency_after=0.3, times=1)
        trip = asyncio.create_task(connect(stand, "globex"))
        await until_exchanging(stand)
        with stand.no_room():
            await trip
            await stand.process.kill()
        spooled = list((stand.process.folder / "var").glob("*.spool/*.grant"))

        await stand.process.start()
        async with asyncio.timeout(30):
            while (answer := await stand.ask("GET", "/token/globex")).status != 200:
                await moment()

        assert 1 == len(spooled)
        assert 200 == await stand.use(answer.json["access_token"])
        assert [] == list((stand.process.folder / "var").glob("*.spool/*.grant"))
