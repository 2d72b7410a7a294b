"""R0: one flight a grant; whoever waits for it can go, and it flies on."""

import asyncio
import contextlib

import pytest

from broker.model import Ref
from broker.tokens.flight import SPACING, FlightEnd, Flights, Renewed
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


async def test_renewals_that_nobody_waits_for_begin_one_after_the_other() -> None:
    """A crowd of them leaves the loop to answers; whoever is waited for has its turn at once, the others in theirs."""
    runway = Runway()
    flights = Flights(runway.renew, clock=FakeClock())
    crowd = [Ref(f"acme-{number}", 1, 1) for number in range(9)]
    for ref in crowd:
        flights.begin_in_turn(ref)
    for _ in range(5):
        await asyncio.sleep(0)
    alone = runway.begun
    waiting = asyncio.create_task(flights.join(crowd[8]))
    for _ in range(2):
        await asyncio.sleep(0)
    waited_for = runway.begun
    async with asyncio.timeout(5):
        while runway.begun < len(crowd):
            await asyncio.sleep(SPACING)
    runway.may_end.set()
    await waiting
    await flights.drain()

    assert (1, 2, len(crowd)) == (alone, waited_for, runway.begun)


async def test_stop_waits_for_no_turns() -> None:
    """R11: what has yet to begin is told at once that nothing begins any more, however long the line is."""
    runway = Runway()
    flights = Flights(runway.renew, clock=FakeClock())
    for number in range(9):
        flights.begin_in_turn(Ref(f"acme-{number}", 1, 1))
    draining = asyncio.create_task(flights.drain())
    for _ in range(3):
        await asyncio.sleep(0)
    begun = runway.begun
    runway.may_end.set()
    await draining

    assert (9, 0) == (begun, len(flights))


async def test_cancelled_turn_holds_up_nobody() -> None:
    """The end of one in the line, whatever ended it, is not the end of the line."""
    runway = Runway()
    flights = Flights(runway.renew, clock=FakeClock())
    for number in range(3):
        flights.begin_in_turn(Ref(f"acme-{number}", 1, 1))
    await asyncio.sleep(0)
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "renewal of acme-1"]
    task.cancel()
    async with asyncio.timeout(5):
        while runway.begun < 2:
            await asyncio.sleep(SPACING)
    runway.may_end.set()
    await flights.drain()

    assert (2, 0) == (runway.begun, len(flights))
