"""SQLite as a database: one task passes batches of work to the one writer, and a second connection reads.

Before 3.51.3 SQLite can corrupt a WAL if two connections write or checkpoint at the same time, so only one does.
"""

import asyncio
import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiosqlite
import structlog

from broker.errors import StartRefused, StorageUnavailable
from broker.files import NOT_OURS, exposure, is_foreign, open_own, sync_folder
from broker.store.database import Changes, Dialect, Row, Work, answer, closed
from broker.store.writer import Writer, kind_of, named, text_or_bytes

T = TypeVar("T")
log = structlog.get_logger()
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})
NO_ROOM = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMOPEN", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMMAP"})
SHARED = 256 * 1024
"""Bytes that must be free before the shared memory is tried again."""
SHARE_EVERY = 1.0
BATCH = 64
SIDE_FILES = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps next to a database."""

_Waiting = tuple[Work[Any] | None, "asyncio.Future[Any]"]
"""Work, or None for emptying the log, and the future of its result."""


class SqliteDatabase:
    """A `Database` in one file; `open()` makes it."""

    dialect = Dialect(shared=False, clock=None, unlocked="", floor="CAST({} AS BIGINT)", text="TEXT")

    def __init__(
        self,
        *,
        path: Path,
        thread: ThreadPoolExecutor,
        writer: Writer,
        reader: aiosqlite.Connection | None,
        observe: Callable[[bool, float], None],
        closing: AsyncExitStack,
    ) -> None:
        self._path, self._thread, self._writer, self._reader = path, thread, writer, reader
        self._observe, self._opened = observe, closing
        self.changes = Changes()
        self._queue: asyncio.Queue[_Waiting | None] = asyncio.Queue()
        self._closing = False
        self._task = asyncio.create_task(self._write_all(), name="store-writer")

    @classmethod
    async def open(cls, path: Path, *, observe: Callable[[bool, float], None] = lambda _, __: None) -> Self:
        """Open or create the store at `path`; raises StartRefused, whose message says what to do.

        `observe` is called after each commit with its success and its duration in seconds.
        """
        folder = path.parent
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
        refuse_unfit(folder)
        async with AsyncExitStack() as undo:
            undo.callback(os.close, take_lock(path))
            _make(path)
            refuse_links(path)
            thread = ThreadPoolExecutor(1, thread_name_prefix="store")
            undo.callback(thread.shutdown, wait=False)
            try:
                writer = await _writer(path, thread)
                undo.push_async_callback(asyncio.get_running_loop().run_in_executor, thread, writer.close)
                # Without disk space for shared memory there is only the writing connection.
                reader = None if writer.is_alone else await undo.enter_async_context(_reading(path))
            except sqlite3.Error as exc:
                raise StartRefused(f"the store {path} cannot be opened: {exc}") from None
            for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
                if file.exists() and (exposed := exposure(file)):
                    raise StartRefused(f"{file} is {exposed}")
            closing = undo.pop_all()
        return cls(path=path, thread=thread, writer=writer, reader=reader, observe=observe, closing=closing)

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Do nothing: the lock file keeps other brokers away for as long as the store is open."""
        yield

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Return rows; see `Database.read`."""
        self._refuse_when_closing()
        try:
            if self._reader is None:
                return await self._do(self._writer.read, sql, values)
            return list(await self._reader.execute_fetchall(sql, named(values)))
        except sqlite3.Error as exc:
            raise StorageUnavailable(f"the store cannot be read ({kind_of(exc)})", retry_after=1) from exc

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; see `Database.write`."""
        result: T = await self._queued(work)
        return result

    async def scrub(self) -> bool:
        """Empty the log: `secure_delete` has overwritten the pages, but the log still has their old content."""
        return bool(await self._queued(None))

    async def close(self) -> None:
        """Finish the queued writes, then close the connections and release the lock."""
        self._closing = True
        self._queue.put_nowait(None)
        await asyncio.wait([self._task])
        await self._opened.aclose()

    async def _queued(self, work: Work[Any] | None) -> Any:
        self._refuse_when_closing()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((work, done))
        return await done

    def _refuse_when_closing(self) -> None:
        # A write that is queued after the end would never be done.
        if self._closing:
            raise closed()

    async def _do(self, job: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *values)

    async def _write_all(self) -> None:
        closing = False
        try:
            while not closing:
                batch = [await self._next()]
                while len(batch) < BATCH and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                closing = None in batch
                waiting = [one for one in batch if one is not None]
                if writes := [(work, done) for work, done in waiting if work is not None]:
                    await self._commit([work for work, _ in writes], [done for _, done in writes])
                if self._reader is None:
                    await self._share()
                for work, done in waiting:
                    if work is None:
                        answer(done, await self._do(self._writer.truncate_log), None)
        finally:
            # If the process breaks down, every task is cancelled, and no caller may wait for ever.
            self._closing = True
            while not self._queue.empty():
                if left := self._queue.get_nowait():
                    answer(left[1], None, closed())

    async def _next(self) -> _Waiting | None:
        while self._reader is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(SHARE_EVERY):
                    return await self._queue.get()
            await self._share()
        return await self._queue.get()

    async def _commit(self, works: list[Work[Any]], waiting: list["asyncio.Future[Any]"]) -> None:
        """Do the batch in one transaction, and answer its callers once the commit is durable."""
        try:
            batch = await self._do(self._writer.commit, works)
        except BaseException:
            for done in waiting:
                answer(done, None, closed())
            raise
        self._observe(batch.is_stored, batch.seconds)
        for name in batch.changed:
            self.changes.publish(name)
        for done, one in zip(waiting, batch.outcomes, strict=True):
            answer(done, *one)

    async def _share(self) -> None:
        """Allow reading connections as soon as there is disk space; a backup needs one."""
        with suppress(sqlite3.Error, OSError):
            room = os.statvfs(self._path.parent)
            if room.f_bavail * room.f_frsize >= SHARED and await self._do(self._writer.share):
                self._reader = await self._opened.enter_async_context(_reading(self._path))
                log.info("store.reopened_with_room", path=str(self._path))


