"""`broker providers`, `events`, `check`, `adopt` and `version` tell operators what is going on."""

import json

from broker import __version__

from .conftest import Run
from .stub import Asked, Stub, account, event, provider

REFUSED = {
    "breaker": "open",
    "reason": "provider_rejected_client",
    "since": "2026-11-22T09:58:00Z",
    "paused_until": "2026-11-22T10:03:00Z",
    "what_to_do": "Check the provider's client_id and client_secret in the configuration, then reload.",
    "accounts": {"active": 3, "needs_reauthorization": 12, "refresh_failing": 400},
}
OK = {"what": "store", "level": "ok", "detail": "0 accounts", "next": None}
DOUBT = {"what": "provider kit", "level": "warning", "detail": "not reached", "next": "check the network"}
WRONG = {
    "what": "mode of broker.db",
    "level": "problem",
    "detail": "open to others",
    "next": "chmod 600 broker.db",
}


async def test_providers_are_listed_in_eighty_columns_with_what_to_do(run: Run, stub: Stub) -> None:
    """An open breaker says since when, why, and what mends it."""
    stub.providers = {"kit": provider("kit", **REFUSED), "p" * 32: provider("p" * 32)}

    result = await run("providers", "list")

    *table, advice = result.stdout.splitlines()
    assert max(len(line) for line in table) <= 80
    assert f"kit: {REFUSED['what_to_do']}" == advice
    for word in ("open", "provider_rejected_client", "2 min ago", "in 3 min", "needs_reauthorization", "400"):
        assert word in result.stdout


async def test_providers_as_json_are_what_the_socket_gives(run: Run, stub: Stub) -> None:
    """Programs get the socket's object."""
    stub.providers = {"kit": provider("kit", **REFUSED)}

    result = await run("providers", "list", "--json")

    assert {"providers": list(stub.providers.values())} == json.loads(result.stdout)


async def test_resuming_closes_the_breaker(run: Run, stub: Stub) -> None:
    """The provider is asked again afterwards."""
    stub.providers = {"kit": provider("kit", **REFUSED)}

    result = await run("providers", "resume", "kit")

    assert ("kit is asked again.\n", "closed") == (result.stdout, stub.providers["kit"]["breaker"])


async def test_resuming_an_unknown_provider_fails_with_the_brokers_sentence(run: Run) -> None:
    """A typing error is told, not swallowed."""
    result = await run("providers", "resume", "kti")

    assert (1, "there is no provider kti\n") == (result.exit_code, result.stderr)


async def test_events_are_listed_in_eighty_columns(run: Run, stub: Stub) -> None:
    """The longest event fits, and one without account names its provider."""
    stub.events = [
        event(1234567, account="a" * 128),
        event(1234568, "provider_rejected_client", account=None, reason="provider_rejected_client"),
    ]

    result = await run("events")

    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["1234568", "2", "min", "ago", "provider_rejected_client", "kit"] in rows


async def test_events_as_json_are_what_the_api_gives(run: Run, stub: Stub) -> None:
    """Options reach the broker, its answer reaches the program."""
    stub.events = [event(1), event(2), event(3)]

    result = await run("events", "--json", "--after", "1", "--limit", "5", "--account", "acme")

    assert {"events": stub.events[1:]} == json.loads(result.stdout)
    assert Asked("GET /events", {"after": "1", "limit": "5", "account": "acme"}) == stub.last


async def test_no_events_are_no_failure(run: Run) -> None:
    """A new broker has none."""
    result = await run("events")

    assert (0, "No events.\n") == (result.exit_code, result.stdout)


async def test_following_prints_a_line_for_each_event_until_the_broker_stops(run: Run, stub: Stub) -> None:
    """Times are absolute there, and the end of the stream is told."""
    stub.events = [event(1), event(2, "needs_reauthorization", reason="revoked_or_expired")]

    result = await run("events", "--follow")

    assert [
        "2026-11-22T09:58:00Z  renewed  acme",
        "2026-11-22T09:58:00Z  needs_reauthorization  acme  revoked_or_expired",
    ] == result.stdout.splitlines()
    assert (1, "The broker has stopped, so there is nothing more to follow.\n") == (
        result.exit_code,
        result.stderr,
    )


async def test_following_as_json_prints_an_object_a_line(run: Run, stub: Stub) -> None:
    """A program can read line by line."""
    stub.events = [event(1), event(2)]

    result = await run("events", "--follow", "--json")

    assert stub.events == [json.loads(line) for line in result.stdout.splitlines()]


async def test_a_check_without_problems_succeeds(run: Run, stub: Stub) -> None:
    """Warnings are shown with their next step, and are no failure."""
    stub.checks = [OK, DOUBT]

    result = await run("check")

    assert 0 == result.exit_code
    assert "not reached → check the network" in result.stdout


async def test_a_check_with_a_problem_fails(run: Run, stub: Stub) -> None:
    """The table says what to mend; the sentence on standard error counts."""
    stub.checks = [OK, WRONG, {**WRONG, "next": "chmod 600 /var/lib/token-broker/a/long/path/" + "b" * 90}]

    result = await run("check")

    assert (1, "2 problems found.\n") == (result.exit_code, result.stderr)
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert "open to others → chmod 600 broker.db" in result.stdout


async def test_a_check_as_json_fails_as_well(run: Run, stub: Stub) -> None:
    """A monitor reads the object and the exit code."""
    stub.checks = [WRONG]

    result = await run("check", "--json")

    assert (1, {"checks": [WRONG]}) == (result.exit_code, json.loads(result.stdout))


async def test_adopting_names_the_accounts_that_may_need_their_person(run: Run, stub: Stub) -> None:
    """The operator learns whom to write to."""
    stub.accounts = {"acme": account("acme"), "other": account("other")}

    result = await run("adopt")

    assert "2 accounts may need their person again:\n  acme\n  other\n" in result.stdout
    assert Asked("POST /adopt", {}) == stub.last


async def test_adopting_what_is_no_copy_says_so(run: Run, stub: Stub) -> None:
    """Nothing was done, and that is no failure."""
    stub.is_copy = False

    result = await run("adopt")

    assert (0, "There is nothing to adopt: this store is no copy, and is renewed from already.\n") == (
        result.exit_code,
        result.stdout,
    )


async def test_the_version_names_the_running_broker_too(run: Run) -> None:
    """After an upgrade one sees that the old one still runs."""
    result = await run("version")

    assert f"token-broker {__version__}\nrunning 9.9.9, started 3 h ago\n" == result.stdout
