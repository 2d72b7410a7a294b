"""`broker keys` asks the running broker."""

import json

import pytest

from .conftest import Run
from .stub import KID, NEW_KID, Asked, Stub, data_key


async def test_keys_are_listed_in_eighty_columns(run: Run, stub: Stub) -> None:
    """Each with its state and how much is sealed with it; a retired one says since when."""
    stub.keys = {
        KID: data_key(KID, state="retired", retired_at="2026-11-20T10:00:00Z"),
        NEW_KID: data_key(NEW_KID, records=1234567, where={"accounts.sealed_access": 1234567}),
        "00" * 8: data_key("00" * 8, purpose="index"),
    }

    result = await run("keys", "list")

    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [NEW_KID, "data", "active", "1234567", "21", "d", "ago", "fd0a02c3"] in rows
    assert "retired 2 d ago" in result.stdout
    assert ["00" * 8, "index", "active", "-", "21", "d", "ago", "fd0a02c3"] in rows


async def test_keys_as_json_are_what_the_socket_gives(run: Run, stub: Stub) -> None:
    """Programs get the socket's object."""
    result = await run("keys", "list", "--json")

    assert {"keys": list(stub.keys.values())} == json.loads(result.stdout)


async def test_new_key_is_named_with_the_next_step(run: Run, stub: Stub) -> None:
    """Its id, never the key."""
    result = await run("keys", "new")

    assert f"{NEW_KID} is the active key. Next: broker keys rewrap\n" == result.stdout
    assert Asked("POST /keys", {}) == stub.last


async def test_rewrap_goes_on_to_the_end(run: Run, stub: Stub) -> None:
    """Step by step; without a terminal no bar disturbs the sentence."""
    stub.sealed = 8

    result = await run("keys", "rewrap")

    assert (0, "8 records encrypted anew.\n", "") == (result.exit_code, result.stdout, result.stderr)
    assert 3 == sum(one.what == "POST /keys/rewrap" for one in stub.asked)


async def test_rewrap_names_what_does_not_open(run: Run, stub: Stub) -> None:
    """And fails, as somebody has to look at it."""
    stub.sealed, stub.unreadable = 2, ["accounts.sealed_access of acme"]

    result = await run("keys", "rewrap")

    assert (1, "2 records encrypted anew.\n") == (result.exit_code, result.stdout)
    assert "1 record cannot be decrypted: " in result.stderr
    assert "accounts.sealed_access of acme" in result.stderr


async def test_drop_retires_a_key(run: Run, stub: Stub) -> None:
    """Or fails with the broker's sentence."""
    stub.keys[NEW_KID] = data_key(NEW_KID, records=7)

    dropped = await run("keys", "drop", KID, "--yes")
    refused = await run("keys", "drop", NEW_KID, "--yes")

    assert (0, f"Key {KID} is retired.\n") == (dropped.exit_code, dropped.stdout)
    assert (1, "7 in accounts.sealed_access are still sealed with it\n") == (
        refused.exit_code,
        refused.stderr,
    )


@pytest.mark.parametrize("kid", ["", "0123", "0123456789ABCDEF", "../keys/rewrap12"])
async def test_what_is_no_key_id_is_wrong_usage(run: Run, stub: Stub, kid: str) -> None:
    """Nothing is asked."""
    result = await run("keys", "drop", kid)

    assert (2, []) == (result.exit_code, stub.asked)
