"""Waiting for what another process, a thread or a socket does."""

import asyncio
import time

EVERY = 0.01


async def moment() -> None:
    """Let others move on before a test looks again. A loop around it ends with the test's own time-out."""
    await asyncio.sleep(EVERY)


def pause() -> None:
    """As `moment`, where there is no loop."""
    time.sleep(EVERY)
