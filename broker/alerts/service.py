"""Everything that tells: the loops of the hooks, the watch over standing troubles, the forecast."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from broker.alerts.dispatch import Dispatcher
from broker.alerts.feed import Feed
from broker.alerts.forecast import Forecaster
from broker.alerts.interface import Hook
from broker.alerts.standing import StandingTroubles
from broker.clock import Clock, within
from broker.errors import StorageUnavailable

log = structlog.get_logger()

WATCH_EVERY = 1.0
STOP_WITHIN = 5.0


class Alerts:
    """Runs beside the broker's other work, and holds none of it up."""

    def __init__(
        self,
        *,
        webhook: Dispatcher,
        command: Dispatcher,
        standing: StandingTroubles,
        forecaster: Forecaster,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self.webhook, self.command = webhook, command
        self.standing, self.forecaster, self.feed = standing, forecaster, feed
        self._clock = clock
        self._stopping = asyncio.Event()
        self._watching: Sequence[Callable[[], Awaitable[None]]] = (standing.flush, forecaster.flush)

    def use(self, webhook: Hook | None, command: Hook | None, *, resume: bool = False) -> None:
        """Tell these from now on; `resume` lifts their pauses."""
        self.webhook.use(webhook, resume=resume)
        self.command.use(command, resume=resume)

    async def run(self) -> None:
        """Until `stop`, or until cancelled."""
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            async with asyncio.TaskGroup() as tasks:
                for loop in (self.webhook.run(stopped), self.command.run(stopped), self._watch(stopped)):
                    tasks.create_task(loop)
        finally:
            stopped.cancel()

    async def stop(self, running: "asyncio.Task[None]") -> None:
        """End `running`: attempts under way may end, for a few seconds, so that none is made twice."""
        self._stopping.set()
        for hook in (self.webhook, self.command):
            hook.hurry()
        await within(self._clock, STOP_WITHIN, running)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.standing.flush()

    async def _watch(self, stopped: "asyncio.Future[Any]") -> None:
        while not stopped.done():
            for look in self._watching:
                try:
                    await look()
                except StorageUnavailable:
                    continue
                except Exception as exc:
                    log.error("alerts.watch_failed", exc_info=exc)
            await within(self._clock, WATCH_EVERY, stopped)
