"""R0: one flight a grant; whoever waits for it can go, and it flies on."""

import asyncio
import contextlib

import pytest

from broker.model import Ref
from broker.tokens.flight import SPACING, FlightEnd, Flights, Renewed
from tests.fakes.clock import FakeClock
from tests.until import moment

ACME = Ref("acme", 1, 1)


class Runway:
    """Renewals that end when they are told to, and are counted."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()

    async def renew(self, _: Ref) -> FlightEnd:
        self.begun += 1
        await self.may_end.wait()
        return Renewed()


@pytest.mark.parametrize("patience", [None, 60.0])
async def test_caller_who_is_cancelled_cancels_only_its_own_waiting(patience: float | None) -> None:
    """I10: the flight goes on, and a later caller joins the same one."""
    runway = Runway()
    flights = Flights(runway.renew, clock=FakeClock())
    gone = asyncio.create_task(flights.join(ACME, patience))
    await asyncio.sleep(0)

    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gone
    staying = asyncio.create_task(flights.join(ACME, patience))
    await asyncio.sleep(0)
    runway.may_end.set()

    assert Renewed() == await staying
    assert (True, 1) == (gone.cancelled(), runway.begun)


async def test_impatient_caller_leaves_without_an_end() -> None:
    """Its patience is over; the flight is still under way."""
    runway, clock = Runway(), FakeClock()
    flights = Flights(runway.renew, clock=clock)
    waiting = asyncio.create_task(flights.join(ACME, 10))
    await clock.settle()

    clock.advance(10)

    assert await waiting is None
    assert flights.is_running(ACME)
    runway.may_end.set()
    await flights.drain()
    assert 0 == len(flights)


async def test_another_epoch_is_another_flight() -> None:
    """A reinstalled account does not wait for the grant it had before."""
    runway = Runway()
    flights = Flights(runway.renew, clock=FakeClock())

    for epoch in (1, 1, 2):
        flights.begin(Ref("acme", epoch, 1))
    await asyncio.sleep(0)
    runway.may_end.set()
    await flights.drain()

    assert 2 == runway.begun


async def test_renewals_that_nobody_waits_for_begin_one_after_the_other() -> None:
    """A crowd of them leaves the loop to answers; whoever is waited for has its turn at once, the others in theirs."""
    runway = Runway()
    flights = Flights(runway.renew, clock=FakeClock())
    crowd = [Ref(f"acme-{number}", 1, 1) for number in range(9)]
    for ref in crowd:
        flights.begin_spaced(ref)
    for _ in range(5):
        await asyncio.sleep(0)
    alone = runway.begun
    waiting = asyncio.create_task(flights.join(crowd[8]))
    for _ in range(2):
        await asyncio.sleep(0)
    waited_for = runway.begun
    async with asyncio.timeout(60):
        while runway.begun < len(crowd):
            await moment()
    runway.may_end.set()
    await waiting
    await flights.drain()

    assert (1, 2, len(crowd)) == (alone, waited_for, runway.begun)


async def test_nothing_begins_in_its_turn_once_the_broker_stops() -> None:
    """R11: the flights that are under way end; the others are renewed after the next start."""
    runway = Runway()
    flights = Flights(runway.renew, clock=FakeClock())
    for number in range(9):
        flights.begin_spaced(Ref(f"acme-{number}", 1, 1))
    draining = asyncio.create_task(flights.drain())
    await asyncio.sleep(0)
    runway.may_end.set()
    await draining
    await asyncio.sleep(2 * SPACING)

    assert (1, 0) == (runway.begun, len(flights))


async def test_whoever_joins_one_in_the_line_has_it_renewed_from_its_own_generation() -> None:
    """Another broker may have renewed since; and it counts as one who has begun a renewal."""
    runway, renewed = Runway(), list[Ref]()

    async def renew(ref: Ref) -> FlightEnd:
        renewed.append(ref)
        return await runway.renew(ref)

    flights = Flights(renew, clock=FakeClock(), queue=1)
    for name in ("other", "acme"):
        flights.begin_spaced(Ref(name, 1, 1))
    joined = asyncio.create_task(flights.join(Ref("acme", 1, 2), 60.0))
    for _ in range(2):
        await asyncio.sleep(0)
    is_full = flights.is_full_for(Ref("another", 1, 1))
    runway.may_end.set()
    await joined
    await asyncio.sleep(2 * SPACING)
    await flights.drain()

    assert is_full
    assert [Ref("other", 1, 1), Ref("acme", 1, 2)] == renewed
