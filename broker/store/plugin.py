"""What clients that sign in to us were given: consents, codes, grants and pairs of tokens."""

from collections.abc import Sequence

from broker.model import (
    ConnectCode,
    Event,
    FoundPair,
    PluginCode,
    PluginConsent,
    PluginGrant,
    PluginPair,
    RememberedPerson,
)
from broker.model.plugin import FORGIVEN_FOR
from broker.store.database import Database, Row, Transaction, columns_of, execute, insert_sql, values_of
from broker.store.events import insert_events
from broker.store.installs import CLAIM

MOST_TRIES = 5


CONSENT, GRANT, PAIR = columns_of(PluginConsent), columns_of(PluginGrant), columns_of(PluginPair)
CODE = ", ".join(columns_of(PluginCode))
ADD_CONSENT, ADD_CODE = (
    insert_sql("plugin_consents", CONSENT),
    insert_sql("plugin_codes", columns_of(PluginCode)),
)
ADD_GRANT, ADD_PAIR = insert_sql("plugin_grants", GRANT), insert_sql("plugin_pairs", PAIR)
ADD_PERSON = insert_sql("plugin_people", columns_of(RememberedPerson))
FIND = f"""
SELECT {", ".join(f"p.{name}" for name in PAIR)}, {", ".join(f"g.{name}" for name in GRANT)}, n.used_at
  FROM plugin_pairs p
  JOIN plugin_grants g ON g.id = p.grant_id
  LEFT JOIN plugin_pairs n ON n.refresh_hash = p.replaced_by"""
TAKE_CONSENT = "DELETE FROM plugin_consents WHERE hash = $1 AND expires_at > $2"
TAKE_CONNECT_CODE = f"""
DELETE FROM plugin_connect_codes WHERE handle = $1 AND expires_at > $2 AND tries < {MOST_TRIES}"""
REDEEM = "UPDATE plugin_codes SET grant_id = $2 WHERE hash = $1 AND grant_id IS NULL AND expires_at > $3"
ROTATE = """
UPDATE plugin_pairs SET replaced_at = $2, replaced_by = $3, sealed_next = $4, used_at = COALESCE(used_at, $2)
 WHERE refresh_hash = $1 AND replaced_at IS NULL"""
TOUCH = """
UPDATE plugin_grants SET last_used_at = CASE WHEN last_used_at < $2 THEN $2 ELSE last_used_at END,
       expires_at = CASE WHEN expires_at < $3 THEN $3 ELSE expires_at END
 WHERE id = $1 AND revoked_at IS NULL"""

INSTALLED_WITH = """
SELECT g.id, p.hash FROM plugin_people p JOIN plugin_grants g ON g.code_hash = p.code_hash
 WHERE p.browser_hash = $1 AND p.subject = $2 AND p.taken_at IS NOT NULL AND g.revoked_at IS NULL
 ORDER BY p.taken_at DESC LIMIT 1"""
OLDER = """
SELECT o.id FROM plugin_grants g
  JOIN plugin_grants o ON o.subject = g.subject AND o.client = g.client AND o.account = g.account
 WHERE g.id = $1 AND o.id <> g.id AND o.revoked_at IS NULL"""


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


