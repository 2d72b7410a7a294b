"""The real commands against a stub of the admin socket on a real Unix socket."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from broker.cli import broker as command_line
from broker.cli.command import CommandContext
from tests.fakes.clock import FakeClock

from .stub import NOW, Stub

EIGHTY = {"COLUMNS": "80", "TERM": "dumb"}
"""A terminal of eighty columns that has no colours."""
Run = Callable[..., Awaitable[Result]]


class TerminalRunner(CliRunner):
    """Runs commands whose standard output is a terminal; standard input and errors are none."""

    @contextmanager
    def isolation(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with super().isolation(*args, **kwargs) as streams:
            sys.stdout.isatty = lambda: True  # type: ignore[method-assign]
            yield streams


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
        return await asyncio.to_thread(
            TerminalRunner(env=EIGHTY).invoke, command_line, list(words), obj=context
        )

    return run
