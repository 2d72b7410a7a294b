"""The unit that `install` lays, as systemd reads it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.systemd import install
from broker.systemd.unit import unit_text

WHERE = "etc/systemd/system/token-broker.service"


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
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("Restart", "always"),
        ("RestartSec", "500ms"),
        ("StartLimitIntervalSec", "0"),
        ("TimeoutStartSec", "120"),
        ("TimeoutStopSec", "120"),
        ("DynamicUser", "yes"),
        ("StateDirectory", "token-broker"),
        ("StateDirectoryMode", "0700"),
        ("RuntimeDirectory", "token-broker"),
        ("RuntimeDirectoryMode", "0700"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("KillMode", "mixed"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
        ("LogRateLimitIntervalSec", "0"),
    ],
)
def test_the_unit_promises_what_the_broker_counts_on(name: str, value: str) -> None:
    """Each is there once."""
    assert [value] == [found for key, found in directives(unit_text()) if key == name]


def test_installing_writes_the_unit_and_says_what_is_next(tmp_path: Path, private_umask: None) -> None:
    """Readable for all, whatever the umask; the lines lead to a running service."""
    lines = install(tmp_path)

    unit = tmp_path / WHERE
    assert (unit_text(), 0o644) == (unit.read_text(), unit.stat().st_mode & 0o777)
    said = "\n".join(lines)
    for word in (
        str(unit),
        "/etc/token-broker/config.toml",
        "systemctl daemon-reload",
        "systemctl enable --now token-broker",
    ):
        assert word in said


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    """The same unit is not kept twice."""
    install(tmp_path)

    lines = install(tmp_path)

    assert f"{tmp_path / WHERE} is already as it should be." == lines[0]
    assert [tmp_path / WHERE] == list((tmp_path / WHERE).parent.iterdir())


def test_a_different_unit_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    """Also the second time: no older copy is overwritten."""
    unit = tmp_path / WHERE
    unit.parent.mkdir(parents=True)

    unit.write_text("# first\n")
    first = install(tmp_path)
    unit.write_text("# second\n")
    second = install(tmp_path)

    assert f"Kept the old unit as {unit}.bak." == first[0]
    assert f"Kept the old unit as {unit}.bak2." == second[0]
    assert ("# first\n", "# second\n", unit_text()) == (
        Path(f"{unit}.bak").read_text(),
        Path(f"{unit}.bak2").read_text(),
        unit.read_text(),
    )


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    """Every directive is known and every value is allowed."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        if os.environ.get("CI") == "true":
            pytest.fail("systemd-analyze is missing: apt-get install systemd")
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    install(tmp_path)

    verified = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / WHERE)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    ours = [line for line in verified.stderr.splitlines() if "token-broker.service" in line]
    assert (0, []) == (verified.returncode, ours)
