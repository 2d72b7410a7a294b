"""Stores install links (tickets), authorization sessions, grants that wait for their identity, and sign-ins."""

import json
from collections.abc import Awaitable, Sequence
from itertools import chain

import structlog

from broker.model import Event, InstallOutcome, PendingGrant, PendingInstall, PendingLogin, Ticket
from broker.store.database import (
    Database,
    Row,
    Store,
    Table,
    Transaction,
    in_transaction,
    purge_sql,
    values_of,
)
from broker.store.events import insert_events
from broker.store.keys import RecordKeys

log = structlog.get_logger()
TICKETS = Table("tickets", Ticket, replace="allow_replace")
INSTALLS = Table("installs", PendingInstall, replace="allow_replace")
LOGINS = Table("logins", PendingLogin)
CLAIM_INSTALL = f"{INSTALLS.insert} ON CONFLICT (state_hash) DO NOTHING"
OPEN_AT_ONCE = 32
"""The number of open installs of one link; without a limit, anyone who has the link could fill the store."""
GRANT = "sealed_access, sealed_refresh, grant_meta, next_at"
TAKE = "UPDATE installs SET taken_at = $2 WHERE state_hash = $1 AND taken_at IS NULL"
HELD = f"""
SELECT {INSTALLS.columns}, {GRANT} FROM installs
 WHERE next_at IS NOT NULL AND next_at <= $1 ORDER BY next_at LIMIT $2"""
HOLD = """
UPDATE installs SET sealed_access = $2, sealed_refresh = $3, grant_meta = $4, next_at = $5
 WHERE state_hash = $1 AND outcome IS NULL"""
FINISH = """
UPDATE installs SET outcome = $2, outcome_account = $3, sealed_verifier = NULL,
       sealed_access = NULL, sealed_refresh = NULL, grant_meta = NULL, next_at = NULL
 WHERE state_hash = $1"""
RETRY = "UPDATE installs SET next_at = $2 WHERE state_hash = $1"
# A grant that waits for its identity spends its ticket when it connects, which may be much later.
WAITED_FOR = "SELECT ticket_hash FROM installs WHERE ticket_hash IS NOT NULL AND grant_meta IS NOT NULL"
PURGES = (
    purge_sql("installs", "state_hash", "expires_at < $1 AND grant_meta IS NULL"),
    purge_sql("tickets", "hash", f"expires_at < $1 AND hash NOT IN ({WAITED_FOR})"),
    purge_sql("logins", "challenge_hash", "expires_at < $1"),
    purge_sql("claims", "hash", "expires_at < $1"),
)
CLAIM = "INSERT INTO claims (hash, expires_at) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING"
TOO_MANY = f"""
DELETE FROM installs WHERE state_hash IN (
  SELECT state_hash FROM installs WHERE ticket_hash = $1 AND taken_at IS NULL
   ORDER BY created_at DESC LIMIT 1000 OFFSET {OPEN_AT_ONCE - 1})"""
# A grant that waits for its identity is shown as such.
SHOWN = f"CASE WHEN grant_meta IS NOT NULL THEN COALESCE(outcome, '{InstallOutcome.IDENTITY_PENDING}') ELSE outcome END"
SHOW = INSTALLS.select.replace(" outcome,", f" {SHOWN},") + " WHERE state_hash = $1"
DROP_OTHERS = f"DELETE FROM tickets WHERE provider = $1 AND account = $2 AND hash NOT IN ({WAITED_FOR})"
OF_PURPOSE = "WHERE purpose = $1 AND (CAST($2 AS TEXT) IS NULL OR challenge_hash = $2)"


