"""The time, for programs that wait on asyncio and for those that wait in a thread."""

import asyncio
import time


def monotonic() -> float:
    """Where there is such a clock it goes on while the machine is suspended: tokens do not live longer for it."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)  # noqa: TID251 - the client's own clock


class Clock:
    """The machine's clock, for programs that wait on asyncio."""

    def monotonic(self) -> float:
        return monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ThreadClock:
    """The machine's clock, for programs that wait in a thread."""

    def monotonic(self) -> float:
        return monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
