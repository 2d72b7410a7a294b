"""A clock that stands still until a test moves it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

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

    async def settle(self, *, quiet: float = 0.02) -> None:
        """Let the loop run until no task moves any more, also not for `quiet` real seconds.

        The real wait is for sockets and database threads, of which the loop does not know that they are busy.
        A task that never rests is an AssertionError.
        """
        before = await _come_to_rest(_positions())
        for _ in range(1_000):
            await asyncio.sleep(quiet)
            after = await _come_to_rest(_positions())
            if after == before:
                return
            before = after
        raise AssertionError("the loop does not settle: some task moves on and on")

    def _sleeper(self, deadline: float) -> _Sleeper:
        self._turns += 1
        return _Sleeper(deadline, self._turns, asyncio.get_running_loop().create_future())

    def _forget(self, sleeper: _Sleeper) -> None:
        if sleeper in self._sleepers:
            self._sleepers.remove(sleeper)

    def _due(self) -> list[_Sleeper]:
        return sorted(s for s in self._sleepers if s.deadline <= self._monotonic + _CLOSE)


_Positions = dict[asyncio.Task[Any], list[object]]


async def _come_to_rest(before: _Positions) -> _Positions:
    for _ in range(10_000):
        await asyncio.sleep(0)
        after = _positions()
        if after == before:
            return after
        before = after
    raise AssertionError("the loop does not settle: some task never rests")


def _positions() -> _Positions:
    """Where each task but this one stands: its coroutines, the instruction in each, what is awaited."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return {task: _position(task) for task in tasks}


def _position(task: asyncio.Task[Any]) -> list[object]:
    # The objects themselves, not their ids: an id may be given again to the next future.
    position: list[object] = []
    awaited: object = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        position += [awaited, frame and frame.f_lasti]
        awaited = getattr(awaited, "cr_await", None)
    return position
