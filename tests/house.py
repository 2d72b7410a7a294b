"""A whole broker beside a whole sandbox, on real sockets and a clock that tests turn."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from broker.admin.routes import operator
from broker.app import Broker, open_broker
from broker.app.listeners import ListenerLimits
from broker.config import Settings, load
from broker.config.values import TcpListen
from broker.http.server import QuietRunner
from broker.model import Account
from broker.sandbox import Sandbox, visitor
from broker.tokens.schedule import Timings, Watch, unwatched
from tests.fakes.clock import FakeClock
from tests.ports import free_port
from tests.template import put_store

OPERATOR = operator(0)


AT_ONCE = ListenerLimits(
    *(replace(usual, talking=0.0) for usual in (ListenerLimits().internal, ListenerLimits().public))
)
"""Nobody here is in the middle of a talk when a house is closed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class House:
    """The broker, the sandbox, and a caller with a key."""

    folder: Path
    clock: FakeClock
    sandbox: Sandbox
    extra: str
    timings: Timings
    public_port: int
    internal_port: int
    session: aiohttp.ClientSession
    broker: Broker = field(init=False)
    internal_server: web.Server = field(init=False)
    key: str = ""
    watch: Watch = unwatched
    public_url: str = ""
    """Where browsers come in, if not straight at this broker."""
    limits: ListenerLimits = field(default_factory=lambda: AT_ONCE)
    _closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def settings(self) -> Settings:
        return load(self.folder / "config.toml", environ={})

    @property
    def internal(self) -> str:
        return f"http://127.0.0.1:{self.internal_port}"

    @property
    def public(self) -> str:
        return f"http://127.0.0.1:{self.public_port}"

    def write_config(self) -> None:
        (self.folder / "config.toml").write_text(
            f"""
[server]
internal = "127.0.0.1:{self.internal_port}"
public = "127.0.0.1:{self.public_port}"
public_url = "{self.public_url or self.public}"
[sandbox]
enabled = true
listen = "{self.sandbox.listen}"
{self.extra}
"""
        )

    async def open(self) -> None:
        """Start the broker on its folder; again after `close`, as a restart."""
        self._closing = AsyncExitStack()
        self.broker = await self._closing.enter_async_context(
            open_broker(
                self.settings,
                clock=self.clock,
                timings=self.timings,
                watch=self.watch,
                limits=self.limits,
            )
        )
        self.broker.context.health.starting = False
        self.internal_server = await self._listen(self.broker.listeners.internal, self.internal_port)
        await self._listen(self.broker.listeners.public, self.public_port)

    async def close(self) -> None:
        """Stop it cleanly: flights end first."""
        await self.broker.tokens.flights.drain()
        self.broker.tokens.waiters.stop()
        self.broker.listeners.stop()
        await self._closing.aclose()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    async def connect(self, provider: str = "kit", name: str = "acme", /, **answers: str) -> Account:
        """Connect an account through the real install flow."""
        url, _ = await self.broker.installs.service.create(
            OPERATOR,
            provider=provider,
            account=name,
            org=None,
            return_to=None,
            replace_identity=False,
            request_id="test",
        )
        visit = await visitor.install(url, answers=answers)
        assert visit.status == 200, visit.text
        return await self.account(name)

    async def account(self, name: str = "acme") -> Account:
        """The row as it stands."""
        account = await self.broker.context.stores.accounts.get(name)
        assert account is not None
        return account

    async def caller(
        self, *accounts: str, permissions: tuple[str, ...] = ("token",), name: str = "service"
    ) -> str:
        """A caller's new key."""
        _, key = await self.broker.callers.service.add(
            OPERATOR,
            name=name,
            accounts=accounts or ("*",),
            permissions=permissions,
            expires_in=None,
            request_id="test",
        )
        return key.reveal()

    async def get(self, path: str, *, key: str | None = None, **headers: str) -> Answer:
        return await self.ask("GET", path, key=key, headers=headers)

    async def post(self, path: str, body: object = None, *, key: str | None = None) -> Answer:
        return await self.ask("POST", path, key=key, json=body)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> Answer:
        """One request to the internal listener, with the house's key unless another is given."""
        bearer = {"Authorization": f"Bearer {self.key if key is None else key}"}
        async with self.session.request(
            method, self.internal + path, headers={**bearer, **(headers or {})}, **more
        ) as response:
            return Answer(response.status, CIMultiDict(response.headers), await response.read())

    async def judge(self) -> Any:
        """The sandbox's own account of what it issued and was asked."""
        async with self.session.get(f"{self.sandbox.base_url}/_sandbox/record") as response:
            return await response.json()

    async def refreshes(self) -> int:
        """How many refresh requests the sandbox has seen."""
        return sum(1 for request in (await self.judge())["requests"] if request["kind"] == "refresh")

    async def _listen(self, application: web.Application, port: int) -> web.Server:
        runner = QuietRunner(application)
        await runner.setup()
        self._closing.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        assert runner.server is not None
        return runner.server


@asynccontextmanager
async def open_house(
    folder: Path,
    *,
    extra: str = "",
    clock: FakeClock | None = None,
    timings: Timings | None = None,
    public_port: int | None = None,
    watch: Watch = unwatched,
    limits: ListenerLimits | None = None,
) -> AsyncIterator[House]:
    """A house with the caller `service`, who may read every account's token and force renewals."""
    clock = clock or FakeClock()
    folder.mkdir(mode=0o700, exist_ok=True)
    await put_store(folder / "var" / "broker.db")
    public_port, internal_port = public_port or free_port(), free_port()
    sandbox = Sandbox(
        listen=TcpListen("127.0.0.1", free_port()),
        database=folder / "sandbox.db",
        clock=clock,
        broker_public_url=f"http://127.0.0.1:{public_port}",
    )
    await sandbox.start()
    async with aiohttp.ClientSession() as session:
        house = House(
            folder=folder,
            clock=clock,
            sandbox=sandbox,
            extra=extra,
            timings=timings or Timings(),
            public_port=public_port,
            internal_port=internal_port,
            session=session,
            watch=watch,
            limits=limits or AT_ONCE,
        )
        house.write_config()
        await house.open()
        clock.wait_for(lambda: house.broker.context.audit.is_writing)
        house.key = await house.caller(permissions=("token", "refresh", "accounts", "manage", "install"))
        try:
            yield house
        finally:
            await house.close()
            await sandbox.stop()
