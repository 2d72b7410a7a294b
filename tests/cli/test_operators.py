"""`broker providers`, `events`, `check`, `adopt` and `version` tell operators what is going on."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker import __version__
from broker.cli import broker as command_line
from broker.cli.command import CommandContext

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

    assert ("Provider kit is resumed.\n", "closed") == (result.stdout, stub.providers["kit"]["breaker"])


async def test_resuming_an_unknown_provider_fails_with_the_brokers_sentence(run: Run) -> None:
    """A typing error is told, not swallowed."""
    result = await run("providers", "resume", "kti")

    assert (1, "There is no provider 'kti'; there are: none.\n") == (result.exit_code, result.stderr)


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


async def test_adopting_names_the_accounts_that_may_need_their_person(run: Run, stub: Stub) -> None:
    """The operator learns whom to write to."""
    stub.accounts = {"acme": account("acme"), "other": account("other")}

    result = await run("adopt")

    assert "2 accounts may need re-authorization:\n  acme\n  other\n" in result.stdout
    assert Asked("POST /adopt", {}) == stub.last


async def test_adopting_what_is_no_copy_says_so(run: Run, stub: Stub) -> None:
    """Nothing was done, and that is no failure."""
    stub.is_copy = False

    result = await run("adopt")

    assert (
        0,
        "There is nothing to adopt: this store is not a copy, and its accounts are renewed already.\n",
    ) == (
        result.exit_code,
        result.stdout,
    )


async def test_the_version_names_the_running_broker_too(run: Run) -> None:
    """After an upgrade one sees that the old one still runs."""
    result = await run("version")

    assert f"token-broker {__version__}\nrunning 9.9.9, started 3 h ago\n" == result.stdout


NOT_STARTED = "The broker does not start: systemd holds 127.0.0.1:9080, which no key of [server] names"


def shown(config: Path, **properties: str) -> bytes:
    """What `systemctl show` says of the service that was started with `config`."""
    usual = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        "NRestarts": "0",
        "ExecMainCode": "0",
        "ExecMainStatus": "0",
        "ExecStart": f"{{ path=/usr/local/bin/broker ; argv[]=broker --config {config} serve ; status=0/0 }}",
    }
    return "".join(f"{name}={value}\n" for name, value in {**usual, **properties}.items()).encode()


async def test_a_broker_that_cannot_start_says_why(run: Run, stub: Stub, config: Path) -> None:
    """`check` has the reason and what systemd did about it; `version` does not call it running."""
    stub.not_started = NOT_STARTED
    stub.systemd["systemctl show"] = shown(
        config,
        ActiveState="activating",
        SubState="auto-restart",
        NRestarts="7",
        ExecMainCode="1",
        ExecMainStatus="1",
    )

    checked, version = await run("check", "--json"), await run("version")

    told = "token-broker.service is activating (auto-restart); systemd has restarted it 7 times"
    told += "; its last process exited with status 1"
    assert [("broker", "problem", NOT_STARTED), ("systemd", "problem", told)] == [
        (line["what"], line["level"], line["detail"]) for line in json.loads(checked.stdout)["checks"]
    ]
    assert (1, 0) == (checked.exit_code, version.exit_code)
    assert f"token-broker {__version__}\nnot running: {NOT_STARTED}\n" == version.stdout


@pytest.mark.parametrize(
    ("properties", "level", "detail"),
    [
        ({}, "ok", "token-broker.service is active"),
        (
            {"NRestarts": "1"},
            "warning",
            "token-broker.service is active; systemd has restarted it 1 time",
        ),
        ({"ActiveState": "inactive", "SubState": "dead"}, "warning", "token-broker.service is inactive"),
        (
            {"ActiveState": "failed", "SubState": "failed", "ExecMainCode": "2", "ExecMainStatus": "9"},
            "problem",
            "token-broker.service is failed; its last process was killed by signal 9",
        ),
    ],
)
async def test_a_check_says_how_the_service_is(
    run: Run, stub: Stub, config: Path, properties: dict[str, str], level: str, detail: str
) -> None:
    """As systemd has it, which counts restarts."""
    stub.systemd["systemctl show"] = shown(config, **properties)

    result = await run("check", "--json")

    [line] = json.loads(result.stdout)["checks"]
    assert ("systemd", level, detail) == (line["what"], line["level"], line["detail"])
    assert (line["next"] is None) == (level == "ok")


@pytest.mark.parametrize(
    "other", [{"LoadState": "not-found"}, {"ExecStart": "{ argv[]=broker --config /other serve }"}]
)
async def test_a_check_is_silent_about_another_service(
    run: Run, stub: Stub, config: Path, other: dict[str, str]
) -> None:
    """A unit of that name that is not there, or runs with another configuration."""
    stub.systemd["systemctl show"] = shown(config, **other)

    result = await run("check", "--json")

    assert (0, []) == (result.exit_code, json.loads(result.stdout)["checks"])


async def test_a_reload_says_what_needs_a_restart(run: Run, stub: Stub) -> None:
    """Each key, with the command."""
    stub.reloaded["needs_restart"] = ["server.public_url"]

    result = await run("reload")

    assert (0, Asked("POST /reload", {})) == (result.exit_code, stub.last)
    assert result.stdout == (
        "Reloaded config.toml.\n"
        "server.public_url has changed and needs a restart: systemctl restart token-broker\n"
    )


async def test_a_refused_reload_fails_with_every_problem(run: Run, stub: Stub) -> None:
    """So `systemctl reload` fails as well."""
    stub.reloaded["problems"] = ["refresh.ahead: found 5", "log.level: found 'loud'"]

    result = await run("reload")

    assert 1 == result.exit_code
    problems = "refresh.ahead: found 5; log.level: found 'loud'"
    assert f"Nothing was reloaded from config.toml: {problems}\n" == result.stderr


UNIT = """
[Service]
LoadCredential=master-key:token-broker.master-key
LoadCredential=forgotten:/nowhere
LoadCredential=
LoadCredential = master-key:{folder}/master-key
LoadCredentialEncrypted=client-secret:{folder}/client-secret.cred
"""


async def test_without_a_broker_the_credentials_of_the_unit_are_read(stub: Stub, tmp_path: Path) -> None:
    """Plain ones are linked to, encrypted ones decrypted into memory; the last line of the unit counts."""
    config = tmp_path / "config.toml"
    config.write_text("")
    (tmp_path / "master-key").write_text("plain")
    stub.systemd = {
        "systemctl show": shown(config),
        "systemctl cat": UNIT.format(folder=tmp_path).encode(),
        "systemd-creds decrypt": b"decrypted",
    }
    context = CommandContext(config=str(config), environ={"LANG": "C"}, systemd=stub.run_systemd)

    with context.as_service() as environ:
        folder = Path(environ["CREDENTIALS_DIRECTORY"])
        found = {path.name: path.read_text() for path in folder.iterdir()}
        links = all(path.is_symlink() for path in folder.iterdir())

    assert {"master-key": "plain", "client-secret": "decrypted"} == found
    assert (True, False) == (links, folder.exists())


async def test_without_a_service_the_environment_is_as_it_is(stub: Stub, tmp_path: Path) -> None:
    """No command of systemd has anything to say."""
    context = CommandContext(
        config=str(tmp_path / "config.toml"), environ={"LANG": "C"}, systemd=stub.run_systemd
    )

    with context.as_service() as environ:
        assert {"LANG": "C"} == environ


async def test_check_without_a_broker_says_so_first(stub: Stub, tmp_path: Path) -> None:
    """And names the file of a credential that is not there, where the unit takes it from."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[server]\nadmin_socket = "none.sock"\n[keys]\nmaster = {{ credential = "master-key" }}\n'
        f'[store]\nurl = "sqlite:{tmp_path}/broker.db"\n'
    )
    stub.systemd = {
        "systemctl show": shown(config, ActiveState="inactive", SubState="dead"),
        "systemctl cat": UNIT.format(folder=tmp_path).encode(),
    }
    context = CommandContext(config=str(config), environ={}, systemd=stub.run_systemd)

    result = await asyncio.to_thread(CliRunner().invoke, command_line, ["check", "--json"], obj=context)

    first, *others, last = json.loads(result.stdout)["checks"]
    assert first["detail"].startswith(f"Not running. No broker answers at {tmp_path}/none.sock")
    assert f"the master key {tmp_path}/master-key is missing" in str(others)
    assert ("systemd", "warning") == (last["what"], last["level"])
