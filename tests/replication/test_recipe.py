"""The recipe for trying several brokers on one machine does what it says."""

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from broker.clock import SystemClock
from broker.config.values import TcpListen
from broker.sandbox import Sandbox, visitor
from tests.pages import SHELL, block_with
from tests.ports import free_port
from tests.postgres import needs_postgres
from tests.process import Process

pytestmark = pytest.mark.slow

COMMANDS = block_with("b.toml serve", *SHELL).splitlines()
CONFIG = block_with("postgresql://localhost/broker", "toml")
PORTS = ("8080", "8081", "8180", "8181", "8100")


class Named(Process):
    """A broker whose configuration lies beside the others', as the recipe has it."""

    @property
    def config(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.toml"


async def type_in(line: str, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec("bash", "-c", line, cwd=folder)
    assert 0 == await process.wait()


async def test_recipe_connects_on_one_broker_and_serves_on_the_other(tmp_path: Path) -> None:
    """As typed, but for the database's address and the ports, of which a test has its own."""
    server = needs_postgres()
    folder = tmp_path / "recipe"
    folder.mkdir(mode=0o700)
    (folder / "a.toml").write_text(CONFIG)
    [copying] = [line for line in COMMANDS if line.startswith("sed ")]
    await type_in(copying, folder)
    ports = {port: free_port() for port in PORTS}
    database = await server.new()
    for file in folder.glob("*.toml"):
        text = file.read_text().replace("postgresql://localhost/broker", server.url(database))
        file.write_text(re.sub(r"(?<=:)(8\d\d\d)\b", lambda found: str(ports[found[1]]), text))
    async with AsyncExitStack() as closing:
        sandbox = Sandbox(
            listen=TcpListen("127.0.0.1", ports["8100"]),
            database=folder / "sandbox.db",
            clock=SystemClock(),
            broker_public_url=f"http://127.0.0.1:{ports['8081']}",
        )
        await sandbox.start()
        closing.push_async_callback(sandbox.stop)
        session = await closing.enter_async_context(aiohttp.ClientSession())
        brokers = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            one = Named(folder / name, sandbox, session, 0, 0)
            closing.push_async_callback(one.close)
            brokers.append(one)
        a, b = brokers
        for one in brokers:
            await one.start()

        code, link, err = await a.run(*of("install-link"))
        visit = await visitor.install(link.strip())
        served, token, _ = await b.run(*of("token"))

    assert (0, 200, 0) == (code, visit.status, served), err
    assert token.startswith("sbx-kit-at-")


def of(command: str) -> list[str]:
    """The recipe's words of that command, behind the configuration."""
    [line] = [line for line in COMMANDS if re.match(rf"broker --config \S+ {command}\b", line)]
    return line.split()[3:]
