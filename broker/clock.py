"""Clocks. Only this module reads the system's time, so that tests can pass in their own."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """A clock: wall time for what is stored and shown, monotonic time for deadlines within this process."""

    def now(self) -> float:
        """Return the wall-clock time in epoch seconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump and count on while the machine is suspended."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of monotonic time."""
        ...

    def alarm(self, seconds: float) -> "asyncio.Future[None]":
        """Return a future that completes after `seconds` of monotonic time. Cancel it if it is not needed any more."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return the machine's wall-clock time in epoch seconds."""
        return time.time()  # noqa: TID251 - this is the one place

    def monotonic(self) -> float:
        """Return the seconds since boot, with the time in suspension: a laptop lid must not lengthen a token's life."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await asyncio.sleep(seconds)

    def alarm(self, seconds: float) -> "asyncio.Future[None]":
        """Return a future that completes after `seconds`."""
        loop = asyncio.get_running_loop()
        alarm: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _complete, alarm)
        alarm.add_done_callback(lambda _: timer.cancel())
        return alarm


class SteadyClock:
    """A wall clock that jumps only when it is set: the start's time plus the monotonic time since then.

    A jump of the machine's clock therefore starts no storm of renewals (R12). `Timekeeper` decides whether this
    clock follows it.
    """

    def __init__(self, clock: Clock, *, now: float | None = None) -> None:
        self.monotonic, self.sleep, self.alarm = clock.monotonic, clock.sleep, clock.alarm
        self.started_at = clock.now() if now is None else now
        """The time when this process started, by the present setting of the clock."""
        self._earliest_start = self.started_at
        self._monotonic_at_start = clock.monotonic()

    def now(self) -> float:
        """Return the wall-clock time in epoch seconds."""
        return self.started_at + self._elapsed()

    def cautious(self) -> float:
        """Return the present by the earliest setting that this clock has had.

        Data is deleted by this time, so that a clock that is ahead for a while deletes nothing early.
        """
        return self._earliest_start + self._elapsed()

    def set(self, now: float) -> None:
        """Set the clock to `now`."""
        self.started_at = now - self._elapsed()
        self.distrust(now)

    def distrust(self, now: float) -> None:
        """Make `cautious` return at most `now`."""
        self._earliest_start = min(self._earliest_start, now - self._elapsed())

    def _elapsed(self) -> float:
        return self.monotonic() - self._monotonic_at_start


def _complete(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


SLICES = 8


async def while_awake(seconds: float, work: Awaitable[T]) -> T:
    """Return the result of `work`. Raises TimeoutError after `seconds` in which this process was running.

    A process that was stopped, or too busy, finds that its timer has expired and that the answer is in its socket at
    the same time. So the time is counted in slices, and a pause of any length uses up only one of them.
    """
    task = asyncio.ensure_future(work)
    try:
        for _ in range(SLICES):
            if (await asyncio.wait({task}, timeout=seconds / SLICES))[0]:
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


async def within(clock: Clock, seconds: float, *waited: "asyncio.Future[Any]") -> bool:
    """Wait at most `seconds` until one of the futures is done. Return whether one is; none of them is cancelled."""
    if any(one.done() for one in waited):
        return True
    alarm = clock.alarm(max(0.0, seconds))
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        _complete(woken)

    # `asyncio.wait` would do, but it is slow when many requests wait for one renewal.
    for one in (*waited, alarm):
        one.add_done_callback(wake)
    try:
        await woken
    finally:
        alarm.cancel()
        for one in waited:
            one.remove_done_callback(wake)
    return any(one.done() for one in waited)
