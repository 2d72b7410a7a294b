"""A program that uses nothing but `BrokerAuth` sees no failed request, whatever dies around it."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
import pytest

from broker.client import Broker
from broker.client.httpx import BrokerAuth
from tests.ports import free_port
from tests.process import Process, new_process
from tests.until import moment

LIFE = 5
"""Seconds a token lives."""
COMMAND = (sys.executable, "-m", "broker")
WORKERS = 3
BETWEEN = 0.05


@dataclass(slots=True)
class Provider:
    """Kit's token endpoint, a process that is killed; its API is the sandbox beside it, on the same file."""

    folder: Path
    port: int = field(default_factory=free_port)
    running: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        with (self.folder / "provider.txt").open("a") as out:
            self.running = await asyncio.create_subprocess_exec(
                *COMMAND,
                *(
                    "sandbox",
                    "--listen",
                    f"127.0.0.1:{self.port}",
                    "--database",
                    str(self.folder / "sandbox.db"),
                ),
                stdout=out,
                stderr=out,
                cwd=Path(__file__).parents[2],
            )
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            while not await self._lives_short(session):
                await moment()

    async def _lives_short(self, session: aiohttp.ClientSession) -> bool:
        try:
            faults = {"provider": "kit", "life": LIFE}
            async with session.post(f"{self.url}/_sandbox/faults", json=faults) as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def kill(self) -> None:
        assert self.running is not None
        self.running.kill()
        await self.running.wait()


@dataclass(slots=True)
class Program:
    """Asks the API again and again, and knows nothing of tokens."""

    url: str
    auth: BrokerAuth
    ends: Counter[str] = field(default_factory=Counter)
    """Statuses of answers, and names of exceptions."""

    async def work(self) -> None:
        async with httpx.AsyncClient(auth=self.auth, timeout=60) as client:
            while True:
                self.ends[await self._once(client)] += 1
                await asyncio.sleep(BETWEEN)

    async def _once(self, client: httpx.AsyncClient) -> str:
        try:
            return str((await client.get(self.url)).status_code)
        except Exception as exc:  # noqa: BLE001 - whatever reaches the program is a failed request
            return repr(exc)

    async def progress(self, more: int = 10) -> None:
        """Wait until it has had so many more answers, so that each trouble meets a program at work."""
        until = self.ends.total() + more
        async with asyncio.timeout(60):
            while self.ends.total() < until:
                await moment()


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[tuple[Process, Provider, Program]]:
    """Everything runs, and the program works."""
    async with new_process(folder) as process:
        provider = Provider(folder)
        await provider.start()
        config = process.config.read_text()
        process.config.write_text(
            config.replace(f"{process.sandbox.base_url}/kit/oauth/token", f"{provider.url}/kit/oauth/token")
        )
        await process.start()
        await process.new_key()
        await process.connect()
        async with Broker(process.internal, key=process.key) as broker:
            program = Program(f"{process.sandbox.base_url}/kit/v4/account", BrokerAuth(broker, "acme"))
            workers = [asyncio.create_task(program.work()) for _ in range(WORKERS)]
            yield process, provider, program
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        await provider.kill()


async def run(folder: Path, *, pause: float) -> tuple[Counter[str], int]:
    """Two restarts, a kill -9 and a dead provider, `pause` seconds apart; what the program saw, and renewals."""
    async with open_scene(folder) as (process, provider, program):
        for trouble in (_restart, _kill_provider, _kill, _restart):
            await program.progress()
            await asyncio.sleep(pause)
            await trouble(process, provider, pause)
        await asyncio.sleep(pause)
        await program.progress()
        judged = await process.judge()
        renewals = sum(one["kind"] == "refresh" for one in judged["requests"])
        rejected = sum(use["status"] == 401 for use in judged["resource_uses"])
    print(f"program: {dict(program.ends)}; renewals sent: {renewals}; 401s mended unseen: {rejected}")
    return program.ends, renewals


async def _restart(process: Process, _: Provider, pause: float) -> None:
    await process.signal(signal.SIGTERM)
    assert await process.wait() == 0
    await process.start()


async def _kill(process: Process, _: Provider, pause: float) -> None:
    await process.kill()
    await process.start()


async def _kill_provider(_: Process, provider: Provider, pause: float) -> None:
    await provider.kill()
    await asyncio.sleep(min(2 * LIFE, pause))
    await provider.start()


@pytest.mark.slow
async def test_program_sees_no_failed_request(tmp_path: Path) -> None:
    """Tokens of five seconds, the broker stopped twice and killed once, the provider killed once."""
    ends, renewals = await run(tmp_path / "run", pause=0.5)

    assert {"200"} == set(ends)
    assert ends.total() >= 100
    assert renewals >= 1


@pytest.mark.proof
async def test_program_sees_no_failed_request_for_a_minute(tmp_path: Path) -> None:
    """The same with time between the troubles, and the provider gone for two lives of a token."""
    ends, renewals = await run(tmp_path / "run", pause=10.0)

    assert {"200"} == set(ends)
    assert renewals >= 8
