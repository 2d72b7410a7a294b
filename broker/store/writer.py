"""The writing connection of a SQLite store, and the one thread that it belongs to.

A transaction is one job of that thread: its statements need no turn of the loop, and nobody's task comes between.
"""

import os
import sqlite3
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from broker.errors import StartRefused, StorageUnavailable
from broker.store.database import Row, Work

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
)
ALONE = "PRAGMA locking_mode = EXCLUSIVE"
DURABLE = {"journal_mode": "wal", "synchronous": 2}
"""Read back after they were set: WAL silently stays off on some file systems, and NORMAL loses commits."""
OWN_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""What a statement did wrong by itself; every other error is the store's, and ends the whole transaction."""


Ended = tuple[Any, Exception | None]
"""The result of one piece of work, or its error."""


@dataclass(frozen=True, slots=True)
class Batch:
    """How a transaction ended, in which several pieces of work were done."""

    each: Sequence[Ended]
    is_stored: bool
    seconds: float
    changed: Sequence[str]
    """The accounts that are told of."""


class _Transaction:
    """Statements on the writing connection; each is done when it is asked for. There is one writer and one broker."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changed: dict[str, None] = {}

    async def execute(self, sql: str, *values: object) -> int:
        cursor = self._connection.execute(sql, named(values))
        count = cursor.rowcount
        cursor.close()
        return count

    async def execute_all(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        self._connection.executemany(sql, map(named, rows)).close()

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return self._connection.execute(sql, named(values)).fetchall()

    async def alone(self, what: str) -> None:
        pass

    async def beside(self, what: str) -> None:
        pass

    async def tell(self, name: str) -> None:
        self.changed[name] = None


class Writer:
    """Does one transaction after another, in the thread that made it.

    `alone`: without the shared memory beside the file, so that no other connection can read. Making one opens or
    creates the file; raises sqlite3.Error, StartRefused.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        self._path, self.is_alone = path, alone
        self._connection = _configured(path, alone)

    def read(self, sql: str, values: Sequence[object]) -> list[Row]:
        """Rows, where there is no other connection to read them; raises sqlite3.Error."""
        return self._connection.execute(sql, named(values)).fetchall()

    def commit(self, works: Sequence[Work[Any]]) -> Batch:
        """Do them in one transaction; nothing is returned before it is durable, or wholly undone."""
        began = time.perf_counter()
        transaction = _Transaction(self._connection)
        try:
            each = self._run(transaction, works, apart=False)
        except sqlite3.Error as exc:
            failure = StorageUnavailable(f"the store cannot be written ({kind_of(exc)})", retry_after=1)
            failure.__cause__ = exc
            return Batch([(None, failure)] * len(works), False, time.perf_counter() - began, ())
        finally:
            self._roll_back()
        return Batch(each, True, time.perf_counter() - began, tuple(transaction.changed))

    def _run(self, transaction: _Transaction, works: Sequence[Work[Any]], *, apart: bool) -> list[Ended]:
        """All of them together, or where one makes a mistake, anew with a savepoint around each."""
        each: list[Ended] = []
        self._connection.execute("BEGIN IMMEDIATE")
        for work in works:
            if apart:
                self._connection.execute("SAVEPOINT work")
            try:
                each.append((driven(work(transaction)), None))
            except Exception as exc:
                if is_of_the_store(exc):
                    raise
                if not apart:
                    self._roll_back()
                    return [(None, exc)] if len(works) == 1 else self._run(transaction, works, apart=True)
                # It is the caller's own error, and reaches the caller alone.
                self._connection.execute("ROLLBACK TO work")
                each.append((None, exc))
            if apart:
                self._connection.execute("RELEASE work")
        self._connection.execute("COMMIT")
        return each

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors (full disk); then there is nothing to undo.
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def truncate_log(self) -> bool:
        """Whether nothing is left in the log that the file does not hold; False: somebody reads just now."""
        busy = True
        with suppress(sqlite3.Error):
            # Somebody else's long read must not hold up the writes behind this.
            self._connection.execute("PRAGMA busy_timeout = 50")
            [(busy, _, _)] = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.execute(BUSY_TIMEOUT)
        return not busy

    def share(self) -> bool:
        """Reopen a file that was opened `alone`; False: there is no room for the shared memory yet."""
        self._connection.close()
        for alone in (False, True):
            # Where neither opens, reads and writes fail until the next attempt.
            with suppress(sqlite3.Error, StartRefused):
                self._connection, self.is_alone = _configured(self._path, alone), alone
                break
        return not self.is_alone

    def close(self) -> None:
        self._connection.close()


def driven(work: Awaitable[T]) -> T:
    """What `work` returns, taken to its end here and now; RuntimeError where it waits for anything."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    steps.close()
    raise RuntimeError("a transaction's work waits for something besides its transaction")


def is_of_the_store(exc: Exception) -> bool:
    """Whether the store failed, and not the work."""
    return isinstance(exc, sqlite3.Error) and not isinstance(exc, OWN_MISTAKES)


def named(values: Sequence[object]) -> Mapping[str, object]:
    """The values of `$1`, `$2`: a mapping, because SQLite calls these *named* parameters."""
    return dict(zip(_names(len(values)), values, strict=True))


@lru_cache
def _names(count: int) -> Sequence[str]:
    return [str(number) for number in range(1, count + 1)]


def text_or_bytes(stored: bytes) -> str | bytes:
    """A text; one that is damaged as it is, because otherwise no row that is read with it could be."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def kind_of(exc: sqlite3.Error) -> str:
    """SQLite's own word for what went wrong."""
    return getattr(exc, "sqlite_errorname", "") or type(exc).__name__


def _configured(path: Path, alone: bool) -> sqlite3.Connection:
    """A connection whose commits are durable; raises StartRefused where they cannot be."""
    connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=rwc", uri=True, isolation_level=None)
    connection.text_factory = text_or_bytes
    try:
        for setting in (*([ALONE] if alone else []), *SETTINGS):
            connection.execute(setting).fetchall()
        # Set once: it is a write, for which a full disk has no room.
        if connection.execute("PRAGMA application_id").fetchall() != [(APPLICATION_ID,)]:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}").fetchall()
        for name, wanted in DURABLE.items():
            [(found,)] = connection.execute(f"PRAGMA {name}").fetchall()
            if found != wanted:
                raise StartRefused(
                    f"the store {path} cannot be made durable: {name} is {found!r}, needed is {wanted!r};"
                    " put it on a local file system"
                )
    except BaseException:
        connection.close()
        raise
    return connection
