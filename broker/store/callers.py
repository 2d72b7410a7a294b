"""Stores callers and the hashes of their keys."""

import json
from collections.abc import Mapping
from dataclasses import replace

import structlog

from broker.model import CallerKey, CallerRecord, Permission
from broker.store.backup import moment
from broker.store.database import (
    SET_META,
    Row,
    Store,
    Table,
    Transaction,
    execute_all,
    in_transaction,
    insert_sql,
    number,
    text,
)

log = structlog.get_logger()
KEYS = Table("caller_keys", CallerKey)
CALLER = "name, accounts, permissions, created_at"
INSERT_CALLER = f"{insert_sql('callers', CALLER)} ON CONFLICT (name) DO NOTHING"
# A caller has at most two active keys: the newest of the old ones stays valid for a while.
DROP_OLDER = """
DELETE FROM caller_keys WHERE caller = $1 AND id NOT IN (
  SELECT id FROM caller_keys WHERE caller = $1 ORDER BY created_at DESC, id LIMIT 1)"""
EXPIRE = (
    "UPDATE caller_keys SET expires_at = $2 WHERE caller = $1 AND (expires_at IS NULL OR expires_at > $2)"
)
USED = "caller used: "
"""Prefix of the metadata of a caller from the configuration, which has no row of its own."""


class CallerStore(Store):
    """Stores callers and their keys, and when they were last used."""

    @in_transaction
    async def add_caller(self, transaction: Transaction, caller: CallerRecord, key: CallerKey) -> bool:
        """Store a caller with its first key. False: the name is taken."""
        accounts, permissions = json.dumps(caller.accounts), json.dumps(sorted(caller.permissions))
        values = (caller.name, accounts, permissions, caller.created_at)
        if not await transaction.execute(INSERT_CALLER, *values):
            return False
        return await KEYS.add(transaction, key) == 1

    @in_transaction
    async def add_key(self, transaction: Transaction, key: CallerKey, *, expire_others_at: float) -> bool:
        """Add a key to a caller. False: there is no such caller.

        Of the older keys only the newest stays, and it expires at `expire_others_at` at the latest.
        """
        await transaction.lock(f"caller {key.caller}")
        if not await transaction.fetch("SELECT 1 FROM callers WHERE name = $1", key.caller):
            return False
        await transaction.execute(DROP_OLDER, key.caller)
        await transaction.execute(EXPIRE, key.caller, expire_others_at)
        return await KEYS.add(transaction, key) == 1

    async def callers(self) -> list[CallerRecord]:
        """Return all callers with their keys, by name."""
        keys: dict[str, list[CallerKey]] = {}
        for key in await self._rows(KEYS, "ORDER BY created_at"):
            keys.setdefault(key.caller, []).append(key)
        rows = await self._database.read(f"SELECT {CALLER} FROM callers ORDER BY name")
        return [replace(one, keys=tuple(keys.get(one.name, ()))) for one in map(_to_caller, rows)]

    async def by_key(self, key_id: str) -> tuple[CallerRecord, CallerKey] | None:
        """Return the key with that id and its caller, without the caller's other keys."""
        sql = f"""SELECT c.name, c.accounts, c.permissions, c.created_at, {KEYS.of("k")}
                    FROM caller_keys k JOIN callers c ON c.name = k.caller WHERE k.id = $1"""
        rows = await self._database.read(sql, key_id)
        return (_to_caller(rows[0][:4]), KEYS.read(rows[0][4:])) if rows else None

    @in_transaction
    async def remove_caller(self, transaction: Transaction, name: str) -> bool:
        """Delete a caller with its keys. False: there is no such caller."""
        await transaction.lock(f"caller {name}")
        await transaction.execute("DELETE FROM caller_keys WHERE caller = $1", name)
        return await transaction.execute("DELETE FROM callers WHERE name = $1", name) == 1

    async def touch_keys(self, uses: Mapping[str, float]) -> None:
        """Store when keys were last used, by their ids."""
        if uses:
            sql = "UPDATE caller_keys SET last_used_at = $2 WHERE id = $1"
            await execute_all(self._database, sql, sorted(uses.items()))

    async def touch_callers(self, uses: Mapping[str, float]) -> None:
        """Store when callers from the configuration were last used, by their names."""
        if uses:
            rows = [(USED + name, repr(at)) for name, at in sorted(uses.items())]
            await execute_all(self._database, SET_META, rows)

    async def caller_uses(self) -> dict[str, float]:
        """Return when callers from the configuration were last used, by their names."""
        sql = f"SELECT key, value FROM meta WHERE SUBSTR(key, 1, {len(USED)}) = $1"
        rows = await self._database.read(sql, USED)
        return {key.removeprefix(USED): used for key, at in rows if (used := moment(at)) is not None}


def _to_caller(row: Row) -> CallerRecord:
    name, *lists = map(text, row[:3])
    created_at = number(row[3])
    try:
        accounts, permissions = map(json.loads, lists)
        if isinstance(accounts, list) and isinstance(permissions, list):
            allowed = frozenset(Permission.stored(str(one)) for one in permissions)
            return CallerRecord(name, tuple(map(str, accounts)), allowed, created_at)
    except (ValueError, TypeError, RecursionError):
        pass
    # A damaged row gives no permissions, and does not hide the other callers.
    log.error("caller.record_damaged", caller=name, next="remove the caller and add it again")
    return CallerRecord(name, (), frozenset(), created_at)
