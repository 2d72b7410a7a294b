"""The one connection to PostgreSQL that stays: it holds the replica's name, hears what others change, feels the pulse.

While it is down nothing is renewed and nothing is served from memory unchecked; it comes back by itself.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from broker.clock import while_awake
from broker.errors import StartRefused

log = structlog.get_logger()

CHANNEL = "broker_changes"
PULSE_EVERY = 0.5
PULSE_WITHIN = 2.0
RETRY_FIRST, RETRY_MOST = 0.05, 1.0
NAME_AGAIN = (0.1, 0.2, 0.5, 1.0, 1.0, 0.0)
"""Seconds in which a start waits for the session of an earlier run of the same name to end."""
TAKE_NAME = "SELECT pg_try_advisory_lock(hashtextextended('token-broker replica ' || $1, 0))"
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
"""What a connection that is no good any more may raise; asyncpg's own errors are three families."""

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # it is generic to type checkers alone
Connect = Callable[[], Awaitable[Connection]]


class Line:
    """Up or down; `begin` makes it, and then it keeps itself."""

    def __init__(self, connect: Connect, *, replica: str) -> None:
        self._connect, self._replica = connect, replica
        self.sender = secrets.token_hex(8)
        """Tells our own notifications from others'."""
        self._connection: Connection | None = None
        self._is_named = False
        self._pulse_at = self._up_since = float("-inf")
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.heard: Callable[[str], None] = _ignore
        """Told the name of each account that another broker has changed."""
        self.changed: Callable[[bool], None] = _ignore
        """Told when the line has come up (True) or gone down."""

    async def begin(self) -> None:
        """Connect and take the replica's name; raises StartRefused where another broker has it."""
        await self._open()
        for wait in NAME_AGAIN:
            if await self._take_name():
                break
            await asyncio.sleep(wait)
        else:
            await self.close()
            raise StartRefused(
                f'another broker named "{self._replica}" runs on this database;'
                " stop it first, or give this one another store.replica"
            )
        self._pulse_at = _now()
        self._task = asyncio.create_task(self._keep(), name="database line")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._terminated)
            connection.terminate()

    @property
    def is_up(self) -> bool:
        return self._connection is not None

    @property
    def is_named(self) -> bool:
        """Whether this broker, and no other, has its name: without it nothing is renewed."""
        return self._is_named

    @property
    def hears(self) -> bool:
        """Whether everything that others changed until a moment ago has been heard."""
        fresh = _now() - self._pulse_at < PULSE_EVERY + PULSE_WITHIN
        return self.is_up and fresh

    @property
    def up_for(self) -> float:
        """Seconds since it last came up; 0 while it is down."""
        return _now() - self._up_since if self.is_up else 0.0

    async def _keep(self) -> None:
        while True:
            try:
                while True:
                    await self._pulse()
            except Exception as exc:  # noqa: BLE001 - whatever it was, the line is to come back
                self._drop(exc)
            await self._reopen()

    async def _pulse(self) -> None:
        """Feel it once, as soon as it is time or the server has hung up."""
        connection = self._connection
        if connection is None or connection.is_closed():
            raise ConnectionError("the server has closed the connection")
        try:
            async with asyncio.timeout(PULSE_EVERY):
                await self._ended.wait()
            return
        except TimeoutError:
            pass
        # Of a server that has not answered, not of a broker that could not look: everybody would be refused.
        await while_awake(
            PULSE_WITHIN, connection.execute("SELECT 1") if self._is_named else self._take_name()
        )
        self._pulse_at = _now()

    async def _reopen(self) -> None:
        wait = RETRY_FIRST
        while not self.is_up:
            try:
                await self._open()
                await self._take_name()
            except Exception as exc:  # noqa: BLE001 - the same
                self._drop(exc)
                await asyncio.sleep(wait)
                wait = min(2 * wait, RETRY_MOST)
        log.info("database.back")
        # Only now: until whoever listens knows, what it remembers from before counts as unheard.
        self.changed(True)
        self._pulse_at = _now()

    async def _open(self) -> None:
        connection = await while_awake(PULSE_WITHIN, self._connected())
        self._ended.clear()
        connection.add_termination_listener(self._terminated)
        self._connection = connection
        self._up_since = _now()

    async def _connected(self) -> Connection:
        connection = await self._connect()
        try:
            await connection.add_listener(CHANNEL, self._notified)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _take_name(self) -> bool:
        assert self._connection is not None  # noqa: S101 - only called between _open and _drop
        self._is_named = bool(await self._connection.fetchval(TAKE_NAME, self._replica))
        return self._is_named

    def _drop(self, why: BaseException) -> None:
        was_up = self.is_up
        connection, self._connection, self._is_named = self._connection, None, False
        self._pulse_at = float("-inf")
        if connection is not None:
            connection.terminate()
        if was_up:
            log.error("database.lost", error=type(why).__name__)
            self.changed(False)

    def _terminated(self, _: object) -> None:
        self._ended.set()

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        sender, _, name = str(payload).partition(" ")
        if sender != self.sender:
            self.heard(name)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ignore(_: Any) -> None:
    """Until somebody wants to know."""
