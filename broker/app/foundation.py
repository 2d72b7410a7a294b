"""The parts that every room stands on: what watches, the store, the keys, the gate, the providers."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import assert_never

from broker.audit.chain import Chain, KeyOf
from broker.audit.files import FileSink
from broker.audit.ledger import Ledger
from broker.audit.sinks import JournalSink
from broker.audit.upkeep import Upkeep
from broker.audit.waiting import Audit
from broker.callers.gate import Gate
from broker.clock import Clock, SteadyClock
from broker.config.settings import ProviderSettings, Settings, StoreSettings
from broker.errors import StartRefused
from broker.keyring import Keyring
from broker.keys.opening import open_keyring
from broker.model import Secret
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.providers.client import ProviderClient
from broker.providers.kit import KitProvider
from broker.providers.kustomer import KustomerProvider
from broker.providers.oauth2 import OAuth2Provider
from broker.sealing import TokenSeals
from broker.store import Stores, stores_on
from broker.store.health import StoreHealth
from broker.store.incarnation import Incarnation, Ownership, ServerIdentity
from broker.store.migrate import migrate
from broker.store.sqlite import SqliteDatabase


class Providers:
    """The configured providers, built anew when the configuration is reloaded."""

    def __init__(self, *, http: ProviderClient, clock: Clock, timeout: float) -> None:
        self._http, self._clock, self._timeout = http, clock, timeout
        self.by_name: Mapping[str, OAuth2Provider] = {}

    def build(self, settings: Mapping[str, ProviderSettings]) -> None:
        self.by_name = {name: self._one(one) for name, one in settings.items()}

    @property
    def token_urls(self) -> Mapping[str, str]:
        return {name: provider.token_url for name, provider in self.by_name.items()}

    def _one(self, settings: ProviderSettings) -> OAuth2Provider:
        match settings.type:
            case "kit":
                kind: type[OAuth2Provider] = KitProvider
            case "kustomer":
                kind = KustomerProvider
            case "oauth2":
                kind = OAuth2Provider
            case _:
                assert_never(settings.type)
        return kind(settings=settings, http=self._http, clock=self._clock, timeout=self._timeout)


@dataclass(frozen=True, slots=True)
class Foundation:
    """What the rooms are built on."""

    settings: Settings
    clock: Clock
    """The machine's."""
    steady: SteadyClock
    """The one for lives and deadlines (R12)."""
    health: Health
    metrics: Metrics
    stores: Stores
    store_health: StoreHealth
    ownership: Ownership
    keyring: Keyring
    seals: TokenSeals
    audit: Upkeep
    gate: Gate
    providers: Providers


async def lay_foundation(settings: Settings, clock: Clock, closing: AsyncExitStack) -> Foundation:
    """Open everything that can refuse a start; raises StartRefused. `closing` undoes it in reverse."""
    steady, health, metrics = SteadyClock(clock), Health(), Metrics()
    folder = None if settings.store.postgres else settings.store.path.parent
    store_health = StoreHealth(folder=folder, clock=clock, health=health, metrics=metrics)
    stores, ownership = await _open_stores(settings, store_health, closing)
    async with stores.database.starting():
        await migrate(stores.database)
        keyring = await open_keyring(stores.keys, settings.master, clock)
    audit, upkeep = _build_audit(settings, stores, keyring, health, clock)
    closing.push_async_callback(upkeep.close)
    http = ProviderClient()
    closing.push_async_callback(http.close)
    providers = Providers(http=http, clock=steady, timeout=settings.refresh.timeout)
    providers.build(settings.providers)
    return Foundation(
        settings=settings,
        clock=clock,
        steady=steady,
        health=health,
        metrics=metrics,
        stores=stores,
        store_health=store_health,
        ownership=ownership,
        keyring=keyring,
        seals=TokenSeals(keyring),
        audit=upkeep,
        gate=Gate(audit=audit, keyring=keyring),
        providers=providers,
    )


async def _open_stores(
    settings: Settings, store_health: StoreHealth, closing: AsyncExitStack
) -> tuple[Stores, Ownership]:
    path = settings.store.path
    if settings.store.postgres is not None:
        return await _open_postgres(settings.store.postgres, settings.store, store_health, closing)
    database = await SqliteDatabase.open(path, observe=store_health.observe)
    closing.push_async_callback(database.close)
    stores = stores_on(database)
    return stores, Incarnation(store=stores.keys, path=path)


async def _open_postgres(
    url: Secret, settings: StoreSettings, store_health: StoreHealth, closing: AsyncExitStack
) -> tuple[Stores, Ownership]:
    try:
        from broker.store.postgres import PostgresDatabase  # noqa: PLC0415 - asyncpg is an extra
    except ImportError:
        raise StartRefused(
            "store.url names PostgreSQL, and asyncpg is not installed; type: pip install 'token-broker[postgres]'"
        ) from None
    settings.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = await PostgresDatabase.open(url, replica=settings.replica, observe=store_health.observe)
    closing.push_async_callback(database.close)
    stores, line = stores_on(database), database.line

    def turned(up: bool) -> None:
        store_health.turned(up)
        if up:
            stores.changes.missed()

    stores.changes.are_heard = lambda: line.hears
    store_health.is_named = lambda: line.is_named
    store_health.turned(True)
    database.follow(heard=stores.changes.publish, changed=turned)
    return stores, ServerIdentity(store=stores.keys, identity=database.identity)


def _build_audit(
    settings: Settings, stores: Stores, keyring: Keyring, health: Health, clock: Clock
) -> tuple[Audit, Upkeep]:
    """The audit, which begins only when the broker does."""
    path, replica = settings.audit.path, settings.store.replica
    files = None if path is None else FileSink(path)
    ledger = Ledger(
        sink=files or JournalSink(), chain=Chain(audit_key(keyring)), replica=replica, clock=clock
    )
    audit = Audit(ledger=ledger, clock=clock, health=health)
    upkeep = Upkeep(
        audit=audit, files=files, store=stores.keys, replica=replica, clock=clock, keep=settings.audit.keep
    )
    return audit, upkeep


def audit_key(keyring: Keyring) -> KeyOf:
    """The key of each chain of this store's audit."""
    return lambda chain: keyring.derive("audit chain", chain.encode())
