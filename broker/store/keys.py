"""Wrapped keys, and what the store says of itself."""

from collections.abc import Sequence

from broker.keyring import Purpose, WrappedKey
from broker.store.database import Database, Transaction

KEY = "kid, purpose, wrapped, master_id, active, created_at"
SEALED_ANYTHING = """
SELECT 1 FROM keys UNION ALL SELECT 1 FROM accounts UNION ALL SELECT 1 FROM installs UNION ALL SELECT 1 FROM spares
LIMIT 1"""


class Keys:
    """The `KeyStore`, on any database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keys(self) -> list[WrappedKey]:
        rows = await self._database.read(f"SELECT {KEY} FROM keys ORDER BY created_at")
        return [
            WrappedKey(kid, Purpose(purpose), wrapped, master_id, bool(active), created_at)
            for kid, purpose, wrapped, master_id, active, created_at in rows
        ]

    async def is_empty(self) -> bool:
        return not await self._database.read(SEALED_ANYTHING)

    async def add_first_keys(self, keys: Sequence[WrappedKey]) -> bool:
        async def work(transaction: Transaction) -> bool:
            await transaction.alone("first keys")
            if await transaction.fetch(SEALED_ANYTHING):
                return False
            for key in keys:
                await transaction.execute(
                    f"INSERT INTO keys ({KEY}) VALUES ($1, $2, $3, $4, $5, $6)",
                    key.kid,
                    key.purpose,
                    key.wrapped,
                    key.master_id,
                    int(key.active),
                    key.created_at,
                )
            return True

        return await self._database.write(work)

    async def has_no_accounts(self) -> bool:
        return not await self._database.read("SELECT 1 FROM accounts LIMIT 1")

    async def meta(self, key: str) -> str | None:
        rows = await self._database.read("SELECT value FROM meta WHERE key = $1", key)
        return str(rows[0][0]) if rows else None

    async def set_meta(self, key: str, value: str) -> None:
        sql = """INSERT INTO meta (key, value) VALUES ($1, $2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
        await self._database.write(lambda transaction: transaction.execute(sql, key, value))
