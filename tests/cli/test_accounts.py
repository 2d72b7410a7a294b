"""`broker accounts` looks at connections and looks after them."""

import json

import pytest

from .conftest import Run
from .stub import PAGE, Asked, Stub, account

LONG = "a" * 128


async def test_listing_shows_status_and_relative_times(run: Run, stub: Stub) -> None:
    """A person sees at a glance how each account is doing."""
    stub.accounts = {"acme": account("acme", last_used_at="2026-11-22T09:58:00Z")}

    result = await run("accounts", "list")

    assert 0 == result.exit_code
    assert ["ACCOUNT  PROVIDER  STATUS  TOKEN ENDS  USED", "acme kit active in 3 h 2 min ago"] == [
        result.stdout.splitlines()[0].rstrip(),
        " ".join(result.stdout.splitlines()[1].split()),
    ]


async def test_listing_fits_eighty_columns_and_cuts_nothing_off(run: Run, stub: Stub) -> None:
    """The longest names and statuses are folded, never cut."""
    worst = account(
        LONG,
        provider="p" * 32,
        status="needs_reauthorization",
        reason="revoked_or_expired",
        provider_expires_at="2025-11-22T09:58:00Z",
        last_used_at="2025-11-22T09:58:00Z",
    )
    stub.accounts = {LONG: worst, "acme": account("acme", status="refresh_failing")}

    result = await run("accounts", "list")

    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert (128, 32) == (
        sum(line.partition(" ")[0].count("a") for line in result.stdout.splitlines()[1:-1]),
        32,
    )
    for word in ("needs_reauthorization", "revoked_or_expired", "365 d ago", "refresh_failing"):
        assert word in result.stdout


async def test_listing_goes_through_all_pages(run: Run, stub: Stub) -> None:
    """What the API gives page by page is printed as one list, in the API's shape."""
    stub.accounts = {f"acme-{number}": account(f"acme-{number}") for number in range(2 * PAGE + 1)}

    result = await run("accounts", "list", "--json")

    assert {"accounts": list(stub.accounts.values()), "next_cursor": None} == json.loads(result.stdout)
    assert ["", "acme-1", "acme-3"] == [one.query.get("cursor", "") for one in stub.asked]


async def test_filters_are_left_to_the_broker(run: Run, stub: Stub) -> None:
    """Durations become seconds; filters that are not given are not sent."""
    result = await run(
        "accounts", "list", "--provider", "kit", "--status", "frozen", "--expiring-within", "2h"
    )

    query = {"provider": "kit", "status": "frozen", "expiring_within": "7200", "limit": "1000"}
    assert [Asked("GET /accounts", query)] == stub.asked
    assert "No account matches.\n" == result.stdout


async def test_an_empty_store_says_how_to_begin(run: Run) -> None:
    """Nothing to list is not a failure, and names the next step."""
    result = await run("accounts", "list")

    assert 0 == result.exit_code
    assert "broker install-link kit" in result.stdout


async def test_showing_tells_everything_with_times_both_ways(run: Run, stub: Stub) -> None:
    """Relative for people, absolute for their logs."""
    stub.accounts = {"acme": account("acme", label="Zoë\x1b[31m", what_to_do="Nothing. " * 20)}

    result = await run("accounts", "show", "acme")

    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "provider_expires_at in 3 h (2026-11-22T13:30:00Z)" in lines
    assert "last_used_at -" in lines
    assert "label Zoë\N{REPLACEMENT CHARACTER}[31m" in lines
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


async def test_showing_as_json_gives_the_api_object(run: Run, stub: Stub) -> None:
    """Programs get what the API gives."""
    stub.accounts = {"acme": account("acme", label="Zoë")}

    result = await run("accounts", "show", "acme", "--json")

    assert stub.accounts["acme"] == json.loads(result.stdout)


async def test_refreshing_tells_the_generation_and_never_the_token(run: Run, stub: Stub) -> None:
    """A renewal is confirmed without printing what it brought."""
    stub.accounts = {"acme": account("acme")}

    result = await run("accounts", "refresh", "acme")

    assert "Renewed acme: generation 18, valid for 3 h.\n" == result.stdout
    assert Asked("POST /token/acme/refresh", {}, {}) == stub.last


async def test_removed_accounts_are_listed(run: Run, stub: Stub) -> None:
    """With the day of their removal; none is said in words."""
    none = await run("accounts", "list", "--removed")
    stub.removed = {"acme": account("acme", removed_at="2026-11-21T10:00:00Z")}

    result = await run("accounts", "list", "--removed")

    assert none.stdout == "No account was removed in the last 30 days.\n"
    assert result.stdout.splitlines()[1].split() == ["acme", "kit", "active", "24", "h", "ago"]
    assert ("1", 0) == (stub.last.query["removed"], result.exit_code)


async def test_removing_tells_how_to_undo_it(run: Run, stub: Stub) -> None:
    """The way back is named, and works."""
    stub.accounts = {"acme": account("acme")}

    removed = await run("accounts", "remove", "acme", "--yes")
    restored = await run("accounts", "restore", "acme")

    assert "broker accounts restore acme" in removed.stdout
    assert ("Account acme is restored: active.\n", ["acme"]) == (restored.stdout, list(stub.accounts))


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ([], {}),
        (["--purge"], {"purge": "1"}),
        (["--revoke"], {"revoke": "1"}),
        (["--purge", "--revoke"], {"purge": "1", "revoke": "1"}),
    ],
)
async def test_removal_says_how_far_it_goes(
    run: Run, stub: Stub, options: list[str], query: dict[str, str]
) -> None:
    """Purging and revoking are asked for only when they were typed."""
    stub.accounts = {"acme": account("acme")}

    result = await run("accounts", "remove", "acme", "--yes", *options)

    assert 0 == result.exit_code
    assert Asked("DELETE /accounts/acme", query) == stub.last


@pytest.mark.parametrize(
    "words",
    [
        ("show", "acme"),
        ("refresh", "acme"),
        ("rename", "acme", "other"),
        ("freeze", "acme"),
        ("unfreeze", "acme"),
        ("remove", "acme", "--yes"),
        ("restore", "acme"),
    ],
)
async def test_an_unknown_account_fails_with_the_brokers_sentence(run: Run, words: tuple[str, ...]) -> None:
    """One sentence on standard error, nothing on standard output, exit 1."""
    result = await run("accounts", *words)

    assert (1, "", "There is no account 'acme'.\n") == (result.exit_code, result.stdout, result.stderr)
