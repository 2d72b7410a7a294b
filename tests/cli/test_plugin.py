"""`broker plugin` makes connect codes and shows what people allowed clients."""

import json

from .conftest import Run
from .stub import Asked, Stub, grant

FIRST = f"{1:016x}"


async def test_connect_code_is_printed_alone(run: Run, stub: Stub) -> None:
    """It can be sent to the person as it is."""
    result = await run("plugin", "connect-code", "--subject", "user-42")

    assert (0, "ABCD-EFGH-JKMN\n", "") == (result.exit_code, result.stdout, result.stderr)
    assert Asked("POST /plugin/connect-codes", {}, {"subject": "user-42"}) == stub.last


async def test_grants_are_listed_over_all_pages(run: Run, stub: Stub) -> None:
    """Within eighty columns; whose each is, and for which account."""
    stub.grants = {f"{number:016x}": grant(number, subject=f"user-{number}") for number in range(1, 6)}
    stub.grants[FIRST] = grant(1, subject="user-1", account="kit-29", scope="read:products")

    result = await run("plugin", "grants")

    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    for word in (*stub.grants, *(f"user-{number}" for number in range(1, 6)), "kit-29", "read:products"):
        assert word in result.stdout


async def test_grants_as_json(run: Run, stub: Stub) -> None:
    """The socket's shape, whole; the person is asked for at the broker."""
    stub.grants = {FIRST: grant(1)}

    result = await run("plugin", "grants", "--json", "--subject", "user-42")

    assert {"grants": [grant(1)], "next_cursor": None} == json.loads(result.stdout)
    assert "user-42" == stub.last.query["subject"]


async def test_grant_is_ended(run: Run, stub: Stub) -> None:
    """Once; the second time there is none."""
    stub.grants = {FIRST: grant(1)}

    ended, again = await run("plugin", "revoke", FIRST, "-y"), await run("plugin", "revoke", FIRST, "--yes")

    assert (0, f"Grant {FIRST} is ended.\n") == (ended.exit_code, ended.stdout)
    assert (1, True) == (again.exit_code, "There is no grant " in again.stderr)


async def test_what_is_no_grant_is_wrong_usage(run: Run, stub: Stub) -> None:
    """Nothing is asked of the broker."""
    result = await run("plugin", "revoke", "user-42")

    assert (2, []) == (result.exit_code, stub.asked)


async def test_server_that_is_off_is_told(run: Run, stub: Stub) -> None:
    """With what turns it on."""
    stub.plugin_is_on = False

    results = [await run("plugin", "grants"), await run("plugin", "connect-code", "--subject", "x")]

    assert [1, 1] == [result.exit_code for result in results]
    assert ["The server for plugins is off. Turn it on with [plugin] in the configuration.\n"] * 2 == [
        result.stderr for result in results
    ]
