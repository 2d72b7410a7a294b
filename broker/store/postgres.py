"""PostgreSQL as a database for several brokers: a pool of connections, and one permanent connection (the line)."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Self, TypeVar

import asyncpg
import structlog

from broker.errors import BrokerError, InvalidRequest, StartRefused, StorageUnavailable
from broker.model import Secret
from broker.store.database import Changes, Dialect, Row, Work, closed
from broker.store.postgres_connection import (
    CHANNEL,
    CONNECT_WITHIN,
    LOST,
    Address,
    Connection,
    Line,
    Plain,
    connect,
    prepare,
    read_address,
)

T = TypeVar("T")

POOL = 10
"""The largest number of connections in the pool."""
WITHIN = 10.0
"""Seconds for a transaction or a statement, including the wait for a connection."""
STARTING_WITHIN = 600.0
"""Seconds for a transaction at the start, such as a migration."""
TRIES = 5
"""The number of attempts for a transaction that the database rolls back because of a conflict."""
DIALECT = Dialect(
    shared=True,
    clock="CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
    unlocked="FOR UPDATE SKIP LOCKED",
    floor="CAST(FLOOR({}) AS BIGINT)",
    text='TEXT COLLATE "C"',
)
SHARED_SESSIONS = ("42P05", "26000")
"""SQLSTATEs of a session shared by a pooler: the prepared statement exists already, or does not exist."""
POOLED = (
    "store.url leads through a pooler that shares sessions (PgBouncer in transaction or statement mode);"
    " the broker needs a session for its locks and notifications: set pool_mode = session, or connect directly"
)
log = structlog.get_logger()
WAITS_SILENTLY = 3.0
"""Seconds after which a start logs that it waits for another broker to start."""
START_LOCK = "SELECT pg_advisory_lock(hashtextextended('token-broker start', 0))"
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('token-broker ' || $1, 0))"
LOCK_SHARED = "SELECT pg_advisory_xact_lock_shared(hashtextextended('token-broker ' || $1, 0))"
NOTIFY = f"SELECT pg_notify('{CHANNEL}', $1)"
IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system())::text || ':' || oid::text
  FROM pg_database WHERE datname = current_database()"""
