"""A real systemd, booted in a container of its own, with the broker installed as an operator would."""

import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.missing import missing, needs
from tests.until import pause

SOURCE = Path(__file__).parent.parent.parent
HOME = Path("/opt/token-broker")
PYTHON = HOME / "bin/python"
BROKER = HOME / "bin/broker"
CGROUPS = Path("/sys/fs/cgroup")
# A cgroup of its own, or two machines would end each other's processes; and an end when the test run is killed.
IN_CGROUPS = (
    "setpriv",
    "--pdeathsig=TERM",
    "sh",
    "-ec",
    'for each in $PLACES; do echo $$ >"$each/cgroup.procs"; done; exec "$@"',
    "sh",
)
BOOT_WITHIN = 30.0
WITHIN = 60.0
LINKS = ("bin", "sbin", "lib", "lib64")
NSPAWN = (
    "systemd-nspawn",
    "--quiet",
    "--register=no",
    "--keep-unit",
    "--private-network",
    "--notify-ready=yes",
    "--console=pipe",
    "--link-journal=no",
    "--boot",
)


def require_machine() -> None:
    """Skip, with the command that would help."""
    needs("systemd-nspawn", package="systemd-container")
    if os.geteuid() != 0:
        missing("a container with a systemd of its own needs root: sudo make test T=tests/systemd")


