"""Several brokers on one PostgreSQL, in one process: one sandbox, one clock, and a balancer that never asks twice."""

import itertools
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from broker.config.values import TcpListen
from broker.sandbox import Sandbox
from broker.tokens.schedule import Timings
from tests.fakes.clock import FakeClock
from tests.house import House
from tests.ports import free_port
from tests.postgres import Server

PASSED_ON = {"Content-Type", "Location", "Set-Cookie", "Cache-Control"}


@dataclass(slots=True)
class Balancer:
    """Sends each request to the next broker, so that no two in a row meet the same."""

    port: int
    targets: Sequence[str]
    session: aiohttp.ClientSession
    turn: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        target = self.targets[next(self.turn) % len(self.targets)]
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with self.session.request(
            request.method,
            target + request.raw_path,
            headers={**headers, "Host": f"127.0.0.1:{self.port}"},
            data=await request.read(),
            allow_redirects=False,
        ) as answered:
            response = web.Response(status=answered.status, body=await answered.read())
            response.headers.popall("Content-Type", None)
            for name, value in answered.headers.items():
                if name in PASSED_ON:
                    response.headers.add(name, value)
            return response


@dataclass(slots=True)
class Replicas:
    """The brokers, what is behind them and before them."""

    server: Server
    database: str
    clock: FakeClock
    sandbox: Sandbox
    houses: list[House]
    balancer: Balancer

    def __getitem__(self, number: int) -> House:
        return self.houses[number]

    async def fetch(self, sql: str) -> list[tuple[object, ...]]:
        return await self.server.fetch(sql, self.database)


@asynccontextmanager
async def open_replicas(
    folder: Path,
    server: Server,
    *,
    count: int = 2,
    extra: str = "",
    timings: Timings | None = None,
    port: int | None = None,
) -> AsyncIterator[Replicas]:
    """Started brokers `a`, `b`, …; all houses have the key of one caller, who may do everything with tokens.

    `port`: where they reach the server, if not straight.
    """
    clock, names = FakeClock(), "abcdef"[:count]
    folder.mkdir(mode=0o700, exist_ok=True)
    async with AsyncExitStack() as closing:
        database = await server.take()
        closing.push_async_callback(server.give_back, database)
        session = await closing.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        balancer = Balancer(free_port(), [], session)
        sandbox = Sandbox(
            listen=TcpListen("127.0.0.1", free_port()),
            database=folder / "sandbox.db",
            clock=clock,
            broker_public_url=balancer.url,
        )
        await sandbox.start()
        closing.push_async_callback(sandbox.stop)
        houses = [
            new_house(
                folder / name,
                clock=clock,
                sandbox=sandbox,
                session=session,
                public_url=balancer.url,
                timings=timings,
                extra=f'[store]\nurl = "{server.url(database, port=port)}"\nreplica = "{name}"\n{extra}',
            )
            for name in names
        ]
        for house in houses:
            await house.open()
            closing.push_async_callback(house.close)
            # All brokers have one master key; the first of them made it.
            for other in houses[1:]:
                (other.folder / "var").mkdir(mode=0o700, exist_ok=True)
                shutil.copy2(houses[0].folder / "var" / "master.key", other.folder / "var" / "master.key")
        balancer.targets = [house.public for house in houses]
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", balancer.handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", balancer.port).start()
        key = await houses[0].caller(
            permissions=("token", "refresh", "accounts", "manage", "install", "plugin")
        )
        for house in houses:
            house.key = key
        yield Replicas(server, database, clock, sandbox, houses, balancer)


def new_house(
    folder: Path,
    *,
    clock: FakeClock,
    sandbox: Sandbox,
    session: aiohttp.ClientSession,
    public_url: str,
    extra: str,
    timings: Timings | None = None,
) -> House:
    """One of them, with its configuration, not yet started."""
    folder.mkdir(mode=0o700, exist_ok=True)
    house = House(
        folder=folder,
        clock=clock,
        sandbox=sandbox,
        extra=extra,
        timings=timings or Timings(),
        public_port=free_port(),
        internal_port=free_port(),
        session=session,
        public_url=public_url,
    )
    house.write_config()
    return house
