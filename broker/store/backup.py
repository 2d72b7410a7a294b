"""Makes backups of a SQLite store while it is in use, examines them, and restores them."""

import asyncio
import glob
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from broker.errors import StorageUnavailable
from broker.files import is_foreign, open_own, replacing
from broker.store.migrate import migrations
from broker.store.sqlite import SIDE_FILES, take_lock
from broker.store.writer import APPLICATION_ID, kind_of

LEAST_LEFT = 64 * 1024 * 1024
"""Bytes of disk space that a backup must leave free for renewals."""
UNFINISHED = ".unfinished-backup-"
"""Part of the name of an unfinished backup. No operator would choose it, so files left by a crash can be deleted."""
MADE_AT = "backup_at"
SET_META = """INSERT INTO meta (key, value) VALUES (?, ?)
              ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
LATEST = 1e11
MiB = 1024 * 1024


class NotAStore(Exception):
    """A file is not an intact store of token-broker; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Examined:
    """The content of an intact store or backup."""

    schema: int
    accounts: int
    made_at: float | None
    """The time at which `broker backup` made it; None for a plain copy of the file."""
    masters: tuple[str, ...]
    """The ids of the master keys that wrapped its data keys."""


class SqliteBackup:
    """Makes copies of a store that is in use, one at a time."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._one_at_a_time = asyncio.Lock()
        self._in_use: set[str] = set()

    @asynccontextmanager
    async def copy(self, at: float) -> AsyncIterator[Path]:
        """Yield an intact copy of the store, next to it and deleted afterwards; raises StorageUnavailable."""
        path = self._store.with_name(f"{self._store.name}{UNFINISHED}{secrets.token_hex(4)}")
        self._in_use.add(path.name)
        try:
            # Only making a copy is exclusive; a slow reader of a copy does not delay the next one.
            async with self._one_at_a_time:
                await asyncio.to_thread(self._make, path, at, tuple(self._in_use))
            yield path
        finally:
            self._in_use.discard(path.name)
            for end in ("", *SIDE_FILES):
                path.with_name(path.name + end).unlink(missing_ok=True)

    def _make(self, path: Path, at: float, in_use: tuple[str, ...]) -> None:
        for left in self._store.parent.glob(f"{glob.escape(self._store.name)}{UNFINISHED}*"):
            if not left.name.startswith(in_use):
                with suppress(OSError):
                    left.unlink()
        room = os.statvfs(self._store.parent)
        needed = self._store.stat().st_size + LEAST_LEFT
        if room.f_bavail * room.f_frsize < needed:
            raise StorageUnavailable(
                f"a backup needs {needed // MiB} MiB of free space next to the store for a while",
                retry_after=60,
            )
        try:
            # The copy must not be mistaken for the original store (R13).
            _copy(self._store, path, incarnation=f"backup-{secrets.token_hex(8)}", **{MADE_AT: str(at)})
        except (sqlite3.Error, OSError, NotAStore) as exc:
            raise StorageUnavailable(f"the store cannot be backed up: {exc}", retry_after=60) from exc


def moment(written: object) -> float | None:
    """Parse epoch seconds from the store's metadata; return None if they are not a valid time."""
    with suppress(ValueError):
        at = float(str(written))
        # NaN fails both comparisons.
        return at if 0 < at < LATEST else None
    return None


