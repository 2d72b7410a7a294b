"""Token sets that the store has refused are kept here, in memory and in spool files, until it takes them (R6).

One spool has renewed token sets, another the grants of new connections; they share the folders. Files have mode 0600.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import structlog

from broker.clock import Clock
from broker.errors import StartRefused, StorageUnavailable
from broker.files import read_own, write_own
from broker.model import Event, Incident, InstallOutcome, PendingGrant, Successor
from broker.observe.health import Health

Record = TypeVar("Record", Successor, PendingGrant)
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


class Spool(Generic[Record]):
    """Stores encrypted records in files, in the first of several folders that can be written."""

    def __init__(self, folders: Sequence[Path], suffix: str, kind: type[Record]) -> None:
        self._folders, self._suffix = tuple(folders), suffix
        self._kind: type[Record] = kind

    def write(self, record: Record) -> Path | None:
        """Store a record durably; None if no folder can be written. Blocks: call it in a thread."""
        for folder in self._folders:
            with suppress(OSError):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = folder / f"{secrets.token_hex(8)}{self._suffix}"
                write_own(path, json.dumps(asdict(record)).encode())
                return path
        return None

    def read(self) -> list[tuple[Path, Record]]:
        """Return the records and their files; damaged files are left alone. Raises StartRefused."""
        return [(path, record) for path in self._files() if (record := self._record_in(path)) is not None]

    def __len__(self) -> int:
        """Return the number of files, including damaged ones."""
        return len(self._files())

    def records(self) -> list[str]:
        """Return the encrypted tokens in the spool; a damaged file counts as an empty one."""
        found: list[str] = []
        for path in self._files():
            if (record := self._record_in(path)) is not None:
                found += filter(None, (record.sealed_access, record.sealed_refresh))
            elif path.exists():
                found.append("")
        return found

    def remove(self, path: Path) -> None:
        """Delete a file whose content is durable elsewhere."""
        with suppress(OSError):
            path.unlink()

    def remove_those(self, wanted: Callable[[Record], bool]) -> None:
        """Delete the records for which `wanted` is true. Blocks: call it in a thread."""
        for path, record in self.read():
            if wanted(record):
                self.remove(path)

    def _files(self) -> list[Path]:
        found: list[Path] = []
        for folder in self._folders:
            try:
                found += sorted(one for one in folder.iterdir() if one.name.endswith(self._suffix))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                # The folder may have the only copies of token sets, so it must not be passed over.
                raise StartRefused(
                    f"the spool {folder} cannot be read ({exc.strerror}); give it to the broker's user"
                ) from None
        return found

    def _record_in(self, path: Path) -> Record | None:
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            record: Record = _parsed(self._kind, json.loads(read_own(path)))
            return record
        return None


def _parsed(kind: Any, members: Mapping[str, Any]) -> Any:
    """Return the dataclass of these members; raises if a type is wrong, because the store does not check it."""
    types, values = get_type_hints(kind), dict(members)
    for name, value in members.items():
        wanted = types[name]
        if is_dataclass(wanted):
            values[name] = _parsed(wanted, value)
        elif wanted == InstallOutcome | None:
            values[name] = None if value is None else InstallOutcome.stored(value)
        # JSON has only one kind of number.
        elif not isinstance(value, wanted) and not (type(value) is int and isinstance(0.0, wanted)):
            raise TypeError(name)
    return kind(**values)


def renewals_spool(folders: Sequence[Path]) -> Spool[Successor]:
    """Return the spool of renewed token sets (R6)."""
    return Spool(folders, ".tokens", Successor)


def grants_spool(folders: Sequence[Path]) -> Spool[PendingGrant]:
    """Return the spool of new grants that could not be stored after the code was exchanged."""
    return Spool(folders, ".grant", PendingGrant)


class Retained(Generic[Record]):
    """The only copies of token sets that a provider issued and the store has not taken yet.

    `readable` returns the usable part of a record from the spool, or None to leave its file alone. `spooled` is called
    after each first write to the spool, `counted` with each new number of records.
    """

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
        self._spooled, self._counted = spooled, counted
        self._first, self._most = first, most
        """The first and the longest wait in seconds before the store is tried again."""
        self._tasks: dict[asyncio.Task[None], Record] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def records(self) -> list[str]:
        """Return the encrypted tokens that may be stored nowhere else."""
        held = self._tasks.values()
        return [one for each in held for one in (each.sealed_access, each.sealed_refresh) if one]

    async def keep(self, record: Record, events: Sequence[Event] = ()) -> None:
        """Write a record that the store refused to the spool now, and to the store when that works again."""
        path = await asyncio.to_thread(self._spool.write, record)
        self._spooled()
        # Before anything is logged: the log may be on the same full disk and raise.
        self._retry(record, events, path)
        log.error(f"{self._kind}.retained", **_about(record), spooled=path is not None)

    async def recover(self) -> None:
        """R10: store what an earlier boot left in the spool; records that the store refuses do not delay the start."""
        await asyncio.gather(*(self._recover(path, record) for path, record in self._spool.read()))

    async def settled(self) -> None:
        """Wait until no write of a retained record is still being retried."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def forget(self, name: str) -> None:
        """Drop the records of a purged account, and their files."""
        await _cancel([task for task, record in self._tasks.items() if name in _owners(record)])
        await asyncio.to_thread(self._spool.remove_those, lambda record: name in _owners(record))

    async def abandon(self) -> None:
        """Stop retrying, because the process ends; the files stay in the spool."""
        await _cancel([*self._tasks])

    async def _recover(self, path: Path, record: Record) -> None:
        failure: Exception | None = None
        try:
            usable = self._readable(record)
            if usable is not None:
                if await self._is_stored(usable, (), path):
                    log.warning(f"{self._kind}.recovered_from_spool", **_about(record))
                else:
                    self._retry(usable, (), path)
                return
        except Exception as exc:  # noqa: BLE001 - for instance times out of range: only the tokens are authenticated
            failure = exc
        log.error("spool.file_damaged", file=str(path), **_about(record), exc_info=failure)
        detail = f"a new connection in the spool is damaged and was left alone: {path}"
        if isinstance(record, Successor):
            detail = (
                f"a token set in the spool is damaged and was left alone: {path}; the tokens of"
                f" {record.parent.name} in the store are still used. Check the disk, then move the file away"
            )
        self._health.raise_problem("spool_damaged", detail)

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
        """Try to store the record once; if that worked, delete its file."""
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
    """Return the names of the accounts that a record belongs to."""
    if isinstance(record, Successor):
        return [record.parent.name]
    return record.install.account, record.install.outcome_account


def _about(record: Successor | PendingGrant) -> dict[str, str]:
    """Return the fields by which the log names a record."""
    if isinstance(record, Successor):
        return {"account": record.parent.name}
    return {"provider": record.install.provider}
