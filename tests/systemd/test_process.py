"""What the real process tells its supervisor, and who waits for it."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker import __version__
from broker.cli import broker
from broker.cli.command import CommandContext
from broker.config import load
from broker.errors import StartRefused
from broker.http.sockets import Sockets
from broker.serve import STARTING, Service
from broker.tokens.schedule import Timings, unwatched
from tests.process import Process, new_process
from tests.until import moment


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run") as process:
        yield process


async def test_signs_of_life_go_on_while_a_renewal_is_outstanding(process: Process) -> None:
    """A slow provider is no hang: three signs come between the request to it and its answer."""
    process.environ = {"WATCHDOG_USEC": "300000"}
    await process.start()
    await process.connect()
    process.sandbox.faults.set("kit", latency_after=1.5)

    demanded = asyncio.create_task(process.run("accounts", "refresh", "acme"))
    while not any(request["kind"] == "refresh" for request in (await process.judge())["requests"]):
        await moment()
    for _ in range(3):
        await process.until("WATCHDOG=1")
    meanwhile = demanded.done()
    code, _, _ = await demanded

    assert (False, 0) == (meanwhile, code)


HELD = """
[server]
admin_socket = "admin.sock"
[store]
url = "sqlite:broker.db"
[keys]
master = {{ command = ["cat", "{key}"] }}
"""


async def test_a_start_that_takes_long_says_that_it_is_starting(tmp_path: Path) -> None:
    """At the socket that systemd holds, to everybody who asks, until it has ended. Here it waits for its key."""
    key, config = tmp_path / "key", tmp_path / "config.toml"
    os.mkfifo(key)
    config.write_text(HELD.format(key=key))
    context = CommandContext(config=str(config), environ={})
    admin = socket.socket(socket.AF_UNIX)
    admin.bind(str(tmp_path / "admin.sock"))
    admin.listen()
    service = Service(
        load(config, environ={}),
        Sockets([admin]),
        environ={},
        port=None,
        timings=Timings(tell_starting=0.01),
        watch=unwatched,
    )

    start = asyncio.create_task(service.run())
    checked, version, listed = [
        await asyncio.to_thread(CliRunner().invoke, broker, words, obj=context)
        for words in (["check", "--json"], ["version"], ["accounts", "list"])
    ]
    is_starting = not start.done()
    await asyncio.to_thread(key.write_text, "no key")
    with pytest.raises(StartRefused, match=r"keys\.master"):
        await start
    admin.close()

    [line] = json.loads(checked.stdout)["checks"]
    assert (True, 1, "problem", STARTING) == (is_starting, checked.exit_code, line["level"], line["detail"])
    assert (0, f"token-broker {__version__}\nnot running: {STARTING}\n") == (
        version.exit_code,
        version.stdout,
    )
    assert (1, f"{STARTING}\n") == (listed.exit_code, listed.stderr)
