"""SQLite as a database: one task owns the one writing connection; reads have a connection of their own.

Before 3.51.3 SQLite can corrupt a WAL when two connections write or checkpoint at once, so exactly one does.
"""

import asyncio
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import aiosqlite

from broker.errors import StartRefused, StorageUnavailable
from broker.store.database import Dialect, Row, Work

T = TypeVar("T")

APPLICATION_ID = 0x544F4B42  # "TOKB"
BUSY_TIMEOUT = "PRAGMA busy_timeout = 5000"
SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    BUSY_TIMEOUT,
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA wal_autocheckpoint = 200",
    "PRAGMA journal_size_limit = 4194304",
    f"PRAGMA application_id = {APPLICATION_ID}",
)
DURABLE = {"journal_mode": "wal", "synchronous": 2}
"""Read back after they were set: WAL silently stays off on some file systems, and NORMAL loses commits."""
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})
BATCH = 64
DIALECT = Dialect(shared=False, clock=None, unlocked="", floor="CAST({} AS BIGINT)", text="TEXT")
OWN_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""What a statement did wrong by itself; every other error is the store's, and ends the whole transaction."""


@dataclass(slots=True)
class _Waiting:
    work: Work[Any]
    done: "asyncio.Future[Any]"


@dataclass(slots=True)
class _Scrub:
    done: "asyncio.Future[bool]"


