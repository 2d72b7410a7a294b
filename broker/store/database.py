"""The interface of a database, on which the stores are written once, and the notification of changed accounts.

SQL is written as both databases read it: `$1, $2` for parameters, `ON CONFLICT`; what cannot be said alike is in
`Dialect`.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from functools import cache, wraps
from operator import attrgetter
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, get_args, get_type_hints

from broker.model import Choice

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Store")
Row = Sequence[Any]
SET_META = """
INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
"""What a store says of itself, by key."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The few words in which databases differ."""

    shared: bool
    """Whether other brokers may work on the same database."""
    clock: str | None
    """The database's own clock, epoch seconds, by which leases are counted; None: the caller's."""
    unlocked: str
    """Behind a SELECT: take these rows, and leave out those that somebody else has taken."""
    floor: str
    """A number without its fraction, for numbers that are not negative."""
    text: str
    """The type of a column of text that is compared byte by byte."""

    def now(self, parameter: str) -> str:
        """The time that leases are counted by; `parameter` holds the caller's own."""
        # The database has to be told a type for every parameter, so each appears.
        return (
            parameter if self.clock is None else f"({self.clock} + 0 * CAST({parameter} AS DOUBLE PRECISION))"
        )


class Transaction(Protocol):
    """Statements that become durable together, or not at all."""

    async def execute(self, sql: str, *values: object) -> int:
        """Run one statement; the number of rows it changed."""
        ...

    async def execute_all(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run one statement once for each of these rows of values."""
        ...

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """Run one statement; its rows."""
        ...

    async def alone(self, what: str) -> None:
        """Wait until no other transaction is at `what`; from here to the end none will be."""
        ...

    async def beside(self, what: str) -> None:
        """Wait until nobody is `alone` at `what`; from here to the end nobody will be."""
        ...

    async def tell(self, name: str) -> None:
        """Once this is durable, notify the subscribers here and in other brokers of a change of that account."""
        ...


Work = Callable[[Transaction], Awaitable[T]]


class Database(Protocol):
    """One durable store. Every method raises StorageUnavailable when it cannot do its work."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def changes(self) -> "Changes": ...

    def starting(self) -> AbstractAsyncContextManager[None]:
        """While this lasts, no other broker starts on the database: for the schema and the first keys."""
        ...

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Rows as the last finished write left them."""
        ...

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction of its own and return its result once it is durable.

        `work` must do nothing but talk to its transaction: it may share a commit with others, and it may be run
        again where the database undid it for another's sake. What two of them must not do at once stands in
        their statements' conditions, or behind `alone`. When it raises, its changes are undone and the error
        reaches the caller. A caller that is cancelled cancels only its own waiting.
        """
        ...

    async def scrub(self) -> bool:
        """Take what was deleted out of the store's files too. False: somebody reads just now; ask again."""
        ...

    async def close(self) -> None:
        """Finish what was written and let go of the store."""
        ...


LATEST = 253402300799
"""Epoch seconds, the end of the year 9999: every number that is stored lies between 0 and this, or is damaged."""


def number(value: Any) -> Any:
    """A stored number; 0 where it is damaged, so that whatever ends at that time has ended."""
    return value if isinstance(value, int | float) and 0 <= value <= LATEST else 0


def text(value: Any) -> Any:
    """A stored text as far as it can be read; SQLite stores anything in any column."""
    return value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value


def last_of(rows: Sequence[Row]) -> str:
    """The greatest of the texts at the rows' ends. One that is damaged sorts elsewhere as a text: its row may come
    again on the next page, so the end of a table is a page that is not full."""
    return max((str(text(row[-1])) for row in rows), default="")


class Table(Generic[T]):
    """A table whose columns are the fields of a dataclass, in their order."""

    def __init__(self, name: str, kind: type[T], /, **renamed: str) -> None:
        self.name, self._kind = name, kind
        self.columns = ", ".join(renamed.get(field, field) for field in get_type_hints(kind))
        """With commas."""
        self.select = f"SELECT {self.columns} FROM {name}"
        self.insert = insert_sql(name, self.columns)
        self._readers = [_reader(hint) for hint in get_type_hints(kind).values()]

    def of(self, alias: str) -> str:
        """The columns of the table under another name in a statement."""
        return f"{alias}.{self.columns.replace(', ', f', {alias}.')}"

    def read(self, row: Row) -> T:
        """The dataclass of a row; flags and choices are made of what is stored."""
        pairs = zip(self._readers, row, strict=True)
        return self._kind(*(value if value is None else read(value) for read, value in pairs))

    async def add(self, transaction: Transaction, value: T) -> int:
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

    async def _rows(self, table: Table[T], which: str, *values: object) -> list[T]:
        """The rows of a table for which this holds, in the order that it says."""
        return [table.read(row) for row in await self._database.read(f"{table.select} {which}", *values)]

    async def _row(self, table: Table[T], which: str, *values: object) -> T | None:
        """The first of such rows."""
        return next(iter(await self._rows(table, which, *values)), None)

    async def _execute(self, sql: str, *values: object) -> int:
        """Run one statement in a transaction of its own; the number of rows that it changed."""
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
    """Run one statement in a transaction of its own; the number of rows that it changed."""
    return await database.write(lambda transaction: transaction.execute(sql, *values))


async def execute_all(database: Database, sql: str, rows: Sequence[Sequence[object]]) -> None:
    """Run one statement for each of these rows, all in a transaction of their own."""
    await database.write(lambda transaction: transaction.execute_all(sql, rows))


def placeholders(count: int) -> str:
    """Return `$1, $2` and so on, for so many values."""
    return ", ".join(f"${number}" for number in range(1, count + 1))


def insert_sql(table: str, columns: str) -> str:
    """Return the statement that inserts one row; `columns` with commas."""
    return f"INSERT INTO {table} ({columns}) VALUES ({placeholders(columns.count(',') + 1)})"


def purge_sql(table: str, key: str, ended: str) -> str:
    """Return the statement that forgets at most $2 rows of a table, which ended before $1."""
    return f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {ended} LIMIT $2)"


def values_of(value: Any) -> tuple[object, ...]:
    """The values of a dataclass in the order of its fields, as the databases store them: a flag is a number."""
    found = _getter(value.__class__)(value)
    return tuple(int(one) if isinstance(one, bool) else one for one in found)


@cache
def _getter(kind: type) -> Callable[[Any], tuple[object, ...]]:
    return attrgetter(*(field.name for field in fields(kind)))


class Changes:
    """Notifies subscribers (caches, long polls) when the row of an account changed here or in another broker."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str], None]] = []
        self._forgetful: list[Callable[[], None]] = []
        self.are_heard: Callable[[], bool] = lambda: True
        """Whether changes by other brokers on the database are heard just now."""

    def listen(self, listener: Callable[[str], None], missed: Callable[[], None] | None = None) -> None:
        """`missed` is called when anything may have changed unheard."""
        self._listeners.append(listener)
        if missed is not None:
            self._forgetful.append(missed)

    def publish(self, name: str) -> None:
        for listener in self._listeners:
            listener(name)

    def missed(self) -> None:
        """Changes by others were not heard for a while; from now on they are."""
        for forget in self._forgetful:
            forget()
