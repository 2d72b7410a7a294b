"""What a broker remembers of a hot token, and when it stops counting: seen from outside, over a kept connection.

Everything here is asked for several times first, so that whatever can be remembered is. Elsewhere, because it takes
more than one broker or an issuer: tests/replication, tests/callers/test_issuers.py. That a JWT ends in time and that
the file wins over the store: tests/callers/test_jwt.py and test_configured.py. A store that cannot be asked:
tests/replication/test_outage.py.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from broker.http.server import QuietRunner
from broker.model import Account
from broker.tokens.background import until_cancelled
from tests.callers.signing import Signer, ed25519, own_claims
from tests.callers.test_jwt import table
from tests.house import OPERATOR, Answer, House
from tests.tokens.test_background import LIFE, beats
from tests.tokens.test_refresh import revoke

TIMES = 5
SECOND = 1.0
"""Within which a change by another process counts."""
WINDOW = 900


@pytest.fixture(name="acme")
async def _acme(house: House) -> Account:
    return await house.connect()


async def hot(house: House, *, key: str | None = None, name: str = "acme") -> Answer:
    """Ask until it can only come from memory; the last answer."""
    answers = [await house.get(f"/token/{name}", key=key) for _ in range(TIMES)]
    assert [200] * TIMES == [answer.status for answer in answers]
    assert 1 == len({answer.json["access_token"] for answer in answers})
    return answers[-1]


@asynccontextmanager
async def admin_socket(house: House, folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """What the command line talks to."""
    runner = QuietRunner(house.broker.listeners.admin)
    await runner.setup()
    await web.UnixSite(runner, folder / "admin.sock").start()
    async with aiohttp.ClientSession(
        base_url="http://broker", connector=aiohttp.UnixConnector(str(folder / "admin.sock"))
    ) as session:
        yield session
    await runner.cleanup()


async def test_caller_removed_at_the_admin_socket_is_out_with_the_next_request(
    house: House, acme: Account, tmp_path: Path
) -> None:
    """No time passes in between; others are not disturbed."""
    key = await house.caller(name="other")
    await hot(house, key=key)
    before = await hot(house)

    async with (
        admin_socket(house, tmp_path) as socket,
        socket.delete("/callers/other") as removed,
    ):
        after = await house.get("/token/acme", key=key)

    assert (204, 401) == (removed.status, after.status)
    assert before.json == (await hot(house)).json


async def test_key_that_was_rotated_away_is_out_with_the_next_request(
    house: House, acme: Account, tmp_path: Path
) -> None:
    """A second rotation that is to count now ends the first key at once, though it was just used."""
    first = await house.caller(name="other")
    house.clock.advance(SECOND)

    async with admin_socket(house, tmp_path) as socket:
        async with socket.post("/callers/other/rotate") as rotated:
            second = (await rotated.json())["key"]
        await hot(house, key=first)
        await hot(house, key=second)
        await socket.post("/callers/other/rotate", json={"now": True})
        statuses = [(await house.get("/token/acme", key=key)).status for key in (first, second)]

    assert [401, 200] == statuses


@pytest.mark.parametrize(
    ("sql", "status"),
    [
        ("DELETE FROM callers WHERE name = 'other'", 401),
        ("DELETE FROM caller_keys WHERE caller = 'other'", 401),
        ("UPDATE caller_keys SET expires_at = 1 WHERE caller = 'other'", 401),
        ("""UPDATE callers SET accounts = '["globex", "acme-*"]' WHERE name = 'other'""", 403),
        ("""UPDATE callers SET permissions = '["refresh", "accounts"]' WHERE name = 'other'""", 403),
    ],
    ids=["caller gone", "key gone", "key over", "other accounts", "other permissions"],
)
async def test_another_process_write_counts_within_a_second(
    house: House, acme: Account, sql: str, status: int
) -> None:
    """Callers and their rights, changed in the file beneath; going on asking does not put it off."""
    key = await house.caller(name="other")
    await hot(house, key=key)

    with closing(sqlite3.connect(house.settings.store.path)) as other, other:
        assert 1 == other.execute(sql).rowcount
    for _ in range(9):
        house.clock.advance(SECOND / 10)
        await house.get("/token/acme", key=key)
    house.clock.advance(SECOND / 10)
    after = await house.get("/token/acme", key=key)

    assert status == after.status
    assert b"access_token" not in after.body


async def test_key_ends_when_it_was_told_to_although_it_is_remembered(house: House, acme: Account) -> None:
    """To the moment, not when it would have been looked up again."""
    _, key = await house.broker.callers.service.add(
        OPERATOR, name="short", accounts=["*"], permissions=[], expires_in=60, request_id="t"
    )
    house.clock.advance(59.5)
    await hot(house, key=key.reveal())

    house.clock.advance(0.5)

    assert 401 == (await house.get("/token/acme", key=key.reveal())).status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda signer: table("reporting", signer, accounts='["globex"]'), 403),
        (lambda signer: table("reporting", signer, permissions='["accounts"]'), 403),
        (lambda _: table("reporting", ed25519()), 401),
        (lambda _: "", 401),
    ],
    ids=["other accounts", "other permissions", "another key", "gone"],
)
async def test_caller_of_the_file_changes_with_the_reload(
    house: House, acme: Account, change: Callable[[Signer], str], status: int
) -> None:
    """A JWT that was verified a moment ago has the new rights, or none."""
    signer = ed25519()
    reload(house, table("reporting", signer))
    key = signer.sign(own_claims("reporting", house.clock.now()))
    await hot(house, key=key)

    reload(house, change(signer))

    assert status == (await house.get("/token/acme", key=key)).status


def reload(house: House, extra: str) -> None:
    """SIGHUP, with other callers in the file."""
    house.extra = extra
    house.write_config()
    house.broker.use(house.settings)


@pytest.mark.parametrize("query", ["", "?revoke=1", "?purge=1"])
async def test_removed_account_is_gone_with_the_next_request(house: House, acme: Account, query: str) -> None:
    """However it is removed; and what comes back under its name is the new grant."""
    before = await hot(house)

    removed = await house.ask("DELETE", f"/accounts/acme{query}")
    gone = await house.get("/token/acme")
    await house.connect()
    after = await hot(house)

    assert (204, 404, "unknown_account") == (removed.status, gone.status, gone.json["code"])
    assert before.json["access_token"] != after.json["access_token"]
    assert before.json["generation"] < after.json["generation"]


async def test_renamed_account_is_found_under_its_new_name_alone(house: House, acme: Account) -> None:
    """With the next request, also where both names were just asked for."""
    await hot(house)
    missing = await house.get("/token/globex")

    await house.ask("PATCH", "/accounts/acme", json={"name": "globex"})
    old, new = await house.get("/token/acme"), await hot(house, name="globex")

    assert (404, 404, "globex") == (missing.status, old.status, new.json["account"])


async def test_restored_account_is_served_again(house: House, acme: Account) -> None:
    """That there was none is not remembered."""
    before = await hot(house)
    await house.ask("DELETE", "/accounts/acme")
    gone = [(await house.get("/token/acme")).status for _ in range(TIMES)]

    await house.post("/accounts/acme/restore")

    assert [404] * TIMES == gone
    assert before.json["access_token"] == (await hot(house)).json["access_token"]


async def test_frozen_account_is_not_renewed_for_those_who_remember_it(house: House, acme: Account) -> None:
    """Its living token is served until it ends; unfrozen, it is renewed."""
    await hot(house)

    await house.post("/accounts/acme/freeze")
    await hot(house)
    house.clock.advance(LIFE - WINDOW + 1)
    in_window = await hot(house)
    house.clock.advance(WINDOW)
    over = await house.get("/token/acme")
    sent = await house.refreshes()
    await house.post("/accounts/acme/unfreeze")

    assert "warning" in in_window.json
    assert (409, "frozen", 0) == (over.status, over.json["code"], sent)
    assert 2 == (await hot(house)).json["generation"]


async def forced(house: House) -> None:
    """A caller with the right demands a renewal."""
    assert 200 == (await house.post("/token/acme/refresh")).status


async def rejected(house: House) -> None:
    """A caller says that the provider refused the token."""
    house.clock.advance(120)
    answer = await house.post("/token/acme/refresh", {"rejected_generation": 1})
    assert 200 == answer.status


async def reinstalled(house: House) -> None:
    """The person connects the account once more."""
    await house.connect()


async def operated(house: House) -> None:
    """`broker accounts refresh`."""
    await house.broker.tokens.service.override(OPERATOR, "acme", request_id="t")


@pytest.mark.parametrize("renew", [forced, rejected, reinstalled, operated])
async def test_new_generation_is_what_everybody_gets(
    house: House, acme: Account, renew: Callable[[House], Awaitable[None]]
) -> None:
    """With the next request after its commit, also for who had an ETag of the one before."""
    before = await hot(house)
    known = {"If-None-Match": before.headers["ETag"]}
    unchanged = await house.get("/token/acme", **known)

    await renew(house)
    conditional = await house.get("/token/acme", **known)
    after = await hot(house)

    assert (304, 200) == (unchanged.status, conditional.status)
    assert before.json["access_token"] != after.json["access_token"] == conditional.json["access_token"]
    assert (1, 2) == (before.json["generation"], after.json["generation"])
    assert '"2"' == after.headers["ETag"]


async def test_generation_of_the_background_is_what_everybody_gets(house: House, acme: Account) -> None:
    """Nobody had to ask for it."""
    await hot(house)
    await house.broker.tokens.uses.flush()
    house.clock.advance(LIFE - WINDOW + 10)

    background = asyncio.create_task(house.broker.background.run())
    await beats(house, 20)
    await until_cancelled(background)

    assert 2 == (await hot(house)).json["generation"]


async def test_what_is_told_of_the_time_left_is_of_this_moment(house: House, acme: Account) -> None:
    """A remembered answer does not remember its seconds."""
    first = await hot(house)

    house.clock.advance(1234)
    later = await hot(house)

    assert 1234 == first.json["expires_in"] - later.json["expires_in"]
    assert first.json["expires_at"] == later.json["expires_at"]


async def test_hot_token_is_not_served_beyond_its_end(house: House, acme: Account) -> None:
    """In its window only for moments, over it not at all, whatever ails the provider."""
    await hot(house)
    house.sandbox.faults.set("kit", status=503)

    house.clock.advance(LIFE - WINDOW + 1)
    in_window = await hot(house)
    await house.broker.tokens.flights.drain()
    house.clock.advance(WINDOW)
    over = await house.get("/token/acme")

    assert in_window.json["expires_in"] <= 5
    assert (503, "refresh_uncertain") == (over.status, over.json["code"])


async def test_grant_that_died_is_told_to_those_who_have_it_hot(house: House, acme: Account) -> None:
    """As soon as the death is on record, although the token before it was served a moment ago."""
    await hot(house)
    await revoke(house)
    house.clock.advance(LIFE - 60)
    await hot(house)
    await house.broker.tokens.flights.drain()
    house.clock.advance(3)
    await hot(house)
    await house.broker.tokens.flights.drain()

    house.clock.advance(57)
    over = await house.get("/token/acme")

    assert (409, "needs_reauthorization") == (over.status, over.json["code"])
    assert 2 == await house.refreshes()
