"""Figures that take long to read: remembered for a while, and read anew by one for all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from broker.clock import Clock, within

T = TypeVar("T")

FRESH_FOR = 1.0
REST = 30.0
"""Times as long as the last reading took, before the next: on a large store it is a walk of seconds."""
LONGEST_REST = 60.0
PATIENCE = 0.25
"""How long a reading is waited for where an earlier one is known."""
TOO_OLD = 120.0
"""Older figures are shown to nobody, however long the reading takes."""


class Recent(Generic[T]):
    """What `read` brought not long ago."""

    def __init__(self, read: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._read, self._clock = read, clock
        self._reading: asyncio.Task[T] | None = None
        self._known: T | None = None
        self._begun_at = self._known_since = float("-inf")
        self._good_for = 0.0

    async def get(self) -> T:
        """At most a second old; of a large store a minute, and two while it is read. Raises what `read` raises."""
        known, age = self._known, self._clock.monotonic() - self._known_since
        if known is not None and age < self._good_for:
            return known
        reading = self._reading or self._begin()
        if known is None or age >= TOO_OLD or await within(self._clock, PATIENCE, reading):
            return await asyncio.shield(reading)
        return known

    async def close(self) -> None:
        """Let a reading go that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    def _begin(self) -> "asyncio.Task[T]":
        self._begun_at = self._clock.monotonic()
        self._reading = asyncio.create_task(self._whole(), name="reading of figures")
        self._reading.add_done_callback(self._ended)
        return self._reading

    async def _whole(self) -> T:
        return await self._read()

    def _ended(self, reading: "asyncio.Task[T]") -> None:
        self._reading = None
        if reading.cancelled() or reading.exception():
            return
        self._known, self._known_since = reading.result(), self._clock.monotonic()
        took = self._known_since - self._begun_at
        self._good_for = min(max(FRESH_FOR, REST * took), LONGEST_REST)
