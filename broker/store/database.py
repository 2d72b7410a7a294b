"""The database interface that all stores use, and the notification of changed accounts.

SQL is written so that both databases accept it (`$1, $2` for parameters, `ON CONFLICT`). `Dialect` holds the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from functools import cache, wraps
from operator import attrgetter
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, get_args, get_type_hints

from broker.errors import StorageUnavailable
from broker.model import Choice

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Store")
Row = Sequence[Any]
SET_META = """
INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The SQL in which the two databases differ."""

    shared: bool
    """True if other brokers may use the same database."""
    clock: str | None
    """The database's own clock in epoch seconds, used for leases. None: use the caller's clock."""
    unlocked: str
    """Appended to a SELECT: lock these rows, and leave out rows that another transaction has locked."""
    floor: str
    """Round a non-negative number down."""
    text: str
    """The type of a text column that is compared byte by byte."""

    def now(self, parameter: str) -> str:
        """Return the SQL for the current time of leases; `parameter` holds the caller's time."""
        # PostgreSQL must be able to infer the type of every parameter, so each one has to appear.
        return (
            parameter if self.clock is None else f"({self.clock} + 0 * CAST({parameter} AS DOUBLE PRECISION))"
        )


class Transaction(Protocol):
    """Statements that become durable together, or not at all."""

    async def execute(self, sql: str, *values: object) -> int:
        """Run one statement and return the number of rows that it changed."""

    async def execute_all(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run one statement once for each of these rows of values."""

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """Run one statement and return its rows."""

    async def lock(self, what: str) -> None:
        """Take the exclusive lock named `what` until the end of the transaction."""

    async def lock_shared(self, what: str) -> None:
        """Take the lock named `what`, shared with others that take it so, until the end of the transaction."""

    async def notify(self, name: str) -> None:
        """Once this is durable, notify the subscribers in all brokers that the account `name` has changed."""


Work = Callable[[Transaction], Awaitable[T]]


class Database(Protocol):
    """One durable store. Every method raises StorageUnavailable when it cannot do its work."""

    @property
    def dialect(self) -> Dialect:
        """The SQL of this database."""

    @property
    def changes(self) -> "Changes":
        """The notifications of changed accounts."""

    def starting(self) -> AbstractAsyncContextManager[None]:
        """Keep other brokers from starting on this database while the schema and the first keys are made."""

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Return rows as the last finished write left them."""

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction of its own and return its result once it is durable.

        `work` must only use its transaction: it may share a commit with other work, and it is run again if the
        database undid it because of a conflict. Its statements' conditions, or `lock`, must prevent what two of
        them must not do at the same time. When it raises, its changes are undone and the caller gets the error.
        Cancelling the caller cancels only its waiting.
        """

    async def scrub(self) -> bool:
        """Remove deleted data from the store's files too. False: a reader prevents it at the moment; retry."""

    async def close(self) -> None:
        """Finish the pending writes and close the store."""


LATEST = 253402300799
"""The end of the year 9999 in epoch seconds. Every stored number is between 0 and this, or it is damaged."""


def number(value: Any) -> Any:
    """Return a stored number, or 0 if it is damaged, so that whatever ends at that time has ended."""
    return value if isinstance(value, int | float) and 0 <= value <= LATEST else 0


def text(value: Any) -> Any:
    """Return a stored text as far as it can be decoded; SQLite stores any bytes in any column."""
    return value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value


def last_of(rows: Sequence[Row]) -> str:
    """Return the greatest of the texts in the last column.

    A damaged text sorts differently as text, so its row may be on the next page again: only a page that is not full
    is the end of a table.
    """
    return max((str(text(row[-1])) for row in rows), default="")


class Table(Generic[T]):
    """A table whose columns are the fields of a dataclass, in their order."""

    def __init__(self, name: str, kind: type[T], /, **renamed: str) -> None:
        self.name, self._kind = name, kind
        self.columns = ", ".join(renamed.get(field, field) for field in get_type_hints(kind))
        """The names of the columns, separated by commas."""
        self.select = f"SELECT {self.columns} FROM {name}"
        self.insert = insert_sql(name, self.columns)
        self._readers = [_reader(hint) for hint in get_type_hints(kind).values()]

    def of(self, alias: str) -> str:
        """Return the columns, each qualified with the table's alias in a statement."""
        return f"{alias}.{self.columns.replace(', ', f', {alias}.')}"

    def read(self, row: Row) -> T:
        """Return the dataclass of a row, with flags and choices converted from what is stored."""
        pairs = zip(self._readers, row, strict=True)
        return self._kind(*(value if value is None else read(value) for read, value in pairs))

    async def add(self, transaction: Transaction, value: T) -> int:
        """Insert a row and return the number of rows inserted."""
        return await transaction.execute(self.insert, *values_of(value))


def _reader(hint: Any) -> Callable[[Any], Any]:
    for kind in get_args(hint) or (hint,):
        if isinstance(kind, type) and issubclass(kind, Choice):
            return lambda value: kind.stored(text(value))
        if kind is bool:
            return lambda value: value == 1
        if kind in {int, float}:
            return number
    return text


class Store:
    """Reads and writes some of the tables of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _rows(self, table: Table[T], where: str, *values: object) -> list[T]:
        return [table.read(row) for row in await self._database.read(f"{table.select} {where}", *values)]

    async def _row(self, table: Table[T], where: str, *values: object) -> T | None:
        return next(iter(await self._rows(table, where, *values)), None)

    async def _execute(self, sql: str, *values: object) -> int:
        return await execute(self._database, sql, *values)


def in_transaction(
    method: Callable[Concatenate[S, Transaction, P], Awaitable[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a store's method in a transaction of its own, which it gets as an argument; see `Database.write`."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.write(lambda transaction: method(self, transaction, *args, **kwargs))

    return run


async def execute(database: Database, sql: str, *values: object) -> int:
    """Run one statement in a transaction of its own and return the number of rows that it changed."""
    return await database.write(lambda transaction: transaction.execute(sql, *values))


async def execute_all(database: Database, sql: str, rows: Sequence[Sequence[object]]) -> None:
    """Run one statement for each of these rows of values, all in one transaction."""
    await database.write(lambda transaction: transaction.execute_all(sql, rows))


def answer(future: "asyncio.Future[T]", result: T, error: Exception | None = None) -> None:
    """Complete a future with a result or an error, unless its caller has given up."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
        # Marks the error as retrieved, in case the caller gives up before it sees it.
        future.exception()


def closed() -> StorageUnavailable:
    """Return the error of a store that is closed."""
    return StorageUnavailable("the store is closed", retry_after=1)


def placeholders(count: int) -> str:
    """Return `$1, $2` and so on, for so many values."""
    return ", ".join(f"${number}" for number in range(1, count + 1))


def insert_sql(table: str, columns: str) -> str:
    """Return the statement that inserts one row; `columns` are separated by commas."""
    return f"INSERT INTO {table} ({columns}) VALUES ({placeholders(columns.count(',') + 1)})"


def purge_sql(table: str, key: str, ended: str) -> str:
    """Return the statement that deletes at most $2 rows for which `ended`, a condition on the time $1, holds."""
    return f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {ended} LIMIT $2)"


def values_of(value: Any) -> tuple[object, ...]:
    """Return the values of a dataclass in the order of its fields, with flags as numbers."""
    return tuple(int(one) if isinstance(one, bool) else one for one in _getter(value.__class__)(value))


@cache
def _getter(kind: type) -> Callable[[Any], tuple[object, ...]]:
    return attrgetter(*(field.name for field in fields(kind)))


class Changes:
    """Notifies subscribers (caches, long polls) when an account's row changes, in this broker or in another."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str], None]] = []
        self._forgetful: list[Callable[[], None]] = []
        self.are_heard: Callable[[], bool] = lambda: True
        """True if notifications from other brokers arrive at the moment."""

    def listen(self, listener: Callable[[str], None], missed: Callable[[], None] | None = None) -> None:
        """Call `listener` with the name of each changed account, and `missed` when notifications may be lost."""
        self._listeners.append(listener)
        if missed is not None:
            self._forgetful.append(missed)

    def publish(self, name: str) -> None:
        """Notify the subscribers that an account has changed."""
        for listener in self._listeners:
            listener(name)

    def missed(self) -> None:
        """Tell the subscribers that changes by other brokers may have been missed until now."""
        for forget in self._forgetful:
            forget()
