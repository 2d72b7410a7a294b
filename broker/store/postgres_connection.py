"""Connects to PostgreSQL: reads the address as libpq does, prepares sessions, and keeps the permanent connection."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

import asyncpg
import structlog

from broker.clock import while_awake
from broker.errors import StartRefused
from broker.model import Secret

log = structlog.get_logger()
if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # it is generic to type checkers alone

LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
"""Errors that a broken connection may raise; those of asyncpg have three base classes."""
CONNECT_WITHIN = 5.0
SESSION = {
    "application_name": "token-broker",
    # A broker whose machine is lost must not keep its name and its locks for hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "15000",
}
SET = "SELECT set_config($1, $2, false)"
"""Sent after connecting, because a pooler refuses settings in the startup message (PgBouncer: 08P01)."""
DRIVER = frozenset(
    {
        *("host", "port", "dbname", "database", "user", "password", "passfile", "service", "krbsrvname"),
        *("gsslib", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
    }
)
"""libpq parameters of an address that asyncpg reads itself."""
DEFAULTS = {
    "channel_binding": ("prefer", "disable"),
    "gssencmode": ("prefer", "disable", "allow"),
    "client_encoding": ("utf8", "utf-8", "auto"),
    "keepalives": ("1",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "load_balance_hosts": ("disable",),
}
"""Parameters, with the values that ask for what the broker does anyway."""
REFUSED = frozenset(
    {
        *DEFAULTS,
        *("hostaddr", "requiressl", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "replication", "require_auth", "requirepeer", "sslcertmode", "sslcrldir"),
        *("sslkeylogfile", "gssdelegation", "scram_client_key", "scram_server_key"),
        *("min_protocol_version", "max_protocol_version"),
    }
)
"""libpq parameters that the broker does not support; all unknown names are passed to the server as settings."""
OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][A-Za-z0-9_.-]*)=((?:\\.|\S)*)\s*")


@dataclass(frozen=True, slots=True)
class Address:
    """An address without the parameters that the driver does not support."""

    dsn: Secret
    settings: Mapping[str, str]
    """Settings of each session."""
    timeout: float
    """Seconds within which to connect."""


def read_address(url: Secret) -> Address:
    """Read the parameters of an address as libpq does; raises StartRefused with the one that is not supported."""
    dsn, _, query = url.reveal().partition("?")
    kept: list[tuple[str, str]] = []
    settings, timeout = dict(SESSION), CONNECT_WITHIN
    if not all("=" in field for field in query.split("&") if field):
        # Its text is not shown, because it may be a part of a password.
        raise StartRefused("store.url: a parameter has no value; a ? in a password is written %3F")
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in DRIVER:
            kept.append((name, value))
        elif value.lower() in DEFAULTS.get(name, ()):
            continue
        elif name in REFUSED:
            raise StartRefused(f"store.url asks for {name}, which the broker cannot do; remove it there")
        elif name == "connect_timeout":
            if not (value.isascii() and value.isdigit()):
                raise StartRefused("store.url: connect_timeout is a whole number of seconds")
            # As in libpq: 0 means the default, and less than two seconds means two.
            timeout = float(min(60, max(2, int(value)))) if int(value) else CONNECT_WITHIN
        elif name == "options":
            settings |= _options(value)
        else:
            settings["application_name" if name == "fallback_application_name" else name] = value
    return Address(Secret(f"{dsn}?{urlencode(kept)}" if kept else dsn), settings, timeout)


def _options(text: str) -> dict[str, str]:
    """Return the settings in `options=-c name=value`; raises StartRefused for any other option."""
    rest = text.strip()
    found: dict[str, str] = {}
    while rest:
        option = OPTION.match(rest)
        if option is None:
            raise StartRefused("store.url: options may only hold settings, as in -c search_path=broker")
        found[option[1].replace("-", "_")] = re.sub(r"\\(.)", r"\1", option[2])
        rest = rest[option.end() :]
    return found


class Plain(Connection):
    """A connection that is not reset when it is returned to the pool, because the broker never changes a session."""

    def get_reset_query(self) -> str:
        """Return an empty query instead of asyncpg's `RESET ALL` and others."""
        return ""


