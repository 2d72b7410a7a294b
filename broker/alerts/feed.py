"""The events as streams read them: behind a number, page by page, only what the caller may see."""

import asyncio
from dataclasses import dataclass

from broker.callers.authorization import covers
from broker.clock import Clock
from broker.model import Caller, Event
from broker.store.events import EventStore

FRESH_FOR = 0.4
PAGE = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, and where to go on."""

    events: list[Event]
    upto: int
    is_last: bool
    """Nothing more for now."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a stream begins."""

    after: int
    missed: bool
    """Some events behind the number that was asked for are not there any more."""


class Feed:
    """Asks the store once for all streams whether there is anything new."""

    def __init__(self, *, events: EventStore, clock: Clock) -> None:
        self._events, self._clock = events, clock
        self._lock = asyncio.Lock()
        self._bounds, self._fresh_until = (0, 0), float("-inf")
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """End every stream."""
        self.stopping.set()

    async def beginning(self, last_id: int | None) -> Beginning:
        """Behind `last_id`; None: with what happens from now on. Raises StorageUnavailable."""
        last, purged = await self._events.event_bounds()
        if last_id is None:
            return Beginning(last, False)
        if last_id > last:
            # Numbers that were never given: the store is an older one than the client knew.
            return Beginning(last, True)
        return Beginning(max(last_id, purged), last_id < purged)

    async def page(self, after: int, account: str | None) -> Page:
        """Events behind `after`, of one account or of all. Raises StorageUnavailable."""
        last = await self._last()
        if last <= after:
            return Page([], after, True)
        events = await self._events.events(after, PAGE, account)
        newest = events[-1].id if events else 0
        return Page(events, newest, False) if len(events) == PAGE else Page(events, max(last, newest), True)

    async def _last(self) -> int:
        async with self._lock:
            if self._clock.monotonic() >= self._fresh_until:
                self._bounds = await self._events.event_bounds()
                self._fresh_until = self._clock.monotonic() + FRESH_FOR
            return self._bounds[0]


def may_hear(caller: Caller, event: Event) -> bool:
    """Whether an event is for that caller: its accounts, and what concerns the broker as a whole."""
    if event.account is not None:
        return covers(caller, event.account)
    # A person without an account here is nobody's but whose globs cover all.
    return event.subject is None or "*" in caller.accounts
