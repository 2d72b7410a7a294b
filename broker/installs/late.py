"""Grants that the store would not take yet: they wait in memory and in the rescue spool, and then go on."""

import asyncio
from pathlib import Path

import structlog

from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.model import PendingGrant
from broker.observe.health import Health
from broker.store.installs import InstallStore
from broker.store.spool import Spool

log = structlog.get_logger()
INSTALL_LIFE = 600.0
FIRST, MOST = 0.05, 5.0


class RetryLater:
    """Stores held grants as soon as the store is back; the identity is asked for by the background."""

    def __init__(
        self, *, store: InstallStore, spool: Spool[PendingGrant], clock: Clock, health: Health
    ) -> None:
        self._store, self._spool, self._clock, self._health = store, spool, clock, health
        self._tasks: dict[asyncio.Task[None], PendingGrant] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def records(self) -> list[str]:
        """What is sealed here and may lie nowhere else."""
        held = self._tasks.values()
        return [one for grant in held for one in (grant.sealed_access, grant.sealed_refresh) if one]

    async def store(self, grant: PendingGrant) -> None:
        """Take charge of a grant that could not be held; it lies in the spool when this returns."""
        path = await asyncio.to_thread(self._spool.write, grant)
        # Before anything is logged: the log may lie on the same full disk and raise.
        self._retry(grant, path)
        log.error("install.retained", provider=grant.install.provider, spooled=path is not None)

    async def recover(self) -> None:
        """R10: go on with what an earlier boot left in the spool; what the store refuses waits, and delays nobody."""
        await asyncio.gather(*(self._recover(path, grant) for path, grant in self._spool.read()))

    async def settled(self) -> None:
        """Wait until nothing is retained."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def forget(self, name: str) -> None:
        """Drop the grants of an account that was purged, their files too."""
        tasks = [task for task, grant in self._tasks.items() if _is_of(grant, name)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._spool.remove_those, lambda grant: _is_of(grant, name))

    async def abandon(self) -> None:
        """Stop retrying: the process ends, the spool remains."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _recover(self, path: Path, grant: PendingGrant) -> None:
        try:
            if await self._is_held(grant, path):
                log.warning("install.recovered_from_spool", provider=grant.install.provider)
            else:
                self._retry(grant, path)
        except Exception as exc:
            # Times, say, that no column takes: nothing but the tokens is sealed.
            log.error("spool.file_not_stored", file=str(path), exc_info=exc)
            self._health.raise_problem(
                "spool_damaged", f"a new connection in the spool is damaged and was left alone: {path}"
            )

    def _retry(self, grant: PendingGrant, path: Path | None) -> None:
        self._health.raise_problem("install_retained", "a new connection cannot be stored; free disk space")
        task = asyncio.create_task(self._hold(grant, path), name="retained install")
        self._tasks[task] = grant
        task.add_done_callback(self._done)

    async def _hold(self, grant: PendingGrant, path: Path | None) -> None:
        wait = FIRST
        while not await self._is_held(grant, path):
            await self._clock.sleep(wait)
            wait = min(2 * wait, MOST)
            if path is None:
                path = await asyncio.to_thread(self._spool.write, grant)

    async def _is_held(self, grant: PendingGrant, path: Path | None) -> bool:
        """Try once, and forget the file where it went well."""
        try:
            await self._store.hold_grant(grant)
        except StorageUnavailable:
            return False
        if path is not None:
            await asyncio.to_thread(self._spool.remove, path)
        return True

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if not self._tasks:
            self._health.clear("install_retained")


def _is_of(grant: PendingGrant, name: str) -> bool:
    return name in (grant.install.account, grant.install.outcome_account)
