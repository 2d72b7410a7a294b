"""A clock that stands still until a test moves it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.waiting import Places, is_thread_at_work, places

# Sums of floats such as 0.1 + 0.2 must not leave a sleeper a hair short of its time.
_CLOSE = 1e-6


@dataclass(slots=True, order=True)
class _Sleeper:
    deadline: float
    turn: int
    woken: asyncio.Future[None] = field(compare=False)


class FakeClock:
    """A `broker.clock.Clock` moved by hand: `advance` lets time pass, `jump` is somebody setting it.

    Time passes in one step, as on a machine that was suspended: whoever wakes and sleeps again during an
    `advance` sleeps from its end on. To see every beat of something periodic, advance beat by beat.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1_000.0
        self._turns = 0
        self._sleepers: list[_Sleeper] = []
        self._works: list[Callable[[], bool]] = []

    def now(self) -> float:
        """Wall clock, epoch seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since some moment, untouched by `jump`."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has moved the clock by `seconds` in all; nothing to wait for: yield once."""
        if seconds <= _CLOSE:
            await asyncio.sleep(0)
            return
        sleeper = self._sleeper(self._monotonic + seconds)
        self._sleepers.append(sleeper)
        try:
            await sleeper.woken
        finally:
            self._forget(sleeper)

    def alarm(self, seconds: float) -> "asyncio.Future[None]":
        """Done when `advance` has moved the clock by `seconds` in all."""
        sleeper = self._sleeper(self._monotonic + seconds)
        if seconds <= _CLOSE:
            sleeper.woken.set_result(None)
            return sleeper.woken
        self._sleepers.append(sleeper)
        sleeper.woken.add_done_callback(lambda _: self._forget(sleeper))
        return sleeper.woken

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks and wake whose time has come, earliest deadline first.

        The woken run when the loop next gets its turn: `await clock.settle()`. Negative: ValueError.
        """
        if seconds < 0:
            raise ValueError("time does not run backwards; a wall clock that is set back is jump()")
        self._now += seconds
        self._monotonic += seconds
        for sleeper in self._due():
            self._sleepers.remove(sleeper)
            # Cancelled in this very turn of the loop: its future is done, its `finally` has not run yet.
            if not sleeper.woken.done():
                sleeper.woken.set_result(None)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back; no time passes and nobody wakes."""
        self._now += seconds

    @property
    def sleeping(self) -> int:
        """How many wait for this clock."""
        return sum(not sleeper.woken.done() for sleeper in self._sleepers)

    @property
    def next_wake(self) -> float | None:
        """Seconds until the next of them is due; None where nobody waits."""
        waiting = [sleeper.deadline for sleeper in self._sleepers if not sleeper.woken.done()]
        return max(0.0, min(waiting) - self._monotonic) if waiting else None

    def wait_for(self, works: Callable[[], bool]) -> None:
        """Take nobody for settled while `works` says that a thread is at something which takes no time of this clock.

        A write of the audit, say: no task needs to wait for it, and the broker gives up on it after two looks.
        """
        self._works.append(works)

    @property
    def waits(self) -> bool:
        """Whether a thread is at work, so that time should not pass yet."""
        return any(works() for works in self._works)

    async def settle(self, *, quiet: float = 0.02) -> None:
        """Let the loop run until no task moves any more, also not for `quiet` real seconds.

        The real wait is for sockets, of which the loop does not know that they are busy; threads are looked after.
        A task that never rests is an AssertionError.
        """
        before = await _come_to_rest(places())
        for _ in range(1_000):
            await asyncio.sleep(quiet)
            after = await _come_to_rest(places())
            if after == before and not self.waits and not is_thread_at_work(after):
                return
            before = after
        raise AssertionError("the loop does not settle: some task or thread moves on and on")

    def _sleeper(self, deadline: float) -> _Sleeper:
        self._turns += 1
        return _Sleeper(deadline, self._turns, asyncio.get_running_loop().create_future())

    def _forget(self, sleeper: _Sleeper) -> None:
        if sleeper in self._sleepers:
            self._sleepers.remove(sleeper)

    def _due(self) -> list[_Sleeper]:
        return sorted(s for s in self._sleepers if s.deadline <= self._monotonic + _CLOSE)


async def _come_to_rest(before: Places) -> Places:
    for _ in range(10_000):
        await asyncio.sleep(0)
        after = places()
        if after == before:
            return after
        before = after
    raise AssertionError("the loop does not settle: some task never rests")
