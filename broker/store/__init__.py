"""The store: accounts, installs, callers, events and keys, made durable; `Stores` holds them all.

Every method raises StorageUnavailable while the store cannot do its work. A write that returned is durable. Writes
conditioned on a `Ref` change something only while the row is still at that epoch and generation, and say whether they
did; nothing ever overwrites another generation. Ciphertext is opaque here. `tests/store` runs one suite over every
database.
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
    """Every store on one open, migrated database.

    `catch_up` reads the keys in the store into `keyring`, after another process has added one.
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
