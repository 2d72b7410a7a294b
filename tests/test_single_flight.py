"""Figures that take long to read: nobody waits for them twice, and nobody sees old ones."""

import asyncio
from contextlib import suppress

import pytest

from broker.errors import StorageUnavailable
from broker.single_flight import FRESH_FOR, LONGEST_REST, PATIENCE, REST, TOO_OLD, RecentResult
from tests.sandbox.app import HandClock


class Figures:
    """Readings that end when the test says so, each with what it brought."""

    def __init__(self) -> None:
        self.begun = 0
        self._ends: asyncio.Queue[int | Exception] = asyncio.Queue()

    def end(self, found: int | Exception) -> None:
        self._ends.put_nowait(found)

    async def read(self) -> int:
        self.begun += 1
        found = await self._ends.get()
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture(name="clock")
def _clock() -> HandClock:
    return HandClock()


async def test_reading_serves_everybody_who_asks_meanwhile_and_for_a_while(clock: HandClock) -> None:
    """One walk for all of them; the next when it is old."""
    figures = Figures()
    recent = RecentResult(figures.read, clock)
    asking = [asyncio.create_task(recent.get()) for _ in range(3)]
    figures.end(5)
    first = await asyncio.gather(*asking)
    await clock.advance(FRESH_FOR / 2)
    kept = await recent.get()
    figures.end(6)
    await clock.advance(FRESH_FOR / 2)
    fresh = await recent.get()

    assert ([5, 5, 5], 5, 6, 2) == (first, kept, fresh, figures.begun)


async def test_long_reading_keeps_nobody_waiting_and_is_not_repeated_soon(clock: HandClock) -> None:
    """Who asks meanwhile is told what is known; a reading of one second is good for half a minute."""
    figures = Figures()
    recent = RecentResult(figures.read, clock)
    figures.end(5)
    known = await recent.get()
    await clock.advance(FRESH_FOR)
    asking = asyncio.create_task(recent.get())
    await clock.someone_sleeps()
    await clock.advance(PATIENCE)
    old = await asking
    await clock.advance(1.0 - PATIENCE)
    figures.end(6)
    new = await recent.get()
    await clock.advance(REST - 1)
    kept = await recent.get()

    assert (5, 5, 6, 6, 2) == (known, old, new, kept, figures.begun)


async def test_old_figures_are_shown_to_nobody(clock: HandClock) -> None:
    """However long the new ones take; where they do not come at all, that is told."""
    figures = Figures()
    recent = RecentResult(figures.read, clock)
    figures.end(5)
    await recent.get()
    await clock.advance(TOO_OLD)
    asking = asyncio.create_task(recent.get())
    await asyncio.sleep(0)
    await clock.advance(10 * PATIENCE)
    figures.end(StorageUnavailable("away"))

    with pytest.raises(StorageUnavailable):
        await asking


async def test_reading_that_was_held_up_is_not_good_for_hours(clock: HandClock) -> None:
    """A machine that slept in the middle of one is back with the next."""
    figures = Figures()
    recent = RecentResult(figures.read, clock)
    asking = asyncio.create_task(recent.get())
    await asyncio.sleep(0)
    await clock.advance(3600)
    figures.end(5)
    await asking
    await clock.advance(LONGEST_REST)
    figures.end(6)

    assert 6 == await recent.get()


async def test_failed_reading_is_told_and_tried_again(clock: HandClock) -> None:
    """Not remembered, and not taken for an empty store."""
    figures = Figures()
    recent = RecentResult(figures.read, clock)
    figures.end(StorageUnavailable("away"))
    with pytest.raises(StorageUnavailable):
        await recent.get()
    figures.end(7)

    assert 7 == await recent.get()


async def test_whoever_goes_takes_no_reading_along(clock: HandClock) -> None:
    """A scrape that is given up does not end what others wait for."""
    figures = Figures()
    recent = RecentResult(figures.read, clock)
    gone, waiting = (asyncio.create_task(recent.get()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    figures.end(8)

    assert (8, 1) == (await waiting, figures.begun)


async def test_closing_ends_the_reading(clock: HandClock) -> None:
    """Nothing of it outlives the store."""
    figures = Figures()
    recent = RecentResult(figures.read, clock)
    waiting = asyncio.create_task(recent.get())
    await asyncio.sleep(0)
    await recent.close()
    await asyncio.wait({waiting})

    assert waiting.cancelled()
    assert {asyncio.current_task()} == asyncio.all_tasks()
