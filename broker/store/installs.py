"""Tickets, trips to a provider, grants that wait for their identity, and sign-ins under way."""

import json
from collections.abc import Sequence
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
ADD = INSTALLS.insert
CLAIM_INSTALL = f"{ADD} ON CONFLICT (state_hash) DO NOTHING"
OPEN_AT_ONCE = 32
"""Installs of one link that may be under way; more would let whoever has the link fill the store."""
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
# A grant that waits for its identity spends its ticket when it connects, which may be long after.
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
# A grant that waits for its identity is as good as connected.
SHOWN = f"CASE WHEN grant_meta IS NOT NULL THEN COALESCE(outcome, '{InstallOutcome.IDENTITY_PENDING}') ELSE outcome END"
SHOW = INSTALLS.select.replace(" outcome,", f" {SHOWN},") + " WHERE state_hash = $1"
DROP_OTHERS = f"DELETE FROM tickets WHERE provider = $1 AND account = $2 AND hash NOT IN ({WAITED_FOR})"
OF_PURPOSE = "WHERE purpose = $1 AND (CAST($2 AS TEXT) IS NULL OR challenge_hash = $2)"


class InstallStore(Store):
    """Tickets, trips to a provider, grants that wait for their identity, sign-ins under way."""

    def __init__(self, database: Database, *, keys: RecordKeys) -> None:
        super().__init__(database)
        self._keys = keys

    @in_transaction
    async def add_ticket(self, transaction: Transaction, ticket: Ticket) -> None:
        """One live ticket an account: an older one of the same account is forgotten."""
        if ticket.account is not None:
            await transaction.lock(f"tickets of {ticket.account}")
            await transaction.execute(DROP_OTHERS, ticket.provider, ticket.account)
        await TICKETS.add(transaction, ticket)

    async def ticket(self, ticket_hash: str) -> Ticket | None:
        return await self._row(TICKETS, "WHERE hash = $1", ticket_hash)

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
        found = [INSTALLS.read(row) for row in await self._database.read(SHOW, state_hash)]
        await self._keys.learn(one.sealed_verifier for one in found)
        return next(iter(found), None)

    async def take_install(self, state_hash: str, at: float) -> bool:
        """Take the state, once: True for exactly one caller, also under a race and after a restart."""
        return await self._execute(TAKE, state_hash, at) == 1

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
        if claim_until is None:
            rows = await self._database.read(HELD, due_before, limit)
        else:
            rows = await self._claim_held(due_before, limit, claim_until)
        grants = []
        for row in rows:
            try:
                grants.append(_to_grant(row))
            except (TypeError, ValueError):
                # It stays, and those behind it go on.
                log.error("install.row_damaged", install=str(row[0])[:16], next="have the user connect again")
                await self.retry_grant(row[0], None)
        await self._keys.learn(chain.from_iterable((one.sealed_access, one.sealed_refresh) for one in grants))
        return grants

    @in_transaction
    async def _claim_held(
        self, transaction: Transaction, due_before: float, limit: int, until: float
    ) -> list[Row]:
        rows = await transaction.fetch(f"{HELD} {self._database.dialect.unlocked}", due_before, limit)
        for row in rows:
            await transaction.execute(RETRY, row[0], until)
        return rows

    async def retry_grant(self, state_hash: str, next_at: float | None) -> None:
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
        """Note how an install ended that connected nothing, forget its grant, and append the events."""
        await transaction.execute(FINISH, state_hash, outcome, account)
        await insert_events(transaction, events)

    async def begin_login(self, login: PendingLogin) -> None:
        await self._execute(LOGINS.insert, *values_of(login))

    @in_transaction
    async def take_login(
        self, transaction: Transaction, challenge_hash: str, now: float
    ) -> PendingLogin | None:
        """Take a sign-in, once, while it has not expired."""
        sql = f"DELETE FROM logins WHERE challenge_hash = $1 RETURNING {LOGINS.columns}"
        found = [LOGINS.read(row) for row in await transaction.fetch(sql, challenge_hash)]
        return next((login for login in found if login.expires_at > now), None)

    async def logins(self, purpose: str, challenge_hash: str | None = None) -> list[PendingLogin]:
        """Those of one purpose, all or the one with that hash, also expired ones; they stay."""
        return await self._rows(LOGINS, OF_PURPOSE, purpose, challenge_hash)

    async def end_logins(self, purpose: str, challenge_hash: str | None = None) -> int:
        """Forget them; how many they were."""
        return await self._execute(f"DELETE FROM logins {OF_PURPOSE}", purpose, challenge_hash)

    async def claim(self, hash_: str, expires_at: float) -> bool:
        """Use up, once, something that a browser kept for us: True for exactly one caller until it is purged."""
        return await self._execute(CLAIM, hash_, expires_at) == 1

    @in_transaction
    async def purge_expired(self, transaction: Transaction, before: float, limit: int) -> int:
        """Forget what ended before; at most `limit` of each kind. How many it were."""
        return sum([await transaction.execute(sql, before, limit) for sql in PURGES])


def _to_grant(row: Row) -> PendingGrant:
    *install, access, refresh, meta, next_at = row
    pending = INSTALLS.read(install)
    # Rows of an older version have no fifth.
    token_type, scope, issued_at, expires_at, ends_at = [*json.loads(meta), None][:5]
    if not all(isinstance(one, float | int) for one in (issued_at, expires_at, pending.created_at)):
        raise TypeError("no time")
    return PendingGrant(pending, access, refresh, token_type, scope, issued_at, expires_at, next_at, ends_at)
