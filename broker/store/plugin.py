"""Stores what the authorization server for plugins issues: consents, codes, grants and token pairs."""

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
from broker.store.database import Store, Table, Transaction, in_transaction, insert_sql, purge_sql, values_of
from broker.store.events import insert_events
from broker.store.installs import CLAIM

MOST_TRIES = 5
CONSENTS = Table("plugin_consents", PluginConsent)
CONNECT_CODES = Table("plugin_connect_codes", ConnectCode)
ADD_CONNECT_CODE = f"""
{insert_sql(CONNECT_CODES.name, f"{CONNECT_CODES.columns}, tries")} ON CONFLICT (handle) DO NOTHING"""
CODES = Table("plugin_codes", PluginCode)
PEOPLE = Table("plugin_people", RememberedPerson)
GRANTS = Table("plugin_grants", PluginGrant)
PAIRS = Table("plugin_pairs", PluginPair)
FIND = f"""
SELECT {PAIRS.of("p")}, {GRANTS.of("g")}, n.used_at
  FROM plugin_pairs p
  JOIN plugin_grants g ON g.id = p.grant_id
  LEFT JOIN plugin_pairs n ON n.refresh_hash = p.replaced_by"""
TAKE_CONSENT = "DELETE FROM plugin_consents WHERE hash = $1 AND expires_at > $2"
OPEN_CODE = f"WHERE handle = $1 AND expires_at > $2 AND tries < {MOST_TRIES}"
REDEEM = "UPDATE plugin_codes SET grant_id = $2 WHERE hash = $1 AND grant_id IS NULL AND expires_at > $3"
ROTATE = """
UPDATE plugin_pairs SET replaced_at = $2, replaced_by = $3, sealed_next = $4, used_at = COALESCE(used_at, $2)
 WHERE refresh_hash = $1 AND replaced_at IS NULL"""
TOUCH = """
UPDATE plugin_grants SET last_used_at = CASE WHEN last_used_at < $2 THEN $2 ELSE last_used_at END,
       expires_at = CASE WHEN expires_at < $3 THEN $3 ELSE expires_at END
 WHERE id = $1 AND revoked_at IS NULL"""
REVOKE = "UPDATE plugin_grants SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL"
FORGET_PAIRS = "DELETE FROM plugin_pairs WHERE grant_id = $1"
INSTALLED_WITH = """
SELECT g.id, p.hash FROM plugin_people p JOIN plugin_grants g ON g.code_hash = p.code_hash
 WHERE p.browser_hash = $1 AND p.subject = $2 AND p.taken_at IS NOT NULL AND g.revoked_at IS NULL
 ORDER BY p.taken_at DESC LIMIT 1"""
OLDER = """
SELECT o.id FROM plugin_grants g
  JOIN plugin_grants o ON o.subject = g.subject AND o.client = g.client AND o.account = g.account
 WHERE g.id = $1 AND o.id <> g.id AND o.revoked_at IS NULL"""
CODES_KEPT = 86400.0
"""Seconds for which a redeemed code is kept, so that its replay is recognized."""
PAIRS_KEPT = 30 * 86400.0
"""Seconds for which a replaced refresh token is kept, so that its reuse is recognized."""
GRANTS_KEPT = 90 * 86400.0
PEOPLE_KEPT = 3600.0
"""Seconds for which a user in the second half of an install has time to finish it."""

UNSEAL = """
UPDATE plugin_pairs SET sealed_next = NULL WHERE refresh_hash IN (
  SELECT refresh_hash FROM plugin_pairs WHERE sealed_next IS NOT NULL AND replaced_at <= $1 LIMIT $2)"""
REPLACED = "replaced_at IS NOT NULL AND replaced_at < $1 AND access_expires_at < $1"
STEPS = (
    (UNSEAL, FORGIVEN_FOR),
    (purge_sql("plugin_consents", "hash", "expires_at < $1"), 0.0),
    (purge_sql("plugin_connect_codes", "handle", "expires_at < $1"), 0.0),
    (purge_sql("plugin_people", "hash", "expires_at < $1"), PEOPLE_KEPT),
    (purge_sql("plugin_codes", "hash", "expires_at < $1"), CODES_KEPT),
    (purge_sql("plugin_pairs", "refresh_hash", REPLACED), PAIRS_KEPT),
)
"""Statements that purge, and for how many seconds each kind of row is kept after its end."""
ENDED = """
SELECT id FROM (SELECT id FROM plugin_grants WHERE expires_at < $1 ORDER BY expires_at, id LIMIT $3) AS expired
UNION SELECT id FROM (
  SELECT id FROM plugin_grants WHERE revoked_at IS NOT NULL AND revoked_at < $2
   ORDER BY revoked_at, id LIMIT $3) AS revoked
ORDER BY id LIMIT $3"""


