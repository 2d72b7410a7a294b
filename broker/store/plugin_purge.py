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
EXPIRED = (
    ("plugin_consents", "hash", 0.0),
    ("plugin_connect_codes", "handle", 0.0),
    ("plugin_people", "hash", PEOPLE_KEPT),
    ("plugin_codes", "hash", CODES_KEPT),
)
"""Table, key, and how many seconds its rows are kept beyond their end."""
REPLACED = """
DELETE FROM plugin_pairs WHERE refresh_hash IN (
  SELECT refresh_hash FROM plugin_pairs
   WHERE replaced_at IS NOT NULL AND replaced_at < $1 AND access_expires_at < $1 LIMIT $2)"""
DEAD = """
SELECT id FROM plugin_grants WHERE expires_at < $1
UNION SELECT id FROM plugin_grants WHERE revoked_at IS NOT NULL AND revoked_at < $2 LIMIT $3"""


class PluginPurge:
    """Small batches, so that nobody waits for them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def purge(self, now: float, limit: int) -> int:
        """Forget at most `limit` rows of each kind; how many it were."""

        async def work(transaction: Transaction) -> int:
            gone = await transaction.execute(UNSEAL, now - FORGIVEN_FOR, limit)
            for table, key, kept in EXPIRED:
                rows = f"SELECT {key} FROM {table} WHERE expires_at < $1 LIMIT $2"
                sql = f"DELETE FROM {table} WHERE {key} IN ({rows})"
                gone += await transaction.execute(sql, now - kept, limit)
            gone += await transaction.execute(REPLACED, now - PAIRS_KEPT, limit)
            return gone

        return await self._database.write(work) + await self._database.write(
            lambda transaction: _forget_dead(transaction, now, limit)
        )


async def _forget_dead(transaction: Transaction, now: float, limit: int) -> int:
    dead = await transaction.fetch(DEAD, now, now - GRANTS_KEPT, limit)
    for (grant_id,) in dead:
        await transaction.execute("DELETE FROM plugin_pairs WHERE grant_id = $1", grant_id)
        await transaction.execute("DELETE FROM plugin_grants WHERE id = $1", grant_id)
    return len(dead)
