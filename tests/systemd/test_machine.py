"""The service under a real systemd, installed as the documentation says."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.systemd.machine import PYTHON, Machine
from tests.systemd.service import (
    CONFIG,
    KIT_SECRET,
    STORE,
    Service,
    moved_addresses,
    type_in,
    unix_listener_commands,
)

pytestmark = pytest.mark.slow

NAME = "zz-for-this-test"
"""After those of the service."""
ORDER = "/var/lib/token-broker/hang"
HANGING = f"""
[Service]
ExecStart=
ExecStart={PYTHON} -m tests.systemd.hanging {ORDER} --config {CONFIG} serve
"""
AS_ALICE = ("setpriv", "--reuid=1001", "--regid=1001", "--init-groups", "--")
"""Of the groups operators and services."""
AS_STRANGER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
JOURNALD = ("systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service")


@pytest.fixture(name="machine")
def _machine(service: Service) -> Machine:
    return service.machine


Edit = Callable[[str, str], None]
Load = dict[str, Any]


@pytest.fixture(name="edited")
def _edited(service: Service, machine: Machine) -> Iterator[Edit]:
    """`systemctl edit`, which is undone in the end, as are changes of the configuration."""
    edited: list[str] = []

    def edit(unit: str, text: str) -> None:
        edited.append(unit)
        machine.drop_in(text, unit=unit, name=NAME)

    yield edit
    machine.run("rm", *(f"/etc/systemd/system/{unit}.d/{NAME}.conf" for unit in edited))
    service.configure()
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "token-broker.socket", "token-broker.service")


def is_up(machine: Machine, *, not_pid: int) -> bool:
    """Whether another process is ready."""
    shown = machine.shown("SubState", "MainPID")
    return shown["SubState"] == "running" and shown["MainPID"] not in ("0", str(not_pid))


def recovered(machine: Machine, *, after: Callable[[int], object]) -> float:
    """Seconds until another process is ready, after something befell the one that there is."""
    pid, began = machine.main_pid(), time.perf_counter()
    after(pid)
    machine.until(lambda: is_up(machine, not_pid=pid), "recovery")
    return time.perf_counter() - began


def failures(load: Load) -> dict[str, int]:
    """What callers met that was no token."""
    return {name: count for name, count in load["outcomes"].items() if not name.endswith(" 200")}


def test_a_new_operator_gets_a_service_that_is_ready(service: Service, machine: Machine) -> None:
    """By the documentation's own lines; it says so to systemd, and nothing is left to do."""
    print(f"booted in {machine.boot_seconds:.2f} s")
    shown = machine.shown("ActiveState", "SubState", "StatusText")

    answer = service.ask()

    assert {"ActiveState": "active", "SubState": "running", "StatusText": "serving tokens"} == shown
    assert 200 == answer["status"]
    assert "problem" not in machine.broker("check")


def test_secrets_reach_it_as_credentials_and_nowhere_else(machine: Machine) -> None:
    """Not in its environment or command line, nor in the journal; the files are its own."""
    pid = machine.main_pid()
    master = machine.run("cat", "/etc/credstore/token-broker.master-key").strip()
    places = {
        "environment": machine.run("cat", f"/proc/{pid}/environ"),
        "command line": machine.run("cat", f"/proc/{pid}/cmdline"),
        "the unit": machine.run("systemctl", "show", "token-broker"),
        "the journal": machine.run("journalctl", "--no-pager", "-o", "export"),
        "the configuration": machine.run("cat", CONFIG),
    }

    given = machine.run("ls", "/run/credentials/token-broker.service").split()

    assert ["kit-client-secret", "master-key"] == given
    assert {} == {name: text for name, text in places.items() if master in text or KIT_SECRET in text}
    assert "CREDENTIALS_DIRECTORY=/run/credentials/token-broker.service" in places["environment"]


