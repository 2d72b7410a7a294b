"""The database is away: valid tokens are served, nothing is renewed, and all of it comes back by itself."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.postgres import needs_postgres
from tests.proof.cable import Cable
from tests.replicas import Replicas, open_replicas
from tests.until import moment

pytestmark = pytest.mark.slow

LIFE = 172_800


@pytest.fixture(name="cable")
async def _cable() -> AsyncIterator[Cable]:
    async with Cable(needs_postgres().port) as cable:
        yield cable


@pytest.fixture(name="one")
async def _one(tmp_path: Path, cable: Cable) -> AsyncIterator[Replicas]:
    """A broker whose way to the database can be cut."""
    async with open_replicas(tmp_path / "one", needs_postgres(), count=1, port=cable.port) as replicas:
        yield replicas


async def until_status(one: Replicas, status: str) -> list[str]:
    """The problems of `/readyz` once it says so."""
    async with asyncio.timeout(60):
        while (ready := await one[0].get("/readyz")).json["status"] != status:
            await moment()
    return [str(problem) for problem in ready.json["problems"]]


async def test_living_token_is_served_from_memory(one: Replicas, cable: Cable) -> None:
    """For a moment at a time, with a warning; callers stay known although their keys cannot be looked up."""
    await one[0].connect()
    before = await one[0].get("/token/acme")
    cable.cut()
    problems = await until_status(one, "degraded")
    one.clock.advance(2)

    away = await one[0].get("/token/acme")
    stranger = await one[0].get("/token/acme", key="tbk_" + "a" * 12 + "_" + "b" * 43)
    cable.mend()
    await until_status(one, "ok")
    back = await one[0].get("/token/acme")

    assert ["the database cannot be reached; renewals wait, valid tokens are served"] == problems
    assert (200, before.json["access_token"]) == (away.status, away.json["access_token"])
    assert (5, True) == (away.json["expires_in"], "warning" in away.json)
    assert 503 == stranger.status
    assert (200, False) == (back.status, "warning" in back.json)


async def test_key_is_believed_for_an_hour_at_most(one: Replicas, cable: Cable) -> None:
    """Whether it has been revoked meanwhile cannot be known."""
    await one[0].connect()
    await one[0].get("/token/acme")
    cable.cut()
    await until_status(one, "degraded")

    one.clock.advance(3000)
    early = await one[0].get("/token/acme")
    one.clock.advance(700)
    late = await one[0].get("/token/acme")

    assert (200, 503) == (early.status, late.status)


async def test_nothing_is_renewed_that_cannot_be_stored(one: Replicas, cable: Cable) -> None:
    """An expired token is an outage for its callers, and not one request to the provider."""
    await one[0].connect()
    await one[0].get("/token/acme")
    cable.cut()
    await until_status(one, "degraded")
    one.clock.advance(LIFE + 1)
    one.clock.advance(0)

    refused = await one[0].get("/token/acme")
    sent = await one[0].refreshes()
    cable.mend()
    await until_status(one, "ok")
    one.clock.advance(2)
    renewed = await one[0].get("/token/acme")

    assert (503, 0) == (refused.status, sent)
    assert (200, 2) == (renewed.status, renewed.json["generation"])


async def test_rotation_that_found_no_database_is_stored_later(one: Replicas, cable: Cable) -> None:
    """R6: it is kept, its callers are told, and it is current as soon as the database is back."""
    await one[0].connect()
    one.sandbox.faults.set("kit", latency_after=0.5)
    demanded = asyncio.create_task(one[0].post("/token/acme/refresh"))
    async with asyncio.timeout(60):
        while not await one[0].refreshes():
            await moment()
    cable.cut()
    await until_status(one, "degraded")
    one.clock.advance(0.5)
    answer = await demanded
    spooled = list((one[0].folder / "var").glob("*.spool/*.tokens"))

    cable.mend()
    async with asyncio.timeout(60):
        while len(one[0].broker.tokens.retained):
            one.clock.advance(0.1)
            await moment()
    await until_status(one, "ok")
    after = await one[0].get("/token/acme")

    assert (503, 1) == (answer.status, len(spooled))
    assert (200, 2, 1) == (after.status, after.json["generation"], await one[0].refreshes())


async def test_other_brokers_news_are_not_missed(one: Replicas, cable: Cable, tmp_path: Path) -> None:
    """Whoever could not hear forgets what it remembered, and reads again."""
    await one[0].connect()
    await one[0].get("/token/acme")
    cable.cut()
    await until_status(one, "degraded")
    await one.server.run("UPDATE accounts SET scope = 'changed unheard', frozen = 'operator'", one.database)

    cable.mend()
    await until_status(one, "ok")
    answer = await one[0].get("/token/acme")

    assert "changed unheard" == answer.json["scope"]
