"""What systemd knows of the service: its state, and the credentials that its unit loads."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.systemd.unit import SERVICE

SHOWN = ("LoadState", "ActiveState", "SubState", "NRestarts", "ExecMainCode", "ExecMainStatus", "ExecStart")
ENDS = {"1": "exited with status", "2": "was killed by signal", "3": "dumped core after signal"}
"""How the last process ended, by its CLD_ code (sigaction(2))."""
CREDENTIAL = re.compile(r"^(LoadCredential(?:Encrypted)?)[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)
CONFIG = re.compile(r"--config[ =](\S+)")
STORES = tuple(Path(folder) for folder in ("/etc/credstore", "/run/credstore", "/usr/lib/credstore"))
LOGS = "/var/log/token-broker"
WITHIN = 10.0

Run = Callable[..., bytes | None]
"""Runs a command of systemd; its output, or None where it fails or systemd does not run here."""


def run_command(*words: str) -> bytes | None:
    """Run a command of systemd, if that runs this machine (sd_booted(3))."""
    if not Path("/run/systemd/system").is_dir():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, check=True, timeout=WITHIN).stdout  # noqa: S603
    return None


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The service as `systemctl show` has it."""

    active: str
    """`active`, `inactive`, `activating (auto-restart)` and so on."""
    restarts: int
    last_end: str | None
    """How the last process failed; None if it did not, or while one runs."""


def service_state(config: Path, run: Run = run_command) -> ServiceState | None:
    """Return the state of token-broker.service, or None where no such unit runs with this configuration."""
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
    """What systemd sets for the service, for a command that takes its place: credentials, logs, the journal.

    The folder of credentials holds links only: to the files, or to the memory where an encrypted one was decrypted.
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
                        handles.append(_in_memory(text))
                        path = Path(f"/proc/self/fd/{handles[-1]}")
                Path(folder, name).symlink_to(path)
            yield {"CREDENTIALS_DIRECTORY": folder, "LOGS_DIRECTORY": LOGS, "INVOCATION_ID": ""}
    finally:
        for handle in handles:
            os.close(handle)


def _credentials(unit: str) -> dict[str, tuple[str, bool]]:
    """The source of each, and whether it is encrypted (systemd.exec(5)): the last line counts, an empty one resets."""
    found = dict[str, tuple[str, bool]]()
    for key, value in CREDENTIAL.findall(unit):
        if not value:
            found.clear()
            continue
        name, _, source = value.partition(":")
        found[name] = (source or name, key.endswith("Encrypted"))
    return found


def _found(source: str, *, encrypted: bool) -> Path:
    """Where systemd looks; the first place where it is nowhere, which an error then names."""
    stores = [store.with_name("credstore.encrypted") for store in STORES] if encrypted else []
    places = [store / source for store in (*stores, *STORES)]
    for place in places:
        with suppress(OSError):
            if place.exists():
                return place
    return places[0]


def _in_memory(text: bytes) -> int:
    handle = os.memfd_create("credential")
    os.write(handle, text)
    return handle
