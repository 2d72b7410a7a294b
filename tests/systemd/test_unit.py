"""The units that `install` lays, as systemd reads them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli import broker
from broker.config import Settings, load
from broker.systemd.unit import install, unit_text
from tests.missing import needs
from tests.pages import DOCS, tables
from tests.systemd.service import steps, unix_listener, unix_listener_unit

FOLDER = "etc/systemd/system"
SERVICE, SOCKET = f"{FOLDER}/token-broker.service", f"{FOLDER}/token-broker.socket"
UNITS = (SERVICE, SOCKET, f"{FOLDER}/token-broker-backup.service", f"{FOLDER}/token-broker-backup.timer")
EXPOSURE = 1.5
OURS = Path(sys.executable).with_name("broker")


@pytest.fixture
def private_umask() -> Iterator[None]:
    """A careful root's."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def directives(text: str) -> list[tuple[str, str]]:
    """Names and values; comments and section heads left out."""
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def test_the_unit_starts_the_broker_that_is_installed() -> None:
    """No placeholder is left, and the command exists."""
    unit = dict(directives(unit_text()))

    command, *options = unit["ExecStart"].split()
    assert (True, ["--config", "/etc/token-broker/config.toml", "serve"]) == (
        os.access(command, os.X_OK),
        options,
    )
    assert "@" not in unit["ExecStart"]


def test_without_a_script_the_interpreter_runs_the_module(tmp_path: Path) -> None:
    """And a folder with a space or a percent sign is written as systemd wants it."""
    python = tmp_path / "100% odd" / "python"

    unit = dict(directives(unit_text(python)))

    assert unit["ExecStart"].startswith(f'"{tmp_path}/100%% odd/python" -m broker --config ')


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("ExecReload", f"+{OURS} --config /etc/token-broker/config.toml reload"),
        ("Requires", "token-broker.socket"),
        ("Restart", "always"),
        ("RestartSec", "500ms"),
        ("StartLimitIntervalSec", "0"),
        ("WatchdogSec", "30"),
        ("TimeoutAbortSec", "10"),
        ("TimeoutStartSec", "120"),
        ("TimeoutStopSec", "120"),
        ("DynamicUser", "yes"),
        ("StateDirectory", "token-broker"),
        ("StateDirectoryMode", "0700"),
        ("LogsDirectory", "token-broker"),
        ("LogsDirectoryMode", "0700"),
        ("RuntimeDirectory", "token-broker-spool"),
        ("RuntimeDirectoryMode", "0700"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("KillMode", "mixed"),
        ("OOMScoreAdjust", "-500"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
        ("LimitNOFILE", "65536"),
        ("MemorySwapMax", "0"),
        ("LogRateLimitIntervalSec", "0"),
        ("MemoryDenyWriteExecute", "yes"),
        ("Also", "token-broker.socket"),
    ],
)
def test_the_unit_promises_what_the_broker_counts_on(name: str, value: str) -> None:
    """Each is there once."""
    assert [value] == [found for key, found in directives(unit_text()) if key == name]


def test_the_unit_starts_when_the_clock_is_right() -> None:
    """Where something on the machine waits for that; `After=` alone would pull nothing in."""
    unit = dict(directives(unit_text()))

    assert "time-sync.target" in unit["After"].split()
    assert "time-sync.target" in unit["Wants"].split()


def test_a_stop_has_time_for_a_renewal(tmp_path: Path) -> None:
    """One that was just sent, and its commit; longer ones ask for more."""
    (tmp_path / "config.toml").write_text("")
    settings = load(tmp_path / "config.toml", environ={})

    unit = dict(directives(unit_text()))

    assert float(unit["TimeoutStopSec"]) >= settings.refresh.timeout + 15
    assert float(unit["WatchdogSec"]) < settings.refresh.timeout


def test_peers_are_told_apart() -> None:
    """In a user namespace every peer of a Unix socket has the same uid."""
    assert "PrivateUsers" not in dict(directives(unit_text()))


def test_installing_writes_the_units_and_says_what_is_next(tmp_path: Path, private_umask: None) -> None:
    """Readable for all, whatever the umask; the lines lead to a running service."""
    lines = install(tmp_path, OURS)

    unit = tmp_path / SERVICE
    assert (unit_text(), 0o644) == (unit.read_text(), unit.stat().st_mode & 0o777)
    assert 0o644 == (tmp_path / SOCKET).stat().st_mode & 0o777
    said = "\n".join(lines)
    for word in (
        str(unit),
        str(tmp_path / SOCKET),
        "/etc/credstore/token-broker.master-key",
        "/etc/token-broker/config.toml",
        "systemctl daemon-reload",
        "systemctl enable --now token-broker",
    ):
        assert word in said


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ((), "/usr/local/bin/broker"),
        (("--exec", "/opt/token broker/bin/broker"), '"/opt/token broker/bin/broker"'),
    ],
)
def test_a_package_does_not_start_the_builders_own_broker(
    tmp_path: Path, words: tuple[str, ...], command: str
) -> None:
    """Below another root it is the usual place, or what was said."""
    result = CliRunner().invoke(broker, ["systemd", "install", "--root", str(tmp_path), *words])

    unit = dict(directives((tmp_path / SERVICE).read_text()))
    assert 0 == result.exit_code
    assert f"{command} --config /etc/token-broker/config.toml serve" == unit["ExecStart"]
    assert f"+{command} --config /etc/token-broker/config.toml reload" == unit["ExecReload"]


