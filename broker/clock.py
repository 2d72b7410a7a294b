"""The only place that asks the time, so that tests can pass it in."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Wall time for what is stored and shown; monotonic time for deadlines inside this process."""

    def now(self) -> float:
        """Wall clock, epoch seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump and go on counting while the machine is suspended."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of monotonic time."""
        ...

    def alarm(self, seconds: float) -> "asyncio.Future[None]":
        """Done after `seconds` of monotonic time; whoever needs it no more cancels it."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()  # noqa: TID251 - this is the one place

    def monotonic(self) -> float:
        # CLOCK_BOOTTIME counts suspended time too: a laptop lid must not lengthen a token's life.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def alarm(self, seconds: float) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        rings: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _ring, rings)
        rings.add_done_callback(lambda _: timer.cancel())
        return rings


class SteadyClock:
    """Wall time that jumps only when it is told to: what has really passed since the start, added to the start's time.

    A jump of the machine's clock therefore starts no storm (R12); `tokens.timekeeping` decides what follows from it.
    """

    def __init__(self, clock: Clock, *, now: float | None = None) -> None:
        self._clock = clock
        self.started_at = clock.now() if now is None else now
        """When this run began, as far as is known now."""
        self._earliest_start = self.started_at
        self._monotonic_at_start = clock.monotonic()

    def now(self) -> float:
        return self.started_at + self._elapsed()

    def cautious(self) -> float:
        """The earliest time that this run has taken for the present. Data is deleted by it: a clock that is ahead
        for a while must delete nothing early."""
        return self._earliest_start + self._elapsed()

    def set(self, now: float) -> None:
        """Take `now` for the present."""
        self.started_at = now - self._elapsed()
        self.distrust(now)

    def distrust(self, now: float) -> None:
        """Let `cautious` be `now` at most."""
        self._earliest_start = min(self._earliest_start, now - self._elapsed())

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def alarm(self, seconds: float) -> "asyncio.Future[None]":
        return self._clock.alarm(seconds)

    @property
    def jump(self) -> float:
        """How far the machine's clock is ahead of this one, seconds."""
        return self._clock.now() - self.now()

    def _elapsed(self) -> float:
        return self._clock.monotonic() - self._monotonic_at_start


def _ring(alarm: "asyncio.Future[None]") -> None:
    if not alarm.done():
        alarm.set_result(None)


SLICES = 8


async def while_awake(seconds: float, work: Awaitable[T]) -> T:
    """What `work` returns; raises TimeoutError after so many seconds in which this process was at hand.

    A process that was stopped, or too busy to look, finds its timer run out and the answer in its socket in the same
    moment. So the time is counted in slices, and one pause, however long, uses up one of them.
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
    """Wait until one of `waited` is done, `seconds` at most; whether one is. None of them is cancelled."""
    if any(one.done() for one in waited):
        return True
    alarm = clock.alarm(max(0.0, seconds))
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        _ring(woken)

    # `asyncio.wait` does this as well, and much besides: a crowd that waits for one renewal would feel it.
    for one in (*waited, alarm):
        one.add_done_callback(wake)
    try:
        await woken
    finally:
        alarm.cancel()
        for one in waited:
            one.remove_done_callback(wake)
    return any(one.done() for one in waited)
