"""Calls that concurrent callers share, and results of slow reads that are reused for a while."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from broker.clock import Clock, within

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

FRESH_FOR = 1.0
REST = 30.0
"""Wait at least so many times the duration of the last read before the next. On a large store it takes seconds."""
LONGEST_REST = 60.0
PATIENCE = 0.25
"""Seconds to wait for a new result if an earlier one is known."""
TOO_OLD = 120.0
"""Seconds after which a result is not returned any more, however long the next read takes."""


class SingleFlight(Generic[K, T]):
    """At most one running call for each key. Await it through `asyncio.shield`, because other callers share it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: dict[K, asyncio.Task[T]] = {}

    def __contains__(self, key: K) -> bool:
        """Return whether a call is under way for the key."""
        return key in self._calls

    def __len__(self) -> int:
        """Return how many calls are under way."""
        return len(self._calls)

    def join(self, key: K, call: Callable[[], Coroutine[Any, Any, T]]) -> "asyncio.Task[T]":
        """Return the call that is under way for the key, or start one."""
        if (running := self._calls.get(key)) is not None:
            return running
        task = self._calls[key] = asyncio.create_task(call(), name=self._name)

        def ended(task: "asyncio.Task[T]") -> None:
            if self._calls.get(key) is task:
                del self._calls[key]
            # If nobody waits for it, nobody else retrieves its exception.
            if not task.cancelled():
                task.exception()

        task.add_done_callback(ended)
        return task

    def forget(self) -> None:
        """Let nobody join the calls that are under way. They continue for the callers that wait already."""
        self._calls = {}

    async def drain(self) -> None:
        """Wait until no call is under way."""
        while self._calls:
            await asyncio.wait(list(self._calls.values()))

    async def close(self) -> None:
        """Cancel the calls that are under way."""
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


class RecentResult(Generic[T]):
    """The recent result of `read`, a slow function that many requests need."""

    def __init__(self, read: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._read, self._clock = read, clock
        self._flight = SingleFlight[None, T]("reading of figures")
        self._known: T | None = None
        self._known_since = float("-inf")
        self._good_for = 0.0

    async def get(self) -> T:
        """Return a result that is at most a second old, or a minute if reading takes long, or two while it is read.

        Raises what `read` raises.
        """
        known, age = self._known, self._clock.monotonic() - self._known_since
        if known is not None and age < self._good_for:
            return known
        reading = self._flight.join(None, self._read_and_keep)
        if known is None or age >= TOO_OLD or await within(self._clock, PATIENCE, reading):
            return await asyncio.shield(reading)
        return known

    async def close(self) -> None:
        """Cancel a read that is under way."""
        await self._flight.close()

    async def _read_and_keep(self) -> T:
        began = self._clock.monotonic()
        self._known = result = await self._read()
        self._known_since = self._clock.monotonic()
        self._good_for = min(max(FRESH_FOR, REST * (self._known_since - began)), LONGEST_REST)
        return result