async def connect(address: Address) -> Connection:
    """Open a connection outside the pool and prepare it; raises one of LOST, StartRefused."""
    connection = await asyncpg.connect(address.dsn.reveal(), connection_class=Plain, timeout=address.timeout)
    try:
        await prepare(address, connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def prepare(address: Address, connection: Connection) -> None:
    """Prepare a new session; raises StartRefused if it would lose commits."""
    for name, value in address.settings.items():
        await connection.execute(SET, name, value)
    if await connection.fetchval("SHOW synchronous_commit") == "off":
        raise StartRefused(
            "the database forgets commits when its machine stops: synchronous_commit is off;"
            " turn it on for this role or database (ALTER ROLE … SET synchronous_commit = on)"
        )


CHANNEL = "broker_changes"
PULSE_EVERY = 0.5
PULSE_WITHIN = 2.0
RETRY_FIRST, RETRY_MOST = 0.05, 1.0
NAME_AGAIN = (0.1, 0.2, 0.5, 1.0, 1.0, 0.0)
"""Waits in seconds until the session of an earlier run of the same name has ended."""
TAKE_NAME = "SELECT pg_try_advisory_lock(hashtextextended('token-broker replica ' || $1, 0))"


class Line:
    """The permanent connection: it holds the replica's name, receives notifications, and checks the server.

    While it is down nothing is renewed, and nothing is served from memory unchecked. It reconnects by itself.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], *, replica: str) -> None:
        self._connect, self._replica = connect, replica
        self.sender = secrets.token_hex(8)
        """Distinguishes our own notifications from those of other brokers."""
        self._connection: Connection | None = None
        self._ended = asyncio.Event()
        """Set when the server has closed the connection."""
        self.is_named = False
        """True if this broker, and no other, has its name; without it nothing is renewed."""
        self._pulse_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self.heard: Callable[[str], None] = lambda _: None
        """Called with the name of each account that another broker has changed."""
        self.changed: Callable[[bool], None] = lambda _: None
        """Called with True when the line has connected, with False when it is lost."""

    async def begin(self) -> None:
        """Connect and take the replica's name; raises StartRefused if another broker has it."""
        connection = await self._open()
        for wait in NAME_AGAIN:
            if await self._take_name(connection):
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
        """Stop reconnecting and close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    @property
    def is_up(self) -> bool:
        """True if the line is connected."""
        return self._connection is not None

    @property
    def hears(self) -> bool:
        """True if all notifications from other brokers have been received until a moment ago."""
        return self.is_up and _now() - self._pulse_at < PULSE_EVERY + PULSE_WITHIN

    async def _keep(self) -> None:
        wait = 0.0
        while True:
            connection = self._connection
            try:
                if connection is not None:
                    await self._pulse(connection)
                    continue
                await asyncio.sleep(wait)
                await self._take_name(await self._open())
                log.info("database.back")
                # Only now: until the subscribers know, their caches count as out of date.
                self.changed(True)
                self._pulse_at = _now()
            except Exception as exc:  # noqa: BLE001 - the line reconnects after any error
                wait = 0.0 if connection is not None else min(max(RETRY_FIRST, 2 * wait), RETRY_MOST)
                self._drop(exc)

    async def _pulse(self, connection: Connection) -> None:
        """Wait until the next check is due or the server has closed the connection; then check it."""
        if connection.is_closed():
            raise ConnectionError("the server has closed the connection")
        with suppress(TimeoutError):
            async with asyncio.timeout(PULSE_EVERY):
                await self._ended.wait()
            return
        # Time in which this machine was suspended does not count, or every request after that would be refused.
        await while_awake(
            PULSE_WITHIN, connection.execute("SELECT 1") if self.is_named else self._take_name(connection)
        )
        self._pulse_at = _now()

    async def _open(self) -> Connection:
        async def listening() -> Connection:
            connection = await self._connect()
            try:
                await connection.add_listener(CHANNEL, self._notified)
            except BaseException:
                connection.terminate()
                raise
            return connection

        connection = await while_awake(PULSE_WITHIN, listening())
        ended = self._ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        self._connection = connection
        return connection

    async def _take_name(self, connection: Connection) -> bool:
        self.is_named = bool(await connection.fetchval(TAKE_NAME, self._replica))
        return self.is_named

    def _drop(self, why: BaseException) -> None:
        connection, self._connection, self.is_named = self._connection, None, False
        self._pulse_at = float("-inf")
        if connection is not None:
            connection.terminate()
            log.error("database.lost", error=type(why).__name__)
            self.changed(False)

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        sender, _, name = str(payload).partition(" ")
        if sender != self.sender:
            self.heard(name)


def _now() -> float:
    return asyncio.get_running_loop().time()
