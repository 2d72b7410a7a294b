"""`broker accounts test` asks the provider's identity endpoint with the token of an account."""

import json
from collections.abc import Mapping

import pytest

from tests.commanding import commands_at
from tests.house import House


@pytest.mark.parametrize(
    ("faults", "result", "sentence"),
    [
        ({}, "accepted", "The provider accepts the token of acme: it is for 42 (Jane"),
        (
            {"identity_status": 401},
            "rejected",
            "rejects the token of acme: the identity endpoint answered 401.",
        ),
        (
            {"identity_status": 404},
            "unknown",
            "does not say whether it accepts the token of acme: the identity",
        ),
        ({"identity_status": 503}, "unknown", "the identity endpoint answered 503."),
        ({"identity_without_id": True}, "unknown", "answered 200 without an id."),
    ],
)
async def test_what_the_provider_says_is_told(
    house: House, faults: Mapping[str, object], result: str, sentence: str
) -> None:
    """Accepted is exit code 0, and everything else 1."""
    await house.connect("kit", "acme", account="42", name="Jane")
    house.sandbox.faults.set("kit", **faults)

    async with commands_at(house) as commands:
        said = await commands.run("accounts", "test", "acme")
        as_json = await commands.run("accounts", "test", "acme", "--json")

    assert sentence in said.output
    assert (result == "accepted") == (said.exit_code == 0) == (as_json.exit_code == 0)
    assert result == json.loads(as_json.stdout)["result"]
    assert 0 == await house.refreshes()


async def test_expired_token_is_renewed_first_and_another_account_is_seen(house: House) -> None:
    """An account whose token is for somebody else is not as it should be."""
    connected = await house.connect("kit", "acme", account="42")
    house.clock.advance(connected.life)
    async with commands_at(house) as commands:
        renewed = await commands.run("accounts", "test", "acme")
        await house.broker.context.stores.accounts.identify(
            (await house.account()).ref, external_id="7", label=None, at=house.clock.now(), grant=""
        )
        other = await commands.run("accounts", "test", "acme")
        missing = await commands.run("accounts", "test", "nobody")

    assert (0, 1, 1) == (renewed.exit_code, other.exit_code, missing.exit_code)
    assert "is for another account at the provider: 42" in other.output
    assert "nobody" in missing.output
    assert 1 == await house.refreshes()


async def test_it_needs_the_permission_to_manage(house: House) -> None:
    """A service that may only read the token makes no request to the provider."""
    await house.connect()
    manager = await house.caller("acme", permissions=("manage",), name="manager")

    service = await house.caller("acme", name="reader")

    refused, allowed = (
        await house.post("/accounts/acme/test", key=service),
        await house.post("/accounts/acme/test", key=manager),
    )

    assert (403, 200) == (refused.status, allowed.status)
    assert {"account", "result", "external_id", "label", "detail"} == allowed.json.keys()