async def _writer(path: Path, thread: ThreadPoolExecutor) -> Writer:
    do = partial(asyncio.get_running_loop().run_in_executor, thread)
    try:
        return await do(Writer, path)
    except sqlite3.Error as exc:
        if kind_of(exc) not in NO_ROOM:
            raise
        log.warning("store.opened_without_room", path=str(path), why=kind_of(exc))
    return await do(partial(Writer, path, alone=True))


@asynccontextmanager
async def _reading(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    uri = f"file:{quote(os.fsencode(path))}?mode=ro"
    async with aiosqlite.connect(uri, uri=True, isolation_level=None) as reader:
        reader.text_factory = text_or_bytes
        yield reader


def _make(path: Path) -> None:
    try:
        if not path.exists():
            os.close(open_own(path, os.O_CREAT | os.O_RDWR))
            sync_folder(path.parent)
    except OSError as exc:
        raise StartRefused(f"the store {path} cannot be made: {exc.strerror}") from None


def refuse_unfit(folder: Path) -> None:
    """Raise StartRefused if `folder` is accessible to other users or not on a local file system."""
    if exposed := exposure(folder):
        raise StartRefused(f"{folder} is {exposed}")
    best, kind, place = "", "", str(folder.resolve())
    with suppress(OSError), Path("/proc/mounts").open() as table:
        for line in table:
            _, mount, fs_type, *_ = line.split()
            inside = place == mount or place.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, fs_type
    if kind in NETWORK_FILE_SYSTEMS:
        raise StartRefused(f"the store's folder {folder} is on {kind}; SQLite needs a local file system")


def refuse_links(path: Path) -> None:
    """Raise StartRefused if a file of the store is a link in another user's folder, or not a regular file.

    SQLite follows links, which could lead root out of that folder, and it would block on a pipe.
    """
    foreign = is_foreign(path.parent)
    for file in (path, *(path.with_name(path.name + end) for end in SIDE_FILES)):
        try:
            if foreign:
                os.close(open_own(file, os.O_RDONLY))
            elif not stat.S_ISREG(file.stat().st_mode):
                raise OSError(errno.EINVAL, NOT_OURS)
        except FileNotFoundError:
            continue
        except OSError as exc:
            as_root = " as root" if foreign else ""
            raise StartRefused(f"{file} cannot be opened{as_root}: {exc.strerror}") from None


def take_lock(path: Path, flags: int = os.O_CREAT | os.O_RDWR) -> int:
    """Lock the store at `path` and return a handle, whose closing unlocks it; raises StartRefused."""
    lock = path.with_name(path.name + ".lock")
    try:
        handle = open_own(lock, flags)
    except OSError as exc:
        raise StartRefused(f"the lock {lock} cannot be opened: {exc.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StartRefused(
            f"another broker runs on the store {path}; stop it first (under systemd: systemctl stop"
            " token-broker.socket token-broker.service), or use another store"
        ) from None
    return handle


def lock_holder(path: Path) -> int | None:
    """Return the process that holds the lock of the store at `path`, as the kernel's table of locks says.

    Trying to take the lock could make a broker that starts at the moment fail.
    """
    with suppress(OSError):
        found = path.with_name(path.name + ".lock").stat()
        file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, process, locked, *_ = line.split()
            if (kind, locked) == ("FLOCK", file):
                return int(process)
    return None
