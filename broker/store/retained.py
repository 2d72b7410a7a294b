"""Token sets that the store has refused: they wait in memory and in the rescue spool until it takes them (R6)."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Generic

import structlog

from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.model import Event, Incident, PendingGrant, Successor
from broker.observe.health import Health
from broker.store.spool import Record, Spool

log = structlog.get_logger()
COMMIT, INSTALL = "commit", "install"
"""A renewed token set, and the grant of a new connection: the first words of their log events."""
PROBLEMS = {
    COMMIT: (
        Incident.COMMIT_RETAINED,
        "a renewed token cannot be stored; free disk space, and do not kill the broker",
    ),
    INSTALL: ("install_retained", "a new connection cannot be stored; free disk space"),
}


class Retained(Generic[Record]):
    """The only copies of token sets that a provider issued and the store has not taken yet."""

    def __init__(
        self,
        kind: str,
        spool: Spool[Record],
        store: Callable[[Record, Sequence[Event]], Awaitable[object]],
        *,
        clock: Clock,
        health: Health,
        readable: Callable[[Record], Record | None] = lambda record: record,
        spooled: Callable[[], object] = lambda: None,
        counted: Callable[[int], object] = lambda _: None,
        first: float = 0.05,
        most: float = 5.0,
    ) -> None:
        self._kind, self._clock, self._health = kind, clock, health
        self._spool: Spool[Record] = spool
        self._store: Callable[[Record, Sequence[Event]], Awaitable[object]] = store
        self._readable: Callable[[Record], Record | None] = readable
        """Returns what can be used of a record that was in the spool, None to leave its file alone."""
        self._spooled, self._counted = spooled, counted
        self._first, self._most = first, most
        """Seconds until the store is asked again, at first and at most."""
        self._tasks: dict[asyncio.Task[None], Record] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def records(self) -> list[str]:
        """Return the encrypted records that may be stored nowhere else."""
        held = self._tasks.values()
        return [one for each in held for one in (each.sealed_access, each.sealed_refresh) if one]

    async def keep(self, record: Record, events: Sequence[Event] = ()) -> None:
        """Take charge of a record that the store refused: spool it now, store it when the store is back."""
        path = await asyncio.to_thread(self._spool.write, record)
        self._spooled()
        # Before anything is logged: the log may lie on the same full disk and raise.
        self._retry(record, events, path)
        log.error(f"{self._kind}.retained", **_about(record), spooled=path is not None)

    async def recover(self) -> None:
        """R10: store what an earlier boot left in the spool; what the store refuses waits, and delays nobody."""
        await asyncio.gather(*(self._recover(path, record) for path, record in self._spool.read()))

    async def settled(self) -> None:
        """Wait until nothing is retained."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def forget(self, name: str) -> None:
        """Drop what is retained of an account that was purged, its files too."""
        await _cancel([task for task, record in self._tasks.items() if name in _owners(record)])
        await asyncio.to_thread(self._spool.remove_those, lambda record: name in _owners(record))

    async def abandon(self) -> None:
        """Stop retrying: the process ends, the spool remains."""
        await _cancel([*self._tasks])

    async def _recover(self, path: Path, record: Record) -> None:
        try:
            usable = self._readable(record)
            if usable is None:
                self._leave_alone(path, record, None)
            elif await self._is_stored(usable, (), path):
                log.warning(f"{self._kind}.recovered_from_spool", **_about(record))
            else:
                self._retry(usable, (), path)
        except Exception as exc:  # noqa: BLE001 - times, say, that no column takes: only the tokens are encrypted
            self._leave_alone(path, record, exc)

    def _leave_alone(self, path: Path, record: Record, exc: Exception | None) -> None:
        log.error("spool.file_damaged", file=str(path), **_about(record), exc_info=exc)
        self._health.raise_problem("spool_damaged", _damaged(record, path))

    def _retry(self, record: Record, events: Sequence[Event], path: Path | None) -> None:
        task = asyncio.create_task(self._store_late(record, events, path), name=f"retained {self._kind}")
        self._tasks[task] = record
        task.add_done_callback(self._done)
        self._counted(len(self))
        self._health.raise_problem(*PROBLEMS[self._kind])

    def _done(self, task: "asyncio.Task[None]") -> None:
        del self._tasks[task]
        self._counted(len(self))
        if not self._tasks:
            self._health.clear(PROBLEMS[self._kind][0])

    async def _store_late(self, record: Record, events: Sequence[Event], path: Path | None) -> None:
        wait = self._first
        while not await self._is_stored(record, events, path):
            await self._clock.sleep(wait)
            wait = min(2 * wait, self._most)
            if path is None:
                path = await asyncio.to_thread(self._spool.write, record)
        log.info(f"{self._kind}.stored_late", **_about(record))

    async def _is_stored(self, record: Record, events: Sequence[Event], path: Path | None) -> bool:
        """Try once, and remove the file if it went well."""
        try:
            await self._store(record, events)
        except StorageUnavailable:
            return False
        if path is not None:
            await asyncio.to_thread(self._spool.remove, path)
        return True


async def _cancel(tasks: "Sequence[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _owners(record: Successor | PendingGrant) -> Collection[str | None]:
    """The accounts that a record belongs to."""
    if isinstance(record, Successor):
        return [record.parent.name]
    return record.install.account, record.install.outcome_account


def _about(record: Successor | PendingGrant) -> dict[str, str]:
    """Return the fields by which the log names a record."""
    if isinstance(record, Successor):
        return {"account": record.parent.name}
    return {"provider": record.install.provider}


def _damaged(record: Successor | PendingGrant, path: Path) -> str:
    """Describe a damaged file for health."""
    if isinstance(record, Successor):
        return (
            f"a token set in the spool is damaged and was left alone: {path}; the tokens of {record.parent.name}"
            " in the store go on. Look at the disk, then move the file away"
        )
    return f"a new connection in the spool is damaged and was left alone: {path}"