@dataclass(slots=True)
class Machine:
    """A booted system; commands run inside, as root."""

    root: Path
    leader: int
    boot_seconds: float
    _inside: "subprocess.Popen[str] | None" = None

    def run(self, *command: str | Path, check: bool = True, stdin: str | None = None) -> str:
        """The standard output of a command inside."""
        done = self.call(*command, stdin=stdin)
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def call(self, *command: str | Path, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.inside(*command), check=False, capture_output=True, text=True, timeout=WITHIN, input=stdin
        )

    def begin(self, *command: str | Path) -> "subprocess.Popen[str]":
        """A command that goes on beside the test."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.inside(*command), stdin=pipe, stdout=pipe, text=True)

    def inside(self, *command: str | Path) -> list[str]:
        paths = f"PATH={HOME}/bin:/usr/sbin:/usr/bin"
        clean = ("env", "-i", paths, "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1", *_libraries())
        # Its root too: where these tests run in a chroot, its mount namespace's root is still that of the host.
        return ["nsenter", f"--target={self.leader}", "--all", "--root", *clean, *map(str, command)]

    def broker(self, *arguments: str) -> str:
        return self.run(BROKER, *arguments)

    def tell(self, what: str, *arguments: Any) -> Any:
        """One call of tests.systemd.inside, in a process that stays."""
        if self._inside is None:
            self._inside = self.begin(PYTHON, "-m", "tests.systemd.inside", "obey")
        assert self._inside.stdin is not None and self._inside.stdout is not None
        print(json.dumps([what, *arguments]), file=self._inside.stdin, flush=True)
        answer = self._inside.stdout.readline()
        if not answer:
            self._inside = None
            raise AssertionError(f"{what} failed; see above")
        return json.loads(answer)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def drop_in(self, text: str, unit: str = "token-broker.service", name: str = "test") -> None:
        """As `systemctl edit` leaves it."""
        self.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text)
        self.run("systemctl", "daemon-reload")

    def shown(self, *properties: str, unit: str = "token-broker.service") -> Mapping[str, str]:
        """Properties of a unit."""
        text = self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties))
        return dict(line.split("=", 1) for line in text.splitlines())

    def main_pid(self) -> int:
        """As seen inside."""
        return int(self.shown("MainPID")["MainPID"])

    def journal(self, *arguments: str) -> list[dict[str, Any]]:
        """The journal's entries of the service, whole."""
        text = self.run("journalctl", "-u", "token-broker", "-o", "json", "--no-pager", *arguments)
        return [json.loads(line) for line in text.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The broker's own log lines of that name."""
        self.run("journalctl", "--sync")
        told = [str(entry.get("MESSAGE", "")) for entry in self.journal()]
        lines = [json.loads(line) for line in told if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def close(self) -> None:
        if self._inside is not None:
            self._inside.communicate(timeout=WITHIN)

    def until(self, holds: Callable[[], bool], what: str) -> float:
        """Wait for what the machine does by itself; the seconds it took."""
        began = time.perf_counter()
        while not holds():
            if time.perf_counter() - began > WITHIN:
                raise AssertionError(
                    f"{what} did not happen:\n{self.run('journalctl', '-n60', '--no-pager')}"
                )
            pause()
        return time.perf_counter() - began


@contextmanager
def booted(root: Path, *, installs: bool = False) -> Iterator[Machine]:
    """A machine whose /usr is this one's, everything else its own; only loopback.

    With `installs` packages can be installed there, on top of what this machine has; it does not see them.
    """
    _lay_root(root)
    binds = [*_binds(), *(_overlays(root) if installs else ["--bind-ro=/usr"])]
    console = root.parent / "console.txt"
    with console.open("w") as out, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        # Short, because a socket's path may not be long.
        listener.bind(f"\0token-broker-test-{secrets.token_hex(8)}")
        listener.settimeout(BOOT_WITHIN)
        address = "@" + listener.getsockname()[1:].decode()
        began, places = time.perf_counter(), _own_cgroups()
        running = subprocess.Popen(
            [*IN_CGROUPS, *NSPAWN, f"--directory={root}", *binds],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "NOTIFY_SOCKET": address,
                "PLACES": " ".join(map(str, places)),
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
        try:
            leader = _leader(listener, console)
            # Nobody reads it any more, and the machine's systemd would wait for who does.
            listener.close()
            machine = Machine(root, leader, time.perf_counter() - began)
            yield machine
            machine.close()
        finally:
            _halt(running)
            for place in places:
                _remove(place)


def _own_cgroups() -> list[Path]:
    """New ones below this process's, in the hierarchies that systemd uses (cgroups(7), /proc/[pid]/cgroup)."""
    name, places = f"token-broker-test-{secrets.token_hex(8)}", []
    unified = CGROUPS / "unified" if (CGROUPS / "unified").is_dir() else CGROUPS
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, hierarchy, path = line.split(":", 2)
        if hierarchy in ("", "name=systemd"):
            mounted = CGROUPS / "systemd" if hierarchy else unified
            places.append(mounted / path.lstrip("/") / name)
            places[-1].mkdir()
    return places


def _remove(cgroup: Path) -> None:
    for folder, _, _ in os.walk(cgroup, topdown=False):
        # The kernel may still be clearing away what ran in it.
        with suppress(OSError):
            Path(folder).rmdir()


def _halt(running: "subprocess.Popen[bytes]") -> None:
    """As if its power were cut; nothing inside is worth an orderly end."""
    for _ in range(2):
        with suppress(ProcessLookupError):
            running.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            running.wait(0.1)
            return
    running.wait(WITHIN)


def _leader(listener: socket.socket, console: Path) -> int:
    """The pid of the container's first process, once it has booted (sd_notify(3), X_NSPAWN_LEADER_PID)."""
    leader = 0
    while True:
        try:
            told = listener.recv(4096).decode()
        except TimeoutError:
            raise AssertionError(f"the machine does not boot:\n{console.read_text()}") from None
        for line in told.splitlines():
            name, _, value = line.partition("=")
            if name == "X_NSPAWN_LEADER_PID":
                leader = int(value)
            if line == "READY=1" and leader:
                return leader


def _binds() -> list[str]:
    """This machine's programs and this tree's code, read-only, at places that every user of the container may read."""
    packages = sysconfig.get_path("purelib")
    binds = [f"--bind-ro={path}:{HOME}/{where}" for path, where in ((packages, "packages"),)]
    binds += [f"--bind-ro={SOURCE / name}:{HOME}/source/{name}" for name in ("broker", "tests")]
    base = Path(sys.base_prefix)
    if not base.is_relative_to("/usr"):
        binds.append(f"--bind-ro={base}:/opt/python")
    return binds


def _overlays(root: Path) -> Iterator[str]:
    """What is written over this machine's programs and its lists of packages lies beside the machine's root."""
    for path in ("/usr", "/var/lib/dpkg", "/var/cache/debconf"):
        above = root.parent / "written" / path.lstrip("/")
        above.mkdir(parents=True)
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        yield f"--overlay={path}:{above}:{path}"


def _libraries() -> list[str]:
    """Where a Python that is not the system's finds its own library; the path it was built with is not there."""
    apart = not Path(sys.base_prefix).is_relative_to("/usr")
    return (
        ["LD_LIBRARY_PATH=/opt/python/lib"] if apart and sysconfig.get_config_var("Py_ENABLE_SHARED") else []
    )


def _lay_root(root: Path) -> None:
    for name in ("etc/systemd/system", "usr", "run", "tmp", "proc", "sys", "dev", "var", "root", "opt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in LINKS:
        if Path(f"/{name}").is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    files = {
        "os-release": "ID=test\n",
        "machine-id": f"{secrets.token_hex(16)}\n",
        "passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1001:1001::/:/bin/sh\n",
        "group": "root:x:0:\nalice:x:1001:\noperators:x:1100:alice\nservices:x:1101:alice\n",
        "nsswitch.conf": "passwd: files systemd\ngroup: files systemd\nhosts: files\n",
        "hosts": "127.0.0.1 localhost\n",
        "systemd/system.conf": f"[Manager]\nDefaultEnvironment=LANG=C.UTF-8 {' '.join(_libraries())}\n",
    }
    for name, text in files.items():
        (root / "etc" / name).write_text(text)
    _lay_python(root / str(HOME).lstrip("/"))


def _lay_python(home: Path) -> None:
    """A virtual environment, as an operator would have made it."""
    version = ".".join(platform.python_version_tuple()[:2])
    base = Path(sys.base_prefix)
    real = base if base.is_relative_to("/usr") else Path("/opt/python")
    for folder in ("bin", "packages", "source/broker", "source/tests", f"lib/python{version}/site-packages"):
        (home / folder).mkdir(parents=True)
    (home / "pyvenv.cfg").write_text(f"home = {real}/bin\ninclude-system-site-packages = false\n")
    (home / "bin/python").symlink_to(real / f"bin/python{version}")
    paths = home / f"lib/python{version}/site-packages/token-broker.pth"
    paths.write_text(f"{HOME}/source\n{HOME}/packages\n")
    script = home / "bin/broker"
    script.write_text(f"#!{PYTHON}\nfrom broker.__main__ import main\nmain()\n")
    script.chmod(0o755)