class PluginStore(Store):
    """Stores consents, codes, grants and token pairs. One statement takes each thing that can be used only once."""

    async def begin_consent(self, consent: PluginConsent) -> None:
        """Store a consent that the user is asked for."""
        await self._execute(CONSENTS.insert, *values_of(consent))

    @in_transaction
    async def claim_consent(self, transaction: Transaction, consent: PluginConsent) -> bool:
        """Store a consent that a cookie has held so far. False: that was done before, even if it was answered since."""
        if not await transaction.execute(CLAIM, consent.hash, consent.expires_at):
            return False
        return await CONSENTS.add(transaction, consent) == 1

    async def is_claimed(self, consent_hash: str) -> bool:
        """Return whether `claim_consent` has stored the consent, even if it was answered since."""
        return bool(await self._database.read("SELECT 1 FROM claims WHERE hash = $1", consent_hash))

    async def consent(self, consent_hash: str, now: float) -> PluginConsent | None:
        """Return the consent if it is not answered and has not expired."""
        return await self._row(CONSENTS, "WHERE hash = $1 AND expires_at > $2", consent_hash, now)

    async def deny(self, consent_hash: str, now: float) -> bool:
        """Delete the consent. False: it was answered already."""
        return await self._execute(TAKE_CONSENT, consent_hash, now) == 1

    @in_transaction
    async def allow(
        self,
        transaction: Transaction,
        consent_hash: str,
        code: PluginCode,
        person: RememberedPerson,
        *,
        connect_code: str | None,
        now: float,
    ) -> bool:
        """Delete the consent, spend the connect code with that handle, and store the authorization code.

        Returns False if the consent was answered already or the connect code is spent; then no code is issued.
        """
        if not await transaction.execute(TAKE_CONSENT, consent_hash, now):
            return False
        sql = f"DELETE FROM plugin_connect_codes {OPEN_CODE}"
        if connect_code and not await transaction.execute(sql, connect_code, now):
            return False
        await CODES.add(transaction, code)
        await PEOPLE.add(transaction, person)
        return True

    async def add_connect_code(self, code: ConnectCode) -> bool:
        """Store a connect code. False: the handle is taken."""
        return await self._execute(ADD_CONNECT_CODE, *values_of(code), 0) == 1

    @in_transaction
    async def try_connect_code(
        self, transaction: Transaction, consent_hash: str, handle: str, digest: str, now: float
    ) -> ConnectCode | None:
        """Return the connect code without spending it, or None if the digest is wrong.

        A wrong try counts against the connect code and the consent; the fifth ends either.
        """
        # Tries of one code are counted one after the other, in all brokers.
        await transaction.lock(f"connect code {handle}")
        for row in await transaction.fetch(f"{CONNECT_CODES.select} {OPEN_CODE}", handle, now):
            if (code := CONNECT_CODES.read(row)).digest == digest:
                return code
        sql = "UPDATE plugin_connect_codes SET tries = tries + 1 WHERE handle = $1"
        await transaction.execute(sql, handle)
        sql = "UPDATE plugin_consents SET tries = tries + 1 WHERE hash = $1"
        await transaction.execute(sql, consent_hash)
        sql = f"DELETE FROM plugin_consents WHERE hash = $1 AND tries >= {MOST_TRIES}"
        await transaction.execute(sql, consent_hash)
        return None

    async def code(self, code_hash: str) -> PluginCode | None:
        """Return the authorization code with that hash, also a redeemed one."""
        return await self._row(CODES, "WHERE hash = $1", code_hash)

    @in_transaction
    async def redeem(
        self, transaction: Transaction, grant: PluginGrant, pair: PluginPair, events: Sequence[Event]
    ) -> bool:
        """Spend the grant's code and store the grant and its tokens. False: the code is spent or has expired."""
        if not await transaction.execute(REDEEM, grant.code_hash, grant.id, grant.created_at):
            return False
        await GRANTS.add(transaction, grant)
        await PAIRS.add(transaction, pair)
        await insert_events(transaction, events)
        return True

    async def by_refresh_token(self, refresh_hash: str) -> FoundPair | None:
        """Return the token pair with that refresh token, also a replaced one, and its grant."""
        return await self._find("p.refresh_hash", refresh_hash)

    async def by_access_token(self, access_hash: str) -> FoundPair | None:
        """Return the token pair with that access token, and its grant."""
        return await self._find("p.access_hash", access_hash)

    @in_transaction
    async def rotate(self, transaction: Transaction, old: str, pair: PluginPair, sealed: str) -> bool:
        """Replace the pair with the refresh token hash `old` by `pair`. False: it is replaced, or the grant revoked.

        `sealed` are the new tokens, encrypted, to answer a repeated request with.
        """
        grant, at = pair.grant_id, pair.created_at
        # The grant first: a grant that was revoked in the meantime must not get tokens again.
        if not await transaction.execute(TOUCH, grant, at, pair.refresh_expires_at):
            return False
        if not await transaction.execute(ROTATE, old, at, pair.refresh_hash, sealed):
            return False
        return await PAIRS.add(transaction, pair) == 1

    @in_transaction
    async def note_use(self, transaction: Transaction, pair: PluginPair, at: float) -> None:
        """Store that one of the pair's tokens was used."""
        # The grant first, as everywhere, so that transactions do not deadlock.
        await transaction.execute(TOUCH, pair.grant_id, at, at)
        sql = "UPDATE plugin_pairs SET used_at = $2 WHERE refresh_hash = $1 AND used_at IS NULL"
        await transaction.execute(sql, pair.refresh_hash, at)

    @in_transaction
    async def revoke(
        self, transaction: Transaction, grant_id: str, at: float, events: Sequence[Event]
    ) -> bool:
        """Revoke a grant and delete its tokens. False: it was revoked already."""
        if not await transaction.execute(REVOKE, grant_id, at):
            return False
        await transaction.execute(FORGET_PAIRS, grant_id)
        await insert_events(transaction, events)
        return True

    async def grant(self, grant_id: str) -> PluginGrant | None:
        """Return the grant with that id."""
        return await self._row(GRANTS, "WHERE id = $1", grant_id)

    async def grants(self, *, subject: str | None, now: float, after: str, limit: int) -> list[PluginGrant]:
        """Return valid grants in the order of their ids, of one user or of all."""
        which = """WHERE id > $1 AND revoked_at IS NULL AND expires_at > $2
                     AND (CAST($3 AS TEXT) IS NULL OR subject = $3) ORDER BY id LIMIT $4"""
        return await self._rows(GRANTS, which, after, now, subject, limit)

    async def take_person(self, person_hash: str, now: float) -> str | None:
        """Return the remembered user's subject, only once and before it expires."""
        sql = "SELECT subject FROM plugin_people WHERE hash = $1"
        # Read first, so that a made-up cookie does not cause a write.
        if not (rows := await self._database.read(sql, person_hash)):
            return None
        sql = (
            "UPDATE plugin_people SET taken_at = $2 WHERE hash = $1 AND taken_at IS NULL AND expires_at > $2"
        )
        return str(rows[0][0]) if await self._execute(sql, person_hash, now) else None

    async def purge(self, now: float, limit: int) -> int:
        """Delete at most `limit` rows of each kind that are not needed any more, and return how many.

        Each kind is deleted in a transaction of its own, so that no writer waits for all of them.
        """

        async def delete_grants(transaction: Transaction) -> int:
            values = now, now - GRANTS_KEPT, limit
            await transaction.execute(f"DELETE FROM plugin_pairs WHERE grant_id IN ({ENDED})", *values)
            return await transaction.execute(f"DELETE FROM plugin_grants WHERE id IN ({ENDED})", *values)

        gone = [await self._execute(sql, now - kept, limit) for sql, kept in STEPS]
        return sum(gone) + await self._database.write(delete_grants)

    async def _find(self, column: str, token_hash: str) -> FoundPair | None:
        for row in await self._database.read(f"{FIND} WHERE {column} = $1", token_hash):
            width = PAIRS.columns.count(",") + 1
            return FoundPair(PAIRS.read(row[:width]), GRANTS.read(row[width:-1]), row[-1])
        return None


async def join_account(
    transaction: Transaction, browser_hash: str, subject: str, account: str, at: float
) -> None:
    """Store the connected account at the plugin's grant of the same install, and revoke the grants it replaces.

    The grant is that of the user `subject` in the same browser. It replaces the grants of earlier installs of the same
    account for the same client.
    """
    await transaction.lock(f"install of {subject}")
    for grant_id, person_hash in await transaction.fetch(INSTALLED_WITH, browser_hash, subject):
        # Deleted now, so that the next install in this browser is not mistaken for this one.
        await transaction.execute("DELETE FROM plugin_people WHERE hash = $1", person_hash)
        await transaction.execute("UPDATE plugin_grants SET account = $2 WHERE id = $1", grant_id, account)
        for (older,) in await transaction.fetch(OLDER, grant_id):
            await transaction.execute(REVOKE, older, at)
            await transaction.execute(FORGET_PAIRS, older)
