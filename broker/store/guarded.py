"""Nothing sealed goes into the store under a key that is not active; an unknown key makes the ring read the store."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import chain
from typing import Protocol, TypeVar

from broker.keyring import MAGIC_TEXT, KeyNotActive, Keyring, Purpose, kid_at_front
from broker.store.database import Database, Dialect, Row, Transaction, Work

T = TypeVar("T")
KEYS_CHANGE = "active key"
"""No record is stored while the active key is being replaced."""
KEYS = "SELECT kid, active FROM keys WHERE purpose = $1"


class Ring(Protocol):
    """The keys of this process."""

    @property
    def keyring(self) -> Keyring: ...

    async def catch_up(self) -> None:
        """Read the keys in the store again; raises StorageUnavailable."""
        ...


class GuardedDatabase:
    """A `Database` that looks at every value on its way in and out."""

    def __init__(self, database: Database, ring: Ring) -> None:
        self._database, self._ring = database, ring

    @property
    def dialect(self) -> Dialect:
        return self._database.dialect

    def starting(self) -> AbstractAsyncContextManager[None]:
        return self._database.starting()

    async def read(self, sql: str, *values: object) -> list[Row]:
        rows = await self._database.read(sql, *values)
        holds = self._ring.keyring.holds
        if not all(holds(kid) for row in rows for kid in _kids(row)):
            await self._ring.catch_up()
        return rows

    async def write(self, work: Work[T]) -> T:
        """Raises KeyNotActive, and then the ring knows the active key if it can be had."""

        async def guarded(transaction: Transaction) -> T:
            return await work(_GuardedTransaction(transaction))

        try:
            return await self._database.write(guarded)
        except KeyNotActive:
            await self._ring.catch_up()
            raise

    async def scrub(self) -> bool:
        return await self._database.scrub()

    async def close(self) -> None:
        await self._database.close()


class _GuardedTransaction:
    """A `Transaction` that refuses records of keys that the store itself does not call active."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def execute(self, sql: str, *values: object) -> int:
        if stored := _kids(values):
            await self._require_active(set(stored))
        return await self._transaction.execute(sql, *values)

    async def execute_all(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        if stored := _kids(chain.from_iterable(rows)):
            await self._require_active(set(stored))
        await self._transaction.execute_all(sql, rows)

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        return await self._transaction.fetch(sql, *values)

    async def alone(self, what: str) -> None:
        await self._transaction.alone(what)

    async def beside(self, what: str) -> None:
        await self._transaction.beside(what)

    async def tell(self, name: str) -> None:
        await self._transaction.tell(name)

    async def _require_active(self, stored: set[str]) -> None:
        await self._transaction.beside(KEYS_CHANGE)
        keys = {kid: bool(active) for kid, active in await self._transaction.fetch(KEYS, Purpose.DATA)}
        # An id that the store never had is somebody's text that only looks like a record.
        if late := [kid for kid in stored if not keys.get(kid, True)]:
            raise KeyNotActive(f"key {late[0]} takes no new records")


def _kids(values: Iterable[object]) -> list[str]:
    """The ids of the keys that sealed what of these is sealed."""
    # Every value that goes in or out is looked at; for most of them the first look has to do.
    texts = [value for value in values if isinstance(value, str) and value.startswith(MAGIC_TEXT)]
    return [kid for text in texts if (kid := kid_at_front(text))]
