"""Stores wrapped keys, lists every encrypted record, and stores records only under the active key."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from broker.encryption.keyring import (
    FRONT,
    DecryptionFailed,
    KeyNotActive,
    Keyring,
    Place,
    Purpose,
    WrappedKey,
    kid_at_front,
)
from broker.encryption.tokens import (
    ACCESS,
    REFRESH,
    VERIFIER,
    Encrypted,
    encrypted_anew,
    pending_place,
    records_in,
    spare_place,
    token_place,
)
from broker.errors import StorageUnavailable
from broker.model import Ref
from broker.store.database import (
    SET_META,
    Database,
    Store,
    Table,
    Transaction,
    Work,
    in_transaction,
    last_of,
    text,
)

T = TypeVar("T")
log = structlog.get_logger()
TRIES = 3
KEYS_CHANGE = "active key"
"""The lock that keeps records from being stored while the active key is being replaced."""
KEYS = Table("keys", WrappedKey)
REWRAP = "UPDATE keys SET wrapped = $2, master_id = $3 WHERE kid = $1 AND wrapped = $4"
RETIRE = """
UPDATE keys SET retired_at = $2
 WHERE kid = $1 AND purpose = $3 AND active = 0 AND retired_at IS NULL"""
STATES = "SELECT kid, active FROM keys WHERE purpose = $1"
FORGET = "UPDATE keys SET wrapped = '' WHERE retired_at < $1 AND wrapped <> ''"
HAS_RECORDS = """
SELECT 1 FROM keys UNION ALL SELECT 1 FROM accounts UNION ALL SELECT 1 FROM installs UNION ALL SELECT 1 FROM spares
LIMIT 1"""

UNKNOWN = "unknown"
"""The key id under which invalid records are counted."""
COUNTED_AT_ONCE = 5000


class KeyStore(Store):
    """Stores wrapped keys and the metadata of the store."""

    async def keys(self) -> list[WrappedKey]:
        """Return all keys, oldest first; raises StorageUnavailable if they are damaged."""
        rows = await self._database.read(f"{KEYS.select} ORDER BY created_at")
        for kid, _, wrapped, master_id, _, created_at, retired_at in rows:
            texts, times = (kid, wrapped, master_id), (created_at, retired_at or 0)
            if not all(isinstance(one, str) for one in texts) or not all(
                isinstance(one, float | int) for one in times
            ):
                raise StorageUnavailable(
                    "the keys in the store are damaged; restore a backup: broker restore BACKUP"
                )
        return [KEYS.read(row) for row in rows]

    async def is_empty(self) -> bool:
        """Return whether the store has no keys and no encrypted records."""
        return not await self._database.read(HAS_RECORDS)

    @in_transaction
    async def add_first_keys(self, transaction: Transaction, keys: Sequence[WrappedKey]) -> bool:
        """Store the first keys. False if the store has keys or encrypted records already."""
        await transaction.lock("first keys")
        if await transaction.fetch(HAS_RECORDS):
            return False
        for key in keys:
            await KEYS.add(transaction, key)
        return True

    @in_transaction
    async def add_key(self, transaction: Transaction, key: WrappedKey) -> None:
        """Store a key and make it the active key of its purpose."""
        await transaction.lock(KEYS_CHANGE)
        await transaction.execute("UPDATE keys SET active = 0 WHERE purpose = $1", key.purpose)
        await KEYS.add(transaction, key)

    async def retire_key(self, kid: str, at: float) -> bool:
        """Retire a data key. False: it is active, retired already, or does not exist."""
        return await self._execute(RETIRE, kid, at, Purpose.DATA) == 1

    async def forget_retired_keys(self, before: float) -> int:
        """Delete keys that were retired before then, and return how many. Their ids stay, so that none is reused."""
        return await self._execute(FORGET, before)

    @in_transaction
    async def rewrap_keys(
        self, transaction: Transaction, old: Sequence[WrappedKey], new: Sequence[WrappedKey]
    ) -> None:
        """Store keys wrapped by another master, all or none; if another broker was first, it has done the same."""
        for before, after in zip(old, new, strict=True):
            await transaction.execute(REWRAP, before.kid, after.wrapped, after.master_id, before.wrapped)

    async def has_no_accounts(self) -> bool:
        """Return whether there has never been an account; removed and purged ones count."""
        known = "SELECT 1 FROM accounts UNION ALL SELECT 1 FROM purged_names LIMIT 1"
        return not await self._database.read(known)

    async def meta(self, key: str) -> str | None:
        """Return an entry of the store's metadata."""
        rows = await self._database.read("SELECT value FROM meta WHERE key = $1", key)
        return str(rows[0][0]) if rows else None

    async def set_meta(self, key: str, value: str) -> None:
        """Store an entry of the store's metadata."""
        await self._execute(SET_META, key, value)