def copy_whole(source: Path, target: Path) -> None:
    """Copy every page of `source`, including its write-ahead log, into one new file of mode 0600."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(_opened(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)
        writing.execute("PRAGMA journal_mode = DELETE").fetchall()


def _copy(source: Path, target: Path, **meta: str) -> None:
    """Make an intact copy with these entries in its metadata; raises sqlite3.Error, OSError, NotAStore."""
    copy_whole(source, target)
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.executemany(SET_META, meta.items())
        [(schema,)] = connection.execute("SELECT MAX(version) FROM schema_version")
        connection.execute(f"PRAGMA user_version = {int(schema)}")
    examine(target)


def _opened(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?mode=ro"
    if not path.is_file():
        raise NotAStore(f"{path} is no regular file" if path.exists() else f"there is no {path}")
    connection = sqlite3.connect(uri, uri=True, timeout=1.0)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.Error as exc:
        connection.close()
        if not isinstance(exc, sqlite3.OperationalError):
            raise
        # A broker that started without disk space locks its store; `immutable` would leave out the log's content.
        if kind_of(exc) == "SQLITE_BUSY":
            raise NotAStore(
                f"{path} is locked by one connection, as after a start on a full disk; try again in a minute"
            ) from None
        # A copy in WAL mode on a read-only medium.
        return sqlite3.connect(f"{uri}&immutable=1", uri=True)
    return connection


def examine(path: Path) -> Examined:
    """Check a store that no process has open; raises NotAStore."""
    try:
        with closing(_opened(path)) as connection:
            [(application,)] = connection.execute("PRAGMA application_id")
            if application != APPLICATION_ID:
                raise NotAStore(f"{path} is a SQLite file, but no store of token-broker")
            [(check,), *_] = connection.execute("PRAGMA integrity_check")
            if check != "ok":
                raise NotAStore(f"{path} is damaged ({check}); take an older backup")
            [(schema,)] = connection.execute("SELECT MAX(version) FROM schema_version")
            if not isinstance(schema, int):
                raise NotAStore(f"{path} is damaged (its schema is {schema!r}); take an older backup")
            [(stamped,)] = connection.execute("PRAGMA user_version")
            if stamped > schema:
                raise NotAStore(
                    f"{path} is marked as schema {stamped} but contains schema {schema}; take another backup"
                )
            if schema > max(migrations()):
                raise NotAStore(
                    f"{path} was written by a newer token-broker; install that version, then restore it"
                )
            [(accounts,)] = connection.execute("SELECT COUNT(*) FROM accounts")
            made = connection.execute("SELECT value FROM meta WHERE key = ?", (MADE_AT,)).fetchall()
            masters = connection.execute("SELECT DISTINCT master_id FROM keys WHERE wrapped <> '' ORDER BY 1")
            return Examined(
                schema, accounts, moment(made[0][0]) if made else None, tuple(one for (one,) in masters)
            )
    except sqlite3.Error as exc:
        raise NotAStore(f"{path} cannot be read as a store: {exc}") from None


def restore(source: Path, store: Path, *, force: bool, at: float) -> tuple[Examined, Path | None]:
    """Make a copy of `source` the store; return what it contains, and the path to which the old store was moved.

    A store that has accounts or is damaged is replaced only with `force`, and is kept next to the new one. After an
    interruption at any point a complete store is in place: the old one or the new one. Raises NotAStore, OSError, and
    StartRefused if a broker uses the store.
    """
    found, kept = examine(source), None
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = take_lock(store)
    try:
        for left in store.parent.glob(f"{glob.escape(store.name)}.restoring*"):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        # In a folder of its own, in which no other user can create links that SQLite would follow.
        parent = None if is_foreign(store.parent) else store.parent
        with tempfile.TemporaryDirectory(prefix=f"{store.name}.restoring-", dir=parent) as private:
            old, new = Path(private) / "old.db", Path(private) / "new.db"
            exists = _copied(store, old)
            if exists and not force:
                _require_empty(old, store)
            # It must not be mistaken for the store that it replaces (R13), nor for its source.
            _copy(source, new, incarnation=f"restored-{secrets.token_hex(8)}", restored_at=str(at))
            if exists:
                kept = _keep(old, store, at)
            _put(new, store)
    except sqlite3.Error as exc:
        raise NotAStore(f"{source} could not be copied to {store.parent}: {exc}") from None
    except OSError as exc:
        # Read errors name their file; an error without a file name is from writing.
        exc.filename = exc.filename or str(store.parent)
        raise
    finally:
        os.close(lock)
    return found, kept


def _copied(store: Path, copy: Path) -> bool:
    """Copy the existing store byte by byte with its log. False: there is no store."""
    for end in ("", "-wal", "-journal"):
        try:
            reading = open_own(store.with_name(store.name + end), os.O_RDONLY)
        except FileNotFoundError:
            if not end:
                return False
            continue
        with open(reading, "rb") as old, replacing(copy.with_name(copy.name + end)) as new:  # noqa: PTH123 - a handle
            shutil.copyfileobj(old, new)
    return True


def _put(new: Path, store: Path) -> None:
    with new.open("rb") as reading, replacing(store) as writing:
        shutil.copyfileobj(reading, writing)


def _require_empty(copy: Path, store: Path) -> None:
    if copy.stat().st_size == 0:
        return
    try:
        accounts = examine(copy).accounts
    except NotAStore as exc:
        why = str(exc).replace(str(copy), str(store))
        raise NotAStore(f"{why}. With --yes it is replaced, and kept next to the new one") from None
    if accounts:
        raise NotAStore(
            f"the store {store} holds {accounts} accounts; with --yes it is replaced, and kept next to the new one"
        )


def _keep(copy: Path, store: Path, at: float) -> Path:
    """Give the old store a second name, with the content of its log folded in, and return that name.

    The new store must not find the old store's log, because SQLite would apply it.
    """
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = store.with_name(f"{store.name}.replaced-{stamp}-{secrets.token_hex(2)}")
    ends = [end for end in SIDE_FILES if store.with_name(store.name + end).exists()]
    with suppress(sqlite3.Error), closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        if ends:
            # The same accounts in one file, which is complete without its log until the new store is in place.
            _put(copy, store)
            for end in ends:
                store.with_name(store.name + end).unlink(missing_ok=True)
    for end in SIDE_FILES:
        # A log is still there if the store is too damaged for it to be folded in.
        with suppress(FileNotFoundError):
            store.with_name(store.name + end).rename(kept.with_name(kept.name + end))
    os.link(store, kept)
    return kept
