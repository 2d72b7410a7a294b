"""Tickets, trips to a provider, grants that wait for their identity, and sign-ins under way."""

import json
from dataclasses import replace
from itertools import chain

import structlog

from broker.model import InstallOutcome, PendingGrant, PendingInstall, PendingLogin, Ticket
from broker.store.database import Database, Row, Transaction, columns_of, execute, insert_sql, values_of
from broker.store.keys import RecordKeys

log = structlog.get_logger()
TICKET = "hash, provider, account, org, return_to, allow_replace, subject, created_by, expires_at, spent_at"
INSTALL = (
    "state_hash, provider, client_id, browser_hash, ticket_hash, account, org, return_to, kit_return_url,"
    " allow_replace, subject, created_by, sealed_verifier, redirect_uri, created_at, expires_at, taken_at, outcome,"
    " outcome_account"
)


ADD = insert_sql("installs", INSTALL.split(", "))
ADD_TICKET = insert_sql("tickets", TICKET.split(", "))
ADD_LOGIN = insert_sql("logins", columns_of(PendingLogin))
CLAIM_INSTALL = f"{ADD} ON CONFLICT (state_hash) DO NOTHING"
OPEN_AT_ONCE = 32
"""Installs of one link that may be under way; more would let whoever has the link fill the store."""
GRANT = "sealed_access, sealed_refresh, grant_meta, next_at"
TAKE = "UPDATE installs SET taken_at = $2 WHERE state_hash = $1 AND taken_at IS NULL"
HELD = f"""
SELECT {INSTALL}, {GRANT} FROM installs
 WHERE next_at IS NOT NULL AND next_at <= $1 ORDER BY next_at LIMIT $2"""
HOLD = """
UPDATE installs SET sealed_access = $2, sealed_refresh = $3, grant_meta = $4, next_at = $5
 WHERE state_hash = $1 AND outcome IS NULL"""
RETRY = "UPDATE installs SET next_at = $2 WHERE state_hash = $1"
PURGE_INSTALLS = """
DELETE FROM installs WHERE state_hash IN (
  SELECT state_hash FROM installs WHERE expires_at < $1 AND grant_meta IS NULL LIMIT $2)"""
# A grant that waits for its identity spends its ticket when it connects, which may be long after.
WAITED_FOR = "SELECT ticket_hash FROM installs WHERE ticket_hash IS NOT NULL AND grant_meta IS NOT NULL"
PURGE_TICKETS = f"""
DELETE FROM tickets WHERE hash IN (
  SELECT hash FROM tickets WHERE expires_at < $1 AND hash NOT IN ({WAITED_FOR}) LIMIT $2)"""
PURGE_CLAIMS = "DELETE FROM claims WHERE hash IN (SELECT hash FROM claims WHERE expires_at < $1 LIMIT $2)"
CLAIM = "INSERT INTO claims (hash, expires_at) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING"
TOO_MANY = f"""
DELETE FROM installs WHERE state_hash IN (
  SELECT state_hash FROM installs WHERE ticket_hash = $1 AND taken_at IS NULL
   ORDER BY created_at DESC LIMIT 1000 OFFSET {OPEN_AT_ONCE - 1})"""
# A grant that waits for its identity is as good as connected.
SHOWN = INSTALL.replace(
    "outcome,",
    f"CASE WHEN outcome IS NULL AND grant_meta IS NOT NULL THEN '{InstallOutcome.IDENTITY_PENDING}' ELSE outcome END,",
)
PURGE_LOGINS = """
DELETE FROM logins WHERE challenge_hash IN (SELECT challenge_hash FROM logins WHERE expires_at < $1 LIMIT $2)"""
LOGINS = "FROM logins WHERE purpose = $1 AND (CAST($2 AS TEXT) IS NULL OR challenge_hash = $2)"