class PluginStore:
    """What clients that sign in to us were given. Everything that may be had once is taken by one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin_consent(self, consent: PluginConsent) -> None:
        await execute(self._database, ADD_CONSENT, *values_of(consent))

    async def claim_consent(self, consent: PluginConsent) -> bool:
        """Store a question that a browser kept so far. False: that was done before, whatever became of it."""

        async def work(transaction: Transaction) -> bool:
            if not await transaction.execute(CLAIM, consent.hash, consent.expires_at):
                return False
            await transaction.execute(ADD_CONSENT, *values_of(consent))
            return True

        return await self._database.write(work)

    async def is_claimed(self, consent_hash: str) -> bool:
        """Whether `claim_consent` has stored the question, even if it was answered since."""
        return bool(await self._database.read("SELECT 1 FROM claims WHERE hash = $1", consent_hash))

    async def consent(self, consent_hash: str, now: float) -> PluginConsent | None:
        """A question that is still open."""
        sql = f"SELECT {', '.join(CONSENT)} FROM plugin_consents WHERE hash = $1 AND expires_at > $2"
        rows = await self._database.read(sql, consent_hash, now)
        return _to_consent(rows[0]) if rows else None

    async def deny(self, consent_hash: str, now: float) -> bool:
        """Close the question. False: it was closed already."""
        return await execute(self._database, TAKE_CONSENT, consent_hash, now) == 1

    async def allow(
        self,
        consent_hash: str,
        code: PluginCode,
        person: RememberedPerson,
        *,
        connect_code: str | None,
        now: float,
    ) -> bool:
        """Close the question, spend the connect code of that handle, and store what came of it, all in one.
        False: the question was closed already, or the connect code is spent; then nothing was issued."""

        async def work(transaction: Transaction) -> bool:
            if not await transaction.execute(TAKE_CONSENT, consent_hash, now):
                return False
            if connect_code and not await transaction.execute(TAKE_CONNECT_CODE, connect_code, now):
                return False
            await transaction.execute(ADD_CODE, *values_of(code))
            await transaction.execute(ADD_PERSON, *values_of(person))
            return True

        return await self._database.write(work)

    async def add_connect_code(self, code: ConnectCode) -> bool:
        """False: the handle is taken."""
        sql = """INSERT INTO plugin_connect_codes (handle, digest, subject, created_by, expires_at, tries)
               VALUES ($1, $2, $3, $4, $5, 0) ON CONFLICT (handle) DO NOTHING"""
        added = await execute(self._database, sql, *values_of(code))
        return added == 1

    async def try_connect_code(
        self, consent_hash: str, handle: str, digest: str, now: float
    ) -> ConnectCode | None:
        """The connect code, unspent; None counts a wrong try against it and against the question, and the fifth
        ends either."""

        async def work(transaction: Transaction) -> ConnectCode | None:
            # Guesses at one code count one after the other, wherever they come in.
            await transaction.alone(f"connect code {handle}")
            sql = f"""SELECT handle, digest, subject, created_by, expires_at FROM plugin_connect_codes
                     WHERE handle = $1 AND expires_at > $2 AND tries < {MOST_TRIES}"""
            rows = await transaction.fetch(sql, handle, now)
            if rows and rows[0][1] == digest:
                return ConnectCode(*rows[0])
            await transaction.execute(
                "UPDATE plugin_connect_codes SET tries = tries + 1 WHERE handle = $1", handle
            )
            await transaction.execute(
                "UPDATE plugin_consents SET tries = tries + 1 WHERE hash = $1", consent_hash
            )
            await transaction.execute(
                f"DELETE FROM plugin_consents WHERE hash = $1 AND tries >= {MOST_TRIES}", consent_hash
            )
            return None

        return await self._database.write(work)

    async def code(self, code_hash: str) -> PluginCode | None:
        rows = await self._database.read(f"SELECT {CODE} FROM plugin_codes WHERE hash = $1", code_hash)
        return PluginCode(*rows[0]) if rows else None

    async def redeem(self, grant: PluginGrant, pair: PluginPair, events: Sequence[Event]) -> bool:
        """Spend the grant's code and store what it gave. False: it was spent already, or is too old."""

        async def work(transaction: Transaction) -> bool:
            if not await transaction.execute(REDEEM, grant.code_hash, grant.id, grant.created_at):
                return False
            await transaction.execute(ADD_GRANT, *values_of(grant))
            await transaction.execute(ADD_PAIR, *values_of(pair))
            await insert_events(transaction, events)
            return True

        return await self._database.write(work)

    async def by_refresh_token(self, refresh_hash: str) -> FoundPair | None:
        return await self._find("p.refresh_hash", refresh_hash)

    async def by_access_token(self, access_hash: str) -> FoundPair | None:
        return await self._find("p.access_hash", access_hash)

    async def rotate(self, old: str, pair: PluginPair, sealed: str) -> bool:
        """Let `pair` follow the one of the refresh hash `old`, with the new tokens `sealed` for a replay.
        False: it has a successor already, or the grant was revoked."""

        async def work(transaction: Transaction) -> bool:
            grant, at = pair.grant_id, pair.created_at
            # The grant first: one that was revoked meanwhile must not get tokens again.
            if not await transaction.execute(TOUCH, grant, at, pair.refresh_expires_at):
                return False
            if not await transaction.execute(ROTATE, old, at, pair.refresh_hash, sealed):
                return False
            await transaction.execute(ADD_PAIR, *values_of(pair))
            return True

        return await self._database.write(work)

    async def note_use(self, pair: PluginPair, at: float) -> None:
        """One of the pair's tokens was presented."""

        async def work(transaction: Transaction) -> None:
            # The grant first, as everywhere, so that nobody waits for each other.
            await transaction.execute(TOUCH, pair.grant_id, at, at)
            sql = "UPDATE plugin_pairs SET used_at = $2 WHERE refresh_hash = $1 AND used_at IS NULL"
            await transaction.execute(sql, pair.refresh_hash, at)

        await self._database.write(work)

    async def revoke(self, grant_id: str, at: float, events: Sequence[Event]) -> bool:
        """End a grant and forget its tokens. False: it had ended already."""

        async def work(transaction: Transaction) -> bool:
            revoked = await transaction.execute(
                "UPDATE plugin_grants SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", grant_id, at
            )
            if revoked:
                await transaction.execute("DELETE FROM plugin_pairs WHERE grant_id = $1", grant_id)
                await insert_events(transaction, events)
            return revoked == 1

        return await self._database.write(work)

    async def grant(self, grant_id: str) -> PluginGrant | None:
        rows = await self._database.read(
            f"SELECT {', '.join(GRANT)} FROM plugin_grants WHERE id = $1", grant_id
        )
        return PluginGrant(*rows[0]) if rows else None

    async def grants(self, *, subject: str | None, now: float, after: str, limit: int) -> list[PluginGrant]:
        """Living grants in the order of their ids."""
        sql = f"""SELECT {", ".join(GRANT)} FROM plugin_grants
                 WHERE id > $1 AND revoked_at IS NULL AND expires_at > $2
                   AND (CAST($3 AS TEXT) IS NULL OR subject = $3) ORDER BY id LIMIT $4"""
        rows = await self._database.read(sql, after, now, subject, limit)
        return [PluginGrant(*row) for row in rows]

    async def take_person(self, person_hash: str, now: float) -> str | None:
        """The person's subject, once and in time."""
        # First a look: whoever makes such a cookie up does not make the broker write.
        if not await self._database.read("SELECT 1 FROM plugin_people WHERE hash = $1", person_hash):
            return None

        async def work(transaction: Transaction) -> str | None:
            sql = """UPDATE plugin_people SET taken_at = $2
                    WHERE hash = $1 AND taken_at IS NULL AND expires_at > $2"""
            taken = await transaction.execute(sql, person_hash, now)
            rows = await transaction.fetch("SELECT subject FROM plugin_people WHERE hash = $1", person_hash)
            return str(rows[0][0]) if taken else None

        return await self._database.write(work)

    async def join_account(self, browser_hash: str, subject: str, account: str, at: float) -> None:
        """The account was connected in the same install as the grant that the person, taken in this browser,
        gave: note it there, and end the grants of earlier installs of the same account."""

        async def work(transaction: Transaction) -> None:
            await transaction.alone(f"install of {subject}")
            rows = await transaction.fetch(INSTALLED_WITH, browser_hash, subject)
            for grant_id, person_hash in rows:
                # Forgotten now, so that the next install in this browser is not taken for the same one.
                await transaction.execute("DELETE FROM plugin_people WHERE hash = $1", person_hash)
                await transaction.execute(
                    "UPDATE plugin_grants SET account = $2 WHERE id = $1", grant_id, account
                )
                await _end_older(transaction, grant_id, at)

        await self._database.write(work)

    async def purge(self, now: float, limit: int) -> int:
        """Forget at most `limit` rows of each kind that nobody needs any more, and as many dead grants; how many.

        Each kind in a transaction of its own, so that nobody waits for the whole.
        """
        gone = 0
        for sql, kept in STEPS:
            gone += await execute(self._database, sql, now - kept, limit)

        async def forget_dead(transaction: Transaction) -> int:
            values = now, now - GRANTS_KEPT, limit
            await transaction.execute(f"DELETE FROM plugin_pairs WHERE grant_id IN ({DEAD})", *values)
            return await transaction.execute(f"DELETE FROM plugin_grants WHERE id IN ({DEAD})", *values)

        return gone + await self._database.write(forget_dead)

    async def _find(self, column: str, token_hash: str) -> FoundPair | None:
        rows = await self._database.read(f"{FIND} WHERE {column} = $1", token_hash)
        if not rows:
            return None
        *values, next_used_at = rows[0]
        pair, grant = values[: len(PAIR)], values[len(PAIR) :]
        return FoundPair(PluginPair(*pair), PluginGrant(*grant), next_used_at)


async def _end_older(transaction: Transaction, grant_id: str, at: float) -> None:
    """End the grants that earlier installs of the same account gave the same client."""
    for (older,) in await transaction.fetch(OLDER, grant_id):
        await transaction.execute("UPDATE plugin_grants SET revoked_at = $2 WHERE id = $1", older, at)
        await transaction.execute("DELETE FROM plugin_pairs WHERE grant_id = $1", older)


def _to_consent(row: Row) -> PluginConsent:
    values = dict(zip(CONSENT, row, strict=True))
    values["redirect_uri_given"] = bool(values["redirect_uri_given"])
    return PluginConsent(**values)
