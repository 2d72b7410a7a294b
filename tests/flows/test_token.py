"""A service asks for a token."""

import asyncio

from tests.house import House


async def test_connected_account_gives_its_token(house: House) -> None:
    """What the provider issued comes back, to be kept until fifteen minutes before it ends."""
    await house.connect()

    answer = await house.get("/token/acme")

    assert 200 == answer.status
    assert answer.json["access_token"].startswith("sbx-kit-at-")
    assert 172800 - 900 - 5 <= answer.json["expires_in"] <= 172800 - 900
    assert "no-store" == answer.headers["Cache-Control"]
    assert f'"{answer.json["generation"]}"' == answer.headers["ETag"]


async def test_expired_token_is_renewed_once_for_a_crowd(house: House) -> None:
    """Two hundred callers at once cost one POST and all get the same new token."""
    await house.connect()
    old = (await house.get("/token/acme")).json["access_token"]
    house.clock.advance(172800)

    answers = await asyncio.gather(*[house.get("/token/acme") for _ in range(200)])

    assert {200} == {answer.status for answer in answers}
    assert 1 == len({answer.json["access_token"] for answer in answers} - {old})
    assert {2} == {answer.json["generation"] for answer in answers}
    assert 1 == await house.refreshes()
