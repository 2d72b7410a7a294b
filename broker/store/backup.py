"""Backups of a SQLite store: made while it is in use, examined before anybody trusts them, and restored."""

import asyncio
import glob
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from broker.errors import StorageUnavailable
from broker.files import is_foreign, open_own, replacing
from broker.store.migrate import migrations
from broker.store.sqlite import BESIDE, take_lock
from broker.store.writer import APPLICATION_ID, kind_of

LEAST_LEFT = 64 * 1024 * 1024
"""Room that a backup leaves beside the store, for renewals."""
UNFINISHED = ".unfinished-backup-"
"""No name that an operator would give to a copy: what a crash left under it is removed."""
MADE_AT = "backup_at"
SET_META = """INSERT INTO meta (key, value) VALUES (?, ?)
              ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
LATEST = 1e11
MiB = 1024 * 1024


class NotAStore(Exception):
    """A file is no sound store of ours; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What a sound store or backup holds."""

    schema: int
    accounts: int
    made_at: float | None
    """When `broker backup` made it; None: it is a plain copy."""
    masters: tuple[str, ...]
    """The ids of the master keys that open it."""

    @property
    def is_empty(self) -> bool:
        return self.accounts == 0


class SqliteBackup:
    """Makes copies of a store that is in use, one after another."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._one_at_a_time = asyncio.Lock()
        self._in_use: set[str] = set()

    @asynccontextmanager
    async def copy(self, at: float) -> AsyncIterator[Path]:
        """A sound copy of the store as it is now, beside it and gone afterwards; raises StorageUnavailable."""
        path = self._store.with_name(f"{self._store.name}{UNFINISHED}{secrets.token_hex(4)}")
        self._in_use.add(path.name)
        try:
            # Made one after another; who reads one slowly keeps nobody from making the next.
            async with self._one_at_a_time:
                await asyncio.to_thread(self._make, path, at, tuple(self._in_use))
            yield path
        finally:
            self._in_use.discard(path.name)
            for end in ("", *BESIDE):
                path.with_name(path.name + end).unlink(missing_ok=True)

    def _make(self, path: Path, at: float, in_use: tuple[str, ...]) -> None:
        for left in self._store.parent.glob(f"{glob.escape(self._store.name)}{UNFINISHED}*"):
            # What a crash left.
            if not left.name.startswith(in_use):
                with suppress(OSError):
                    left.unlink()
        room = os.statvfs(self._store.parent)
        needed = self._store.stat().st_size + LEAST_LEFT
        if room.f_bavail * room.f_frsize < needed:
            raise StorageUnavailable(
                f"a backup needs {needed // MiB} MiB beside the store for a while, and there is less",
                retry_after=60,
            )
        try:
            # It must never pass for the store it was taken from (R13).
            _copy(self._store, path, incarnation=f"backup-{secrets.token_hex(8)}", **{MADE_AT: str(at)})
        except (sqlite3.Error, OSError, NotAStore) as exc:
            raise StorageUnavailable(f"the store cannot be backed up: {exc}", retry_after=60) from exc


def moment(written: object) -> float | None:
    """The epoch seconds that a store says of itself; None where that is no moment."""
    with suppress(ValueError):
        at = float(str(written))
        # What is no number compares with none.
        return at if 0 < at < LATEST else None
    return None