def test_a_reload_takes_a_good_file_and_keeps_the_old_for_a_broken_one(
    service: Service, machine: Machine
) -> None:
    """`systemctl status` says which, and `systemctl reload` fails with the latter; tokens go on either way."""
    pid = machine.main_pid()

    service.configure(more="\n[refresh]\nahead = 5\n")
    failed = machine.call("systemctl", "reload", "token-broker")
    refused, meanwhile = machine.shown("StatusText")["StatusText"], service.ask()
    service.configure(more='\n[refresh]\nahead = "5m"\n')
    machine.run("systemctl", "reload", "token-broker")
    kept = machine.shown("StatusText")["StatusText"]
    service.configure(more='\n[log]\nlevel = "debug"\n')
    machine.run("systemctl", "reload", "token-broker")
    taken = machine.shown("StatusText")["StatusText"]
    service.configure()
    machine.run("systemctl", "reload", "token-broker")
    machine.run("journalctl", "--sync")
    errors = machine.run("journalctl", "-u", "token-broker", "-p", "err", "-o", "cat", "--no-pager")

    assert 1 == failed.returncode
    assert refused.startswith("reload refused: refresh.ahead: found 5 ")
    assert ("serving tokens; needs a restart: refresh.ahead", "serving tokens") == (kept, taken)
    assert "Nothing was reloaded from" in told(machine)
    assert '"event": "reload.refused"' in errors
    assert "request.answered" not in errors
    assert 200 == meanwhile["status"]
    assert pid == machine.main_pid()
    assert ["refresh.ahead"] == [
        line["problem"].partition(":")[0] for line in machine.events("reload.refused")
    ]
    assert machine.events("broker.reloaded")


def test_restarts_fail_no_request(service: Service, machine: Machine) -> None:
    """Whoever comes meanwhile waits with systemd."""
    assert {} == failures(restart_under_load(service, 2))


@pytest.mark.proof
def test_fifty_restarts_fail_no_request(service: Service) -> None:
    """With renewals under way as well: tokens live a minute."""
    service.machine.tell("sandbox", "faults", {"provider": "kit", "life": 60})
    service.ask("/token/acme/refresh", method="POST")
    load = restart_under_load(service, 50)
    service.machine.tell("sandbox", "reset", {})

    assert {} == failures(load)


def restart_under_load(service: Service, times: int) -> Load:
    before = service.machine.shown("NRestarts")
    with service.load() as load:
        for _ in range(times):
            service.restart()

    print(f"{times} restarts: {load}")
    assert {} == failures(load)
    assert {"kept 200", "fresh 200", "punctual 200"} == set(load["outcomes"])
    assert before == service.machine.shown("NRestarts")
    return load


def test_it_is_back_after_kill_9(service: Service, machine: Machine) -> None:
    """By itself, and with what it had."""
    before = service.ask()["body"]

    seconds = recovered(machine, after=lambda pid: machine.run("kill", "-KILL", str(pid)))
    after = service.ask()["body"]

    print(f"back {seconds:.1f} s after kill -9")
    assert before["access_token"] == after["access_token"]
    assert [] == machine.tell("sandbox", "record")["overlaps"]


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["stopped", "loop"])
def test_it_is_back_after_a_hang(service: Service, machine: Machine, edited: Edit, kind: str) -> None:
    """Whether the whole process stands still or only its event loop, with other threads alive."""
    edited("token-broker.service", f"[Service]\nWatchdogSec=3\n{HANGING if kind == 'loop' else ''}")
    service.restart()

    seconds = recovered(machine, after=HANGS[kind](machine))
    after = service.ask()

    print(f"back {seconds:.1f} s after a hang ({kind}), with WatchdogSec=3")
    assert 200 == after["status"]
    assert "Watchdog timeout (limit 3s)!" in told(machine)
    assert [] == machine.tell("sandbox", "record")["overlaps"]


def stop_the_process(machine: Machine) -> Callable[[int], object]:
    return lambda pid: machine.run("kill", "-STOP", str(pid))


def hang_the_loop(machine: Machine) -> Callable[[int], object]:
    """At the next renewal, which is demanded at once."""
    machine.run("sh", "-c", f"touch {ORDER}; chmod 666 {ORDER}")

    def demand(pid: int) -> None:
        with machine.begin("broker", "accounts", "refresh", "acme") as demanded:
            # Its connection ends with the process that took it.
            demanded.wait(60)

    return demand


