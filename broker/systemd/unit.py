"""The units of the broker: installs them, and asks systemd for their state and credentials."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

SERVICE, SOCKET = "token-broker.service", "token-broker.socket"
BACKUP = ("token-broker-backup.service", "token-broker-backup.timer")
RULES = "token-broker-alerts.yaml"
PLACEHOLDER = "@BROKER@"
ELSEWHERE = Path("/usr/local/bin/broker")
FOLDER = Path("etc/systemd/system")
NEXT_STEPS = (
    "Next:",
    "  1. Make the master key, and keep a copy of it apart from this machine:",
    "     install -d -m 0700 /etc/credstore",
    "     (umask 077; openssl rand -base64 32 > /etc/credstore/token-broker.master-key)",
    '     A secret that is written { credential = "NAME" } goes into /etc/credstore/token-broker.NAME.',
    "  2. Write /etc/token-broker/config.toml, readable for all and so without a secret, with",
    "     [server]",
    '     admin_socket = "/run/token-broker/admin.sock"',
    "     [store]",
    '     url = "sqlite:/var/lib/token-broker/broker.db"',
    "     [keys]",
    '     master = { credential = "master-key" }',
    "     server.internal and server.public are the addresses in token-broker.socket.",
    "  3. systemctl daemon-reload",
    "  4. systemctl enable --now token-broker",
    "  5. broker check",
)
SHOWN = ("LoadState", "ActiveState", "SubState", "NRestarts", "ExecMainCode", "ExecMainStatus", "ExecStart")
ENDS = {"1": "exited with status", "2": "was killed by signal", "3": "dumped core after signal"}
"""The ways in which a process ends, by CLD_ code (sigaction(2))."""
CREDENTIAL = re.compile(r"^(LoadCredential(?:Encrypted)?)[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)
CONFIG = re.compile(r"--config[ =](\S+)")
STORES = tuple(Path(folder) for folder in ("/etc/credstore", "/run/credstore", "/usr/lib/credstore"))
LOGS = "/var/log/token-broker"
WITHIN = 10.0
Run = Callable[..., bytes | None]
"""A function that runs a command of systemd and returns its output, or None if it fails."""


def install(root: Path, command: Path | None = None) -> list[str]:
    """Write the units below `root`, and return lines about what was written and what to do next; raises OSError.

    They run `command`: by default this program, or `/usr/local/bin/broker` below another root, because a package is
    built on another machine than the one that runs it. A different unit of that name is kept as .bak.
    """
    folder = root / FOLDER
    if command is None and root.resolve() != Path("/"):
        command = ELSEWHERE
    texts = {name: unit_text(name=name, command=command) for name in (SERVICE, SOCKET, *BACKUP)}
    return [*(line for name, text in texts.items() for line in _lay(folder / name, text)), *NEXT_STEPS]


def unit_text(executable: Path | None = None, *, name: str = SERVICE, command: Path | None = None) -> str:
    """Return the text of a unit that runs `command`, or else the broker of the Python at `executable`."""
    python = executable or Path(sys.executable)
    script = command or python.with_name("broker")
    start = _quoted(script) if command or script.exists() else f"{_quoted(python)} -m broker"
    return _packaged(name).replace(PLACEHOLDER, start)


def alert_rules() -> str:
    """Return the alert rules for Prometheus as YAML."""
    return _packaged(RULES)


def _packaged(name: str) -> str:
    return resources.files("broker.systemd").joinpath(name).read_text()


def _quoted(path: Path) -> str:
    """Quote the program of ExecStart= (systemd.service(5), "Command lines"), where `%` begins a specifier."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if text != str(path) or any(letter.isspace() for letter in text) else text


def _lay(path: Path, text: str) -> list[str]:
    if path.exists() and path.read_text(errors="replace") == text:
        return [f"{path} is up to date."]
    lines = []
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept, number = path.with_name(f"{path.name}.bak"), 1
        while kept.exists():
            number += 1
            kept = path.with_name(f"{path.name}.bak{number}")
        path.rename(kept)
        lines.append(f"Kept the former unit as {kept}.")
    path.write_text(text)
    path.chmod(0o644)
    return [*lines, f"Wrote {path}."]


def run_command(*words: str) -> bytes | None:
    """Run a command if systemd runs this machine (sd_booted(3)); return its output, or None."""
    if not Path("/run/systemd/system").is_dir():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, check=True, timeout=WITHIN).stdout  # noqa: S603
    return None


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The state of the service in `systemctl show`."""

    active: str
    """`active`, `inactive`, `activating (auto-restart)` and so on."""
    restarts: int
    last_end: str | None
    """The way in which the last process failed; None if it did not fail, or while a process runs."""


def service_state(config: Path, run: Run = run_command) -> ServiceState | None:
    """Return the state of token-broker.service, or None if no such unit uses this configuration."""
    shown = run("systemctl", "show", SERVICE, f"--property={','.join(SHOWN)}") or b""
    values = dict(line.split("=", 1) for line in shown.decode(errors="replace").splitlines() if "=" in line)
    started_with = CONFIG.search(values.get("ExecStart", ""))
    if values.get("LoadState") != "loaded" or not started_with or Path(started_with[1]) != config.absolute():
        return None
    active, sub = values["ActiveState"], values["SubState"]
    status = values["ExecMainStatus"]
    end = ENDS.get(values["ExecMainCode"]) if status != "0" else None
    return ServiceState(
        active=active if sub in (active, "running", "dead") else f"{active} ({sub})",
        restarts=int(values["NRestarts"]),
        last_end=end and f"{end} {status}",
    )


@contextmanager
def service_variables(run: Run = run_command) -> Iterator[Mapping[str, str]]:
    """Yield the variables that systemd sets for the service, for a command that does its work while it is stopped.

    The folder of credentials has links only: to the files, or to memory with a decrypted credential.
    """
    unit = run("systemctl", "cat", SERVICE) or b""
    handles = list[int]()
    try:
        with TemporaryDirectory(prefix="token-broker-") as folder:
            for name, (source, encrypted) in _credentials(unit.decode(errors="replace")).items():
                path = _found(source, encrypted=encrypted)
                if encrypted:
                    text = run("systemd-creds", "decrypt", f"--name={name}", str(path), "-")
                    if text is not None:
                        handles.append(os.memfd_create("credential"))
                        os.write(handles[-1], text)
                        path = Path(f"/proc/self/fd/{handles[-1]}")
                Path(folder, name).symlink_to(path)
            yield {"CREDENTIALS_DIRECTORY": folder, "LOGS_DIRECTORY": LOGS, "INVOCATION_ID": ""}
    finally:
        for handle in handles:
            os.close(handle)


def _credentials(unit: str) -> dict[str, tuple[str, bool]]:
    """Return the source of each credential of a unit, and whether it is encrypted (systemd.exec(5))."""
    found = dict[str, tuple[str, bool]]()
    for key, value in CREDENTIAL.findall(unit):
        if not value:
            # An empty line resets those before it.
            found.clear()
            continue
        name, _, source = value.partition(":")
        found[name] = (source or name, key.endswith("Encrypted"))
    return found


def _found(source: str, *, encrypted: bool) -> Path:
    """Return the path where systemd finds a credential, or the first candidate, which an error then names."""
    stores = [store.with_name("credstore.encrypted") for store in STORES] if encrypted else []
    places = [store / source for store in (*stores, *STORES)]
    for place in places:
        with suppress(OSError):
            if place.exists():
                return place
    return places[0]