OWN_MISTAKES = ("22", "23", "42")
"""SQLSTATE classes of errors in a statement itself; every other error counts as an outage of the database."""
CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class _Transaction:
    """Statements on one connection of the pool, between BEGIN and COMMIT."""

    def __init__(self, connection: Connection, sender: str) -> None:
        self._connection, self._sender = connection, sender
        self.changed: dict[str, None] = {}

    async def execute(self, sql: str, *values: object) -> int:
        # The server answers "UPDATE 1", "INSERT 0 1", "CREATE TABLE".
        count = (await self._connection.execute(sql, *values)).rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def execute_all(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        await self._connection.executemany(sql, rows)

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return [tuple(row) for row in await self._connection.fetch(sql, *values)]

    async def lock(self, what: str) -> None:
        await self._connection.execute(LOCK, what)

    async def lock_shared(self, what: str) -> None:
        await self._connection.execute(LOCK_SHARED, what)

    async def notify(self, name: str) -> None:
        self.changed[name] = None
        await self._connection.execute(NOTIFY, f"{self._sender} {name}")


class PostgresDatabase:
    """A `Database` on a PostgreSQL server; `open()` makes it."""

    dialect = DIALECT

    def __init__(
        self,
        *,
        address: Address,
        pool: "asyncpg.Pool[asyncpg.Record]",
        line: Line,
        observe: Callable[[bool, float], None],
    ) -> None:
        self._address, self._pool, self.line, self._observe = address, pool, line, observe
        self.changes = Changes()
        self.changes.are_heard = lambda: line.hears
        line.heard, line.changed = self.changes.publish, self._turned
        self.turned: Callable[[bool], None] = lambda _: None
        """Called with True when the database can be reached again, with False when it cannot any more."""
        self._within = WITHIN
        self._closing = False
        self._running: set[asyncio.Task[Any]] = set()
        self._in_use: set[Connection] = set()

    @classmethod
    async def open(
        cls, url: Secret, *, replica: str, observe: Callable[[bool, float], None] = lambda _, __: None
    ) -> Self:
        """Connect; raises StartRefused, whose message says what to do.

        `observe` is called after each commit with its success and its duration in seconds.
        """
        async with AsyncExitStack() as undo:
            try:
                address = read_address(url)
                pool = await asyncpg.create_pool(
                    address.dsn.reveal(),
                    # Keeping connections ready would log errors while the server is away.
                    min_size=0,
                    max_size=POOL,
                    init=partial(prepare, address),
                    connection_class=Plain,
                    timeout=address.timeout,
                    statement_cache_size=512,
                )
                undo.push_async_callback(pool.close)
                # Before anything is locked, because a lock would stay in a shared session.
                await _check_server(pool)
                line = Line(partial(connect, address), replica=replica)
                await line.begin()
                undo.push_async_callback(line.close)
            except LOST as exc:
                raise StartRefused(_refusal(exc)) from None
            except ValueError as exc:
                raise StartRefused(f"store.url is no address of a PostgreSQL database: {exc}") from None
            undo.pop_all()
        return cls(address=address, pool=pool, line=line, observe=observe)

    async def identity(self) -> str:
        """Return the ids of the server and the database; a copy has another id."""
        [(identity,)] = await self.read(IDENTITY)
        return str(identity)

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Hold the lock that lets only one broker at a time start; raises StartRefused."""
        try:
            connection = await connect(self._address)
        except LOST as exc:
            raise StartRefused(_refusal(exc)) from None
        self._within = STARTING_WITHIN
        detail = (
            "another broker on this database is starting, and holds the lock for that; this one goes on when it"
            " has started or ended. See pg_locks for the advisory lock, if it hangs"
        )
        loop = asyncio.get_running_loop()
        waiting = loop.call_later(WAITS_SILENTLY, partial(log.warning, "start.waits", detail=detail))
        try:
            await connection.execute(START_LOCK)
            waiting.cancel()
            yield
        finally:
            waiting.cancel()
            self._within = WITHIN
            connection.terminate()

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Return rows; see `Database.read`."""

        async def fetch() -> list[Row]:
            async with self._connection() as connection:
                return [tuple(row) for row in await connection.fetch(sql, *values)]

        return await self._shielded(fetch())

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; see `Database.write`."""
        return await self._shielded(self._write(work))

    async def scrub(self) -> bool:
        """Do nothing: the server removes deleted rows when it vacuums, and reuses or archives its own log."""
        return True

    async def close(self) -> None:
        """Finish the running statements and close all connections."""
        self._closing = True
        if self._running:
            await asyncio.wait(self._running)
        await self.line.close()
        try:
            await asyncio.wait_for(self._pool.close(), CONNECT_WITHIN)
        except LOST:
            self._pool.terminate()

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even if the caller is cancelled: a cancelled statement would cost a connection."""
        if self._closing:
            work.close()
            raise closed()
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Marks the error as retrieved, in case the caller has gone.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(task)

    async def _write(self, work: Work[T]) -> T:
        began = time.perf_counter()
        for _ in range(TRIES):
            try:
                async with self._connection() as connection:
                    result = await self._commit(connection, work)
            except CONFLICTS:
                continue
            except StorageUnavailable:
                self._observe(False, time.perf_counter() - began)
                raise
            self._observe(True, time.perf_counter() - began)
            return result
        self._observe(False, time.perf_counter() - began)
        raise StorageUnavailable("the database is too busy", retry_after=1)

    async def _commit(self, connection: Connection, work: Work[T]) -> T:
        await connection.execute("BEGIN")
        transaction = _Transaction(connection, self.line.sender)
        try:
            result = await work(transaction)
        except Exception:
            # A lost connection has rolled back by itself.
            with suppress(*LOST):
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
        for name in transaction.changed:
            self.changes.publish(name)
        return result

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection from the pool; its errors become StorageUnavailable."""
        if not self.line.is_up:
            # Do not wait for a server that is known not to answer.
            raise StorageUnavailable("the database cannot be reached", retry_after=1)
        connection: Any = None
        try:
            async with asyncio.timeout(self._within):
                connection = await self._pool.acquire()
                self._in_use.add(connection)
                yield connection
        except (*CONFLICTS, BrokerError):
            raise
        except LOST as exc:
            if connection is not None and not isinstance(exc, asyncpg.PostgresError):
                _end(connection)
            raise _translated(exc) from exc
        except AttributeError as exc:
            # A terminated asyncpg connection has no protocol object, and a statement that begins then fails on that.
            try:
                is_closed = connection is not None and connection.is_closed()
            except asyncpg.InterfaceError:
                # The pool has already taken the connection back.
                is_closed = True
            if not is_closed:
                raise
            raise StorageUnavailable("the database cannot be reached", retry_after=1) from exc
        finally:
            if connection is not None:
                self._in_use.discard(connection)
                with suppress(*LOST):
                    await self._pool.release(connection)

    def _turned(self, up: bool) -> None:
        if not up:
            # Ends the statements that wait for an answer.
            for connection in self._in_use:
                _end(connection)
        self.turned(up)
        if up:
            self.changes.missed()


def _end(connection: Any) -> None:
    # The pool releases a broken connection by itself; terminating it fails then.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _translated(exc: BaseException) -> BaseException:
    """Return the error to raise to the stores' users: errors in a statement as they are, all others as an outage."""
    if isinstance(exc, asyncpg.CharacterNotInRepertoireError):
        return InvalidRequest("a text holds a character that cannot be stored (NUL)")
    state = getattr(exc, "sqlstate", None) or ""
    if state[:2] in OWN_MISTAKES or (isinstance(exc, asyncpg.InterfaceError) and isinstance(exc, ValueError)):
        return exc
    return StorageUnavailable(f"the database cannot be used just now ({_why(exc)})", retry_after=1)


def _why(exc: BaseException) -> str:
    """Describe an error briefly, without the address, which may contain a password."""
    if isinstance(exc, asyncpg.PostgresError):
        return f"{exc.sqlstate} {exc}".splitlines()[0]
    if isinstance(exc, TimeoutError):
        return "it does not answer"
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else type(exc).__name__


def _refusal(exc: BaseException) -> str:
    """Return the message for a start that cannot use the database."""
    if getattr(exc, "sqlstate", None) in SHARED_SESSIONS or "pooling mode" in str(exc):
        return POOLED
    return f"the database in store.url cannot be used: {_why(exc)}"


async def _check_server(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Raise StartRefused if the server, or a pooler in front of it, cannot be used for a store."""
    session = "SELECT pg_backend_pid()"
    async with pool.acquire() as one, pool.acquire() as other:
        first = await one.fetchval(session)
        async with other.transaction():
            # During this transaction a pooler would give the first connection another session.
            if first == await other.fetchval(session) or first != await one.fetchval(session):
                raise StartRefused(POOLED)
    if await pool.fetchval("SELECT pg_is_in_recovery()"):
        raise StartRefused("the database in store.url is a standby that takes no writes; name the primary")
    encoding = await pool.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StartRefused(
            f"the database in store.url is encoded in {encoding}; make one with ENCODING 'UTF8'"
        )