def copy_whole(source: Path, target: Path) -> None:
    """Every page of `source`, its write-ahead log included, into one new file of mode 0600."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(_opened(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)
        # One file, without a log beside it.
        writing.execute("PRAGMA journal_mode = DELETE").fetchall()


def _copy(source: Path, target: Path, **said: str) -> None:
    """A sound copy that says this of itself; raises sqlite3.Error, OSError, NotAStore."""
    copy_whole(source, target)
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.executemany(SET_META, said.items())
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
        # A broker that started without room holds its store alone; `immutable` would leave out what its log holds.
        if kind_of(exc) == "SQLITE_BUSY":
            raise NotAStore(
                f"{path} is held by one connection, as after a start on a full disk; try again in a minute"
            ) from None
        # A copy in WAL mode on a medium that takes no file beside it.
        return sqlite3.connect(f"{uri}&immutable=1", uri=True)
    return connection


def examine(path: Path) -> Examined:
    """Look a store over that nobody has open; raises NotAStore."""
    try:
        with closing(_opened(path)) as connection:
            return _examined(connection, path)
    except sqlite3.Error as exc:
        raise NotAStore(f"{path} cannot be read as a store: {exc}") from None


def _examined(connection: sqlite3.Connection, path: Path) -> Examined:
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
        raise NotAStore(f"{path} says of itself schema {stamped} and holds {schema}; take another backup")
    if schema > max(migrations()):
        raise NotAStore(f"{path} was written by a newer token-broker; install that version, then restore it")
    [(accounts,)] = connection.execute("SELECT COUNT(*) FROM accounts")
    made = connection.execute("SELECT value FROM meta WHERE key = ?", (MADE_AT,)).fetchall()
    masters = connection.execute("SELECT DISTINCT master_id FROM keys WHERE wrapped <> '' ORDER BY 1")
    return Examined(
        schema=schema,
        accounts=accounts,
        made_at=moment(made[0][0]) if made else None,
        masters=tuple(one for (one,) in masters),
    )


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put where."""

    found: Examined
    kept: Path | None
    """The store that was there before."""


def restore(source: Path, store: Path, *, force: bool, at: float) -> Restored:
    """Make a copy of `source` the store; raises NotAStore, StartRefused where a broker runs on it, OSError.

    A store that holds accounts, or cannot be read, is replaced with `force` only, and kept beside the new one.
    Whenever it is interrupted, a whole store is in place: the old one or the new one.
    """
    found = examine(source)
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = take_lock(store)
    try:
        with _private_folder(store) as private:
            old, new = private / "old.db", private / "new.db"
            is_there = _copied(store, old)
            if is_there and not force:
                _require_empty(old, store)
            # It must not pass for the store whose place it takes (R13), nor for its source.
            _copy(source, new, incarnation=f"restored-{secrets.token_hex(8)}", restored_at=str(at))
            kept = _keep(old, store, at) if is_there else None
            _put(new, store)
    except sqlite3.Error as exc:
        raise NotAStore(f"{source} could not be copied to {store.parent}: {exc}") from None
    except OSError as exc:
        # What cannot be read is named; what fails without a name is a write of ours.
        exc.filename = exc.filename or str(store.parent)
        raise
    finally:
        os.close(lock)
    return Restored(found, kept)


@contextmanager
def _private_folder(store: Path) -> Iterator[Path]:
    """A folder for unfinished copies, in which no other user can lay links that SQLite would follow."""
    for left in store.parent.glob(f"{glob.escape(store.name)}.restoring*"):
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    beside = None if is_foreign(store.parent) else store.parent
    with tempfile.TemporaryDirectory(prefix=f"{store.name}.restoring-", dir=beside) as folder:
        yield Path(folder)


def _copied(store: Path, copy: Path) -> bool:
    """Copy the store that is in place, byte by byte with its log; False where there is none."""
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
        held = examine(copy)
    except NotAStore as exc:
        why = str(exc).replace(str(copy), str(store))
        raise NotAStore(f"{why}. With --yes it is replaced, and kept beside the new one") from None
    if not held.is_empty:
        raise NotAStore(
            f"the store {store} holds {held.accounts} accounts; with --yes it is replaced, and kept"
            " beside the new one"
        )


def _keep(copy: Path, store: Path, at: float) -> Path:
    """A second name for what is in place, with all that its log holds; none of its log may meet the new store."""
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = store.with_name(f"{store.name}.replaced-{stamp}-{secrets.token_hex(2)}")
    beside = [end for end in BESIDE if store.with_name(store.name + end).exists()]
    with suppress(sqlite3.Error), closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        if beside:
            # The same accounts in one file: until the new store is in place, this is whole without its log.
            _put(copy, store)
            for end in beside:
                store.with_name(store.name + end).unlink(missing_ok=True)
    for end in BESIDE:
        # Still there where it is too damaged to be folded in.
        with suppress(FileNotFoundError):
            store.with_name(store.name + end).rename(kept.with_name(kept.name + end))
    os.link(store, kept)
    return kept