class _Transaction:
    """Statements on the writing connection, which belongs to the writer task alone."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, *values: object) -> int:
        cursor = await self._connection.execute(sql, _named(values))
        try:
            return cursor.rowcount
        finally:
            await cursor.close()

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return list(await self._connection.execute_fetchall(sql, _named(values)))

    async def alone(self, what: str) -> None:
        """There is one writer."""

    async def beside(self, what: str) -> None:
        """The same."""

    async def tell(self, name: str) -> None:
        """There is one broker."""


class SqliteDatabase:
    """A `Database` in one file; `open()` makes it."""

    dialect = DIALECT

    def __init__(
        self,
        *,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        lock: int,
        observe: Callable[[bool, float], None],
    ) -> None:
        self._writer, self._reader, self._lock = writer, reader, lock
        self._observe = observe
        self._queue: asyncio.Queue[_Waiting | _Scrub | None] = asyncio.Queue()
        self._closing = False
        self._task = asyncio.create_task(self._write_all(), name="store-writer")

    @classmethod
    async def open(cls, path: Path, *, observe: Callable[[bool, float], None] = lambda _, __: None) -> Self:
        """Open or create the store at `path`; raises StartRefused with a sentence that says what to do.

        `observe` hears after each commit whether it succeeded, and how many seconds it took.
        """
        _prepare_folder(path)
        async with AsyncExitStack() as undo:
            lock = take_lock(path)
            undo.callback(os.close, lock)
            try:
                writer = await _connect(f"file:{path}?mode=rwc")
                undo.push_async_callback(writer.close)
                await _configure(writer, path)
                reader = await _connect(f"file:{path}?mode=ro")
                undo.push_async_callback(reader.close)
            except sqlite3.Error as exc:
                raise StartRefused(f"the store {path} cannot be opened: {exc}") from None
            _check_modes(path)
            undo.pop_all()
        return cls(writer=writer, reader=reader, lock=lock, observe=observe)

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        # The lock beside the file keeps every other broker away for as long as this one lives.
        yield

    async def read(self, sql: str, *values: object) -> list[Row]:
        self._refuse_when_closing()
        try:
            return list(await self._reader.execute_fetchall(sql, _named(values)))
        except sqlite3.Error as exc:
            raise StorageUnavailable(f"the store cannot be read ({_kind(exc)})", retry_after=1) from exc

    async def write(self, work: Work[T]) -> T:
        self._refuse_when_closing()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Waiting(work, done))
        return await asyncio.shield(done)

    async def scrub(self) -> bool:
        # secure_delete has overwritten it in the pages; the log still holds the pages as they were.
        self._refuse_when_closing()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Scrub(done))
        return await asyncio.shield(done)

    async def close(self) -> None:
        self._closing = True
        self._queue.put_nowait(None)
        await asyncio.wait([self._task])
        await self._reader.close()
        await self._writer.close()
        os.close(self._lock)

    def _refuse_when_closing(self) -> None:
        # Nobody would ever answer a write that is queued behind the end.
        if self._closing:
            raise _closed()

    async def _write_all(self) -> None:
        try:
            await self._write_until_closed()
        finally:
            # Where the process breaks down, every task is cancelled: nobody may wait for a write that never comes.
            self._closing = True
            while not self._queue.empty():
                if waiting := self._queue.get_nowait():
                    _answer(waiting.done, None, _closed())

    async def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            closing = None in batch
            await self._commit([waiting for waiting in batch if isinstance(waiting, _Waiting)])
            for scrub in batch:
                if isinstance(scrub, _Scrub):
                    await self._truncate_log(scrub.done)

    async def _truncate_log(self, done: "asyncio.Future[bool]") -> None:
        busy = True
        with suppress(sqlite3.Error):
            # Somebody else's long read must not hold up the writes behind this.
            await self._writer.execute_fetchall("PRAGMA busy_timeout = 50")
            [(busy, _, _)] = await self._writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        await self._writer.execute_fetchall(BUSY_TIMEOUT)
        _answer(done, not busy, None)

    async def _commit(self, batch: list[_Waiting]) -> None:
        """Run the batch in one transaction; nobody hears of success before the commit is durable."""
        results: list[tuple[_Waiting, Any, Exception | None]] = []
        failure: Exception | None = None
        began = time.perf_counter()
        try:
            await self._writer.execute("BEGIN IMMEDIATE")
            for waiting in batch:
                results.append((waiting, *await self._run(waiting, alone=len(batch) == 1)))
            await self._writer.execute("COMMIT")
        except sqlite3.Error as exc:
            failure = StorageUnavailable(f"the store cannot be written ({_kind(exc)})", retry_after=1)
            failure.__cause__ = exc
        except BaseException:
            for waiting in batch:
                _answer(waiting.done, None, _closed())
            await self._roll_back()
            raise
        if failure or self._writer.in_transaction:
            await self._roll_back()
        self._observe(failure is None, time.perf_counter() - began)
        for waiting in batch[len(results) :]:
            results.append((waiting, None, None))
        for waiting, result, error in results:
            _answer(waiting.done, result, failure or error)

    async def _run(self, waiting: _Waiting, *, alone: bool) -> tuple[Any, Exception | None]:
        transaction = _Transaction(self._writer)
        if not alone:
            await self._writer.execute("SAVEPOINT work")
        try:
            result = await waiting.work(transaction)
        except Exception as exc:
            if isinstance(exc, sqlite3.Error) and not isinstance(exc, OWN_MISTAKES):
                raise
            # It is the caller's own error, and reaches the caller alone.
            await self._writer.execute("ROLLBACK" if alone else "ROLLBACK TO work")
            if alone:
                await self._writer.execute("BEGIN IMMEDIATE")
            else:
                await self._writer.execute("RELEASE work")
            return None, exc
        if not alone:
            await self._writer.execute("RELEASE work")
        return result, None

    async def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors (full disk); then there is nothing to undo.
        with suppress(sqlite3.Error):
            if self._writer.in_transaction:
                await self._writer.execute("ROLLBACK")


def _closed() -> StorageUnavailable:
    return StorageUnavailable("the store is closed", retry_after=1)


def _answer(done: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
        # The caller may have hung up; the error was its own.
        done.exception()


def _named(values: tuple[object, ...]) -> dict[str, object]:
    # A mapping, because SQLite calls "$1" a *named* parameter.
    return {str(number): value for number, value in enumerate(values, 1)}


def _kind(exc: sqlite3.Error) -> str:
    return getattr(exc, "sqlite_errorname", "") or type(exc).__name__


async def _connect(uri: str) -> aiosqlite.Connection:
    return await aiosqlite.connect(uri, uri=True, isolation_level=None)


async def _configure(writer: aiosqlite.Connection, path: Path) -> None:
    for setting in SETTINGS:
        await writer.execute_fetchall(setting)
    for name, wanted in DURABLE.items():
        [(found,)] = await writer.execute_fetchall(f"PRAGMA {name}")
        if found != wanted:
            raise StartRefused(
                f"the store {path} cannot be made durable: {name} is {found!r}, needed is {wanted!r};"
                " put it on a local file system"
            )


def _prepare_folder(path: Path) -> None:
    folder = path.parent
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
    refuse_unfit(folder)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        sync_folder(folder)


def refuse_unfit(folder: Path) -> None:
    """Raises StartRefused where no store may lie in `folder`: it is open to others, or not on a local file system."""
    _refuse_open_modes(folder)
    if (kind := _file_system(folder)) in NETWORK_FILE_SYSTEMS:
        raise StartRefused(f"the store's folder {folder} lies on {kind}; SQLite needs a local file system")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_modes(path: Path) -> None:
    for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        if file.exists():
            _refuse_open_modes(file)


def _refuse_open_modes(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        raise StartRefused(f"{path} is open to others (mode {mode:o}); type: chmod {wanted} {path}")


def take_lock(path: Path) -> int:
    """The lock of the store at `path`, which closing the handle lets go; raises StartRefused."""
    handle = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StartRefused(
            f"another broker runs on the store {path}; stop it first, or use another store"
        ) from None
    return handle


def _file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`, from the kernel's table of mounts."""
    best, kind = "", ""
    with suppress(OSError), Path("/proc/mounts").open() as table:
        for line in table:
            _, mount, fs_type, *_ = line.split()
            inside = str(folder.resolve()) == mount or str(folder.resolve()).startswith(
                mount.rstrip("/") + "/"
            )
            if inside and len(mount) >= len(best):
                best, kind = mount, fs_type
    return kind
