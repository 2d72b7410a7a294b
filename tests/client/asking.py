"""Both clients behind one face, on a clock that leaps instead of waiting, so that one test holds both."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from broker.client import Broker, SyncBroker, Token
from broker.client.connection import Clock
from broker.client.testing import FakeBroker

START = 1_800_000_000.0
THREADS = ThreadPoolExecutor(64)
"""Room for a whole crowd at once."""


@dataclass(slots=True)
class Leaping(Clock):
    """Time that passes only in pauses, at once, and by hand."""

    passed: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.passed

    def wall(self) -> float:
        return START + self.passed

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.passed += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)
        await asyncio.sleep(0)


@dataclass(slots=True)
class Asker:
    """One of the clients, and the fake broker that it asks, on one clock."""

    client: Broker | SyncBroker
    clock: Leaping
    fake: FakeBroker

    async def token(self, account: str = "acme", **options: Any) -> Token:
        if isinstance(self.client, Broker):
            return await self.client.token(account, **options)
        return await _in_thread(partial(self.client.token, account, **options))

    async def rejected(self, token: Token) -> Token:
        if isinstance(self.client, Broker):
            return await self.client.rejected(token)
        return await _in_thread(partial(self.client.rejected, token))


async def _in_thread(call: Callable[[], Token]) -> Token:
    return await asyncio.get_running_loop().run_in_executor(THREADS, call)


def new_asker(kind: str, *, fake_life: float = 172800.0, **options: Any) -> Asker:
    """`kind`: async or sync. The fake broker is started by whoever asks for this, and stopped by its `stop`."""
    clock = Leaping()
    fake = FakeBroker(now=clock.wall, life=fake_life)
    fake.start()
    client = Broker if kind == "async" else SyncBroker
    return Asker(client(fake.url, clock=clock, **{"key": fake.key, **options}), clock, fake)
