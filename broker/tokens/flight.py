"""R0: one renewal of a grant at a time, in a task of its own that no caller can cancel; and waiting for its news."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import structlog

from broker.clock import Clock, within
from broker.model import Account, Ref
from broker.tokens.policy import Hold

log = structlog.get_logger()
QUEUE = 512
"""Requests that began a renewal and wait for it, at most; who joins one that flies already costs nothing."""
SPACING = 0.004
"""Seconds of the loop's own time, not of a clock: it is about the processor, of which a renewal takes a millisecond."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """A newer generation is durable and current."""

    account: Account | None = None
    """The row as this renewal committed it; None: read it."""


@dataclass(frozen=True, slots=True)
class NotRenewed:
    """The attempt ended without a new token; `hold` says why, and when the next may be."""

    hold: Hold


FlightEnd = Renewed | NotRenewed
Renew = Callable[[Ref], Coroutine[Any, Any, FlightEnd]]
_Key = tuple[str, int]


class Flights:
    """The renewals under way, one for each grant; whoever needs one joins it."""

    def __init__(self, renew: Renew, *, clock: Clock, queue: int = QUEUE) -> None:
        self._renew, self._clock = renew, clock
        self.queue = queue
        self._queued = 0
        self._tasks: dict[_Key, asyncio.Task[FlightEnd]] = {}
        self._line: dict[_Key, Ref] = {}
        """Renewals that nobody waits for, and that have yet to begin."""
        self._next_turn: asyncio.TimerHandle | None = None

    def begin(self, ref: Ref) -> None:
        """See to it that the grant is being renewed from generation `ref.generation`."""
        _ = self._task(ref)

    def begin_in_turn(self, ref: Ref) -> None:
        """The same for a token that lives and is asked for: nobody waits for it, and a crowd may come at once.

        Such flights begin one after the other, `SPACING` apart, or they would hold up everybody's answers. Until
        its turn comes nothing flies: whoever joins begins the renewal at once, from the generation it knows of.
        """
        if not self.is_flying(ref):
            self._line[_key(ref)] = ref
            if self._next_turn is None:
                self._let_one_begin()

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
        return _key(ref) in self._tasks

    def is_full_for(self, ref: Ref) -> bool:
        """Whether so many requests wait for renewals that another one should not begin."""
        return self._queued >= self.queue and not self.is_flying(ref)

    def __len__(self) -> int:
        return len(self._tasks)

    async def drain(self) -> None:
        """Wait until every flight has ended; none is cancelled, and no other begins in its turn (R11)."""
        self._line.clear()
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _task(self, ref: Ref) -> "asyncio.Task[FlightEnd]":
        key = _key(ref)
        self._line.pop(key, None)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._renew(ref), name=f"renewal of {ref.name}")
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _let_one_begin(self) -> None:
        self._next_turn = None
        if self._line:
            self.begin(next(iter(self._line.values())))
            self._next_turn = asyncio.get_running_loop().call_later(SPACING, self._let_one_begin)

    def _landed(self, key: _Key, task: "asyncio.Task[FlightEnd]") -> None:
        self._tasks.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("renewal.crashed", account=key[0], exc_info=error)


def _key(ref: Ref) -> _Key:
    return ref.name, ref.epoch


class Waiters:
    """Futures that end with the next change of an account's row, here or in another broker: one for each account."""

    def __init__(self) -> None:
        self._futures: WeakValueDictionary[str, asyncio.Future[None]] = WeakValueDictionary()
        self.stopping = False

    def __len__(self) -> int:
        """How many accounts are waited for."""
        return len(self._futures)

    def news(self, name: str) -> "asyncio.Future[None]":
        """Return a future that ends when the row of this name changes from now on. Whoever waits has to keep it."""
        future = self._futures.get(name)
        if future is None:
            future = self._futures[name] = asyncio.get_running_loop().create_future()
        return future

    def heard(self, name: str) -> None:
        """The row of this name has changed."""
        if (future := self._futures.pop(name, None)) is not None:
            future.set_result(None)

    def missed(self) -> None:
        """Any row may have changed unheard."""
        for name in list(self._futures):
            self.heard(name)

    def stop(self) -> None:
        """End all waiting, now and from now on."""
        self.stopping = True
        self.missed()
