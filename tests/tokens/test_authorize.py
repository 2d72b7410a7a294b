"""`/authorize-request/ACCOUNT`, which reverse proxies ask before they send a request on."""

import json
from pathlib import Path

import pytest

from tests.house import Answer, House, open_house

LIFE = 172_800


async def ask(house: House, method: str, path: str, **headers: str) -> Answer:
    return await house.ask(method, f"/authorize-request/{path}", headers=headers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "acme"),
        ("GET", "acme/v4/tags?a=1&a=2&unknown="),
        ("HEAD", "acme/v4/tags"),
        ("POST", "acme/"),
        ("DELETE", "acme/v4//tags/%2F..%2F"),
        ("OPTIONS", "acme/*"),
        ("PROPFIND", "acme/x"),
        ("GET", "acme/a%0Ab%0D%0A"),
    ],
)
async def test_token_comes_in_a_header(house: House, method: str, path: str) -> None:
    """Envoy asks with the method, the path and the query of the request that it holds."""
    await house.connect()

    answer, token = await ask(house, method, path), await house.get("/token/acme")

    assert (204, b"") == (answer.status, answer.body)
    assert f"Bearer {token.json['access_token']}" == answer.headers["Authorization"]
    assert '"1"' == answer.headers["ETag"]
    assert "no-store" == answer.headers["Cache-Control"]


async def test_rejected_token_is_renewed_once(house: House) -> None:
    """By the ETag of the answer that it came with; later questions with the same one get the new token."""
    await house.connect()
    house.clock.advance(120)

    answers = [await ask(house, "GET", "acme", **{"X-Rejected-Generation": '"1"'}) for _ in range(2)]

    assert [(204, '"2"')] * 2 == [(one.status, one.headers["ETag"]) for one in answers]
    assert 1 == await house.refreshes()


@pytest.mark.parametrize("given", ["x", "-1", "1" * 13, "1.0", '"1" x', "\u00b2"])
async def test_malformed_rejection_is_refused(house: House, given: str) -> None:
    """And renews nothing."""
    await house.connect()
    house.clock.advance(120)

    answer = await ask(house, "GET", "acme", **{"X-Rejected-Generation": given})

    assert (400, "invalid_request") == (answer.status, answer.json["code"])
    assert "X-Rejected-Generation" in answer.json["detail"]
    assert 0 == await house.refreshes()


async def test_refusals_are_those_of_a_token(house: House) -> None:
    """No credential, no right, no account, no valid token: none has the header."""
    await house.connect()
    other = await house.caller("kit-*", name="other")
    answers = [
        await house.ask("GET", "/authorize-request/acme", key=""),
        await house.ask("GET", "/authorize-request/acme", key=other),
        await ask(house, "GET", "nobody"),
        await ask(house, "GET", "not%20a%20name/acme"),
        await ask(house, "POST", "acme"),
    ]
    await house.post("/accounts/acme/freeze")
    house.clock.advance(LIFE)
    answers.append(await ask(house, "GET", "acme"))

    assert [401, 403, 404, 400, 405, 409] == [one.status for one in answers]
    assert not any("Authorization" in one.headers for one in answers)


async def test_it_is_audited_as_a_token(tmp_path: Path) -> None:
    """With nothing of the path and the query, which may hold secrets of the API."""
    async with open_house(tmp_path, extra='[audit]\nto = { path = "audit.jsonl" }') as house:
        await house.connect()
        await ask(house, "GET", "acme/v4/tags?api_secret=hunter2")

        text = (house.folder / "audit.jsonl").read_text()

    lines = [json.loads(line) for line in text.splitlines()]
    assert ["acme"] == [one["account"] for one in lines if one["action"] == "token"]
    assert "hunter2" not in text
