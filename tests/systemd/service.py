"""The broker as a service on a booted machine, set up by the commands of the documentation."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pages import SHELL, block_with
from tests.systemd.machine import BROKER, PYTHON, Machine, booted

CONFIG = "/etc/token-broker/config.toml"
STORE = "/var/lib/token-broker/broker.db"
KIT_SECRET = "sandbox-kit-secret"
SANDBOX = f"""
[Unit]
Description=The sandbox
[Service]
ExecStart={BROKER} sandbox --database /var/sandbox.db
"""
OPERATORS = 'admin_group = "operators"\n'
FOR_OPERATORS = """
[Socket]
SocketMode=0660
SocketGroup=operators
"""
KIT = """
client_id     = "sandbox-kit"
authorize_url = "http://127.0.0.1:8089/kit/oauth/authorize"
token_url     = "http://127.0.0.1:8089/kit/oauth/token"
revoke_url    = "http://127.0.0.1:8089/kit/v4/oauth/revoke"
api_url       = "http://127.0.0.1:8089/kit"
"""


def shown(text: str) -> str:
    """Return the first block of the documentation that contains a text: to be typed, or written to a file."""
    return block_with(text, *SHELL, "ini")


def steps() -> list[str]:
    """Return the blocks of the steps by hand: units, secrets, config.toml, start."""
    return [
        shown(text)
        for text in (
            "broker systemd install\n",
            "(umask 077; cat > /etc/credstore",
            "sqlite:/var/lib",
            "daemon-reload",
        )
    ]


def unix_listener() -> str:
    """Return the line that is added to [server] for services on a Unix socket."""
    return shown('path = "/run/token-broker/api.sock"').removeprefix("[server]\n")


def unix_listener_unit() -> str:
    """Return the unit that goes with it."""
    return shown("Service=token-broker.service")


def unix_listener_commands() -> str:
    """Return what to type for it."""
    return shown("enable --now token-broker-api")


def moved_addresses() -> str:
    """Return the drop-in that moves the addresses."""
    return shown("ListenStream=\n")


@dataclass(slots=True)
class Service:
    """The service, an account of the sandbox's Kit, and a key."""

    machine: Machine
    key: str = ""

    def configure(self, *changes: tuple[str, str], more: str = "") -> None:
        """The file of the documentation with the sandbox as Kit, a Unix listener, and operators who are not root."""
        text = steps()[2].replace(
            'public_url   = "https://broker.example.com"\n', unix_listener() + OPERATORS
        )
        text = text.replace('client_id     = "…"\n', KIT.lstrip()) + more
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.machine.write(CONFIG, text)

    def restart(self) -> None:
        self.machine.run("systemctl", "restart", "token-broker")

    def ask(self, path: str = "/token/acme", *, method: str = "GET", socket: str | None = None) -> Any:
        return self.machine.tell("ask", self.key, method, path, socket)

    @contextmanager
    def load(self) -> Iterator[dict[str, Any]]:
        """Services ask without a pause while the block runs; then the counts are in what it gave."""
        command = (PYTHON, "-m", "tests.systemd.inside", "load", self.key, "acme")
        result: dict[str, Any] = {}
        with self.machine.begin(*command) as asking:
            try:
                yield result
                out, _ = asking.communicate("", timeout=60)
                result.update(json.loads(out))
            finally:
                asking.kill()


def with_sandbox(text: str) -> str:
    """The configuration that `broker init` wrote for Kit, with the sandbox as Kit."""
    text = text.replace('client_id     = "sandbox-kit"\n', KIT.lstrip())
    return re.sub(r'public_url *= "[^"]*"', 'public_url = "http://127.0.0.1:8081"', text)


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """A machine on which every step of the documentation was taken, and an account was connected."""
    with booted(folder / "root") as machine:
        service = Service(machine)
        lay, secret, _, start = steps()
        type_in(machine, lay)
        type_in(machine, secret, stdin=f"{KIT_SECRET}\n")
        service.configure()
        machine.write("/etc/systemd/system/sandbox.service", SANDBOX)
        machine.write("/etc/systemd/system/token-broker-api.socket", unix_listener_unit())
        machine.drop_in(FOR_OPERATORS, unit="token-broker.socket")
        machine.run("systemctl", "start", "sandbox", "token-broker-api.socket")
        type_in(machine, start)
        connected = machine.tell("connect", "acme")
        assert connected["status"] == 200
        service.key = connected["key"]
        yield service


def type_in(machine: Machine, lines: str, stdin: str = "") -> str:
    """As an operator would, in a shell."""
    done: subprocess.CompletedProcess[str] = machine.call("sh", "-ec", lines, stdin=stdin)
    assert done.returncode == 0, f"{lines}\n{done.stdout}{done.stderr}"
    return done.stdout
