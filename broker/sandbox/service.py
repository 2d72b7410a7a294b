"""The sandbox as a whole: one port on which it plays everybody."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from broker.clock import Clock, SystemClock
from broker.config.settings import TcpListen
from broker.sandbox.clients import Clients
from broker.sandbox.company import Company
from broker.sandbox.control import Control
from broker.sandbox.faults import Faults
from broker.sandbox.issued import Issued
from broker.sandbox.kit import Kit
from broker.sandbox.kustomer import Kustomer
from broker.sandbox.plugin_client import PluginClient
from broker.sandbox.record import Record
from broker.sandbox.stage import Stage
from broker.sandbox.store import SandboxStore

SHUTDOWN = 0.5
"""Seconds that requests in flight are given at a stop."""


class Sandbox:
    """Kit, Kustomer and the company's own app on one real socket."""

    def __init__(self, *, listen: TcpListen, database: Path, clock: Clock, broker_public_url: str) -> None:
        self.listen = listen
        """After `start` with the port that was really bound."""
        self.faults = Faults()
        self._database = database
        self._clock = clock
        self._broker_public_url = broker_public_url.rstrip("/")
        self._store: SandboxStore | None = None
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        return f"http://{self.listen}"

    async def start(self) -> None:
        """Open the store and bind. Raises OSError where the port is taken."""
        self._store = SandboxStore(self._database)
        stage = self._stage(self._store)
        stage.clients.supply()
        stage.record.close_interrupted(self._clock.now())
        self._runner = web.AppRunner(_app(stage), access_log=None, shutdown_timeout=SHUTDOWN)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self.listen.host, self.listen.port).start()
        except BaseException:
            await self.stop()
            raise
        self.listen = replace(self.listen, port=self._runner.addresses[0][1])

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _stage(self, store: SandboxStore) -> Stage:
        return Stage(
            store=store,
            clients=Clients(store=store, broker_public_url=self._broker_public_url),
            issued=Issued(store),
            faults=self.faults,
            record=Record(store=store, faults=self.faults),
            clock=self._clock,
            broker_public_url=self._broker_public_url,
        )


def _app(stage: Stage) -> web.Application:
    app = web.Application()
    kustomer = Kustomer(stage)
    # The plugin's before Kit's: `/kit/apps/install` is no app's page.
    for party in (Control(stage), PluginClient(stage), Kit(stage), kustomer, Company(stage)):
        app.add_routes(party.routes())
    app.on_response_prepare.append(kustomer.limit_headers)
    return app


async def run_alone(
    listen: TcpListen,
    database: Path,
    broker_public_url: str,
    *,
    ready: Callable[[Sandbox], None] = lambda _sandbox: None,
) -> None:
    """Run the sandbox in this process until SIGTERM or SIGINT; `ready` is called once it listens."""
    sandbox = Sandbox(
        listen=listen, database=database, clock=SystemClock(), broker_public_url=broker_public_url
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await sandbox.start()
    try:
        ready(sandbox)
        await stop.wait()
    finally:
        await sandbox.stop()
