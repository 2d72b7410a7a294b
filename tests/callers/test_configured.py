"""Callers of the file beside those with keys: one list, and the file wins."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Conflict
from broker.http.bodies import caller_json
from tests.callers.signing import ed25519, own_claims
from tests.callers.test_jwt import table
from tests.house import OPERATOR, House, open_house

SIGNER = ed25519()
FILE = table("reporting", SIGNER, accounts='["kit-*"]')


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "house", extra=FILE) as house:
        yield house


async def listed(house: House) -> list[dict[str, Any]]:
    records = await house.broker.callers.service.callers(OPERATOR, request_id="t")
    return [caller_json(record) for record in records]


async def use(house: House) -> int:
    return (
        await house.get("/token/kit-1", key=SIGNER.sign(own_claims("reporting", house.clock.now())))
    ).status


async def test_list_has_them_all(house: House) -> None:
    """Kind, rights and last use of each, by name."""
    assert 404 == await use(house)

    named, keyed = await listed(house)

    assert {
        "name": "reporting",
        "kind": "public_key",
        "overridden": False,
        "accounts": ["kit-*"],
        "permissions": ["token"],
        "keys": [],
        "last_used_at": "2027-01-15T08:00:00Z",
    } == named
    assert ("service", "keys", 1) == (keyed["name"], keyed["kind"], len(keyed["keys"]))


async def test_last_use_outlives_a_restart(house: House) -> None:
    """As that of a key does."""
    await use(house)
    before = (await listed(house))[0]["last_used_at"]

    await house.restart()

    assert before == (await listed(house))[0]["last_used_at"]
    assert before is not None


async def test_name_of_the_file_is_taken(house: House) -> None:
    """Each command says where to go instead."""
    service = house.broker.callers.service

    with pytest.raises(Conflict, match="is in the configuration; take another name"):
        await house.caller("*", name="reporting")
    with pytest.raises(Conflict, match="change it there and reload"):
        await service.rotate(OPERATOR, "reporting", request_id="t")
    with pytest.raises(Conflict, match="delete it there and reload"):
        await service.remove(OPERATOR, "reporting", request_id="t")

    assert ["reporting", "service"] == [one["name"] for one in await listed(house)]


async def test_file_wins_over_the_store(house: House) -> None:
    """A key of the same name stops at once when the file takes the name, and works again when it gives it back."""
    key = await house.caller("*", name="billing")
    seen = [(await house.get("/token/x", key=key)).status]

    for extra in (FILE + table("billing", SIGNER), FILE):
        house.extra = extra
        house.write_config()
        house.broker.use(house.settings)
        seen.append((await house.get("/token/x", key=key)).status)

    assert [404, 401, 404] == seen


async def test_overridden_key_is_shown_and_can_be_removed(house: House) -> None:
    """So that nobody is left with a key that would come back."""
    await house.caller("*", name="billing")
    house.extra = FILE + table("billing", SIGNER)
    house.write_config()
    house.broker.use(house.settings)
    both = [(one["kind"], one["overridden"]) for one in await listed(house) if one["name"] == "billing"]

    await house.broker.callers.service.remove(OPERATOR, "billing", request_id="t")

    left = [(one["kind"], one["overridden"]) for one in await listed(house) if one["name"] == "billing"]
    assert ([("public_key", False), ("keys", True)], [("public_key", False)]) == (both, left)
