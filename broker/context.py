"""The context: everything that the services need, opened once for each process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.audit.audit import Audit
from broker.audit.lines import KeyOf
from broker.callers.authorization import Authorizer
from broker.clock import Clock, SteadyClock
from broker.config.settings import Settings
from broker.encryption.keyring import Keyring
from broker.encryption.tokens import TokenEncryption
from broker.keys import StoredKeyring
from broker.model import Account, Ref
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.providers.client import ProviderClient
from broker.providers.oauth2 import Providers
from broker.store import Stores
from broker.store.health import StoreHealth
from broker.store.incarnation import Ownership


def audit_key(keyring: Keyring) -> KeyOf:
    """Return the function that derives the key of each chain of this store's audit."""
    return lambda chain: keyring.derive("audit chain", chain.encode())


@dataclass(slots=True, kw_only=True)
class Context:
    """The shared parts of the process, passed to each service as its first argument.

    `app` opens it. `settings` and the content of `providers` change with a reload, so a service reads them through the
    context and never copies them.
    """

    settings: Settings
    clock: Clock
    """The machine's clock: for logs, for what other systems compare, and for waiting."""
    steady: SteadyClock
    """The clock for expiry times and deadlines (R12); brokers that share a database agree on it."""
    reference: Callable[[], Awaitable[float]]
    """Returns the time that `steady` follows: the machine's, or that of a database which several brokers share."""
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
    """The client for requests that go to no provider: JWKS, and the check of our own public address."""

    @property
    def keyring(self) -> Keyring:
        """The data keys as they are loaded now."""
        return self.ring.keyring

    async def last_ref(self, name: str, row: Account | None) -> Ref:
        """Return the last epoch and generation of an account's name: those of its row, or of a purged account.

        They never go back for a name, so a new grant continues from them.
        """
        if row is not None:
            return row.ref
        purged = await self.stores.accounts.purged(self.name_hash(name))
        return Ref(name, *(purged or (0, 0)))

    def name_hash(self, name: str) -> str:
        """Return the hash that is kept of the name of a purged account."""
        return self.keyring.fingerprint("purged name", name)

    @property
    def replica(self) -> str:
        """The name of this broker among those that share the database."""
        return self.settings.store.replica

    @property
    def is_shared(self) -> bool:
        """True if other brokers may use the same database."""
        return self.stores.database.dialect.shared

    def use(self, settings: Settings) -> None:
        """Replace the settings and the providers after a reload."""
        self.settings = settings
        self.providers.use(settings.providers)
