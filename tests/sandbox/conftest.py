"""A sandbox on a real socket for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from broker.config.values import TcpListen
from broker.sandbox import Sandbox

from .app import BROKER, App, HandClock, StartSandbox


@pytest.fixture
async def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def start_sandbox(clock: HandClock, tmp_path: Path) -> AsyncIterator[StartSandbox]:
    """Starts sandboxes on one and the same database."""
    started: list[Sandbox] = []

    async def start() -> Sandbox:
        database = tmp_path / "var" / "sandbox.db"
        listen = TcpListen("127.0.0.1", 0)
        sandbox = Sandbox(listen=listen, database=database, clock=clock, broker_public_url=BROKER)
        await sandbox.start()
        started.append(sandbox)
        return sandbox

    yield start
    for sandbox in started:
        await sandbox.stop()


@pytest.fixture
async def sandbox(start_sandbox: StartSandbox) -> Sandbox:
    return await start_sandbox()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def app(session: aiohttp.ClientSession, sandbox: Sandbox) -> App:
    return App(session, sandbox.base_url)
