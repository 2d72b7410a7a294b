"""The writing connection of a SQLite store.

A transaction is one job of the writer's thread: its statements do not go through the event loop one by one.
"""

import os
import sqlite3
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import closing, suppress
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
DURABLE = {"journal_mode": "wal", "synchronous": 2}
"""Checked after they were set: some file systems silently refuse WAL, and NORMAL loses commits."""
OWN_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""Errors of one statement. Every other SQLite error means that the store failed, and ends the whole transaction."""

Outcome = tuple[Any, Exception | None]
"""The result of one piece of work, or its error."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The outcome of a transaction that did several pieces of work."""

    outcomes: Sequence[Outcome]
    is_stored: bool
    seconds: float
    changed: Sequence[str]
    """The names of the accounts that changed."""


class _Transaction:
    """Statements on the writing connection. Locks do nothing, because there is one writer and one broker."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changed: dict[str, None] = {}

    async def execute(self, sql: str, *values: object) -> int:
        with closing(self._connection.execute(sql, named(values))) as cursor:
            return cursor.rowcount

    async def execute_all(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        self._connection.executemany(sql, map(named, rows)).close()

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return self._connection.execute(sql, named(values)).fetchall()

    async def lock(self, what: str) -> None:
        pass

    async def lock_shared(self, what: str) -> None:
        pass

    async def notify(self, name: str) -> None:
        self.changed[name] = None


class Writer:
    """Runs one transaction after another, in the thread that created it.

    `alone` opens the file without shared memory next to it, so that no other connection can read. The constructor
    opens or creates the file; raises sqlite3.Error, StartRefused.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        self._path, self.is_alone = path, alone
        self._connection = _configured(path, alone)

    def read(self, sql: str, values: Sequence[object]) -> list[Row]:
        """Return rows, for a store opened `alone`, which has no reading connection; raises sqlite3.Error."""
        return self._connection.execute(sql, named(values)).fetchall()

    def commit(self, works: Sequence[Work[Any]]) -> Batch:
        """Do all `works` in one transaction; return once it is durable or completely undone."""
        began = time.perf_counter()
        transaction = _Transaction(self._connection)
        try:
            outcomes = self._run(transaction, works, apart=False)
        except sqlite3.Error as exc:
            failure = StorageUnavailable(f"the store cannot be written ({kind_of(exc)})", retry_after=1)
            failure.__cause__ = exc
            return Batch([(None, failure)] * len(works), False, time.perf_counter() - began, ())
        finally:
            self._roll_back()
        return Batch(outcomes, True, time.perf_counter() - began, tuple(transaction.changed))

    def _run(self, transaction: _Transaction, works: Sequence[Work[Any]], *, apart: bool) -> list[Outcome]:
        """Run them together; if one of them is at fault, run them again with a savepoint around each."""
        each: list[Outcome] = []
        self._connection.execute("BEGIN IMMEDIATE")
        for work in works:
            if apart:
                self._connection.execute("SAVEPOINT work")
            try:
                each.append((driven(work(transaction)), None))
            except Exception as exc:
                if isinstance(exc, sqlite3.Error) and not isinstance(exc, OWN_MISTAKES):
                    raise
                if not apart:
                    self._roll_back()
                    return [(None, exc)] if len(works) == 1 else self._run(transaction, works, apart=True)
                # Only the caller whose work failed gets the error.
                self._connection.execute("ROLLBACK TO work")
                each.append((None, exc))
            if apart:
                self._connection.execute("RELEASE work")
        self._connection.execute("COMMIT")
        return each

    def _roll_back(self) -> None:
        # SQLite rolls back by itself after some errors (full disk).
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def truncate_log(self) -> bool:
        """Move the log's content into the file and empty the log. False: a reader prevents it at the moment."""
        busy = True
        with suppress(sqlite3.Error):
            # A long read must not delay the writes that are queued behind this.
            self._connection.execute("PRAGMA busy_timeout = 50")
            [(busy, _, _)] = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.execute(BUSY_TIMEOUT)
        return not busy

    def share(self) -> bool:
        """Reopen a file that was opened `alone`. False: there is no disk space for the shared memory yet."""
        self._connection.close()
        for alone in (False, True):
            # If neither succeeds, reads and writes fail until the next attempt.
            with suppress(sqlite3.Error, StartRefused):
                self._connection, self.is_alone = _configured(self._path, alone), alone
                break
        return not self.is_alone

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def driven(work: Awaitable[T]) -> T:
    """Run `work` to its end without an event loop; raises RuntimeError if it awaits anything but its transaction."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    steps.close()
    raise RuntimeError("a transaction's work waits for something besides its transaction")


def named(values: Sequence[object]) -> Mapping[str, object]:
    """Return the values of `$1`, `$2` as a mapping, because SQLite treats these as named parameters."""
    return dict(zip(_names(len(values)), values, strict=True))


@lru_cache
def _names(count: int) -> Sequence[str]:
    return [str(number) for number in range(1, count + 1)]


def text_or_bytes(stored: bytes) -> str | bytes:
    """Decode a stored text, or return its bytes if it is damaged, because raising would lose the whole row."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def kind_of(exc: sqlite3.Error) -> str:
    """Return SQLite's name for an error, such as SQLITE_FULL."""
    return getattr(exc, "sqlite_errorname", "") or type(exc).__name__


def _configured(path: Path, alone: bool) -> sqlite3.Connection:
    """Open a connection whose commits are durable; raises StartRefused if they cannot be."""
    connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=rwc", uri=True, isolation_level=None)
    connection.text_factory = text_or_bytes
    try:
        for setting in (*(["PRAGMA locking_mode = EXCLUSIVE"] if alone else []), *SETTINGS):
            connection.execute(setting).fetchall()
        # Set only once: a write would fail on a full disk.
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
