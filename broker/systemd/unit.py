"""Lays the service unit into a system's /etc."""

import sys
from importlib import resources
from pathlib import Path

UNIT = "token-broker.service"
PLACEHOLDER = "@BROKER@"
FOLDER = Path("etc/systemd/system")


def install(root: Path) -> list[str]:
    """Write the unit under `root`; what was written and what to do next, in lines. Raises OSError.

    Another unit of that name is kept beside it as .bak.
    """
    path = root / FOLDER / UNIT
    text = unit_text()
    return [*_lay(path, text), *_next_steps()]


def unit_text(executable: Path | None = None) -> str:
    """The unit for the broker that belongs to the Python at `executable`, the running one by default."""
    template = resources.files("broker.systemd").joinpath(UNIT).read_text()
    return template.replace(PLACEHOLDER, _start_command(executable or Path(sys.executable)))


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
        "  1. Write /etc/token-broker/config.toml. The service may write to /var/lib/token-broker and",
        "     /run/token-broker only, so it needs:",
        '       [server] admin_socket = "/run/token-broker/admin.sock"',
        '       [store]  url          = "sqlite:/var/lib/token-broker/broker.db"',
        '       [keys]   master       = { file = "/var/lib/token-broker/master.key" }',
        '     For each secret written { credential = "NAME" }, one LoadCredential=NAME:PATH of the service',
        "     (systemctl edit token-broker).",
        "  2. systemctl daemon-reload",
        "  3. systemctl enable --now token-broker",
        "  4. broker check",
    ]
