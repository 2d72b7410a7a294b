"""The store: accounts, installs, callers, events and keys, made durable; `Stores` holds them all."""

from dataclasses import dataclass

from broker.sealing import Reseals
from broker.store.accounts import Accounts
from broker.store.alerts import Alerts
from broker.store.callers import Callers
from broker.store.changes import Changes
from broker.store.database import Database
from broker.store.events import Events
from broker.store.guarded import GuardedDatabase, Ring
from broker.store.imports import Imports
from broker.store.installs import Installs
from broker.store.keys import Keys
from broker.store.plugin import Plugin
from broker.store.plugin_purge import PluginPurge
from broker.store.resealing import ResealingAccounts, ResealingImports, ResealingInstalls
from broker.store.sealed import SealedRecords


@dataclass(frozen=True, slots=True)
class Stores:
    """Every store on one database."""

    database: Database
    changes: Changes
    accounts: Accounts
    imports: Imports
    installs: Installs
    callers: Callers
    events: Events
    keys: Keys
    plugin: Plugin
    plugin_purge: PluginPurge
    records: SealedRecords
    alerts: Alerts


def stores_on(database: Database) -> Stores:
    """All stores on an open, migrated database."""
    changes = Changes()
    return Stores(
        database=database,
        changes=changes,
        accounts=Accounts(database, changed=changes.publish),
        imports=Imports(database, changed=changes.publish),
        installs=Installs(database),
        callers=Callers(database),
        events=Events(database),
        keys=Keys(database),
        plugin=Plugin(database),
        plugin_purge=PluginPurge(database),
        records=SealedRecords(database),
        alerts=Alerts(database),
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
        callers=Callers(guarded),
        events=Events(guarded),
        keys=Keys(guarded),
        records=SealedRecords(guarded),
        plugin=Plugin(guarded),
        plugin_purge=PluginPurge(guarded),
        alerts=Alerts(guarded),
    )
