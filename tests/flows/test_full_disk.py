"""What an operator sees who is called because the disk is full, and that it ends by itself."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp

from broker.__main__ import main
from broker.sandbox.faults import Mode
from tests.house import open_house
from tests.proof.stand import Stand, open_stand
from tests.store.test_full_disk import file_system, leave_no_byte
from tests.until import moment

MIB = 1024 * 1024
OVER_WITHIN = 60.0


async def signed_in(stand: Stand, browser: aiohttp.ClientSession) -> str:
    """The first page, by a link that is made now."""
    code, said, err = await stand.process.run("dashboard")
    assert code == 0, err
    [link] = re.findall(r"http://\S+", said)
    async with browser.get(link) as page:
        assert page.status == 200, await page.text()
        return await page.text()


async def degraded(stand: Stand) -> list[str]:
    return list((await stand.ask("GET", "/readyz")).json["problems"])


async def test_operator_sees_it_everywhere(tmp_path: Path) -> None:
    """Dashboard, `broker check`, `readyz` and log say it; tokens go on; and freed space is noticed within seconds."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        open_stand(tmp_path / "run", Mode.ON_USE, "acme") as stand,
        aiohttp.ClientSession(cookie_jar=jar) as browser,
    ):
        # What is started from here on is the command line.
        stand.process.command, stand.process.arguments = main, ()
        with stand.no_room():
            refused = await stand.ask("POST", "/token/acme/refresh")
            token = await stand.ask("GET", "/token/acme")
            page = await signed_in(stand, browser)
            listed, list_text, _ = await stand.process.run("accounts", "list")
            code, checked, _ = await stand.process.run("check")
            problems = await degraded(stand)
        async with asyncio.timeout(OVER_WITHIN):
            while await degraded(stand):
                await moment()
        renewed, _, err = await stand.process.run("accounts", "refresh", "acme")

        assert (503, "storage_unavailable") == (refused.status, refused.json["code"])
        assert 200 == token.status
        assert ["the store cannot be written; renewals wait"] == problems
        assert "The broker is degraded" in page
        assert problems[0] in page
        assert (0, True) == (listed, "acme" in list_text)
        assert 1 == code
        assert "the store cannot be written" in " ".join(checked.split())
        assert ["store_failing"] == [line["problem"] for line in stand.process.events("broker.degraded")]
        assert 0 == renewed, err


LEFT_OPEN = """
UPDATE accounts SET intent_id = 'left', intent_generation = generation, intent_at = :now,
       lease_owner = 'aaaaaaaaaaaaaaaa@earlier', lease_until = :now + 120"""


async def test_start_serves_and_recovers_later(tmp_path: Path) -> None:
    """Nothing can be written: tokens go out; what was left open is renewed once there is room, and no copy is seen."""
    with file_system(tmp_path / "disk", 48 * MIB) as disk:
        async with open_house(disk / "house") as house:
            await house.connect()
            await house.close()
            with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as store, store:
                store.execute(LEFT_OPEN, {"now": house.clock.now()})
            leave_no_byte(disk / "ballast")

            await house.open()
            served, ready = await house.get("/token/acme"), (await house.get("/readyz")).json
            renewing = asyncio.create_task(house.broker.tokens.recovery.renew(house.broker.left_open))
            house.clock.advance(30)
            await asyncio.sleep(0)
            before = await house.account()
            (disk / "ballast").unlink()
            while not renewing.done():
                house.clock.advance(1)
                await moment()
            after = await house.account()
            await house.restart()

            assert (200, "degraded", []) == (served.status, ready["status"], house.broker.left_open)
            assert ("left", 1) == (before.intent and before.intent.id, before.generation)
            assert (None, 2) == (after.intent, after.generation)
            assert not house.broker.tokens.permit.copied_store
