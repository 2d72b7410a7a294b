"""The parts that every room stands on: what watches, the store, the keys, authorization and audit, the providers."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from broker.app.databases import open_database
from broker.audit.audit import Audit
from broker.audit.lines import KeyOf
from broker.audit.sinks import FileSink, JournalSink, last_head
from broker.callers.authorization import Authorizer
from broker.clock import Clock, SteadyClock, SystemClock
from broker.config.settings import NetworkSettings, ProviderSettings, Settings
from broker.encryption.keyring import Keyring
from broker.encryption.tokens import TokenEncryption
from broker.errors import StartRefused, StorageUnavailable
from broker.keys.ring import StoredKeyring, open_ring
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.providers.client import ProviderClient
from broker.providers.kit import KitProvider
from broker.providers.kustomer import KustomerProvider
from broker.providers.oauth2 import OAuth2Provider
from broker.store import Stores, stores_on
from broker.store.database import Database
from broker.store.health import StoreHealth
from broker.store.incarnation import Ownership, refuse_vanished
from broker.store.keys import KeyStore
from broker.store.migrate import migrate, refuse_moved


class Providers:
    """The configured providers, built anew when the configuration is reloaded."""

    def __init__(self, *, clock: Clock, timeout: float, closing: AsyncExitStack) -> None:
        self._clock, self._timeout, self._closing = clock, timeout, closing
        self._clients: dict[str, tuple[NetworkSettings, ProviderClient]] = {}
        """One for each provider, so that one's dead name server holds up no other. A replaced one stays open for
        what is under way. The way is compared, for a proxy is a secret and has no hash."""
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
        http = self._client(settings.name, settings.network)
        return kind(settings=settings, http=http, clock=self._clock, timeout=self._timeout)

    def _client(self, name: str, network: NetworkSettings) -> ProviderClient:
        kept = self._clients.get(name)
        if kept is not None and kept[0] == network:
            return kept[1]
        client = ProviderClient(network=network)
        self._clients[name] = network, client
        self._closing.push_async_callback(client.close)
        return client


@dataclass(frozen=True, slots=True)
class Foundation:
    """What the rooms are built on."""

    settings: Settings
    clock: Clock
    """The machine's."""
    steady: SteadyClock
    """The one for lives and deadlines (R12)."""
    reference: Callable[[], Awaitable[float]]
    """The clock that `steady` follows: the machine's, or that of a database which several brokers share."""
    health: Health
    metrics: Metrics
    stores: Stores
    store_health: StoreHealth
    ownership: Ownership
    ring: StoredKeyring
    encryption: TokenEncryption
    audit: Audit
    authorizer: Authorizer
    providers: Providers
    http: ProviderClient
    replica: str
    """What this broker is called among several."""

    @property
    def keyring(self) -> Keyring:
        return self.ring.keyring


async def lay_foundation(settings: Settings, clock: Clock, closing: AsyncExitStack) -> Foundation:
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
    opened.join(stores.changes)
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
    providers = Providers(clock=steady, timeout=settings.refresh.timeout, closing=closing)
    providers.build(settings.providers)
    return Foundation(
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
        providers=providers,
        http=http,
        replica=settings.store.replica,
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
