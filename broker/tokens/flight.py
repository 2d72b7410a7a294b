"""R0: one renewal of a grant at a time, in a task of its own that no caller can cancel."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from broker.clock import Clock, within
from broker.model import Ref
from broker.tokens.policy import Hold

log = structlog.get_logger()
QUEUE = 512
"""Requests that began a renewal and wait for it, at most; who joins one that flies already costs nothing."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """A newer generation is durable and current."""


@dataclass(frozen=True, slots=True)
class NotRenewed:
    """The attempt ended without a new token; `hold` says why, and when the next may be."""

    hold: Hold


FlightEnd = Renewed | NotRenewed
Renew = Callable[[Ref], Awaitable[FlightEnd]]


class Flights:
    """The renewals under way, one for each grant; whoever needs one joins it."""

    def __init__(self, renew: Renew, *, clock: Clock, queue: int = QUEUE) -> None:
        self._renew, self._clock = renew, clock
        self.queue = queue
        self._queued = 0
        self._tasks: dict[tuple[str, int], asyncio.Task[FlightEnd]] = {}

    def begin(self, ref: Ref) -> None:
        """See to it that the grant is being renewed from generation `ref.generation`."""
        _ = self._task(ref)

    async def join(self, ref: Ref, patience: float | None = None) -> FlightEnd | None:
        """Renew and wait, `patience` seconds at most; None where it takes longer.

        A caller that is cancelled cancels only its own waiting (I10).
        """
        is_first = not self.is_flying(ref)
        task = self._task(ref)
        if patience is None:
            return await asyncio.shield(task)
        self._queued += is_first
        try:
            has_landed = await within(self._clock, patience, task)
        finally:
            self._queued -= is_first
        return task.result() if has_landed else None

    def is_flying(self, ref: Ref) -> bool:
        return (ref.name, ref.epoch) in self._tasks

    def is_full_for(self, ref: Ref) -> bool:
        """Whether so many requests wait for renewals that another one should not begin."""
        return self._queued >= self.queue and not self.is_flying(ref)

    def __len__(self) -> int:
        return len(self._tasks)

    async def drain(self) -> None:
        """Wait until every flight has ended; none is cancelled (R11)."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _task(self, ref: Ref) -> "asyncio.Task[FlightEnd]":
        key = (ref.name, ref.epoch)
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(self._fly(ref), name=f"renewal of {ref.name}")
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _landed(self, key: tuple[str, int], task: "asyncio.Task[FlightEnd]") -> None:
        self._tasks.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("renewal.crashed", account=key[0], exc_info=error)

    async def _fly(self, ref: Ref) -> FlightEnd:
        return await self._renew(ref)
