"""PostgreSQL as a database for several brokers side by side: a pool of connections, and the line that stays."""

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
from broker.store.database import Changes, Dialect, Row, Work
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
"""Connections at most, besides the line."""
WITHIN = 10.0
"""Seconds for a transaction or a statement, its waiting for a connection included."""
STARTING_WITHIN = 600.0
"""A migration may take its time."""
TRIES = 5
"""Of a transaction that the database undid because it and another were in each other's way."""
DIALECT = Dialect(
    shared=True,
    clock="CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
    unlocked="FOR UPDATE SKIP LOCKED",
    floor="CAST(FLOOR({}) AS BIGINT)",
    text='TEXT COLLATE "C"',
)
SHARED_SESSIONS = ("42P05", "26000")
"""What a prepared statement meets where a pooler shares a session: one of that name is there, or is not."""
POOLED = (
    "store.url leads through a pooler that shares sessions (PgBouncer in transaction or statement mode);"
    " the broker needs a session for its locks and notifications: set pool_mode = session, or connect directly"
)
log = structlog.get_logger()
WAITS_SILENTLY = 3.0
"""Seconds that a start waits for another's before it says so."""
START_LOCK = "SELECT pg_advisory_lock(hashtextextended('token-broker start', 0))"
ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('token-broker ' || $1, 0))"
BESIDE = "SELECT pg_advisory_xact_lock_shared(hashtextextended('token-broker ' || $1, 0))"
TELL = f"SELECT pg_notify('{CHANNEL}', $1)"
IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system())::text || ':' || oid::text
  FROM pg_database WHERE datname = current_database()"""
OWN_MISTAKES = ("22", "23", "42")
"""SQLSTATE classes of what a statement did wrong by itself; every other error is the database's."""
IN_EACH_OTHERS_WAY = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class _Transaction:
    """Statements on one connection of the pool, between BEGIN and COMMIT."""

    def __init__(self, connection: Connection, sender: str) -> None:
        self._connection, self._sender = connection, sender
        self.changed: dict[str, None] = {}

    async def execute(self, sql: str, *values: object) -> int:
        # The server says "UPDATE 1", "INSERT 0 1", "CREATE TABLE".
        count = (await self._connection.execute(sql, *values)).rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def execute_all(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        await self._connection.executemany(sql, rows)

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return [tuple(row) for row in await self._connection.fetch(sql, *values)]

    async def lock(self, what: str) -> None:
        await self._connection.execute(ALONE, what)

    async def lock_shared(self, what: str) -> None:
        await self._connection.execute(BESIDE, what)

    async def notify(self, name: str) -> None:
        self.changed[name] = None
        await self._connection.execute(TELL, f"{self._sender} {name}")


class PostgresDatabase:
    """A `Database` on a server; `open()` makes it."""

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
        """Told when the database can be reached again, and when it cannot be any more."""
        self._within = WITHIN
        self._closing = False
        self._running: set[asyncio.Task[Any]] = set()
        self._in_use: set[Connection] = set()

    @classmethod
    async def open(
        cls, url: Secret, *, replica: str, observe: Callable[[bool, float], None] = lambda _, __: None
    ) -> Self:
        """Connect; raises StartRefused with a sentence that says what to do.

        `observe` hears after each commit whether it succeeded, and how many seconds it took.
        """
        async with AsyncExitStack() as undo:
            try:
                address = read_address(url)
                pool = await asyncpg.create_pool(
                    address.dsn.reveal(),
                    # One that is kept ready would be complained of in the log while the server is away.
                    min_size=0,
                    max_size=POOL,
                    init=partial(prepare, address),
                    connection_class=Plain,
                    timeout=address.timeout,
                    statement_cache_size=512,
                )
                undo.push_async_callback(pool.close)
                # Before anything is locked, since a lock would stay in a shared session.
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
        """Which database of which server this is; a copy elsewhere has another."""
        [(identity,)] = await self.read(IDENTITY)
        return str(identity)

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        try:
            connection = await connect(self._address)
        except LOST as exc:
            raise StartRefused(_refusal(exc)) from None
        self._within = STARTING_WITHIN
        waiting = asyncio.get_running_loop().call_later(WAITS_SILENTLY, _tell_waiting)
        try:
            await connection.execute(START_LOCK)
            waiting.cancel()
            yield
        finally:
            waiting.cancel()
            self._within = WITHIN
            connection.terminate()

    async def read(self, sql: str, *values: object) -> list[Row]:
        return await self._shielded(self._read(sql, values))

    async def write(self, work: Work[T]) -> T:
        return await self._shielded(self._write(work))

    async def scrub(self) -> bool:
        # Dead rows go when the server vacuums, and its log when that is archived or overwritten: not ours to force.
        return True

    async def close(self) -> None:
        self._closing = True
        if self._running:
            await asyncio.wait(self._running)
        await self.line.close()
        try:
            await asyncio.wait_for(self._pool.close(), CONNECT_WITHIN)
        except LOST:
            self._pool.terminate()

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """A caller that is cancelled cancels only its own waiting; a cancelled statement would cost a connection."""
        if self._closing:
            work.close()
            raise StorageUnavailable("the store is closed", retry_after=1)
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # The caller may have hung up; the error was its own.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(task)

    async def _read(self, sql: str, values: tuple[object, ...]) -> list[Row]:
        async with self._connection() as connection:
            return [tuple(row) for row in await connection.fetch(sql, *values)]

    async def _write(self, work: Work[T]) -> T:
        began = time.perf_counter()
        try:
            result = await self._tried(work)
        except StorageUnavailable:
            self._observe(False, time.perf_counter() - began)
            raise
        self._observe(True, time.perf_counter() - began)
        return result

    async def _tried(self, work: Work[T]) -> T:
        for _ in range(TRIES):
            with suppress(*IN_EACH_OTHERS_WAY):
                async with self._connection() as connection:
                    return await self._commit(connection, work)
        raise StorageUnavailable("the database is too busy", retry_after=1)

    async def _commit(self, connection: Connection, work: Work[T]) -> T:
        await connection.execute("BEGIN")
        transaction = _Transaction(connection, self.line.sender)
        try:
            result = await work(transaction)
        except Exception:
            # A connection that is gone has rolled back by itself.
            with suppress(*LOST):
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
        for name in transaction.changed:
            self.changes.publish(name)
        return result

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, for a while; what goes wrong on it becomes StorageUnavailable."""
        if not self.line.is_up:
            # Nobody waits for a server of which it is known that it does not answer.
            raise StorageUnavailable("the database cannot be reached", retry_after=1)
        connection: Any = None
        try:
            async with asyncio.timeout(self._within):
                connection = await self._pool.acquire()
                self._in_use.add(connection)
                yield connection
        except (*IN_EACH_OTHERS_WAY, BrokerError):
            raise
        except LOST as exc:
            if connection is not None and not isinstance(exc, asyncpg.PostgresError):
                _end(connection)
            raise _told(exc) from exc
        except AttributeError as exc:
            # asyncpg has no protocol any more once it is terminated, and a statement that was to begin trips over that.
            if not _is_closed(connection):
                raise
            raise StorageUnavailable("the database cannot be reached", retry_after=1) from exc
        finally:
            if connection is not None:
                self._in_use.discard(connection)
                with suppress(*LOST):
                    await self._pool.release(connection)

    def _turned(self, up: bool) -> None:
        if not up:
            # Nobody goes on waiting for its answers.
            for connection in self._in_use:
                _end(connection)
        self.turned(up)
        if up:
            self.changes.missed()


def _is_closed(connection: Any) -> bool:
    try:
        return connection is not None and bool(connection.is_closed())
    except asyncpg.InterfaceError:
        # The pool has taken it away.
        return True


def _end(connection: Any) -> None:
    # The pool lets go of a connection by itself when that has broken, and then it cannot even be ended.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _told(exc: BaseException) -> BaseException:
    """What the stores' users are told of an error: their own mistakes as they are, the rest as an outage."""
    if isinstance(exc, asyncpg.CharacterNotInRepertoireError):
        return InvalidRequest("a text holds a character that cannot be stored (NUL)")
    state = getattr(exc, "sqlstate", None) or ""
    if state[:2] in OWN_MISTAKES or (isinstance(exc, asyncpg.InterfaceError) and isinstance(exc, ValueError)):
        return exc
    return StorageUnavailable(f"the database cannot be used just now ({_why(exc)})", retry_after=1)


def _why(exc: BaseException) -> str:
    """In few words, and without the address: that may hold a password."""
    if isinstance(exc, asyncpg.PostgresError):
        return f"{exc.sqlstate} {exc}".splitlines()[0]
    if isinstance(exc, TimeoutError):
        return "it does not answer"
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else type(exc).__name__


def _refusal(exc: BaseException) -> str:
    """Why a start cannot use the database, in a sentence."""
    if getattr(exc, "sqlstate", None) in SHARED_SESSIONS or "pooling mode" in str(exc):
        return POOLED
    return f"the database in store.url cannot be used: {_why(exc)}"


async def _check_server(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Raises StartRefused where the server, or what leads to it, cannot hold a store."""
    session = "SELECT pg_backend_pid()"
    async with pool.acquire() as one, pool.acquire() as other:
        first = await one.fetchval(session)
        async with other.transaction():
            # While this transaction holds one session, the first connection would be given another.
            if first == await other.fetchval(session) or first != await one.fetchval(session):
                raise StartRefused(POOLED)
    if await pool.fetchval("SELECT pg_is_in_recovery()"):
        raise StartRefused("the database in store.url is a standby that takes no writes; name the primary")
    encoding = await pool.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StartRefused(
            f"the database in store.url is encoded in {encoding}; make one with ENCODING 'UTF8'"
        )


def _tell_waiting() -> None:
    log.warning(
        "start.waits",
        detail="another broker on this database is starting, and holds the lock for that; this one goes on when it"
        " has started or ended. See pg_locks for the advisory lock, if it hangs",
    )
