"""“Not yours” and “not there” look the same to whoever has no rights."""

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.callers.signing import ed25519, own_claims
from tests.callers.test_jwt import table
from tests.house import House, open_house

SIGNER = ed25519()
NAMES = ("acme", "nope", "other")
RIGHTS = json.dumps(["token", "refresh", "accounts", "manage", "install"])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """`acme` is connected; the caller `reporting` may do everything, but not with that."""
    extra = table("reporting", SIGNER, accounts='["other"]', permissions=RIGHTS)
    async with open_house(tmp_path / "house", extra=extra) as house:
        await house.connect()
        yield house


ASKED = [
    ("GET", "/token/{}", None),
    ("GET", "/token/{}?min_ttl=999999", None),
    ("POST", "/token/{}/refresh", None),
    ("POST", "/token/{}/refresh", {"rejected_generation": 1}),
    ("GET", "/accounts/{}", None),
    ("PATCH", "/accounts/{}", {"label": "x"}),
    ("PATCH", "/accounts/other", {"name": "{}"}),
    ("POST", "/accounts/{}/freeze", None),
    ("POST", "/accounts/{}/unfreeze", None),
    ("POST", "/accounts/{}/restore", None),
    ("DELETE", "/accounts/{}", None),
    ("DELETE", "/accounts/{}?purge=1&revoke=1", None),
    ("POST", "/installs", {"provider": "kit", "account": "{}"}),
]


async def ask(
    house: House, method: str, path: str, body: object, name: str
) -> tuple[int, str, dict[str, str]]:
    """The whole answer, but for the time of day and the name that was asked for."""
    answer = await house.ask(
        method,
        path.replace("{}", name),
        key=SIGNER.sign(own_claims("reporting", house.clock.now())),
        headers={"X-Request-Id": "request-0001"},
        json=json.loads(json.dumps(body).replace("{}", name)),
    )
    headers = {key: value for key, value in answer.headers.items() if key != "Date"}
    return answer.status, answer.body.decode().replace(name, "{}"), headers


async def test_answers_are_alike(house: House) -> None:
    """Status, body and headers, whatever is asked."""
    await house.connect("kustomer", "other")

    there = [await ask(house, *one, "acme") for one in ASKED]
    missing = [await ask(house, *one, "nope") for one in ASKED]

    assert there == missing
    assert [403] * len(ASKED) == [status for status, _, _ in there]


async def test_accounts_are_not_looked_up(house: House) -> None:
    """So there is nothing to measure: where there is no table of accounts the answers are the same."""
    asked = [one for one in ASKED if one[1] != "/accounts/other"]

    with hidden_accounts(house):
        statuses = {name: [(await ask(house, *one, name))[0] for one in asked] for name in NAMES}

    assert [403] * 2 * len(asked) == statuses["acme"] + statuses["nope"]
    assert 503 in statuses["other"]
    assert 403 not in statuses["other"]


@contextmanager
def hidden_accounts(house: House) -> Iterator[None]:
    with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as database:
        database.execute("ALTER TABLE accounts RENAME TO hidden")
        yield
        database.execute("ALTER TABLE hidden RENAME TO accounts")
