"""The real commands, typed at a house: its admin application on a real Unix socket."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from click.testing import CliRunner, Result

from broker.cli import broker as command_line
from broker.cli.command import CommandContext
from broker.http.server import QuietRunner
from tests.house import House


class TerminalRunner(CliRunner):
    """Runs commands whose standard output is a terminal, eighty columns wide and without colours; input is none."""

    def __init__(self) -> None:
        super().__init__(env={"COLUMNS": "80", "TERM": "dumb"})

    @contextmanager
    def isolation(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with super().isolation(*args, **kwargs) as streams:
            sys.stdout.isatty = lambda: True  # type: ignore[method-assign]
            yield streams


@dataclass(frozen=True, slots=True)
class Commands:
    """An operator beside a house."""

    house: House

    @property
    def context(self) -> CommandContext:
        return CommandContext(
            config=str(self.house.folder / "config.toml"), environ={}, clock=self.house.clock
        )

    async def run(self, *words: str, typed: str | None = None, on_terminal: bool = False) -> Result:
        """One command, with nobody to ask; it has an event loop and so a thread of its own."""
        runner = TerminalRunner() if on_terminal else CliRunner()
        return await asyncio.to_thread(
            runner.invoke, command_line, list(words), obj=self.context, input=typed
        )


@asynccontextmanager
async def commands_at(house: House) -> AsyncIterator[Commands]:
    """Commands reach the house while this lasts, until it is closed or restarted."""
    path = house.settings.server.admin_socket
    path.parent.mkdir(mode=0o700, exist_ok=True)
    runner = QuietRunner(house.broker.listeners.admin)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        # The log of a house goes to standard output, which is the command's here.
        with structlog.testing.capture_logs():
            yield Commands(house)
    finally:
        await runner.cleanup()


async def as_operator(house: House, page: str) -> str:
    """A page, as the command line reads it."""
    connector = aiohttp.UnixConnector(str(house.settings.server.admin_socket))
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
        return await (await session.get(f"http://broker/{page}")).text()