class RecordKeys:
    """Writes and reads encrypted records for the other stores, and keeps the keyring up to date for them."""

    def __init__(
        self, database: Database, *, keyring: Keyring, catch_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._database, self._keyring, self._catch_up = database, keyring, catch_up

    async def write(self, values: Sequence[Encrypted], work: Callable[..., Awaitable[T]]) -> T:
        """Run `work(transaction, *values)` and return its result once it is durable.

        If the active key has been replaced, the values are encrypted again first. Raises StorageUnavailable.
        """
        for _ in range(TRIES):
            records = [record for value in values for _, record in records_in(value).values()]

            def once(transaction: Transaction, values: Sequence[Encrypted] = values) -> Awaitable[T]:
                return work(transaction, *values)

            try:
                return await self.write_records(records, once)
            except KeyNotActive as exc:
                log.info("record.reencrypted", why=str(exc))
            try:
                values = [encrypted_anew(value, self._keyring) for value in values]
            except DecryptionFailed as broken:
                raise StorageUnavailable("a record cannot be encrypted again", retry_after=1) from broken
        raise StorageUnavailable("the active data key cannot be unwrapped here", retry_after=1)

    async def write_records(self, records: Iterable[str], work: Work[T]) -> T:
        """Run `work`, which stores these records, and return its result once it is durable.

        Raises KeyNotActive if a record's key is not the active one; the keyring is up to date then.
        """
        kids = {kid for record in records if (kid := kid_at_front(record))}

        async def checked(transaction: Transaction) -> T:
            await transaction.lock_shared(KEYS_CHANGE)
            keys = {kid: bool(active) for kid, active in await transaction.fetch(STATES, Purpose.DATA)}
            # If the store never had a key of this id, the text only looks like a record.
            if late := [kid for kid in kids if not keys.get(kid, True)]:
                raise KeyNotActive(f"key {late[0]} takes no new records")
            return await work(transaction)

        try:
            return await self._database.write(checked if kids else work)
        except KeyNotActive:
            await self._catch_up()
            raise

    async def learn(self, records: Iterable[str | None]) -> None:
        """Update the keyring from the store if one of these records was encrypted with a key unknown here."""
        kids = (kid_at_front(record) for record in records if record)
        if not all(self._keyring.holds(kid) for kid in kids if kid):
            await self._catch_up()


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """A column that contains encrypted records."""

    table: str
    column: str
    key: str
    """The table's primary key, a text."""
    place_columns: str
    """The columns that determine a record's place, separated by commas."""
    place: Callable[..., Place]
    """Makes the place from the values of `place_columns`."""

    @property
    def name(self) -> str:
        """The qualified name, `table.column`."""
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class EncryptedRecord:
    """An encrypted record, the primary key of its row, and its place."""

    key: str
    record: str
    place: Place


def _token(column: str, field: str) -> EncryptedColumn:
    columns = "name, epoch, generation"
    return EncryptedColumn("accounts", column, "name", columns, lambda *ref: token_place(Ref(*ref), field))


def _pending(column: str, field: str) -> EncryptedColumn:
    key = "state_hash"
    return EncryptedColumn("installs", column, key, key, lambda hash_: pending_place(hash_, field))


ENCRYPTED: Sequence[EncryptedColumn] = (
    _token("sealed_access", ACCESS),
    _token("sealed_refresh", REFRESH),
    EncryptedColumn(
        *("spares", "sealed", "id", "id, account, epoch, generation"),
        lambda id_, *parent: spare_place(Ref(*parent), id_),
    ),
    _pending("sealed_verifier", VERIFIER),
    _pending("sealed_access", ACCESS),
    _pending("sealed_refresh", REFRESH),
)
"""All columns with encrypted records; `tests/store/test_sealed.py` compares them with the schema."""


class RecordStore:
    """Reads and replaces encrypted records of every kind."""

    def __init__(self, database: Database, *, keys: RecordKeys) -> None:
        self._database, self._keys = database, keys

    async def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Count the records in each column by the id of their key, a page at a time so that no writer waits long."""
        counts: dict[str, Counter[str]] = {}
        for column in ENCRYPTED:
            sql = f"""
            SELECT front, COUNT(*), MAX(place) FROM (
              SELECT {column.key} AS place, substr({column.column}, 1, {FRONT}) AS front FROM {column.table}
               WHERE {column.key} > $1 AND {column.key} < '~' AND {column.column} IS NOT NULL
               ORDER BY {column.key} LIMIT $2) AS page
             GROUP BY front"""
            found = counts[column.name] = Counter()
            after, read = "", COUNTED_AT_ONCE
            while read >= COUNTED_AT_ONCE:
                rows = await self._database.read(sql, after, COUNTED_AT_ONCE)
                for front, count, _ in rows:
                    found[kid_at_front(text(front)) or UNKNOWN] += count
                after, read = last_of(rows), sum(count for _, count, _ in rows)
        return counts

    async def page(self, column: EncryptedColumn, after: str, limit: int) -> list[EncryptedRecord]:
        """Return records of a column, in the order of the primary key, from rows after `after`."""
        sql = f"""SELECT {column.key}, {column.column}, {column.place_columns} FROM {column.table}
                 WHERE {column.key} > $1 AND {column.key} < '~' AND {column.column} IS NOT NULL
                 ORDER BY {column.key} LIMIT $2"""
        found = [[*map(text, row)] for row in await self._database.read(sql, after, limit)]
        await self._keys.learn(record for _, record, *_ in found)
        return [EncryptedRecord(key, record, column.place(*place)) for key, record, *place in found]

    async def replace(
        self, column: EncryptedColumn, reencrypted: Sequence[tuple[EncryptedRecord, str]]
    ) -> int:
        """Replace old records by new ones, each only if the row still has the old one; return how many.

        The part after a record's key id starts with a nonce, which is never used twice. So a row that still has this
        part is still at its old generation.
        """
        sql = f"""UPDATE {column.table} SET {column.column} = $1
                   WHERE {column.key} = $2 AND substr({column.column}, {FRONT + 1}) = $3"""

        async def work(transaction: Transaction) -> int:
            rows = [(new, old.key, old.record[FRONT:]) for old, new in reencrypted]
            return sum([await transaction.execute(sql, *row) for row in rows])

        return await self._keys.write_records((new for _, new in reencrypted), work)
