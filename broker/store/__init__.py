"""The store: accounts, installs, callers, events and keys, made durable; `Stores` holds them all.

Every method raises StorageUnavailable while the store cannot do its work. A write that returned is durable. Writes
conditioned on a `Ref` change something only while the row is still at that epoch and generation, and say whether they
did; nothing ever overwrites another generation. Ciphertext is opaque here. `tests/store` runs one suite over every
database.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.encryption.keyring import Keyring
from broker.store.accounts import AccountStore
from broker.store.callers import CallerStore
from broker.store.database import Changes, Database
from broker.store.events import AlertStore, EventStore
from broker.store.imports import ImportStore
from broker.store.installs import InstallStore
from broker.store.keys import KeyStore, RecordKeys, RecordStore
from broker.store.plugin import PluginStore


@dataclass(frozen=True, slots=True)
class Stores:
    """Every store on one database."""

    database: Database
    changes: Changes
    accounts: AccountStore
    imports: ImportStore
    installs: InstallStore
    callers: CallerStore
    events: EventStore
    keys: KeyStore
    plugin: PluginStore
    records: RecordStore
    alerts: AlertStore


def stores_on(database: Database, *, keyring: Keyring, catch_up: Callable[[], Awaitable[None]]) -> Stores:
    """Return all stores on an open, migrated database.

    `catch_up` reads the keys in the store into `keyring`, after another process has added one.
    """
    keys = RecordKeys(database, keyring=keyring, catch_up=catch_up)
    return Stores(
        database=database,
        changes=database.changes,
        accounts=AccountStore(database, keys=keys),
        imports=ImportStore(database, keys=keys),
        installs=InstallStore(database, keys=keys),
        callers=CallerStore(database),
        events=EventStore(database),
        keys=KeyStore(database),
        plugin=PluginStore(database),
        records=RecordStore(database, keys=keys),
        alerts=AlertStore(database),
    )