HANGS = {"stopped": stop_the_process, "loop": hang_the_loop}


def test_the_audit_is_in_the_journal(service: Service, machine: Machine) -> None:
    """A record for each token, with the field to find it by; the chain is whole."""
    asked = service.ask()

    machine.until(lambda: bool(records(machine, asked["id"])), "the record")
    [entry] = records(machine, asked["id"])
    log = machine.run("journalctl", "-u", "token-broker", "_TRANSPORT=stdout", "-o", "cat", "--no-pager")
    verified = machine.run(
        "sh", "-c", "journalctl -u token-broker TOKEN_BROKER_AUDIT=1 -o cat | broker audit verify -"
    )

    record = json.loads(entry["MESSAGE"])
    assert ("caller-acme", "token", "acme", "allowed") == tuple(
        record[name] for name in ("caller", "action", "account", "decision")
    )
    assert ("token-broker", "token-broker.service", "1") == tuple(
        entry[name] for name in ("SYSLOG_IDENTIFIER", "_SYSTEMD_UNIT", "TOKEN_BROKER_AUDIT")
    )
    assert "The audit is intact" in verified
    assert asked["id"] in log
    assert '"decision"' not in log


def records(machine: Machine, request: str) -> list[dict[str, str]]:
    """What the journal's audit says of a request."""
    return [entry for entry in machine.journal("TOKEN_BROKER_AUDIT=1") if request in entry["MESSAGE"]]


def test_without_the_journal_tokens_go_on_and_records_wait(service: Service, machine: Machine) -> None:
    """Neither its absence nor its silence holds up the broker; what waited is written in order."""
    pid = machine.main_pid()
    machine.run("systemctl", "stop", *JOURNALD)
    asked = [service.ask() for _ in range(3)]
    ready = service.ask("/readyz")["body"]
    machine.run("systemctl", "start", *JOURNALD)

    machine.until(lambda: service.ask("/readyz")["body"]["status"] == "ok", "the audit's recovery")
    found = [len(records(machine, one["id"])) for one in asked]

    assert [200, 200, 200] == [one["status"] for one in asked]
    assert "degraded" == ready["status"]
    assert "the audit cannot be written" in ready["problems"][0]
    assert [1, 1, 1] == found
    assert pid == machine.main_pid()


def test_a_service_that_cannot_start_is_not_called_running(
    service: Service, machine: Machine, edited: Edit
) -> None:
    """`check` and `version` say why it is refused, however often systemd starts it."""
    edited("token-broker.socket", "[Socket]\nListenStream=127.0.0.1:9081\n")
    machine.call("systemctl", "restart", "token-broker.socket", "token-broker.service")
    machine.until(lambda: machine.shown("NRestarts")["NRestarts"] not in ("", "0"), "the second start")

    checked, version = machine.call("broker", "check", "--json"), machine.broker("version")

    lines = {line["what"]: line for line in json.loads(checked.stdout)["checks"]}
    why = "The broker does not start: systemd holds 127.0.0.1:9081, which no key of [server] names"
    assert 1 == checked.returncode
    assert lines["broker"]["detail"].startswith(why)
    assert "systemd has restarted it " in lines["systemd"]["detail"]
    assert f"\nnot running: {why}" in version


def test_a_stopped_service_is_looked_over_with_its_credentials(service: Service, machine: Machine) -> None:
    """As root, from where the unit takes them, one of them encrypted; what `keys` does is in the service's audit."""
    machine.run("mkdir", "-p", "/etc/credstore.encrypted")
    hidden = "/etc/credstore.encrypted/token-broker.kit-client-secret"
    machine.run("systemd-creds", "encrypt", "--name=kit-client-secret", "-", hidden, stdin=KIT_SECRET)
    line = "LoadCredentialEncrypted=kit-client-secret:token-broker.kit-client-secret"
    machine.drop_in(f"[Service]\n{line}\n", name=NAME)
    machine.run("systemctl", "stop", "token-broker.socket", "token-broker.service")

    checks = json.loads(machine.call("broker", "check", "--json").stdout)["checks"]
    made = machine.broker("keys", "new")
    machine.run("rm", f"/etc/systemd/system/token-broker.service.d/{NAME}.conf", hidden)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "token-broker.socket", "token-broker.service")
    audit = "journalctl -u token-broker TOKEN_BROKER_AUDIT=1 -o cat"
    machine.until(lambda: '"keys.new"' in machine.run("sh", "-c", audit), "the record")
    verified = machine.run("sh", "-c", f"{audit} | broker audit verify -")

    assert checks[0]["detail"].startswith("Not running.")
    assert "token-broker.service is inactive" == checks[-1]["detail"]
    assert [] == [
        one for one in checks if "CREDENTIALS_DIRECTORY" in one["detail"] or "kit-client" in str(one)
    ]
    assert "is the active key" in made
    assert 200 == service.ask()["status"]
    assert "The audit is intact" in verified


