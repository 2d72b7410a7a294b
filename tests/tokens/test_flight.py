"""R0: one flight a grant; whoever waits for it can go, and it flies on."""

import asyncio
import contextlib

import pytest

from broker.model import Ref
from broker.tokens.flight import FlightEnd, Flights, Renewed
from tests.fakes.clock import FakeClock

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
    assert flights.is_flying(ACME)
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
