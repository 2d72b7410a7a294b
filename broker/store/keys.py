"""Wrapped keys, every encrypted record, and the rule that none is stored under a key that is not active."""

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
"""No record is stored while the active key is being replaced."""
KEYS = Table("keys", WrappedKey)
REWRAP = "UPDATE keys SET wrapped = $2, master_id = $3 WHERE kid = $1 AND wrapped = $4"
RETIRE = """
UPDATE keys SET retired_at = $2
 WHERE kid = $1 AND purpose = $3 AND active = 0 AND retired_at IS NULL"""
STATES = "SELECT kid, active FROM keys WHERE purpose = $1"
FORGET = "UPDATE keys SET wrapped = '' WHERE retired_at < $1 AND wrapped <> ''"
SEALED_ANYTHING = """
SELECT 1 FROM keys UNION ALL SELECT 1 FROM accounts UNION ALL SELECT 1 FROM installs UNION ALL SELECT 1 FROM spares
LIMIT 1"""

UNKNOWN = "unknown"
"""Counted for what is no record of ours."""
COUNTED_AT_ONCE = 5000


class KeyStore(Store):
    """Wrapped keys, and what the store says of itself."""

    async def keys(self) -> list[WrappedKey]:
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
        """Whether the store holds nothing that a key was needed for."""
        return not await self._database.read(SEALED_ANYTHING)

    @in_transaction
    async def add_first_keys(self, transaction: Transaction, keys: Sequence[WrappedKey]) -> bool:
        """Store the first keys. False if the store holds keys or anything sealed already."""
        await transaction.lock("first keys")
        if await transaction.fetch(SEALED_ANYTHING):
            return False
        for key in keys:
            await KEYS.add(transaction, key)
        return True

    @in_transaction
    async def add_key(self, transaction: Transaction, key: WrappedKey) -> None:
        """Store a key and make it the active one of its purpose."""
        await transaction.lock(KEYS_CHANGE)
        await transaction.execute("UPDATE keys SET active = 0 WHERE purpose = $1", key.purpose)
        await KEYS.add(transaction, key)

    async def retire_key(self, kid: str, at: float) -> bool:
        """Seal nothing with that data key any more. False: it is active, retired already, or there is none."""
        return await self._execute(RETIRE, kid, at, Purpose.DATA) == 1

    async def forget_retired_keys(self, before: float) -> int:
        """Forget the keys that were retired before then; their ids stay, so that none comes back. How many."""
        return await self._execute(FORGET, before)

    @in_transaction
    async def rewrap_keys(
        self, transaction: Transaction, old: Sequence[WrappedKey], new: Sequence[WrappedKey]
    ) -> None:
        """Replace how keys are wrapped, all or none; whoever was faster has done the same."""
        for before, after in zip(old, new, strict=True):
            await transaction.execute(REWRAP, before.kid, after.wrapped, after.master_id, before.wrapped)

    async def has_no_accounts(self) -> bool:
        """Whether there is not one account, and never was: removed and purged ones included."""
        known = "SELECT 1 FROM accounts UNION ALL SELECT 1 FROM purged_names LIMIT 1"
        return not await self._database.read(known)

    async def meta(self, key: str) -> str | None:
        rows = await self._database.read("SELECT value FROM meta WHERE key = $1", key)
        return str(rows[0][0]) if rows else None

    async def set_meta(self, key: str, value: str) -> None:
        await self._execute(SET_META, key, value)