class InstallStore:
    """Tickets, trips to a provider, grants that wait for their identity, sign-ins under way."""

    def __init__(self, database: Database, *, keys: RecordKeys) -> None:
        self._database, self._keys = database, keys

    async def add_ticket(self, ticket: Ticket) -> None:
        """One live ticket an account: an older one of the same account is forgotten."""

        async def work(transaction: Transaction) -> None:
            if ticket.account is not None:
                await transaction.alone(f"tickets of {ticket.account}")
                sql = (
                    f"DELETE FROM tickets WHERE provider = $1 AND account = $2 AND hash NOT IN ({WAITED_FOR})"
                )
                await transaction.execute(sql, ticket.provider, ticket.account)
            await transaction.execute(ADD_TICKET, *values_of(ticket))

        await self._database.write(work)

    async def ticket(self, ticket_hash: str) -> Ticket | None:
        rows = await self._database.read(f"SELECT {TICKET} FROM tickets WHERE hash = $1", ticket_hash)
        return _to_ticket(rows[0]) if rows else None

    async def begin_install(self, install: PendingInstall) -> None:
        """Store an install. Of one ticket only the newest 32 that have not come back are kept."""

        async def work(transaction: Transaction, install: PendingInstall) -> None:
            if install.ticket_hash is not None:
                await transaction.execute(TOO_MANY, install.ticket_hash)
            await transaction.execute(ADD, *values_of(install))

        await self._keys.write([install], work)

    async def claim_install(self, install: PendingInstall) -> bool:
        """Store an install that a browser kept so far, with its state taken. False: that was done before."""

        async def work(transaction: Transaction, install: PendingInstall) -> int:
            return await transaction.execute(CLAIM_INSTALL, *values_of(install))

        return await self._keys.write([install], work) == 1

    async def install(self, state_hash: str) -> PendingInstall | None:
        """The install; one whose grant waits for its identity has the outcome IDENTITY_PENDING."""
        rows = await self._database.read(f"SELECT {SHOWN} FROM installs WHERE state_hash = $1", state_hash)
        found = [_to_install(row) for row in rows]
        await self._keys.learn(one.sealed_verifier for one in found)
        return next(iter(found), None)

    async def take_install(self, state_hash: str, at: float) -> bool:
        """Take the state, once: True for exactly one caller, also under a race and after a restart."""
        return await execute(self._database, TAKE, state_hash, at) == 1

    async def hold_grant(self, grant: PendingGrant) -> None:
        """Seal a new grant durably with its install, before anything else is asked."""
        meta = json.dumps(
            [grant.token_type, grant.scope, grant.issued_at, grant.expires_at, grant.grant_ends_at]
        )

        async def work(transaction: Transaction, grant: PendingGrant) -> None:
            await transaction.execute(
                HOLD, grant.install.state_hash, grant.sealed_access, grant.sealed_refresh, meta, grant.next_at
            )

        await self._keys.write([grant], work)

    async def held_grants(
        self, due_before: float, limit: int, *, claim_until: float | None = None
    ) -> list[PendingGrant]:
        """Grants whose identity is to be asked for again; `claim_until` as for `due`."""
        unlocked = self._database.dialect.unlocked

        async def work(transaction: Transaction) -> list[Row]:
            rows = await transaction.fetch(f"{HELD} {unlocked}", due_before, limit)
            for row in rows:
                await transaction.execute(RETRY, row[0], claim_until)
            return rows

        if claim_until is None:
            rows = await self._database.read(HELD, due_before, limit)
        else:
            rows = await self._database.write(work)
        grants = []
        for row in rows:
            try:
                grants.append(_to_grant(row))
            except (TypeError, ValueError):
                # It stays, and those behind it go on.
                log.error(
                    "install.row_damaged", install=str(row[0])[:16], next="have the person connect again"
                )
                await self.retry_grant(row[0], None)
        await self._keys.learn(chain.from_iterable((one.sealed_access, one.sealed_refresh) for one in grants))
        return grants

    async def retry_grant(self, state_hash: str, next_at: float | None) -> None:
        await execute(self._database, RETRY, state_hash, next_at)

    async def finish_install(
        self,
        state_hash: str,
        outcome: InstallOutcome,
        *,
        account: str | None,
        spend: bool,
        drop_grant: bool,
        at: float,
    ) -> None:
        """Note how the trip ended; `spend` its ticket; `drop_grant` forgets the held tokens."""

        async def work(transaction: Transaction) -> None:
            sql = "UPDATE installs SET outcome = $2, outcome_account = $3, sealed_verifier = NULL WHERE state_hash = $1"
            await transaction.execute(sql, state_hash, outcome, account)
            if spend:
                sql = """UPDATE tickets SET spent_at = $2
                        WHERE hash = (SELECT ticket_hash FROM installs WHERE state_hash = $1)"""
                await transaction.execute(sql, state_hash, at)
            if drop_grant:
                sql = """UPDATE installs SET sealed_access = NULL, sealed_refresh = NULL, grant_meta = NULL,
                              next_at = NULL WHERE state_hash = $1"""
                await transaction.execute(sql, state_hash)

        await self._database.write(work)

    async def begin_login(self, login: PendingLogin) -> None:
        await execute(self._database, ADD_LOGIN, *values_of(login))

    async def take_login(self, challenge_hash: str, now: float) -> PendingLogin | None:
        """Take a sign-in, once, while it has not expired."""

        async def work(transaction: Transaction) -> PendingLogin | None:
            sql = """DELETE FROM logins WHERE challenge_hash = $1
                RETURNING challenge_hash, browser_hash, purpose, payload, expires_at"""
            rows = await transaction.fetch(sql, challenge_hash)
            login = PendingLogin(*rows[0]) if rows else None
            return login if login is not None and login.expires_at > now else None

        return await self._database.write(work)

    async def logins(self, purpose: str, challenge_hash: str | None = None) -> list[PendingLogin]:
        """Those of one purpose, all or the one with that hash, also expired ones; they stay."""
        sql = f"SELECT challenge_hash, browser_hash, purpose, payload, expires_at {LOGINS}"
        return [PendingLogin(*row) for row in await self._database.read(sql, purpose, challenge_hash)]

    async def end_logins(self, purpose: str, challenge_hash: str | None = None) -> int:
        """Forget them; how many they were."""
        sql = f"DELETE {LOGINS}"
        return await execute(self._database, sql, purpose, challenge_hash)

    async def claim(self, hash_: str, expires_at: float) -> bool:
        """Use up, once, something that a browser kept for us: True for exactly one caller until it is purged."""
        return await execute(self._database, CLAIM, hash_, expires_at) == 1

    async def purge_expired(self, before: float, limit: int) -> int:
        """Forget what ended before; at most `limit` of each kind. How many it were."""

        async def work(transaction: Transaction) -> int:
            counts = [
                await transaction.execute(sql, before, limit)
                for sql in (PURGE_INSTALLS, PURGE_TICKETS, PURGE_LOGINS, PURGE_CLAIMS)
            ]
            return sum(counts)

        return await self._database.write(work)


def _to_ticket(row: Row) -> Ticket:
    ticket = Ticket(*row)
    return replace(ticket, replace=bool(ticket.replace))


def _to_install(row: Row) -> PendingInstall:
    values = list(row)
    # Two columns are not stored as they are: the flag and the word of the outcome.
    values[9] = bool(values[9])
    values[17] = InstallOutcome.stored(values[17]) if values[17] else None
    return PendingInstall(*values)


def _to_grant(row: Row) -> PendingGrant:
    *install, sealed_access, sealed_refresh, meta, next_at = row
    # Rows of an older version have no fifth.
    token_type, scope, issued_at, expires_at, *ends_at = json.loads(meta)
    if not all(isinstance(one, float | int) for one in (issued_at, expires_at, install[14])):
        raise TypeError("no time")
    return PendingGrant(
        install=_to_install(install),
        sealed_access=sealed_access,
        sealed_refresh=sealed_refresh,
        token_type=token_type,
        scope=scope,
        issued_at=issued_at,
        expires_at=expires_at,
        next_at=next_at,
        grant_ends_at=ends_at[0] if ends_at else None,
    )
