"""How many accounts there are, of what status, and when their tokens end: read in pages, and remembered for a while."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass

from broker.clock import Clock, within
from broker.model import Status
from broker.store.interface import AccountGroup, AccountStore

SPAN = 6 * 3600.0
"""In which the ends of access tokens are counted together."""
USED_WITHIN = 86400.0
FRESH_FOR = 10.0
REST = 30.0
"""Times as long as the last reading took, before the next: on a large store it is a walk of seconds."""
LONGEST_REST = 60.0
PATIENCE = 0.25
"""How long a reading is waited for where an earlier one is known."""
TOO_OLD = 120.0
"""Older figures are shown to nobody, however long the reading takes."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """The accounts that are not removed, at one moment; of a large store, within some seconds."""

    counts: Mapping[tuple[str, Status], int]
    """By provider and status."""
    ends: Mapping[int, int]
    """How many access tokens end in the n-th `SPAN` of the epoch, of accounts that are not dead."""
    first_expiries: Mapping[str, float]
    """By provider, when the first token ends of those that were used in the last 24 hours and are not dead."""


async def read_statistics(store: AccountStore, now: float) -> Statistics:
    """Read all of it; raises StorageUnavailable."""
    return await _statistics(store.groups(used_since=now - USED_WITHIN, span=SPAN))


class RecentStatistics:
    """What is known, and read anew where it is old. One reading at a time."""

    def __init__(self, *, store: AccountStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._reading: asyncio.Task[Statistics] | None = None
        self._known: Statistics | None = None
        self._begun_at = self._known_since = float("-inf")
        self._good_for = 0.0

    async def recent(self) -> Statistics:
        """At most ten seconds old; of a large store a minute, and two while it is read. Raises StorageUnavailable."""
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

    def _begin(self) -> "asyncio.Task[Statistics]":
        self._begun_at = self._clock.monotonic()
        reading = read_statistics(self._store, self._clock.now())
        self._reading = asyncio.create_task(reading, name="statistics")
        self._reading.add_done_callback(self._ended)
        return self._reading

    def _ended(self, reading: "asyncio.Task[Statistics]") -> None:
        self._reading = None
        if reading.cancelled() or reading.exception():
            return
        self._known, self._known_since = reading.result(), self._clock.monotonic()
        took = self._known_since - self._begun_at
        self._good_for = min(max(FRESH_FOR, REST * took), LONGEST_REST)


async def _statistics(groups: AsyncIterable[AccountGroup]) -> Statistics:
    counts: Counter[tuple[str, Status]] = Counter()
    ends: Counter[int] = Counter()
    first: dict[str, float] = {}
    async for group in groups:
        counts[group.provider, group.status] += group.count
        if group.status is Status.NEEDS_REAUTHORIZATION:
            continue
        ends[group.span] += group.count
        if group.is_used:
            first[group.provider] = min(group.first_expiry, first.get(group.provider, group.first_expiry))
    return Statistics(counts, ends, first)
