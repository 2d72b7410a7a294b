"""The Debian package on a booted machine: from nothing to a token, on to the next version, and away again."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import __version__
from tests.missing import missing, needs
from tests.systemd.machine import SOURCE, Machine, booted, require_machine
from tests.systemd.service import CONFIG, KIT_SECRET, SANDBOX, STORE, Service, type_in, with_sandbox

# A build of everything, which takes minutes where the machine is busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PYTHON = Path("/usr/bin/python3")
"""The distribution's, for which the package is built."""
NEWER, SCHEMA = "99.0.0", "0999"
MIGRATION = "CREATE TABLE of_a_newer_version (id TEXT PRIMARY KEY);\n"
INIT = "--public-url https://broker.example.com --kit-client-id sandbox-kit --kit-app-id 717"
DATA = (
    "/var/lib/token-broker",
    "/var/lib/private/token-broker",
    "/var/log/token-broker",
    "/var/log/private/token-broker",
    "/etc/credstore",
)


def build(folder: Path) -> Path:
    """The package of this tree."""
    for name in ("broker", "packaging", ".ci"):
        shutil.copytree(SOURCE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "pyproject.toml", "requirements.txt"):
        shutil.copy(SOURCE / name, folder / name)
    environ = {**os.environ, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHON": str(PYTHON)}
    for command in (("packaging/build", Path(sys.executable).parent), ("packaging/deb",)):
        run("bash", *command, cwd=folder, env=environ)
    [package] = (folder / "dist").glob("*.deb")
    return package


def later(package: Path, folder: Path) -> Path:
    """The same package as a later version, with a migration of its own."""
    run("dpkg-deb", "--raw-extract", package, folder)
    [code] = (folder / "usr/lib/token-broker/lib").glob("python3*/site-packages/broker")
    for path in (code / "__init__.py", folder / "DEBIAN/control", folder / "DEBIAN/preinst"):
        path.write_text(path.read_text().replace(__version__, NEWER))
    shutil.rmtree(code / "__pycache__")
    (code / f"store/migrations/{SCHEMA}_newer.sql").write_text(MIGRATION)
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", folder, folder.with_suffix(".deb"))
    return folder.with_suffix(".deb")


def run(*command: str | Path, **kwargs: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.fixture(name="machine", scope="module")
def _machine() -> Iterator[Machine]:
    """A machine with both packages in /root, and the sandbox to connect to."""
    require_machine()
    needs("dpkg-deb", package="dpkg")
    if not PYTHON.exists():
        missing("the package is built for the Python of the distribution: apt-get install python3-venv")
    with tempfile.TemporaryDirectory(prefix="broker-", dir="/var/tmp") as text:
        folder = Path(text)
        first = build(folder / "source")
        built = {__version__: first, NEWER: later(first, folder / "later")}
        with booted(folder / "root", installs=True) as machine:
            for version, package in built.items():
                shutil.copy(package, machine.root / f"root/{version}.deb")
            # The first names users of this machine, which that one does not have; the second forbids to start services.
            machine.run("rm", "-f", "/var/lib/dpkg/statoverride", "/usr/sbin/policy-rc.d")
            machine.write("/etc/systemd/system/sandbox.service", SANDBOX)
            yield machine


def install(machine: Machine, version: str) -> str:
    done = machine.call(
        "sh", "-c", f"DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /root/{version}.deb 2>&1"
    )
    return f"{done.returncode}\n{done.stdout}"


def broker(machine: Machine, *words: str) -> str:
    return machine.run("/usr/bin/broker", *words)


def configure(machine: Machine) -> None:
    """As an operator does, with the sandbox as Kit."""
    machine.run("systemctl", "start", "sandbox")
    type_in(machine, f"/usr/bin/broker init --non-interactive {INIT}")
    type_in(
        machine, "umask 077; cat > /etc/credstore/token-broker.kit-client-secret", stdin=f"{KIT_SECRET}\n"
    )
    path = machine.root / CONFIG.lstrip("/")
    path.write_text(with_sandbox(path.read_text()))


def test_page_leads_from_a_bare_server_to_a_token(machine: Machine) -> None:
    """With at most ten commands, typed one after the other as they are written; then nothing but the key is left."""
    page = (SOURCE / "docs/install.md").read_text()
    first, after, *_ = re.findall(r"^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    [package] = re.findall(r"\./(\S+\.deb)", first)
    machine.run("ln", "-s", f"/root/{__version__}.deb", f"/root/{package}")
    answer = type_in(machine, f"cd /root; export DEBIAN_FRONTEND=noninteractive\n{first}").splitlines()[-1]
    type_in(machine, after)
    left = [path for path in (*DATA, CONFIG) if (machine.root / path.lstrip("/")).exists()]
    again = install(machine, __version__)
    machine.run("dpkg", "--remove", "token-broker")
    reinstalled = install(machine, __version__)
    purge(machine)

    assert len(first.splitlines()) <= 10
    assert {"demo-kit", "kit"} == {json.loads(answer)[name] for name in ("account", "provider")}
    assert ["/etc/credstore"] == left
    assert "inactive" == machine.shown("ActiveState")["ActiveState"], "a stopped service stays so"
    assert again.startswith("0\n") and reinstalled.startswith("0\n"), again + reinstalled
    assert "not started. Next: broker init" in reinstalled


def purge(machine: Machine) -> None:
    """With everything, as somebody who says yes."""
    answer = "echo token-broker token-broker/delete-data boolean true | debconf-set-selections"
    type_in(machine, f"{answer}; DEBIAN_FRONTEND=noninteractive dpkg --purge token-broker")
    left = [path for path in (*DATA, "/etc/token-broker") if (machine.root / path.lstrip("/")).exists()]
    assert [] == left


def test_whole_life_of_a_package(machine: Machine) -> None:
    """Install, configure, start, connect, upgrade under load, refuse to go back, remove, purge."""
    first = install(machine, __version__)
    assert first.startswith("0\n"), first
    assert "not started. Next: broker init" in first
    assert f"token-broker {__version__}" == broker(machine, "--version").strip()
    assert {"ActiveState": "inactive", "UnitFileState": "disabled"} == machine.shown(
        "ActiveState", "UnitFileState"
    )
    assert not (machine.root / "etc/credstore").exists(), "a package makes no secret"

    configure(machine)
    type_in(machine, "systemctl enable --now token-broker")
    connected = machine.tell("connect", "acme")
    service = Service(machine, connected["key"])
    assert (200, 200) == (connected["status"], service.ask()["status"])
    backup = "/root/before.db"
    broker(machine, "backup", backup)
    assert "disabled" == machine.shown("UnitFileState", unit="token-broker-backup.timer")["UnitFileState"]
    machine.run("systemctl", "start", "token-broker-backup.service")
    assert 1 == len(list((machine.root / "var/backups/token-broker").glob("broker-*.db")))

    with service.load() as load:
        upgraded = install(machine, NEWER)
    assert upgraded.startswith("0\n"), upgraded
    assert f"token-broker {NEWER}" == broker(machine, "--version").strip()
    assert NEWER in broker(machine, "version")
    assert {} == {what: count for what, count in load["outcomes"].items() if not what.endswith(" 200")}
    assert sum(load["outcomes"].values()) > 100

    refused = install(machine, __version__)
    assert refused.startswith("1\n"), refused
    assert f"token-broker {__version__} does not open the store of {NEWER}" in refused
    assert 200 == service.ask()["status"], "the newer one goes on"

    machine.run("dpkg", "--remove", "token-broker")
    assert "inactive" == machine.shown("ActiveState")["ActiveState"]
    assert not (machine.root / "etc/systemd/system/multi-user.target.wants/token-broker.service").is_symlink()
    assert (machine.root / STORE.lstrip("/")).exists()
    purged = machine.call("sh", "-c", "DEBIAN_FRONTEND=noninteractive dpkg --purge token-broker 2>&1").stdout
    assert "stay, together" in purged
    assert (machine.root / STORE.lstrip("/")).exists()
    assert (machine.root / "etc/credstore/token-broker.master-key").exists()
    assert not (machine.root / CONFIG.lstrip("/")).exists()


def test_lost_machine_is_brought_back(machine: Machine) -> None:
    """From a backup, the copy of the key and the answers to `broker init`; then purged with everything."""
    install(machine, __version__)
    key = machine.run("cat", "/etc/credstore/token-broker.master-key")
    machine.run("rm", "-rf", *DATA)
    lay = "install -d -m 0700 /etc/credstore; umask 077; cat > /etc/credstore/token-broker.master-key"
    type_in(machine, lay, stdin=key)
    configure(machine)
    restored = broker(machine, "restore", "/root/before.db")
    type_in(machine, "systemctl enable --now token-broker")
    checked = machine.call("/usr/bin/broker", "check").stdout
    adopted = broker(machine, "adopt")
    answer = machine.tell("connect", "other")
    service = Service(machine, answer["key"])

    assert "1 account" in restored
    assert "broker adopt" in checked
    assert adopted.startswith("Adopted")
    assert 200 == service.ask("/token/acme")["status"]

    purge(machine)
