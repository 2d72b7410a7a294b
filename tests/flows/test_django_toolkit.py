"""The same flows against an OAuth server that nobody here wrote, with reuse protection on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from broker.model import Reason, Status
from tests.fakes import django_toolkit
from tests.fakes.django_toolkit import DjangoToolkit
from tests.fakes.lossy import LossyLine
from tests.house import House, open_house
from tests.ports import free_port
from tests.until import moment

pytestmark = pytest.mark.slow

LIFE = 3600


@pytest.fixture(name="toolkit")
async def _toolkit(tmp_path: Path) -> AsyncIterator[tuple[DjangoToolkit, int]]:
    port = free_port()
    folder = tmp_path / "toolkit"
    folder.mkdir()
    toolkit = await asyncio.to_thread(
        django_toolkit.start, folder, f"http://127.0.0.1:{port}/callback/toolkit", access_life=LIFE
    )
    yield toolkit, port
    await asyncio.to_thread(toolkit.stop)


@pytest.fixture(name="line")
async def _line(toolkit: tuple[DjangoToolkit, int]) -> AsyncIterator[LossyLine]:
    """Every token request goes through it."""
    async with LossyLine(int(toolkit[0].base_url.rpartition(":")[2])) as line:
        yield line


@pytest.fixture(name="house")
async def _house(tmp_path: Path, toolkit: tuple[DjangoToolkit, int], line: LossyLine) -> AsyncIterator[House]:
    server, port = toolkit
    extra = f"""
[providers.toolkit]
type = "oauth2"
client_id = "{server.client_id}"
client_secret = "{server.client_secret}"
authorize_url = "{server.authorize_url}"
token_url = "{server.token_url.replace(server.base_url, line.url)}"
revoke_url = "{server.revoke_url}"
identity_url = "{server.identity_url}"
identity_pointer = "/id"
"""
    async with open_house(tmp_path / "house", extra=extra, public_port=port) as house:
        yield house


async def _install(house: House, account: str = "acme") -> aiohttp.ClientResponse:
    answer = await house.post("/installs", {"provider": "toolkit", "account": account})
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as person:
        async with person.get(answer.json["install_url"], allow_redirects=False) as step:
            authorize_url = step.headers["Location"]
        back = await django_toolkit.approve(person, authorize_url)
        async with person.get(back) as result:
            await result.read()
            return result


async def test_install_token_three_renewals_and_a_restart(
    house: House, toolkit: tuple[DjangoToolkit, int]
) -> None:
    """Rotation with reuse protection: every renewal presents the newest refresh token, also after a restart."""
    installed = await _install(house)
    seen = {(await house.get("/token/acme")).json["access_token"]}

    for round_ in range(3):
        if round_ == 1:
            await house.restart()
        house.clock.advance(LIFE)
        seen.add((await house.get("/token/acme")).json["access_token"])

    assert 200 == installed.status
    assert 4 == len(seen)
    assert 3 == toolkit[0].refresh_count()
    assert 1 == toolkit[0].tokens().live
    assert (await house.account()).external_id is not None


async def test_crowd_costs_one_refresh(house: House, toolkit: tuple[DjangoToolkit, int]) -> None:
    """A hundred callers at once: had two been sent, the family would be dead."""
    await _install(house)
    house.clock.advance(LIFE)

    answers = await asyncio.gather(*[house.get("/token/acme") for _ in range(100)])

    assert {(200, 2)} == {(answer.status, answer.json["generation"]) for answer in answers}
    assert 1 == toolkit[0].refresh_count()


async def test_server_that_is_away_harms_nothing(house: House, line: LossyLine) -> None:
    """Connection refused is certainly not sent: tried again, and fine once the server is back."""
    await _install(house)
    house.clock.advance(LIFE)
    await line.cut()

    away = await house.get("/token/acme")
    await line.connect()
    house.clock.advance(61)
    back = await house.get("/token/acme")

    assert (503, "provider_unavailable") == (away.status, away.json["code"])
    assert (200, 2) == (back.status, back.json["generation"])


async def test_revoked_grant_is_noticed(house: House, toolkit: tuple[DjangoToolkit, int]) -> None:
    """A revocation behind our back ends as needs_reauthorization, and two requests in all."""
    await _install(house)
    refresh = house.broker.context.encryption.refresh_token(await house.account())
    assert refresh is not None
    form = {
        "token": refresh.reveal(),
        "client_id": toolkit[0].client_id,
        "client_secret": toolkit[0].client_secret,
    }
    async with house.session.post(toolkit[0].revoke_url, data=form) as revoked:
        assert 200 == revoked.status
    house.clock.advance(LIFE)

    asking = asyncio.create_task(house.get("/token/acme"))
    while (await house.account()).reason is not Reason.REFUSED_ONCE:
        await moment()
    house.clock.advance(2.5)
    answer = await asking

    assert (409, "revoked_or_expired") == (answer.status, answer.json["reason"])
    assert Status.NEEDS_REAUTHORIZATION is (await house.account()).status
    assert 2 == toolkit[0].refresh_count()


async def _renew(house: House) -> None:
    await house.broker.tokens.flights.join((await house.account()).ref)


async def test_lost_answer_ends_as_lost_rotation_and_no_storm(
    house: House, toolkit: tuple[DjangoToolkit, int], line: LossyLine
) -> None:
    """A replay kills the family here, so an answer that was lost is the end: told plainly, after few requests."""
    await _install(house)
    house.clock.advance(LIFE)
    line.losing = True
    await _renew(house)
    line.losing = False
    uncertain = await house.account()

    for _ in range(120):
        house.clock.advance(5)
        await _renew(house)
    answer = await house.get("/token/acme")
    shown = (await house.get("/accounts/acme")).json

    assert (1, Status.UNCERTAIN) == (line.lost, uncertain.status)
    assert (409, "lost_rotation") == (answer.status, answer.json["reason"])
    assert ("needs_reauthorization", "lost_rotation") == (shown["status"], shown["reason"])
    assert "install link" in shown["what_to_do"]
    assert 4 == toolkit[0].refresh_count()


async def test_lost_answer_while_the_old_token_lives_waits(
    house: House, toolkit: tuple[DjangoToolkit, int], line: LossyLine
) -> None:
    """Inside the window nothing is replayed: the living token is served until it ends."""
    await _install(house)
    house.clock.advance(LIFE - 600)
    line.losing = True
    await house.get("/token/acme")
    await house.broker.tokens.flights.drain()
    line.losing = False

    served = []
    for _ in range(20):
        house.clock.advance(25)
        served.append((await house.get("/token/acme")).status)

    assert {200} == set(served)
    assert 1 == toolkit[0].refresh_count()