def test_installing_is_told_to_programs_too(tmp_path: Path) -> None:
    """What was done apart from what is to be done."""
    result = CliRunner().invoke(broker, ["systemd", "install", "--root", str(tmp_path), "--json"])

    told = json.loads(result.stdout)
    assert [f"Wrote {tmp_path / one}." for one in UNITS] == told["done"]
    assert "3. systemctl daemon-reload" in told["next"]


def test_a_relative_command_is_refused(tmp_path: Path) -> None:
    """systemd would not find it."""
    result = CliRunner().invoke(
        broker, ["systemd", "install", "--root", str(tmp_path), "--exec", "bin/broker"]
    )

    assert (2, []) == (result.exit_code, list(tmp_path.iterdir()))
    assert "absolute path, not bin/broker" in result.stderr


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    """The same units are not kept twice."""
    install(tmp_path, OURS)

    lines = install(tmp_path, OURS)

    assert [f"{tmp_path / one} is up to date." for one in UNITS] == lines[:4]
    assert {tmp_path / one for one in UNITS} == set((tmp_path / FOLDER).iterdir())


def test_a_different_unit_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    """Also the second time: no older copy is overwritten."""
    unit = tmp_path / SERVICE
    unit.parent.mkdir(parents=True)

    unit.write_text("# first\n")
    first = install(tmp_path, OURS)
    unit.write_text("# second\n")
    second = install(tmp_path, OURS)

    assert f"Kept the former unit as {unit}.bak." == first[0]
    assert f"Kept the former unit as {unit}.bak2." == second[0]
    assert ("# first\n", "# second\n", unit_text()) == (
        Path(f"{unit}.bak").read_text(),
        Path(f"{unit}.bak2").read_text(),
        unit.read_text(),
    )


@pytest.fixture
def analyze() -> str:
    return needs("systemd-analyze", package="systemd")


def analyzed(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path, analyze: str) -> None:
    """Every directive is known and every value is allowed."""
    install(tmp_path, OURS)

    code, said = analyzed(analyze, "verify", "--man=no", str(tmp_path / SERVICE), str(tmp_path / SOCKET))

    assert (0, []) == (code, [line for line in said.splitlines() if "token-broker" in line])


def test_systemd_finds_little_exposed(tmp_path: Path, analyze: str) -> None:
    """By its own measure, from 0 to 10; a page says how little."""
    install(tmp_path, OURS)

    _, said = analyzed(analyze, "security", "--offline=true", "--no-pager", str(tmp_path / SERVICE))

    [exposure] = re.findall(r"exposure level for token-broker\.service: ([0-9.]+)", said)
    assert float(exposure) <= EXPOSURE
    assert any(f"rates it {exposure} " in text for text in DOCS.values())


def test_the_documentation_says_what_the_units_say(tmp_path: Path) -> None:
    """Each directive of its table stands in a unit."""
    install(tmp_path, OURS)
    units = directives((tmp_path / SERVICE).read_text()) + directives((tmp_path / SOCKET).read_text())

    told = [
        one
        for table in tables("in the unit")
        for row in table.rows
        for one in re.findall(r"`([A-Za-z]+=[^`]+)`", row[0])
    ]

    assert {"Type=notify", "WatchdogSec=30"} <= set(told)
    assert [] == [line for line in told if tuple(line.split("=", 1)) not in units]


def test_the_documentation_names_the_credentials_of_the_unit() -> None:
    """Each, and the file it comes from."""
    loaded = [value for name, value in directives(unit_text()) if name == "LoadCredential"]

    names = [one.partition(":")[0] for one in loaded]

    assert [f"{name}:token-broker.{name}" for name in names] == loaded
    assert any(
        all(f"`{name}`" in line for name in names) for text in DOCS.values() for line in text.splitlines()
    )


def test_the_configuration_of_the_steps_is_what_the_units_hold(tmp_path: Path) -> None:
    """Its addresses are those of the socket unit, and its paths those the service may write to."""
    install(tmp_path, OURS)
    held = {value for name, value in directives((tmp_path / SOCKET).read_text()) if name == "ListenStream"}

    settings = documented_settings(tmp_path)

    server = settings.server
    assert held == {str(one) for one in (*server.internal, *server.public, server.admin_socket)}
    assert Path("/var/lib/token-broker") == settings.store.path.parent
    assert settings.audit.path is None


def test_the_unix_listener_of_the_documentation_is_what_its_unit_holds(tmp_path: Path) -> None:
    """The path, mode and group in one are those in the other."""
    (tmp_path / "config.toml").write_text(f"[server]\n{unix_listener()}")

    _, listen = load(tmp_path / "config.toml", environ={}).server.internal

    assert {
        "ListenStream": str(listen),
        "SocketMode": f"{listen.mode:04o}",  # type: ignore[union-attr]  # the second is the Unix one
        "SocketGroup": listen.group,  # type: ignore[union-attr]  # the second is the Unix one
    }.items() <= dict(directives(unix_listener_unit())).items()


def documented_settings(folder: Path) -> Settings:
    """What the file of the third step means to a service."""
    for name in ("master-key", "kit-client-secret"):
        (folder / name).write_text("secret")
    (folder / "config.toml").write_text(steps()[2])
    environ = {"CREDENTIALS_DIRECTORY": str(folder), "INVOCATION_ID": "1"}
    return load(folder / "config.toml", environ=environ)
