"""The store: accounts, installs, callers, events and keys, made durable; `Stores` holds them all.

Every method raises StorageUnavailable while the store cannot do its work. A write that returned is durable. Writes
conditioned on a `Ref` change something only while the row is still at that epoch and generation, and say whether they
did; nothing ever overwrites another generation. Ciphertext is opaque here. `tests/store` runs one suite over every
database.
"""

from dataclasses import dataclass

from broker.sealing import Reseals
from broker.store.accounts import AccountStore
from broker.store.alerts import AlertStore
from broker.store.callers import CallerStore
from broker.store.changes import Changes
from broker.store.database import Database
from broker.store.events import EventStore
from broker.store.guarded import GuardedDatabase, Ring
from broker.store.imports import ImportStore
from broker.store.installs import InstallStore
from broker.store.keys import KeyStore
from broker.store.plugin import PluginStore
from broker.store.plugin_purge import PluginPurge
from broker.store.resealing import ResealingAccounts, ResealingImports, ResealingInstalls
from broker.store.sealed import RecordStore


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
    plugin_purge: PluginPurge
    records: RecordStore
    alerts: AlertStore


def stores_on(database: Database) -> Stores:
    """All stores on an open, migrated database."""
    changes = Changes()
    return Stores(
        database=database,
        changes=changes,
        accounts=AccountStore(database, changed=changes.publish),
        imports=ImportStore(database, changed=changes.publish),
        installs=InstallStore(database),
        callers=CallerStore(database),
        events=EventStore(database),
        keys=KeyStore(database),
        plugin=PluginStore(database),
        plugin_purge=PluginPurge(database),
        records=RecordStore(database),
        alerts=AlertStore(database),
    )


def guarded_stores_on(database: Database, ring: Ring) -> Stores:
    """The same, where everything that is sealed must be sealed with the active key of this store."""
    guarded, changes, reseals = GuardedDatabase(database, ring), Changes(), Reseals(ring.keyring)
    return Stores(
        database=guarded,
        changes=changes,
        accounts=ResealingAccounts(guarded, changed=changes.publish, reseals=reseals),
        imports=ResealingImports(guarded, changed=changes.publish, reseals=reseals),
        installs=ResealingInstalls(guarded, reseals=reseals),
        callers=CallerStore(guarded),
        events=EventStore(guarded),
        keys=KeyStore(guarded),
        records=RecordStore(guarded),
        plugin=PluginStore(guarded),
        plugin_purge=PluginPurge(guarded),
        alerts=AlertStore(guarded),
    )
