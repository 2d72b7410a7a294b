"""Everything that lies sealed in the store, in one list: counted by key, and replaced where it has not changed."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.keyring import FRONT, Place, kid_at_front
from broker.model import Ref
from broker.sealing import ACCESS, REFRESH, VERIFIER, pending_place, spare_place, token_place
from broker.store.database import Database, Transaction
from broker.store.keys import RecordKeys

UNKNOWN = "unknown"
"""Counted for what is no record of ours."""
COUNTED_AT_ONCE = 5000


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


def _token(field: str) -> SealedColumn:
    def place(name: str, epoch: int, generation: int) -> Place:
        return token_place(Ref(name, epoch, generation), field)

    column = "sealed_access" if field == ACCESS else "sealed_refresh"
    return SealedColumn("accounts", column, "name", "name, epoch, generation", place)


def _pending(column: str, field: str) -> SealedColumn:
    def place(state_hash: str) -> Place:
        return pending_place(state_hash, field)

    return SealedColumn("installs", column, "state_hash", "state_hash", place)


def _spare_place(id_: str, account: str, epoch: int, generation: int) -> Place:
    return spare_place(Ref(account, epoch, generation), id_)


SEALED: Sequence[SealedColumn] = (
    _token(ACCESS),
    _token(REFRESH),
    SealedColumn("spares", "sealed", "id", "id, account, epoch, generation", _spare_place),
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
        rows = await self._database.read(
            f"""SELECT {column.key}, {column.column}, {column.told_by} FROM {column.table}
                 WHERE {column.key} > $1 AND {column.column} IS NOT NULL ORDER BY {column.key} LIMIT $2""",
            after,
            limit,
        )
        await self._keys.learn(record for _, record, *_ in rows)
        return [SealedRecord(key, record, column.place(*told)) for key, record, *told in rows]

    async def replace(self, column: SealedColumn, resealed: Sequence[tuple[SealedRecord, str]]) -> int:
        """Put new records in the place of old ones, each only while the old one lies there; how many did.

        What follows a key's id begins with a nonce, which is never used twice: a row that still holds it is at
        its old generation.
        """
        sql = f"""UPDATE {column.table} SET {column.column} = $1
                   WHERE {column.key} = $2 AND substr({column.column}, {FRONT + 1}) = $3"""

        async def work(transaction: Transaction) -> int:
            changed = [
                await transaction.execute(sql, new, old.key, old.record[FRONT:]) for old, new in resealed
            ]
            return sum(changed)

        return await self._keys.write_records((new for _, new in resealed), work)

    async def _count(self, column: SealedColumn) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        async for front, count in self._fronts(column):
            found[kid_at_front(front) or UNKNOWN] += count
        return found

    async def _fronts(self, column: SealedColumn) -> AsyncIterator[tuple[str, int]]:
        sql = f"""
        SELECT front, COUNT(*), MAX(place) FROM (
          SELECT {column.key} AS place, substr({column.column}, 1, {FRONT}) AS front FROM {column.table}
           WHERE {column.key} > $1 AND {column.column} IS NOT NULL ORDER BY {column.key} LIMIT $2) AS page
         GROUP BY front"""
        after = ""
        while rows := await self._database.read(sql, after, COUNTED_AT_ONCE):
            for front, count, _ in rows:
                yield front, count
            after = _last(rows)


def _last(rows: Sequence[Sequence[Any]]) -> str:
    return max(str(row) for _, _, row in rows)
