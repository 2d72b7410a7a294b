"""`broker check`: each thing that can be wrong has a line of its own, with the next step."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from broker.app.offline import check_offline
from broker.config import load
from broker.model import Successor
from tests.commanding import Commands, commands_at
from tests.house import House, open_house
from tests.ports import free_port

OURS = """
[providers.id]
type = "oauth2"
client_id = "c"
client_secret = "s"
authorize_url = "http://127.0.0.1:{port}/authorize"
token_url = "http://127.0.0.1:{port}/token"
"""


@pytest.fixture(name="commands")
async def _commands(house: House) -> AsyncIterator[Commands]:
    async with commands_at(house) as commands:
        yield commands


async def lines(commands: Commands) -> dict[str, dict[str, Any]]:
    """The lines by what they are about; of several about one thing the worst."""
    result = await commands.run("check", "--json")
    rank = {"ok": 0, "warning": 1, "problem": 2}
    checks = json.loads(result.stdout)["checks"]
    assert all((one["level"] == "ok") or one["next"] for one in checks), "a next step is missing"
    return {one["what"]: one for one in sorted(checks, key=lambda one: rank[one["level"]])}


async def test_sound_broker_has_no_problem(commands: Commands) -> None:
    """One line for each thing that is looked at."""
    await commands.house.connect()

    found = await lines(commands)
    result = await commands.run("check", on_terminal=True)

    about = {
        "configuration",
        "keys",
        "store",
        "disk",
        "unfinished work",
        "audit",
        "server.public_url",
        "clock",
    }
    about |= {"public_url from here", "provider kit", "metadata of kit", "kit app", "kustomer app", "sandbox"}
    assert about <= set(found)
    assert [] == [one for one in found.values() if one["level"] == "problem"]
    assert 0 == result.exit_code
    assert max(map(len, result.stdout.splitlines())) <= 80


async def test_what_to_enter_at_the_provider_is_told(commands: Commands) -> None:
    """Kit wants two addresses, the others one."""
    public = commands.house.public

    found = await lines(commands)

    assert (
        f"redirect URI {public}/callback/kit and Authorization URL {public}/install/kit"
        in (found["kit app"]["detail"])
    )
    assert found["kustomer app"]["detail"].endswith(f"redirect URI {public}/callback/kustomer")


async def test_public_url_that_leads_elsewhere_is_a_warning(house: House, tmp_path: Path) -> None:
    """From here it may be unreachable and yet be right."""
    house.public_port, right = free_port(), house.public_port
    house.write_config()
    await house.close()
    settings = house.folder / "config.toml"
    settings.write_text(
        settings.read_text().replace(
            f'public = "127.0.0.1:{house.public_port}"', f'public = "127.0.0.1:{right}"'
        )
    )
    house.public_port = right
    await house.open()

    async with commands_at(house) as commands:
        found = await lines(commands)

    assert ("warning", True) == (
        found["public_url from here"]["level"],
        "cannot be reached from this machine" in found["public_url from here"]["detail"],
    )


@asynccontextmanager
async def house_of(
    folder: Path, said: object, headers: dict[str, str] | None = None
) -> AsyncIterator[Commands]:
    """A house whose provider says `said` of itself."""
    port = free_port()

    async def describe(_: web.Request) -> web.StreamResponse:
        text = json.dumps(said).replace("PORT", str(port))
        return web.Response(text=text, headers=headers)

    application = web.Application()
    application.router.add_get("/.well-known/oauth-authorization-server", describe)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with (
            open_house(folder, extra=OURS.format(port=port)) as house,
            commands_at(house) as commands,
        ):
            yield commands
    finally:
        await runner.cleanup()


BASE = {
    "issuer": "http://127.0.0.1:PORT",
    "authorization_endpoint": "http://127.0.0.1:PORT/authorize",
    "token_endpoint": "http://127.0.0.1:PORT/token",
}


async def test_metadata_is_compared_with_our_settings(tmp_path: Path) -> None:
    """RFC 8414; a difference is a warning, since either may be wrong."""
    other = BASE | {"token_endpoint": "https://x.example.com/t"}

    async with house_of(tmp_path / "same", BASE) as commands:
        same = (await lines(commands))["metadata of id"]
    async with house_of(tmp_path / "other", other) as commands:
        differs = (await lines(commands))["metadata of id"]

    assert ("ok", "provider metadata matches the configuration") == (same["level"], same["detail"])
    assert ("warning", True) == (differs["level"], "x.example.com" in differs["detail"])


@pytest.mark.parametrize(
    ("date", "level"),
    [
        ("Fri, 15 Jan 2027 08:00:10 GMT", "ok"),
        ("Fri, 15 Jan 2027 08:01:10 GMT", "warning"),
        ("Fri, 15 Jan 2027 07:58:50 GMT", "warning"),
    ],
)
async def test_clock_is_held_against_the_providers(tmp_path: Path, date: str, level: str) -> None:
    """By the Date header of its answer: ten seconds are nothing, seventy are worth a word."""
    async with house_of(tmp_path / "house", BASE, {"Date": date}) as commands:
        checks = json.loads((await commands.run("check", "--json")).stdout)["checks"]

    [clock] = [one for one in checks if one["what"] == "clock" and " id" in one["detail"]]
    assert level == clock["level"]


async def test_unfinished_work_is_told(house: House) -> None:
    """An open intent, and files that the store has not taken."""
    account = await house.connect()
    house.sandbox.faults.set("kit", drop="after", times=1)
    await house.broker.tokens.flights.join(account.ref)
    house.clock.advance(900)

    async with commands_at(house) as commands:
        [intent, spooled] = [await lines(commands), await with_spooled(house, commands)]

    assert ("warning", "the oldest renewal without an outcome is 900 s old") == (
        intent["unfinished work"]["level"],
        intent["unfinished work"]["detail"],
    )
    assert "1 file in the spool" in spooled["unfinished work"]["detail"]


async def with_spooled(house: House, commands: Commands) -> dict[str, dict[str, Any]]:
    successor = Successor((await house.account()).ref, "a", "r", "Bearer", "", 0, 0, 0, None, False)
    house.broker.spools.renewals.write(successor)
    return await lines(commands)


async def test_file_beside_the_store_that_others_may_read_is_a_problem(house: House) -> None:
    """With the command that mends it."""
    (house.folder / "var" / "broker.db-wal").chmod(0o644)

    async with commands_at(house) as commands:
        found = await lines(commands)
        failed = await commands.run("check")

    assert found["mode of broker.db-wal"]["next"].startswith("chmod 600 ")
    assert (1, "1 problem found.\n") == (failed.exit_code, failed.stderr)


async def test_offline_doctor_tells_what_the_next_start_takes_up(house: House) -> None:
    """Files in the spool and the audit are looked at where they lie."""
    await house.connect()
    successor = Successor((await house.account()).ref, "a", "r", "Bearer", "", 0, 0, 0, None, False)
    house.broker.spools.renewals.write(successor)
    await house.close()

    checks = await check_offline(load(house.folder / "config.toml", environ={}))
    house.broker.spools.renewals.remove_those(lambda _: True)
    await house.open()

    told = {check.what: check for check in checks}
    assert "1 file in the spool" == told["unfinished work"].detail
    assert "start the broker" in (told["unfinished work"].next or "")
    assert ("ok", True) == (told["audit"].level, "can be written" in told["audit"].detail)
    assert "kit app" in told


async def test_provider_that_refuses_our_client_is_a_problem(house: House) -> None:
    """The only account refused twice opens the breaker; whoever is called learns it from the check as well."""
    account = await house.connect()
    house.sandbox.faults.set("kit", status=401, body='{"error":"invalid_client"}')

    async with commands_at(house) as commands:
        before = await lines(commands)
        for _ in range(2):
            await house.broker.tokens.flights.join(account.ref)
            house.clock.advance(60)
        after = await lines(commands)

    assert "breaker of kit" not in before
    assert "problem" == after["breaker of kit"]["level"]
    assert "client_id and client_secret" in after["breaker of kit"]["next"]
