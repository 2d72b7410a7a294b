"""Lays the units into a system's /etc."""

import sys
from importlib import resources
from pathlib import Path

SERVICE, SOCKET = "token-broker.service", "token-broker.socket"
PLACEHOLDER = "@BROKER@"
ELSEWHERE = Path("/usr/local/bin/broker")
FOLDER = Path("etc/systemd/system")


def install(root: Path, command: Path | None = None) -> list[str]:
    """Write the units under `root`; what was written and what to do next, in lines. Raises OSError.

    They start `command`; by default the broker that runs this, or `/usr/local/bin/broker` below another root, since
    the machine that builds a package is not the one that runs it. Another unit of that name is kept beside it as .bak.
    """
    folder = root / FOLDER
    if command is None and root.resolve() != Path("/"):
        command = ELSEWHERE
    laid = [*_lay(folder / SERVICE, unit_text(command=command)), *_lay(folder / SOCKET, _packaged(SOCKET))]
    return [*laid, *_next_steps()]


def unit_text(executable: Path | None = None, *, command: Path | None = None) -> str:
    """The service that runs `command`, or the broker of the Python at `executable`, the running one by default."""
    start = _quoted(command) if command else _start_command(executable or Path(sys.executable))
    return _packaged(SERVICE).replace(PLACEHOLDER, start)


def _packaged(name: str) -> str:
    return resources.files("broker.systemd").joinpath(name).read_text()


def _start_command(python: Path) -> str:
    script = python.with_name("broker")
    return _quoted(script) if script.exists() else f"{_quoted(python)} -m broker"


def _quoted(path: Path) -> str:
    """As the first word of ExecStart= (systemd.service(5), "Command lines"), where `%` begins a specifier."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if text != str(path) or any(letter.isspace() for letter in text) else text


def _lay(path: Path, text: str) -> list[str]:
    if path.exists() and path.read_text(errors="replace") == text:
        return [f"{path} is already as it should be."]
    lines = []
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept = _free_name(path)
        path.rename(kept)
        lines.append(f"Kept the old unit as {kept}.")
    path.write_text(text)
    path.chmod(0o644)
    return [*lines, f"Wrote {path}."]


def _free_name(path: Path) -> Path:
    """A name beside `path` that no older copy has."""
    kept, number = path.with_name(f"{path.name}.bak"), 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.bak{number}")
    return kept


def _next_steps() -> list[str]:
    return [
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
    ]
