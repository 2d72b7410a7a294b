"""Opens the configured database: a SQLite file of our own, or a PostgreSQL that several brokers share."""

import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from broker.clock import SystemClock
from broker.config.settings import StoreSettings
from broker.errors import StartRefused
from broker.model import Secret
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.store.database import Database
from broker.store.health import StoreHealth
from broker.store.incarnation import Incarnation, Ownership, ServerIdentity
from broker.store.keys import KeyStore
from broker.store.sqlite import SqliteDatabase


@dataclass(frozen=True, slots=True)
class Opened:
    """A database, not yet migrated, and what goes with its kind."""

    database: Database
    ownership: Ownership
    identity: Callable[[], Awaitable[str]]
    """Which database this is, so that no other is taken for it."""


async def open_database(settings: StoreSettings, health: StoreHealth, closing: AsyncExitStack) -> Opened:
    """Raises StartRefused."""
    if settings.postgres is not None:
        return await _open_postgres(settings, settings.postgres, health, closing)
    database = await SqliteDatabase.open(settings.path, observe=health.observe)
    closing.push_async_callback(database.close)
    ownership = Incarnation(store=KeyStore(database), path=settings.path, outside=settings.outside)
    return Opened(database, ownership, partial(_path_of, settings))


async def _path_of(settings: StoreSettings) -> str:
    return str(settings.path)


async def open_alone(store: StoreSettings, closing: AsyncExitStack) -> Opened:
    """The database, for a command: under a name that no broker has."""
    named = replace(store, replica=f"command {secrets.token_hex(8)}")
    health = StoreHealth(folder=None, clock=SystemClock(), health=Health(), metrics=Metrics())
    return await open_database(named, health, closing)


async def _open_postgres(
    settings: StoreSettings, url: Secret, health: StoreHealth, closing: AsyncExitStack
) -> Opened:
    try:
        from broker.store.postgres import PostgresDatabase  # noqa: PLC0415 - asyncpg is an extra
    except ImportError:
        raise StartRefused(
            "store.url names PostgreSQL, and asyncpg is not installed; type: pip install 'token-broker[postgres]'"
        ) from None
    settings.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = await PostgresDatabase.open(url, replica=settings.replica, observe=health.observe)
    closing.push_async_callback(database.close)
    line = database.line
    health.is_named = lambda: line.is_named
    health.turned(True)
    database.turned = health.turned
    ownership = ServerIdentity(store=KeyStore(database), identity=database.identity)
    return Opened(database, ownership, database.identity)
