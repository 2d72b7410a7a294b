"""Callers with keys; of a key only the hash is stored."""

import json
from collections.abc import Mapping
from dataclasses import replace

import structlog

from broker.model import CallerKey, CallerRecord, Permission
from broker.store.backup import moment
from broker.store.database import Database, Row, Transaction

log = structlog.get_logger()
KEY = "id, caller, hash, created_at, expires_at, last_used_at"
INSERT_KEY = f"INSERT INTO caller_keys ({KEY}) VALUES ($1, $2, $3, $4, $5, $6)"
CALLER = "name, accounts, permissions, created_at"
USED = "caller used: "
"""Before the name of a caller that the configuration names: it has no row of its own."""


class CallerStore:
    """Callers with keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_caller(self, caller: CallerRecord, key: CallerKey) -> bool:
        """False: the name is taken."""

        async def work(transaction: Transaction) -> bool:
            sql = f"INSERT INTO callers ({CALLER}) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING"
            added = await transaction.execute(
                sql,
                caller.name,
                json.dumps(caller.accounts),
                json.dumps(sorted(caller.permissions)),
                caller.created_at,
            )
            if added:
                await transaction.execute(INSERT_KEY, *_key_values(key))
            return added == 1

        return await self._database.write(work)

    async def add_key(self, key: CallerKey, *, expire_others_at: float) -> bool:
        """Give a caller another key; its others work until `expire_others_at` at the longest, at most one of them.
        False: no such caller."""

        async def work(transaction: Transaction) -> bool:
            await transaction.alone(f"caller {key.caller}")
            if not await transaction.fetch("SELECT 1 FROM callers WHERE name = $1", key.caller):
                return False
            # Two active keys at most: the newest of the old ones stays for a while.
            sql = """DELETE FROM caller_keys WHERE caller = $1 AND id NOT IN (
                     SELECT id FROM caller_keys WHERE caller = $1 ORDER BY created_at DESC, id LIMIT 1)"""
            await transaction.execute(sql, key.caller)
            sql = """UPDATE caller_keys SET expires_at = $2
                    WHERE caller = $1 AND (expires_at IS NULL OR expires_at > $2)"""
            await transaction.execute(sql, key.caller, expire_others_at)
            await transaction.execute(INSERT_KEY, *_key_values(key))
            return True

        return await self._database.write(work)

    async def callers(self) -> list[CallerRecord]:
        keys: dict[str, list[CallerKey]] = {}
        for row in await self._database.read(f"SELECT {KEY} FROM caller_keys ORDER BY created_at"):
            key = CallerKey(*row)
            keys.setdefault(key.caller, []).append(key)
        rows = await self._database.read(f"SELECT {CALLER} FROM callers ORDER BY name")
        return [replace(_to_caller(row), keys=tuple(keys.get(row[0], ()))) for row in rows]

    async def by_key(self, key_id: str) -> tuple[CallerRecord, CallerKey] | None:
        sql = """SELECT c.name, c.accounts, c.permissions, c.created_at,
                      k.id, k.caller, k.hash, k.created_at, k.expires_at, k.last_used_at
                 FROM caller_keys k JOIN callers c ON c.name = k.caller WHERE k.id = $1"""
        rows = await self._database.read(sql, key_id)
        return (_to_caller(rows[0][:4]), CallerKey(*rows[0][4:])) if rows else None

    async def remove_caller(self, name: str) -> bool:
        async def work(transaction: Transaction) -> bool:
            await transaction.alone(f"caller {name}")
            await transaction.execute("DELETE FROM caller_keys WHERE caller = $1", name)
            return await transaction.execute("DELETE FROM callers WHERE name = $1", name) == 1

        return await self._database.write(work)

    async def touch_keys(self, uses: Mapping[str, float]) -> None:
        async def work(transaction: Transaction) -> None:
            for key_id, at in sorted(uses.items()):
                await transaction.execute(
                    "UPDATE caller_keys SET last_used_at = $2 WHERE id = $1", key_id, at
                )

        if uses:
            await self._database.write(work)

    async def touch_callers(self, uses: Mapping[str, float]) -> None:
        """When callers that the configuration names were last used, by name."""

        async def work(transaction: Transaction) -> None:
            for name, at in sorted(uses.items()):
                sql = """INSERT INTO meta (key, value) VALUES ($1, $2)
                       ON CONFLICT (key) DO UPDATE SET value = $2"""
                await transaction.execute(sql, USED + name, repr(at))

        if uses:
            await self._database.write(work)

    async def caller_uses(self) -> dict[str, float]:
        rows = await self._database.read(
            f"SELECT key, value FROM meta WHERE SUBSTR(key, 1, {len(USED)}) = $1", USED
        )
        return {key.removeprefix(USED): used for key, at in rows if (used := moment(at)) is not None}


def _key_values(key: CallerKey) -> tuple[object, ...]:
    return key.id, key.caller, key.hash, key.created_at, key.expires_at, key.last_used_at


def _to_caller(row: Row) -> CallerRecord:
    name, accounts, permissions, created_at = row
    try:
        return CallerRecord(
            name, _words(accounts), frozenset(map(Permission.stored, _words(permissions))), created_at
        )
    except (ValueError, TypeError, RecursionError):
        # A damaged row gives no rights, and keeps nobody from seeing the others.
        log.error("caller.record_damaged", caller=name, next="remove the caller and add it again")
        return CallerRecord(name, (), frozenset(), created_at)


def _words(text: str) -> tuple[str, ...]:
    """A list of texts; raises ValueError, TypeError, RecursionError."""
    words = json.loads(text)
    if not isinstance(words, list):
        raise TypeError("no list")
    return tuple(map(str, words))