class InstallStore(Store):
    """Stores install links (tickets), authorization sessions, grants that wait for their identity, and sign-ins."""

    def __init__(self, database: Database, *, keys: RecordKeys) -> None:
        super().__init__(database)
        self._keys = keys

    @in_transaction
    async def add_ticket(self, transaction: Transaction, ticket: Ticket) -> None:
        """Store a ticket. It replaces earlier tickets of the same account, so that only one is valid."""
        if ticket.account is not None:
            await transaction.lock(f"tickets of {ticket.account}")
            await transaction.execute(DROP_OTHERS, ticket.provider, ticket.account)
        await TICKETS.add(transaction, ticket)

    async def ticket(self, ticket_hash: str) -> Ticket | None:
        """Return the ticket with that hash."""
        return await self._row(TICKETS, "WHERE hash = $1", ticket_hash)

    async def begin_install(self, install: PendingInstall) -> None:
        """Store an install. Only the newest 32 installs of one ticket whose user has not returned are kept."""

        async def work(transaction: Transaction, install: PendingInstall) -> None:
            if install.ticket_hash is not None:
                await transaction.execute(TOO_MANY, install.ticket_hash)
            await INSTALLS.add(transaction, install)

        await self._keys.write([install], work)

    async def claim_install(self, install: PendingInstall) -> bool:
        """Store an install that a cookie has held so far, with its OAuth `state` used. False: it was used before."""

        def work(transaction: Transaction, install: PendingInstall) -> Awaitable[int]:
            return transaction.execute(CLAIM_INSTALL, *values_of(install))

        return await self._keys.write([install], work) == 1

    async def install(self, state_hash: str) -> PendingInstall | None:
        """Return the install; its outcome is IDENTITY_PENDING if its grant waits for its identity."""
        found = [INSTALLS.read(row) for row in await self._database.read(SHOW, state_hash)]
        await self._keys.learn(one.sealed_verifier for one in found)
        return next(iter(found), None)

    async def take_install(self, state_hash: str, at: float) -> bool:
        """Mark the OAuth `state` as used; True for exactly one caller, also under a race and after a restart."""
        return await self._execute(TAKE, state_hash, at) == 1

    async def hold_grant(self, grant: PendingGrant) -> None:
        """Store the encrypted tokens of a new grant with its install, before its identity is requested."""
        times = grant.issued_at, grant.expires_at, grant.grant_ends_at
        meta = json.dumps([grant.token_type, grant.scope, *times])

        def work(transaction: Transaction, grant: PendingGrant) -> Awaitable[int]:
            records = grant.sealed_access, grant.sealed_refresh
            return transaction.execute(HOLD, grant.install.state_hash, *records, meta, grant.next_at)

        await self._keys.write([grant], work)

    async def held_grants(
        self, due_before: float, limit: int, *, claim_until: float | None = None
    ) -> list[PendingGrant]:
        """Return the grants whose identity is due to be requested again; `claim_until` as for `due`."""

        async def claim(transaction: Transaction) -> list[Row]:
            rows = await transaction.fetch(f"{HELD} {self._database.dialect.unlocked}", due_before, limit)
            for row in rows:
                await transaction.execute(RETRY, row[0], claim_until)
            return rows

        if claim_until is None:
            rows = await self._database.read(HELD, due_before, limit)
        else:
            rows = await self._database.write(claim)
        grants = []
        for row in rows:
            try:
                grants.append(_to_grant(row))
            except (TypeError, ValueError):
                # The row stays, without a next attempt, so that it does not block those behind it.
                log.error(
                    "install.record_damaged", install=str(row[0])[:16], next="have the user connect again"
                )
                await self.retry_grant(row[0], None)
        await self._keys.learn(chain.from_iterable((one.sealed_access, one.sealed_refresh) for one in grants))
        return grants

    async def retry_grant(self, state_hash: str, next_at: float | None) -> None:
        """Set when the grant's identity is requested next; None: never."""
        await self._execute(RETRY, state_hash, next_at)

    @in_transaction
    async def finish_install(
        self,
        transaction: Transaction,
        state_hash: str,
        outcome: InstallOutcome,
        *,
        account: str | None,
        events: Sequence[Event] = (),
    ) -> None:
        """Store the outcome of an install that connected no account, delete its grant, and add the events."""
        await transaction.execute(FINISH, state_hash, outcome, account)
        await insert_events(transaction, events)

    async def begin_login(self, login: PendingLogin) -> None:
        """Store a sign-in that has begun."""
        await self._execute(LOGINS.insert, *values_of(login))

    @in_transaction
    async def take_login(
        self, transaction: Transaction, challenge_hash: str, now: float
    ) -> PendingLogin | None:
        """Delete a sign-in and return it, unless it has expired."""
        sql = f"DELETE FROM logins WHERE challenge_hash = $1 RETURNING {LOGINS.columns}"
        found = [LOGINS.read(row) for row in await transaction.fetch(sql, challenge_hash)]
        return next((login for login in found if login.expires_at > now), None)

    async def logins(self, purpose: str, challenge_hash: str | None = None) -> list[PendingLogin]:
        """Return the sign-ins of one purpose, all or the one with that hash, including expired ones."""
        return await self._rows(LOGINS, OF_PURPOSE, purpose, challenge_hash)

    async def end_logins(self, purpose: str, challenge_hash: str | None = None) -> int:
        """Delete the sign-ins that `logins` would return, and return how many there were."""
        return await self._execute(f"DELETE FROM logins {OF_PURPOSE}", purpose, challenge_hash)

    async def claim(self, hash_: str, expires_at: float) -> bool:
        """Use up the content of a cookie; True for exactly one caller, until the claim is purged."""
        return await self._execute(CLAIM, hash_, expires_at) == 1

    @in_transaction
    async def purge_expired(self, transaction: Transaction, before: float, limit: int) -> int:
        """Delete at most `limit` rows of each kind that expired before then, and return how many."""
        return sum([await transaction.execute(sql, before, limit) for sql in PURGES])


def _to_grant(row: Row) -> PendingGrant:
    *install, access, refresh, meta, next_at = row
    pending = INSTALLS.read(install)
    # Rows of an older version have no fifth member.
    token_type, scope, issued_at, expires_at, ends_at = [*json.loads(meta), None][:5]
    if not all(isinstance(one, float | int) for one in (issued_at, expires_at, pending.created_at)):
        raise TypeError("no time")
    return PendingGrant(pending, access, refresh, token_type, scope, issued_at, expires_at, next_at, ends_at)
