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
SPACING = 0.004
"""Seconds of the loop's own time, not of a clock: it is about the processor, of which a renewal takes a millisecond."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """A newer generation is durable and current."""


@dataclass(frozen=True, slots=True)
class NotRenewed:
    """The attempt ended without a new token; `hold` says why, and when the next may be."""

    hold: Hold


FlightEnd = Renewed | NotRenewed
Renew = Callable[[Ref], Awaitable[FlightEnd]]
_Key = tuple[str, int]


class Flights:
    """The renewals under way, one for each grant; whoever needs one joins it."""

    def __init__(self, renew: Renew, *, clock: Clock, queue: int = QUEUE) -> None:
        self._renew, self._clock = renew, clock
        self.queue = queue
        self._queued = 0
        self._tasks: dict[_Key, asyncio.Task[FlightEnd]] = {}
        self._turns: dict[_Key, asyncio.Future[None]] = {}
        """Flights that nobody waits for, and that have yet to begin."""
        self._next_turn: asyncio.TimerHandle | None = None

    def begin(self, ref: Ref) -> None:
        """See to it that the grant is being renewed from generation `ref.generation`."""
        if not self.is_flying(ref):
            _ = self._launch(ref)

    def begin_in_turn(self, ref: Ref) -> None:
        """The same for a token that lives and is asked for: nobody waits for it, and a crowd may come at once.

        Such flights begin one after the other, `SPACING` apart, or they would hold up everybody's answers.
        """
        if not self.is_flying(ref):
            turn = self._turns[_key(ref)] = asyncio.get_running_loop().create_future()
            _ = self._launch(ref, turn)
            if self._next_turn is None:
                self._let_one_begin()

    async def join(self, ref: Ref, patience: float | None = None) -> FlightEnd | None:
        """Renew and wait, `patience` seconds at most; None where it takes longer.

        A caller that is cancelled cancels only its own waiting (I10).
        """
        is_first = not self.is_flying(ref)
        task = self._tasks.get(_key(ref)) or self._launch(ref)
        if turn := self._turns.pop(_key(ref), None):
            turn.set_result(None)
        if patience is None:
            return await asyncio.shield(task)
        self._queued += is_first
        try:
            has_landed = await within(self._clock, patience, task)
        finally:
            self._queued -= is_first
        return task.result() if has_landed else None

    def is_flying(self, ref: Ref) -> bool:
        return _key(ref) in self._tasks

    def is_full_for(self, ref: Ref) -> bool:
        """Whether so many requests wait for renewals that another one should not begin."""
        return self._queued >= self.queue and not self.is_flying(ref)

    def __len__(self) -> int:
        return len(self._tasks)

    async def drain(self) -> None:
        """Wait until every flight has ended; none is cancelled, and none waits for its turn any longer (R11)."""
        for turn in self._turns.values():
            turn.set_result(None)
        self._turns.clear()
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _launch(self, ref: Ref, turn: "asyncio.Future[None] | None" = None) -> "asyncio.Task[FlightEnd]":
        key = _key(ref)
        task = self._tasks[key] = asyncio.create_task(self._fly(ref, turn), name=f"renewal of {ref.name}")
        task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _let_one_begin(self) -> None:
        self._next_turn = None
        if self._turns:
            self._turns.pop(next(iter(self._turns))).set_result(None)
            self._next_turn = asyncio.get_running_loop().call_later(SPACING, self._let_one_begin)

    def _landed(self, key: _Key, task: "asyncio.Task[FlightEnd]") -> None:
        self._tasks.pop(key, None)
        self._turns.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("renewal.crashed", account=key[0], exc_info=error)

    async def _fly(self, ref: Ref, turn: "asyncio.Future[None] | None") -> FlightEnd:
        if turn is not None:
            await turn
        return await self._renew(ref)


def _key(ref: Ref) -> _Key:
    return ref.name, ref.epoch
