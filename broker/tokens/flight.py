"""R0: one renewal of a grant at a time, in a task that no caller can cancel; and waiting for a change of an account."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog

from broker.clock import Clock, within
from broker.model import Account, Ref
from broker.single_flight import SingleFlight
from broker.tokens.policy import Hold

log = structlog.get_logger()
QUEUE = 512
"""Requests that may wait for renewals which they started. Joining a renewal that is under way is not limited."""
SPACING = 0.004
"""Seconds of real time between renewals that nobody waits for: each takes a millisecond of the processor."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """A newer generation is durable and current."""

    account: Account | None = None
    """The row as this renewal committed it; None: read it from the store."""


@dataclass(frozen=True, slots=True)
class NotRenewed:
    """The attempt ended without a new token. `hold` says why, and when the next attempt may start."""

    hold: Hold


FlightEnd = Renewed | NotRenewed


class Flights:
    """The renewals under way, one for each grant (account and epoch). All callers that need one share it."""

    def __init__(
        self, renew: Callable[[Ref], Awaitable[FlightEnd]], *, clock: Clock, queue: int = QUEUE
    ) -> None:
        self._renew, self._clock, self.queue = renew, clock, queue
        self._queued = 0
        self._running = SingleFlight[tuple[str, int], FlightEnd]("renewal")
        self._spaced: dict[tuple[str, int], Ref] = {}
        """Renewals that nobody waits for and that have not begun."""
        self._next_start: asyncio.TimerHandle | None = None

    def begin(self, ref: Ref) -> None:
        """Start to renew the grant from generation `ref.generation`, unless its renewal is under way."""
        _ = self._task(ref)

    def begin_spaced(self, ref: Ref) -> None:
        """Renew a grant whose token is still valid, so that nobody waits for the renewal.

        Such renewals start `SPACING` apart, because a crowd of them would delay every answer. A caller that joins one
        before it has started starts it immediately, from the generation that the caller knows.
        """
        if not self.is_running(ref):
            self._spaced[ref.name, ref.epoch] = ref
            if self._next_start is None:
                self._start_next()

    async def join(self, ref: Ref, patience: float | None = None) -> FlightEnd | None:
        """Renew the grant and wait for the end. Return None if that takes longer than `patience` seconds.

        A caller that is cancelled cancels only its own waiting (I10).
        """
        is_first = not self.is_running(ref)
        task = self._task(ref)
        if patience is None:
            return await asyncio.shield(task)
        self._queued += is_first
        try:
            has_ended = await within(self._clock, patience, task)
        finally:
            self._queued -= is_first
        return task.result() if has_ended else None

    def is_running(self, ref: Ref) -> bool:
        """Return whether a renewal of this grant is under way."""
        return (ref.name, ref.epoch) in self._running

    def is_full_for(self, ref: Ref) -> bool:
        """Return whether so many requests wait for renewals that this grant's renewal must not be started."""
        return self._queued >= self.queue and not self.is_running(ref)

    def __len__(self) -> int:
        return len(self._running)

    async def drain(self) -> None:
        """Wait until every renewal has ended. None is cancelled, and none of those that wait starts (R11)."""
        self._spaced.clear()
        await self._running.drain()

    def _task(self, ref: Ref) -> "asyncio.Task[FlightEnd]":
        key = (ref.name, ref.epoch)
        self._spaced.pop(key, None)
        return self._running.join(key, lambda: self._logged(ref))

    async def _logged(self, ref: Ref) -> FlightEnd:
        try:
            return await self._renew(ref)
        except Exception as exc:
            log.error("renewal.crashed", account=ref.name, exc_info=exc)
            raise

    def _start_next(self) -> None:
        self._next_start = None
        if self._spaced:
            self.begin(next(iter(self._spaced.values())))
            self._next_start = asyncio.get_running_loop().call_later(SPACING, self._start_next)


class Waiters:
    """Futures that complete when an account's row changes, in this broker or another: one for each account."""

    def __init__(self) -> None:
        self._futures: WeakValueDictionary[str, asyncio.Future[None]] = WeakValueDictionary()
        self.stopping = False

    def __len__(self) -> int:
        return len(self._futures)

    def change_of(self, name: str) -> "asyncio.Future[None]":
        """Return a future that completes at the next change of this account. The caller must keep a reference."""
        future = self._futures.get(name)
        if future is None:
            future = self._futures[name] = asyncio.get_running_loop().create_future()
        return future

    def changed(self, name: str) -> None:
        """Wake those who wait for this account."""
        if (future := self._futures.pop(name, None)) is not None:
            future.set_result(None)

    def all_changed(self) -> None:
        """Wake everybody, because notifications may have been missed."""
        for name in list(self._futures):
            self.changed(name)

    def stop(self) -> None:
        """End all waiting, now and from now on."""
        self.stopping = True
        self.all_changed()