def test_an_upgrade_migrates_the_store(service: Service, machine: Machine) -> None:
    """The journal says from which schema to which; accounts and keys are as they were."""
    before = service.ask()["body"]
    machine.run("systemctl", "stop", "token-broker")
    machine.run("systemctl", "stop", "token-broker.socket")
    ages = machine.tell("age", STORE)

    machine.run("systemctl", "start", "token-broker")
    after = service.ask()["body"]

    told = machine.events("store.migrated")[-1]
    assert ages == {name: told[name] for name in ages}
    assert before["access_token"] == after["access_token"]


def test_peers_of_unix_sockets_are_who_they_are(service: Service, machine: Machine) -> None:
    """The documented socket unit for services, and the admin socket for a group; the audit knows the uid."""
    service.ask()
    status = service.ask(socket="/run/token-broker/api.sock")["status"]
    machine.run(*AS_ALICE, "broker", "accounts", "freeze", "acme")
    machine.run(*AS_ALICE, "broker", "accounts", "unfreeze", "acme")
    stranger = machine.call(*AS_STRANGER, "broker", "accounts", "list")

    audit = [json.loads(entry["MESSAGE"]) for entry in machine.journal("TOKEN_BROKER_AUDIT=1")]
    assert 200 == status
    assert ["accounts.freeze", "accounts.unfreeze"] == [
        line["action"] for line in audit if line.get("caller") == "uid:1001" and line.get("account") == "acme"
    ]
    assert (1, True) == (stranger.returncode, "may not open the admin socket" in stranger.stderr)


@pytest.mark.proof
def test_addresses_are_moved_in_the_unit_and_the_configuration(
    service: Service, machine: Machine, edited: Edit
) -> None:
    """With only one of them changed it does not start, says why, and runs by itself once the other is."""
    new = moved_addresses().replace("10.0.0.5:8080", "127.0.0.1:9080")
    edited("token-broker.socket", new)

    machine.call("systemctl", "restart", "token-broker.socket", "token-broker.service")
    machine.until(lambda: "which no key of [server] names" in told(machine), "the refusal")
    held = machine.run("ss", "-Hlt", "sport", "=", ":9080")
    service.configure(('internal = ["127.0.0.1:8080", ', 'internal = ["127.0.0.1:9080", '))
    seconds = machine.until(lambda: is_up(machine, not_pid=0), "the start")

    print(f"back {seconds:.1f} s after the configuration was mended")
    assert "systemd holds 127.0.0.1:9080, which no key of [server] names" in told(machine)
    assert "127.0.0.1:9080" in held
    assert "127.0.0.1:9080" in machine.run("ss", "-Hlt", "sport", "=", ":9080")


def told(machine: Machine) -> str:
    """The service's journal."""
    return machine.run("journalctl", "-u", "token-broker", "-o", "cat", "--no-pager")


@pytest.mark.proof
def test_a_unix_listener_is_added_as_the_documentation_says(service: Service, machine: Machine) -> None:
    """By its own lines, to a service that runs without one."""
    machine.run("systemctl", "stop", "token-broker.socket", "token-broker-api.socket")
    machine.run("systemctl", "start", "token-broker.socket")

    type_in(machine, unix_listener_commands())
    answer = service.ask(socket="/run/token-broker/api.sock")

    assert 200 == answer["status"]
