"""`broker callers` lets services in and shuts them out."""

import json

from .conftest import Run
from .stub import KEY, Asked, Stub, caller


async def test_adding_prints_the_key_alone(run: Run, stub: Stub) -> None:
    """The key can be piped into a file as it is; by default it opens tokens only, for ever."""
    result = await run("callers", "add", "reporting", "--account", "kit-*")

    assert (0, f"{KEY}\n", "") == (result.exit_code, result.stdout, result.stderr)
    body = {"name": "reporting", "accounts": ["kit-*"], "permissions": ["token"], "expires_in": None}
    assert Asked("POST /callers", {}, body) == stub.last


async def test_options_with_several_values_are_repeated(run: Run, stub: Stub) -> None:
    """Globs and permissions keep their order; a duration becomes seconds."""
    options = ["--account", "kit-*", "--account", "acme", "--permission", "token", "--permission", "refresh"]

    await run("callers", "add", "reporting", *options, "--expires", "90d")

    body = {
        "name": "reporting",
        "accounts": ["kit-*", "acme"],
        "permissions": ["token", "refresh"],
        "expires_in": 90 * 86400,
    }
    assert Asked("POST /callers", {}, body) == stub.last


async def test_adding_twice_fails_with_the_brokers_sentence(run: Run) -> None:
    """A key that somebody uses is not replaced by accident."""
    await run("callers", "add", "reporting", "--account", "*")

    result = await run("callers", "add", "reporting", "--account", "*")

    assert (1, "there is a caller reporting already\n") == (result.exit_code, result.stderr)


async def test_listing_fits_eighty_columns(run: Run, stub: Stub) -> None:
    """Many globs and permissions are folded, none is lost."""
    globs = [f"team-{number}-*" for number in range(20)]
    permissions = ["accounts", "admin", "install", "manage", "plugin", "refresh", "token"]
    stub.callers = {"c" * 64: caller("c" * 64, accounts=globs, permissions=permissions)}

    result = await run("callers", "list")

    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    for word in (*globs, *permissions, "1 key", "never", "2 min ago"):
        assert word in result.stdout


async def test_listing_shows_every_kind(run: Run, stub: Stub) -> None:
    """Those of the file have no keys to count; a key that the file overrides says so."""
    named = caller("named", accounts=["*"], permissions=["token"])
    overridden = caller("over", accounts=["*"], permissions=["token"])
    stub.callers = {
        "named": named | {"kind": "issuer", "keys": [], "last_used_at": None},
        "over": overridden | {"overridden": True},
    }

    lines = (await run("callers", "list")).stdout.splitlines()

    assert ["named", "issuer", "*", "token", "-", "-", "-"] == lines[1].split()
    assert lines[2].split()[:2] == ["over", "keys"]
    assert "overridden by" in " ".join(lines)


async def test_listing_as_json_gives_what_the_socket_gives(run: Run, stub: Stub) -> None:
    """Programs get the socket's object."""
    stub.callers = {"reporting": caller("reporting", accounts=["*"], permissions=["token"])}

    result = await run("callers", "list", "--json")

    assert {"callers": list(stub.callers.values())} == json.loads(result.stdout)


async def test_an_empty_list_says_how_to_begin(run: Run) -> None:
    """Nothing to list is not a failure, and names the next step."""
    result = await run("callers", "list")

    assert 0 == result.exit_code
    assert "broker callers add" in result.stdout


async def test_rotating_prints_the_new_key_alone(run: Run, stub: Stub) -> None:
    """The new key can be piped as well."""
    stub.callers = {"reporting": caller("reporting", accounts=["*"], permissions=["token"])}

    result = await run("callers", "rotate", "reporting")
    again = await run("callers", "rotate", "reporting", "--now")

    assert (f"{KEY}\n", "") == (result.stdout, result.stderr)
    assert (f"{KEY}\n", [{"now": False}, {"now": True}]) == (again.stdout, [one.body for one in stub.asked])


async def test_removing_shuts_the_caller_out(run: Run, stub: Stub) -> None:
    """The caller is gone afterwards, and a second removal says so."""
    stub.callers = {"reporting": caller("reporting", accounts=["*"], permissions=["token"])}

    first = await run("callers", "remove", "reporting", "--yes")
    second = await run("callers", "remove", "reporting", "--yes")

    assert ({}, "Caller reporting is removed.\n") == (stub.callers, first.stdout)
    assert (1, "There is no caller 'reporting'.\n") == (second.exit_code, second.stderr)
