"""The real commands against a stub of the admin socket on a real Unix socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import Result

from broker.cli import broker as command_line
from broker.cli.command import CommandContext
from tests.commanding import TerminalRunner
from tests.fakes.clock import FakeClock

from .stub import NOW, Stub

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def stub() -> Stub:
    return Stub()


@pytest.fixture
async def admin_socket(stub: Stub, tmp_path: Path) -> AsyncIterator[Path]:
    """Where the stub answers."""
    path = tmp_path / "admin.sock"
    runner = web.AppRunner(stub.app())
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    yield path
    stub.stopping.set()
    await runner.cleanup()


@pytest.fixture
async def config(admin_socket: Path, tmp_path: Path) -> Path:
    """A configuration that names the stub's socket and a secret that cannot be had."""
    path = tmp_path / "config.toml"
    path.write_text(
        f'[server]\nadmin_socket = "{admin_socket.name}"\n'
        '[providers.kit]\nclient_id = "x"\nclient_secret = { env = "NEVER_SET" }\n'
    )
    return path


@pytest.fixture
async def run(config: Path, stub: Stub) -> Run:
    """Runs one command as a person would type it, eighty columns wide, with nobody to ask."""

    async def run(*words: str) -> Result:
        context = CommandContext(
            config=str(config), environ={}, clock=FakeClock(NOW), systemd=stub.run_systemd
        )
        # The command has its own event loop, so it needs a thread of its own beside the stub's.
        return await asyncio.to_thread(TerminalRunner().invoke, command_line, list(words), obj=context)

    return run
