"""The parts that every room stands on: what watches, the store, the keys, the gate, the providers."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import assert_never

from broker.callers.gate import Gate
from broker.clock import Clock, SteadyClock
from broker.config.settings import ProviderSettings, Settings
from broker.keyring import Keyring
from broker.keys.opening import open_keyring
from broker.observe.audit import Audit, FileSink, StreamSink
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.providers.client import ProviderClient
from broker.providers.kit import KitProvider
from broker.providers.kustomer import KustomerProvider
from broker.providers.oauth2 import OAuth2Provider
from broker.sealing import TokenSeals
from broker.store import Stores, stores_on
from broker.store.health import StoreHealth
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
    keyring: Keyring
    seals: TokenSeals
    gate: Gate
    providers: Providers
    http: ProviderClient


async def lay_foundation(settings: Settings, clock: Clock, closing: AsyncExitStack) -> Foundation:
    """Open everything that can refuse a start; raises StartRefused. `closing` undoes it in reverse."""
    steady, health, metrics = SteadyClock(clock), Health(), Metrics()
    store_health = StoreHealth(folder=settings.store.path.parent, clock=clock, health=health, metrics=metrics)
    stores = await _open_stores(settings, store_health, closing)
    keyring = await open_keyring(stores.keys, settings.master, clock)
    gate = Gate(audit=_open_audit(settings, health, clock, closing), keyring=keyring)
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
        keyring=keyring,
        seals=TokenSeals(keyring),
        gate=gate,
        providers=providers,
        http=http,
    )


async def _open_stores(settings: Settings, store_health: StoreHealth, closing: AsyncExitStack) -> Stores:
    database = await SqliteDatabase.open(settings.store.path, observe=store_health.observe)
    closing.push_async_callback(database.close)
    await migrate(database)
    return stores_on(database)


def _open_audit(settings: Settings, health: Health, clock: Clock, closing: AsyncExitStack) -> Audit:
    def failed(failing: bool) -> None:
        if failing:
            health.raise_problem("audit_waiting", "the audit cannot be written; nothing is handed out")
        else:
            health.clear("audit_waiting")

    sink = StreamSink() if settings.audit.path is None else FileSink(settings.audit.path)
    audit = Audit(sink=sink, clock=clock, failed=failed)
    closing.callback(audit.close)
    return audit
