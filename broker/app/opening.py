"""Opens the context: health and metrics, the store, the keys, authorization and audit, the providers."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from broker.app.databases import open_database
from broker.audit.audit import Audit
from broker.audit.lines import KeyOf
from broker.audit.sinks import FileSink, JournalSink, last_head
from broker.callers.authorization import Authorizer
from broker.clock import Clock, SteadyClock, SystemClock
from broker.config.settings import Settings
from broker.context import Context
from broker.encryption.keyring import Keyring
from broker.encryption.tokens import TokenEncryption
from broker.errors import StartRefused, StorageUnavailable
from broker.keys.ring import open_ring
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.providers.client import ProviderClient
from broker.providers.registry import Providers
from broker.store import stores_on
from broker.store.database import Database
from broker.store.health import StoreHealth
from broker.store.incarnation import refuse_vanished
from broker.store.keys import KeyStore
from broker.store.migrate import migrate, refuse_moved


async def open_context(settings: Settings, clock: Clock, closing: AsyncExitStack) -> Context:
    """Open everything that can refuse a start; raises StartRefused. `closing` undoes it in reverse."""
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
            f"{exc.detail}, and this start has to: a new version or a new master key was put in, or the store is"
            " damaged. Free disk space, or restore a backup: broker restore BACKUP"
        ) from None
    stores = stores_on(opened.database, keyring=ring.keyring, catch_up=ring.catch_up)
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


def reference_of(database: Database, clock: Clock) -> Callable[[], Awaitable[float]]:
    """Who says what time it is. A clock that a test passes in stands for the database's as well."""
    shared = database.dialect.clock if isinstance(clock, SystemClock) else None

    async def now() -> float:
        if shared is None:
            return clock.now()
        began = clock.monotonic()
        [(at,)] = await database.read(f"SELECT {shared}")
        return float(at) + (clock.monotonic() - began) / 2

    return now


def audits_of(settings: Settings) -> list[Path]:
    """The audit's file, if lines were written to it. One that cannot be read is refused where it is opened."""
    with suppress(OSError):
        return [file for file in filter(None, [settings.audit.path]) if file.is_file() and last_head(file)]
    return []


def audit_key(keyring: Keyring) -> KeyOf:
    """The key of each chain of this store's audit."""
    return lambda chain: keyring.derive("audit chain", chain.encode())
