"""Opens the context of the services: database, data keys, audit, authorization and providers."""

import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from broker.audit.audit import Audit
from broker.audit.sinks import FileSink, JournalSink, last_head
from broker.callers.authorization import Authorizer
from broker.clock import Clock, SteadyClock, SystemClock
from broker.config.settings import Settings, StoreSettings
from broker.context import Context, audit_key
from broker.encryption.tokens import TokenEncryption
from broker.errors import StartRefused, StorageUnavailable
from broker.keys import open_ring
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.providers.client import ProviderClient
from broker.providers.oauth2 import Providers
from broker.store import Stores
from broker.store.database import Database
from broker.store.health import StoreHealth
from broker.store.incarnation import Incarnation, Ownership, ServerIdentity, refuse_vanished
from broker.store.keys import KeyStore
from broker.store.migrate import migrate, refuse_moved
from broker.store.sqlite import SqliteDatabase


async def open_context(settings: Settings, clock: Clock, closing: AsyncExitStack) -> Context:
    """Open the store, the keys and the audit, and register them with `closing`; raises StartRefused."""
    health, metrics = Health(), Metrics()
    folder = None if settings.store.postgres else settings.store.path.parent
    store_health = StoreHealth(folder=folder, clock=clock, health=health, metrics=metrics)
    if not settings.store.postgres:
        refuse_vanished(settings.store.path, outside=settings.store.outside, others=audits_of(settings))
    opened = await open_database(settings.store, store_health, closing)
    reference = reference_of(opened.database, clock)
    steady = SteadyClock(clock, now=await reference())
    try:
        async with opened.database.starting():
            await migrate(opened.database)
            keys = KeyStore(opened.database)
            await refuse_moved(keys)
            ring = await open_ring(keys, settings.master, clock, previous=settings.previous_master)
    except StorageUnavailable as exc:
        raise StartRefused(
            f"{exc.detail}, and this start has to write: the version or the master key is new, or the store is"
            " damaged. Free disk space, or restore a backup: broker restore BACKUP"
        ) from None
    stores = Stores(opened.database, keyring=ring.keyring, catch_up=ring.catch_up)
    path = settings.audit.path
    audit = Audit(
        sink=JournalSink() if path is None else FileSink(path),
        key_of=audit_key(ring.keyring),
        store=stores.keys,
        replica=settings.store.replica,
        clock=clock,
        health=health,
        keep=settings.audit.keep,
    )
    closing.push_async_callback(audit.close)
    http = ProviderClient(network=settings.network)
    closing.push_async_callback(http.close)
    return Context(
        settings=settings,
        clock=clock,
        steady=steady,
        reference=reference,
        health=health,
        metrics=metrics,
        stores=stores,
        store_health=store_health,
        ownership=opened.ownership,
        ring=ring,
        encryption=TokenEncryption(ring.keyring),
        audit=audit,
        authorizer=Authorizer(audit=audit),
        providers=Providers(
            settings.providers, clock=steady, timeout=settings.refresh.timeout, closing=closing
        ),
        http=http,
    )


@dataclass(frozen=True, slots=True)
class OpenedDatabase:
    """A database that is not migrated yet, and what depends on its kind."""

    database: Database
    ownership: Ownership
    identity: Callable[[], Awaitable[str]]
    """Returns a name that no other database has."""


async def open_database(
    settings: StoreSettings, health: StoreHealth, closing: AsyncExitStack
) -> OpenedDatabase:
    """Open the broker's own SQLite file, or a PostgreSQL database that brokers share; raises StartRefused."""
    if settings.postgres is None:
        sqlite = await SqliteDatabase.open(settings.path, observe=health.observe)
        closing.push_async_callback(sqlite.close)

        async def path() -> str:
            return str(settings.path)

        incarnation = Incarnation(store=KeyStore(sqlite), path=settings.path, outside=settings.outside)
        return OpenedDatabase(sqlite, incarnation, path)
    try:
        from broker.store.postgres import PostgresDatabase  # noqa: PLC0415 - asyncpg is an extra
    except ImportError:
        raise StartRefused(
            "store.url names PostgreSQL, and asyncpg is not installed; type: pip install 'token-broker[postgres]'"
        ) from None
    settings.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = await PostgresDatabase.open(
        settings.postgres, replica=settings.replica, observe=health.observe
    )
    closing.push_async_callback(database.close)
    line = database.line
    health.is_named = lambda: line.is_named
    health.turned(True)

    database.turned = health.turned
    server = ServerIdentity(store=KeyStore(database), identity=database.identity)
    return OpenedDatabase(database, server, database.identity)


async def open_database_alone(store: StoreSettings, closing: AsyncExitStack) -> OpenedDatabase:
    """Open the database for a command, with a replica name that no broker has; raises StartRefused."""
    named = replace(store, replica=f"command {secrets.token_hex(8)}")
    health = StoreHealth(folder=None, clock=SystemClock(), health=Health(), metrics=Metrics())
    return await open_database(named, health, closing)


def reference_of(database: Database, clock: Clock) -> Callable[[], Awaitable[float]]:
    """Return the function that reads the reference clock: the database's if brokers share it, else `clock`."""
    shared = database.dialect.clock if isinstance(clock, SystemClock) else None

    async def now() -> float:
        if shared is None:
            return clock.now()
        began = clock.monotonic()
        [(at,)] = await database.read(f"SELECT {shared}")
        return float(at) + (clock.monotonic() - began) / 2

    return now


def audits_of(settings: Settings) -> list[Path]:
    """Return the audit's file if it has lines. An unreadable file is left out here, and refused when it is opened."""
    path = settings.audit.path
    with suppress(OSError):
        return [path] if path is not None and path.is_file() and last_head(path) else []
    return []