class RecordKeys:
    """The data keys, for the stores that hold encrypted records: these write through it, and show it what they read."""

    def __init__(
        self, database: Database, *, keyring: Keyring, catch_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._database, self._keyring = database, keyring
        self._catch_up = catch_up
        """Reads the keys in the store again; raises StorageUnavailable."""

    async def write(self, values: Sequence[Encrypted], work: Callable[..., Awaitable[T]]) -> T:
        """Run `work(transaction, *values)` and return its result once it is durable.

        Where the active key has been replaced, the values are encrypted anew first. Raises StorageUnavailable.
        """
        for _ in range(TRIES):
            records = [record for value in values for _, record in records_in(value).values()]

            def once(transaction: Transaction, values: Sequence[Encrypted] = values) -> Awaitable[T]:
                return work(transaction, *values)

            try:
                return await self.write_records(records, once)
            except KeyNotActive as exc:
                log.info("record.sealed_anew", why=str(exc))
            try:
                values = [encrypted_anew(value, self._keyring) for value in values]
            except DecryptionFailed as broken:
                raise StorageUnavailable("a record cannot be sealed anew", retry_after=1) from broken
        raise StorageUnavailable("the active data key cannot be opened here", retry_after=1)

    async def write_records(self, records: Iterable[str], work: Work[T]) -> T:
        """Run `work`, which stores these records, and return its result once it is durable.

        Raises KeyNotActive, and then the keyring has the active key if it can be opened here.
        """
        kids = {kid for record in records if (kid := kid_at_front(record))}

        async def checked(transaction: Transaction) -> T:
            await transaction.lock_shared(KEYS_CHANGE)
            keys = {kid: bool(active) for kid, active in await transaction.fetch(STATES, Purpose.DATA)}
            # An id that the store never had was no key's: the text only looks like a record.
            if late := [kid for kid in kids if not keys.get(kid, True)]:
                raise KeyNotActive(f"key {late[0]} takes no new records")
            return await work(transaction)

        try:
            return await self._database.write(checked if kids else work)
        except KeyNotActive:
            await self._catch_up()
            raise

    async def learn(self, records: Iterable[str | None]) -> None:
        """Read the keys in the store again if one of these records was encrypted with a key unknown here."""
        holds = self._keyring.holds
        kids = (kid_at_front(record) for record in records if record)
        if not all(holds(kid) for kid in kids if kid):
            await self._catch_up()


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """Where records lie."""

    table: str
    column: str
    key: str
    """The table's primary key, a text."""
    told_by: str
    """The columns that tell a record's place, with commas."""
    place: Callable[..., Place]
    """From the values of `told_by`."""

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """One record in its row."""

    key: str
    record: str
    place: Place


def _token(column: str, field: str) -> SealedColumn:
    told_by = "name, epoch, generation"
    return SealedColumn("accounts", column, "name", told_by, lambda *ref: token_place(Ref(*ref), field))


def _pending(column: str, field: str) -> SealedColumn:
    key = "state_hash"
    return SealedColumn("installs", column, key, key, lambda hash_: pending_place(hash_, field))


SEALED: Sequence[SealedColumn] = (
    _token("sealed_access", ACCESS),
    _token("sealed_refresh", REFRESH),
    SealedColumn(
        *("spares", "sealed", "id", "id, account, epoch, generation"),
        lambda id_, *parent: spare_place(Ref(*parent), id_),
    ),
    _pending("sealed_verifier", VERIFIER),
    _pending("sealed_access", ACCESS),
    _pending("sealed_refresh", REFRESH),
)
"""All of it; `tests/store/test_sealed.py` holds it against the schema."""


class RecordStore:
    """Every encrypted record, whatever it is for."""

    def __init__(self, database: Database, *, keys: RecordKeys) -> None:
        self._database, self._keys = database, keys

    async def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many records lie in each column by the id of their key; in pages, so that nobody waits long."""
        return {column.name: await self._count(column) for column in SEALED}

    async def page(self, column: SealedColumn, after: str, limit: int) -> list[SealedRecord]:
        """Records of a column behind the row `after`, in the order of the rows."""
        sql = f"""SELECT {column.key}, {column.column}, {column.told_by} FROM {column.table}
                 WHERE {column.key} > $1 AND {column.key} < '~' AND {column.column} IS NOT NULL
                 ORDER BY {column.key} LIMIT $2"""
        rows = await self._database.read(sql, after, limit)
        found = [[*map(text, row)] for row in rows]
        await self._keys.learn(record for _, record, *_ in found)
        return [SealedRecord(key, record, column.place(*told)) for key, record, *told in found]

    async def replace(self, column: SealedColumn, reencrypted: Sequence[tuple[SealedRecord, str]]) -> int:
        """Put new records in the place of old ones, each only while the old one lies there; how many did.

        What follows a key's id begins with a nonce, which is never used twice: a row that still holds it is at
        its old generation.
        """
        sql = f"""UPDATE {column.table} SET {column.column} = $1
                   WHERE {column.key} = $2 AND substr({column.column}, {FRONT + 1}) = $3"""

        async def work(transaction: Transaction) -> int:
            changed = [
                await transaction.execute(sql, new, old.key, old.record[FRONT:]) for old, new in reencrypted
            ]
            return sum(changed)

        return await self._keys.write_records((new for _, new in reencrypted), work)

    async def _count(self, column: SealedColumn) -> Mapping[str, int]:
        sql = f"""
        SELECT front, COUNT(*), MAX(place) FROM (
          SELECT {column.key} AS place, substr({column.column}, 1, {FRONT}) AS front FROM {column.table}
           WHERE {column.key} > $1 AND {column.key} < '~' AND {column.column} IS NOT NULL
           ORDER BY {column.key} LIMIT $2) AS page
         GROUP BY front"""
        found: Counter[str] = Counter()
        after, read = "", COUNTED_AT_ONCE
        while read >= COUNTED_AT_ONCE:
            rows = await self._database.read(sql, after, COUNTED_AT_ONCE)
            for front, count, _ in rows:
                found[kid_at_front(text(front)) or UNKNOWN] += count
            after, read = last_of(rows), sum(count for _, count, _ in rows)
        return found
