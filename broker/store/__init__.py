"""Durable storage of accounts, installs, callers, events and keys; `Stores` groups the store classes.

Every method raises StorageUnavailable while the store cannot do its work. A write that has returned is durable. A
write conditioned on a `Ref` changes a row only if it is still at that epoch and generation, and returns whether it
did; nothing ever overwrites another generation. Tokens arrive here encrypted.
"""

from collections.abc import Awaitable, Callable

from broker.encryption.keyring import Keyring
from broker.store.accounts import AccountStore
from broker.store.callers import CallerStore
from broker.store.database import Database
from broker.store.events import AlertStore, EventStore
from broker.store.imports import ImportStore
from broker.store.installs import InstallStore
from broker.store.keys import KeyStore, RecordKeys, RecordStore
from broker.store.plugin import PluginStore


class Stores:
    """All stores on one open, migrated database.

    `catch_up` loads the keys in the store into `keyring`, after another process has added one.
    """

    def __init__(
        self, database: Database, *, keyring: Keyring, catch_up: Callable[[], Awaitable[None]]
    ) -> None:
        keys = RecordKeys(database, keyring=keyring, catch_up=catch_up)
        self.database, self.changes = database, database.changes
        self.accounts = AccountStore(database, keys=keys)
        self.imports = ImportStore(database, keys=keys)
        self.installs = InstallStore(database, keys=keys)
        self.callers = CallerStore(database)
        self.events = EventStore(database)
        self.alerts = AlertStore(database)
        self.keys = KeyStore(database)
        self.plugin = PluginStore(database)
        self.records = RecordStore(database, keys=keys)
