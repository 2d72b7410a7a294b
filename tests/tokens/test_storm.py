"""Everything falls due in one second, and nobody asks: each is renewed once, at each provider's own pace.

The loop and the store are real; the provider is a function, so that ten thousand take seconds.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from broker.config.settings import RefreshSettings
from broker.model import Account, Ref, Successor
from broker.store import Stores
from broker.store.migrate import migrate
from broker.store.sqlite import SqliteDatabase
from broker.tokens.background import QUEUE, RATE, Background, until_cancelled
from broker.tokens.flight import FlightEnd, Flights, Renewed
from broker.tokens.permit import Permit
from broker.tokens.schedule import Timings
from tests.fakes.clock import FakeClock
from tests.store.rows import plain_stores

SETTINGS = RefreshSettings(ahead=900, timeout=75, patience=10, background=True, idle_renewal=0)
MANY = pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.proof)])
"""Of each provider."""


@dataclass(slots=True)
class Storm:
    """A broker's background loop, and when it began which renewal."""

    stores: Stores
    clock: FakeClock
    hanging: frozenset[str]
    """Providers that never answer."""
    begun: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    landed: int = 0
    forever: asyncio.Event = field(default_factory=asyncio.Event)

    async def renew(self, ref: Ref) -> FlightEnd:
        """What a flight does here: a durable commit, if the provider answers at all."""
        provider = ref.name.partition("-")[0]
        self.begun.setdefault(provider, []).append((ref.name, self.clock.monotonic()))
        if provider in self.hanging:
            await self.forever.wait()
        now = self.clock.now()
        successor = Successor(ref, "a", "r", "Bearer", "", now, now + 7200, now, now + 6300, unusable=False)
        await self.stores.accounts.commit(successor, [])
        self.landed += 1
        return Renewed()

    async def until_landed(self, count: int) -> None:
        """Let time pass from turn to turn, never before the loop has done what there was to do."""
        while self.landed < count:
            while not self.clock.sleeping:
                await asyncio.sleep(0)
            # What was begun in the same turn of the loop notes its moment in the next one.
            await asyncio.sleep(0)
            self.clock.advance(self.clock.next_wake or 0.0)

    def renewals(self, provider: str) -> Counter[str]:
        return Counter(name for name, _ in self.begun.get(provider, []))

    def moments(self, provider: str) -> list[float]:
        return [at for _, at in self.begun[provider]]

    def rate(self, provider: str) -> float:
        """Renewals a second from the first to the last."""
        moments = self.moments(provider)
        return (len(moments) - 1) / (moments[-1] - moments[0])


@asynccontextmanager
async def storm(
    folder: Path, hanging: frozenset[str] = frozenset(), **due: tuple[int, float]
) -> AsyncIterator[Storm]:
    """By provider, how many accounts there are and for how many seconds they have been due."""
    clock = FakeClock()
    database = await SqliteDatabase.open(folder / "store" / "broker.db")
    await migrate(database)
    stores = plain_stores(database)
    for provider, (count, since) in due.items():
        await _fill(stores, provider, count, clock.now() - since)
    broken = Storm(stores, clock, hanging)
    flights = Flights(broken.renew, clock=clock)
    background = asyncio.create_task(_background(broken, flights).run())
    yield broken
    await until_cancelled(background)
    broken.forever.set()
    await flights.drain()
    await database.close()


async def _fill(stores: Stores, provider: str, count: int, due_at: float) -> None:
    for number in range(count):
        account = Account(
            f"{provider}-{number}", provider, 1, 1, "c", "a", "r", "Bearer", "", due_at - 6300, due_at + 900,
            due_at - 6300, due_at - 6300, last_used_at=due_at,
        )  # fmt: skip
        assert await stores.accounts.connect(account, expected=None, next_at=due_at, grant=None, events=[])


def _background(of: Storm, flights: Flights) -> Background:
    permit = Permit(providers={}, timings=Timings(), store_is_ready=lambda: True)
    return Background(
        store=of.stores.accounts,
        flights=flights,
        permit=permit,
        clock=of.clock,
        settings=SETTINGS,
    )


@MANY
async def test_each_is_renewed_once_at_each_providers_own_pace(tmp_path: Path, count: int) -> None:
    """Two providers' accounts fall due in one second: ten a second of each, however many there are."""
    async with storm(tmp_path, kit=(count, 0.5), kustomer=(count, 0.0)) as broken:
        await broken.until_landed(2 * count)

    for provider in ("kit", "kustomer"):
        assert {1} == {*broken.renewals(provider).values()}
        assert count == len(broken.renewals(provider))
        assert 0.8 * RATE < broken.rate(provider) < 1.2 * RATE
        moments = broken.moments(provider)
        assert min(later - at for at, later in pairwise(moments)) >= 0.49 / RATE


@MANY
async def test_provider_that_hangs_holds_up_no_other(tmp_path: Path, count: int) -> None:
    """Nor does the length of its queue: who is due behind all of it is renewed long before it is through."""
    behind = count // 10
    async with storm(tmp_path, frozenset({"slow"}), slow=(count, 60.0), fast=(behind, 0.0)) as broken:
        await broken.until_landed(behind)
        moments = broken.moments("fast")

    assert {1} == {*broken.renewals("fast").values()} == {*broken.renewals("slow").values()}
    assert moments[-1] - broken.moments("slow")[0] < count / RATE / 2
    assert broken.rate("fast") > 0.8 * RATE


async def test_who_found_no_place_is_renewed_later(tmp_path: Path) -> None:
    """More are due than may wait for one provider; none is forgotten, and none is renewed twice."""
    async with storm(tmp_path, kit=(QUEUE + 40, 0.0)) as broken:
        await broken.until_landed(QUEUE + 40)

    assert ({1}, QUEUE + 40) == ({*broken.renewals("kit").values()}, len(broken.renewals("kit")))
