"""Several broker processes on one PostgreSQL, each on a cable of its own, beside one sandbox that judges them."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from broker.clock import SystemClock
from broker.config.values import TcpListen
from broker.sandbox import Sandbox, visitor
from broker.sandbox.faults import Mode
from tests.house import Answer
from tests.ports import free_port
from tests.postgres import Server
from tests.process import Process
from tests.proof import launch
from tests.proof.cable import Cable
from tests.proof.stand import FACTOR, LONG_LIFE, QUIET, ROTATIONS
from tests.until import moment

TIMEOUT = 2.0
LEASE = TIMEOUT + 45.0 * FACTOR
"""Of the brokers here, seconds."""
PATIENCE = aiohttp.ClientTimeout(total=15.0)


@dataclass(slots=True)
class Replica:
    """One broker, and its cable to the database."""

    name: str
    process: Process
    cable: Cable


@dataclass(slots=True)
class Fleet:
    """All of them."""

    server: Server
    database: str
    folder: Path
    sandbox: Sandbox
    session: aiohttp.ClientSession
    replicas: list[Replica]
    names: list[str]
    key: str = ""
    seen: dict[str, dict[int, str]] = field(default_factory=dict)
    answers: int = 0
    changed: list[str] = field(default_factory=list)
    """Accounts of which one generation was answered with two tokens."""

    def fault(self, **members: object) -> None:
        self.sandbox.faults.set("kit", **members)

    async def ask(self, replica: Replica, method: str, path: str, body: object = None) -> Answer:
        async with self.session.request(
            method,
            replica.process.internal + path,
            headers={"Authorization": f"Bearer {self.key}"},
            json=body,
            timeout=PATIENCE,
        ) as response:
            answer = Answer(response.status, response.headers.copy(), await response.read())
        if path.startswith("/token/") and answer.status == 200:
            self._note(path.split("/")[2], answer)
        return answer

    def _note(self, name: str, answer: Answer) -> None:
        self.answers += 1
        token, generation = answer.json["access_token"], answer.json["generation"]
        if self.seen.setdefault(name, {}).setdefault(generation, token) != token:
            self.changed.append(name)

    async def use(self, token: str) -> int:
        """Use an access token at the sandbox's Kit: in mode D only that ends the old one."""
        url = f"{self.sandbox.base_url}/kit/v4/account"
        async with self.session.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
            return response.status

    async def open(self) -> None:
        """Start every broker at once, on a database without a table; connect the accounts through the first."""
        await asyncio.gather(*(replica.process.start() for replica in self.replicas))
        first = self.replicas[0].process
        socket = aiohttp.UnixConnector(path=str(first.folder / "var" / "admin.sock"))
        async with aiohttp.ClientSession(connector=socket) as admin:
            permissions = ["token", "refresh", "install", "accounts"]
            caller = {"name": "service", "accounts": ["*"], "permissions": permissions}
            async with admin.post("http://admin/callers", json=caller) as response:
                assert response.status == 201, await response.text()
                self.key = (await response.json())["key"]
        for number, name in enumerate(self.names):
            made = await self.ask(self.replicas[0], "POST", "/installs", {"provider": "kit", "account": name})
            visit = await visitor.install(made.json["install_url"], answers={"account": str(1000 + number)})
            assert visit.status == 200, visit.text

    async def rows(self) -> dict[str, tuple[int, str | None]]:
        """Generation and death of every account."""
        try:
            found = await self.server.fetch("SELECT name, generation, dead FROM accounts", self.database)
        except OSError as exc:
            raise AssertionError((self.server.folder / "log").read_text()[-4000:]) from exc
        return {
            str(name): (int(str(number)), None if dead is None else str(dead)) for name, number, dead in found
        }

    def judge(self, sql: str) -> list[Any]:
        """Ask the sandbox's own record."""
        with closing(sqlite3.connect(f"file:{self.folder / 'sandbox.db'}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()

    def renewals(self, where: str = "TRUE") -> int:
        [(count,)] = self.judge(f"SELECT COUNT(*) FROM requests WHERE kind = 'refresh' AND {where}")
        return int(count)

    def overlaps(self) -> int:
        """How many came while another with the same token was not over."""
        return self.renewals("beside <> '[]'")

    async def until_served(self, within: float = 60.0) -> None:
        """Every account by every broker, with a token that works."""
        last: object = None
        try:
            async with asyncio.timeout(within):
                for replica in self.replicas:
                    for name in self.names:
                        while (answer := await self._asked(replica, name)) is None or answer.status != 200:
                            assert answer is None or answer.json["code"] != "needs_reauthorization", answer
                            last = replica.name, name, answer
                            await moment()
        except TimeoutError:
            problems = [(await self.ask(replica, "GET", "/readyz")).body for replica in self.replicas]
            raise AssertionError(f"not served: {last}\n{problems}") from None

    async def _asked(self, replica: Replica, name: str) -> Answer | None:
        try:
            return await self.ask(replica, "GET", f"/token/{name}")
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def go_on_asking(self, name: str, chance: random.Random, pause: float = 0.03) -> None:
        """One caller: any broker, and what comes is used."""
        while True:
            answer = await self._asked(chance.choice(self.replicas), name)
            if answer is not None and answer.status == 200:
                await self.use(answer.json["access_token"])
            await asyncio.sleep(pause)


@asynccontextmanager
async def asking(fleet: Fleet, seed: str) -> AsyncIterator[None]:
    """While this lasts, one caller for each account asks and uses."""
    async with asyncio.TaskGroup() as callers:
        tasks = [
            callers.create_task(fleet.go_on_asking(name, random.Random(f"{seed} {name}")))
            for name in fleet.names
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def open_fleet(
    folder: Path,
    server: Server,
    mode: Mode,
    names: Sequence[str],
    *,
    count: int = 3,
    life: float = LONG_LIFE,
    factor: float = FACTOR,
    extra: str = f'[refresh]\ntimeout = "{TIMEOUT:g}s"\n',
) -> AsyncIterator[Fleet]:
    """Started brokers with connected accounts, against a Kit that rotates in `mode`."""
    folder.mkdir(mode=0o700, exist_ok=True)
    async with AsyncExitStack() as undo:
        database = await server.new()
        sandbox = Sandbox(
            listen=TcpListen("127.0.0.1", free_port()),
            database=folder / "sandbox.db",
            clock=SystemClock(),
            broker_public_url="http://127.0.0.1:1",
        )
        await sandbox.start()
        undo.push_async_callback(sandbox.stop)
        connector = aiohttp.TCPConnector(limit=0)
        session = await undo.enter_async_context(aiohttp.ClientSession(connector=connector))
        replicas = []
        for name in "abcdef"[:count]:
            cable = await undo.enter_async_context(Cable(server.port))
            process = _process(folder / name, sandbox, session, factor)
            undo.push_async_callback(process.close)
            store = f'[store]\nurl = "{server.url(database, port=cable.port)}"\nreplica = "{name}"\n'
            keys = f'[keys]\nmaster = {{ file = "{folder / "master.key"}" }}\n'
            process.write_config(store + keys + QUIET + extra)
            config = process.config.read_text()
            process.config.write_text(
                config.replace("[providers.kustomer]", f"{ROTATIONS[mode]}\n[providers.kustomer]", 1)
            )
            replicas.append(Replica(name, process, cable))
        fleet = Fleet(server, database, folder, sandbox, session, replicas, list(names))
        fleet.fault(rotation=mode, life=life)
        await fleet.open()
        yield fleet


def _process(folder: Path, sandbox: Sandbox, session: aiohttp.ClientSession, factor: float) -> Process:
    folder.mkdir(mode=0o700, exist_ok=True)
    process = Process(folder, sandbox, session, free_port(), free_port())
    process.command, process.arguments = launch.main, (str(factor), str(folder / "orders"))
    return process
