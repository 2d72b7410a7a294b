"""Forgets what clients were given and nobody needs any more, a few rows at a time."""

from broker.model.plugin import FORGIVEN_FOR
from broker.store.database import Database, Transaction

CODES_KEPT = 86400.0
"""A code that was redeemed is remembered, so that its replay is known for what it is."""
PAIRS_KEPT = 30 * 86400.0
"""A replaced refresh token is remembered, so that its reuse is known for what it is."""
GRANTS_KEPT = 90 * 86400.0
PEOPLE_KEPT = 3600.0
"""Who has begun the second half of an install may take a while to end it."""

UNSEAL = """
UPDATE plugin_pairs SET sealed_next = NULL WHERE refresh_hash IN (
  SELECT refresh_hash FROM plugin_pairs WHERE sealed_next IS NOT NULL AND replaced_at <= $1 LIMIT $2)"""
EXPIRED = """
DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE expires_at < $1 LIMIT $2)"""
REPLACED = """
DELETE FROM plugin_pairs WHERE refresh_hash IN (
  SELECT refresh_hash FROM plugin_pairs
   WHERE replaced_at IS NOT NULL AND replaced_at < $1 AND access_expires_at < $1 LIMIT $2)"""
STEPS = (
    (UNSEAL, FORGIVEN_FOR),
    (EXPIRED.format(table="plugin_consents", key="hash"), 0.0),
    (EXPIRED.format(table="plugin_connect_codes", key="handle"), 0.0),
    (EXPIRED.format(table="plugin_people", key="hash"), PEOPLE_KEPT),
    (EXPIRED.format(table="plugin_codes", key="hash"), CODES_KEPT),
    (REPLACED, PAIRS_KEPT),
)
"""Statements, and how many seconds rows are kept beyond their end."""
DEAD = """
SELECT id FROM (SELECT id FROM plugin_grants WHERE expires_at < $1 ORDER BY expires_at, id LIMIT $3) AS expired
UNION SELECT id FROM (
  SELECT id FROM plugin_grants WHERE revoked_at IS NOT NULL AND revoked_at < $2
   ORDER BY revoked_at, id LIMIT $3) AS revoked
ORDER BY id LIMIT $3"""


class PluginPurge:
    """Small batches, each in a transaction of its own, so that nobody waits for them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def purge(self, now: float, limit: int) -> int:
        """Forget at most `limit` rows of each kind, and as many dead grants; how many it were."""
        gone = 0
        for sql, kept in STEPS:
            gone += await self._step(sql, now - kept, limit)

        async def forget_dead(transaction: Transaction) -> int:
            values = now, now - GRANTS_KEPT, limit
            await transaction.execute(f"DELETE FROM plugin_pairs WHERE grant_id IN ({DEAD})", *values)
            return await transaction.execute(f"DELETE FROM plugin_grants WHERE id IN ({DEAD})", *values)

        return gone + await self._database.write(forget_dead)

    async def _step(self, sql: str, before: float, limit: int) -> int:
        return await self._database.write(lambda transaction: transaction.execute(sql, before, limit))
