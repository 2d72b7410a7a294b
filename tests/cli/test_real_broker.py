"""The commands and a real broker understand each other, so the stub has not drifted from the truth."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.cli import broker as command_line
from broker.cli.command import CommandContext
from tests.ports import free_port

from .conftest import Run
from .stub import account, caller, provider

CONFIG = """
[server]
internal     = {{ path = "run/api.sock", mode = "0600" }}
public       = "127.0.0.1:{public}"
public_url   = "http://127.0.0.1:{public}"
admin_socket = "run/admin.sock"

[sandbox]
enabled = true
listen  = "127.0.0.1:{sandbox}"
demo    = true
"""


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """Runs commands against a broker of their own, in which two demo accounts are connected."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(public=free_port(), sandbox=free_port()))
    with (tmp_path / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "broker", "serve", "--config", str(config)),
            stdout=PIPE,
            stderr=log,
            env={"PATH": "/nowhere"},
        )
    assert process.stdout
    (tmp_path / "banner").write_bytes(await process.stdout.readuntil(b"Ctrl-C stops it."))

    async def run(*words: str) -> Result:
        context = CommandContext(config=str(config), environ={})
        return await asyncio.to_thread(CliRunner().invoke, command_line, list(words), obj=context)

    yield run
    process.send_signal(signal.SIGTERM)
    assert 0 == await process.wait()


async def test_commands_and_broker_understand_each_other(run: Run) -> None:
    """Every shape the stub speaks is the broker's, and every change that a command asks for is made."""
    listed = json.loads((await run("accounts", "list", "--json")).stdout)
    added = await run("callers", "add", "reporting", "--account", "demo-*", "--expires", "90d")
    callers = json.loads((await run("callers", "list", "--json")).stdout)["callers"]
    providers = json.loads((await run("providers", "list", "--json")).stdout)["providers"]

    assert {"demo-kit", "demo-kustomer"} == {one["account"] for one in listed["accounts"]}
    assert {frozenset(account("any"))} == {frozenset(one) for one in listed["accounts"]}
    assert {frozenset(provider("any"))} == {frozenset(one) for one in providers}
    assert {frozenset(caller("any", accounts=[], permissions=[]))} == {frozenset(one) for one in callers}
    assert added.stdout.startswith("tbk_")

    for words, expected in (
        (("token", "demo-kit", "--format", "header"), "Authorization: Bearer "),
        (("token", "demo-kit", "--min-ttl", "60"), ""),
        (("accounts", "refresh", "demo-kit"), "Renewed demo-kit: generation "),
        (("accounts", "freeze", "demo-kit"), "Account demo-kit is frozen."),
        (("accounts", "unfreeze", "demo-kit"), "Account demo-kit is active."),
        (("accounts", "rename", "demo-kit", "acme"), "Account demo-kit is now called acme."),
        (("accounts", "show", "acme"), "account "),
        (("accounts", "remove", "acme", "--revoke", "--yes"), "Account acme is removed. "),
        (("accounts", "restore", "acme"), "Account acme is restored"),
        (("accounts", "remove", "acme", "--purge", "-y"), "Account acme is deleted."),
        (("install-link", "kit", "--account", "acme"), "http://127.0.0.1:"),
        (("install-link", "kit", "--from-kit"), "http://127.0.0.1:"),
        (("callers", "rotate", "reporting"), "tbk_"),
        (("callers", "remove", "reporting", "--yes"), "Caller reporting is removed."),
        (("providers", "resume", "kit"), "Provider kit is resumed."),
        (("plugin", "connect-code", "--subject", "user-42"), ""),
        (("plugin", "grants"), "No grants."),
        (("dashboard", "--sessions"), "SESSION "),
        (("dashboard", "--sign-out"), "Signed out: 0."),
        (("events",), "ID "),
        (("check",), "WHAT "),
        (("version",), "token-broker "),
    ):
        result = await run(*words)

        assert (0, "") == (result.exit_code, result.stderr), words
        assert result.stdout.startswith(expected), result.stdout


async def test_banner_prints_what_works_as_pasted(run: Run, tmp_path: Path) -> None:
    """From any folder, with nothing of ours on the PATH; curl is not needed where it is missing."""
    banner = (tmp_path / "banner").read_text().splitlines()
    commands = {line.split()[-1]: line.partition(":")[2] or line for line in banner if "--config" in line}

    pasted = {}
    for last, line in commands.items():
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", line, cwd="/", env={"PATH": "/nowhere"}, stdout=PIPE
        )
        pasted[last] = (await process.communicate())[0].decode()

    assert ["dashboard", "--json"] == list(commands)
    assert any(line.startswith("curl -sS ") for line in banner)
    assert any("curl is not installed here" in line for line in banner)
    assert "/dashboard/sign-in?link=" in pasted["dashboard"]
    assert "demo-kit" == json.loads(pasted["--json"])["account"]
