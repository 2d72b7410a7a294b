"""Grants that the store would not take yet: they wait in memory, and the install goes on when it does."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.model import PendingGrant
from broker.observe.health import Health
from broker.store.interface import InstallStore

log = structlog.get_logger()
INSTALL_LIFE = 600.0
FIRST, MOST = 0.05, 5.0


class RetryLater:
    """Stores held grants as soon as the store is back; the identity is asked for by the background."""

    def __init__(self, *, store: InstallStore, clock: Clock, health: Health) -> None:
        self._store, self._clock, self._health = store, clock, health
        self._tasks: dict[asyncio.Task[None], PendingGrant] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def records(self) -> list[str]:
        """What is sealed here and lies nowhere else."""
        held = self._tasks.values()
        return [one for grant in held for one in (grant.sealed_access, grant.sealed_refresh) if one]

    def store(self, grant: PendingGrant) -> None:
        """Take charge of a grant that could not be held."""
        log.error("install.retained", provider=grant.install.provider)
        self._health.raise_problem("install_retained", "a new connection cannot be stored; free disk space")
        task = asyncio.create_task(
            self._retry(lambda: self._store.hold_grant(grant)), name="retained install"
        )
        self._tasks[task] = grant
        task.add_done_callback(self._done)

    async def settled(self) -> None:
        """Wait until nothing is retained."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _retry(self, store: Callable[[], Awaitable[None]]) -> None:
        wait = FIRST
        while True:
            try:
                return await store()
            except StorageUnavailable:
                await self._clock.sleep(wait)
                wait = min(2 * wait, MOST)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if not self._tasks:
            self._health.clear("install_retained")
