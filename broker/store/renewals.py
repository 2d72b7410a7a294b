"""Stores accounts for renewals: intents, commits, settled attempts, spare refresh tokens and due renewals."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from operator import itemgetter

import structlog

from broker.errors import StorageUnavailable
from broker.model import Account, Event, EventKind, Intent, Reason, Ref, Spare, Successor, Trouble
from broker.store.database import (
    LATEST,
    Database,
    Row,
    Store,
    Table,
    Transaction,
    execute_all,
    in_transaction,
    text,
    values_of,
)
from broker.store.events import insert_events
from broker.store.keys import RecordKeys
from broker.store.rows import (
    COLUMNS,
    DAMAGED_SQL,
    GatheredReads,
    changed_values,
    damaged_columns,
    is_damaged,
    to_account,
)

log = structlog.get_logger()
TOUCHED_AT_ONCE = 256
BOOT_WIDTH = 16
"""The length of the boot id at the start of a lease's owner, which is `boot@replica`."""

SPARES = Table("spares", Spare)
ADD_SPARE = f"{SPARES.insert} ON CONFLICT (id) DO NOTHING"
REOPEN = f"""
UPDATE accounts SET dead = NULL, dead_since = NULL, next_at = $3
 WHERE name = $1 AND epoch = $2 AND dead IN ('{Reason.LOST_ROTATION}', '{Reason.REVOKED_OR_EXPIRED}')
   AND removed_at IS NULL"""
BEGIN = """
UPDATE accounts
   SET intent_id = $4, intent_generation = $3, intent_at = $5, lease_owner = $6, lease_until = {now} + $7
 WHERE name = $1 AND epoch = $2 AND generation = $3
   AND dead IS NULL AND frozen IS NULL AND removed_at IS NULL
   AND (intent_id IS NULL OR lease_owner = $6 OR lease_until <= {now})"""
COMMIT = """
UPDATE accounts
   SET generation = $3 + 1, sealed_access = $4, sealed_refresh = $5, token_type = $6, scope = $7,
       issued_at = $8, expires_at = $9, refreshed_at = $10, next_at = $11, unusable = $12,
       grant_ends_at = $13, grant_ages = $14,
       intent_id = NULL, intent_generation = NULL, intent_at = NULL, lease_owner = NULL, lease_until = NULL,
       trouble = CASE WHEN CAST($12 AS BIGINT) = 1 THEN 'token_unusable' END,
       trouble_since = CASE WHEN CAST($12 AS BIGINT) = 1 THEN CAST($10 AS DOUBLE PRECISION) END,
       attempts = 0, not_before = NULL, unusual = 0, detail = NULL,
       ambiguous = 0, refusals = 0, first_refused_at = NULL, dead = NULL, dead_since = NULL
 WHERE name = $1 AND epoch = $2 AND generation = $3"""
SETTLE = """
UPDATE accounts
   SET trouble = $4, trouble_since = $5, attempts = $6, not_before = $7,
       ambiguous = $8, refusals = $9, first_refused_at = $10, unusual = $11, detail = $12,
       dead = $13, dead_since = CASE WHEN CAST($13 AS TEXT) IS NULL THEN NULL ELSE CAST($14 AS DOUBLE PRECISION) END,
       next_at = $15
 WHERE name = $1 AND epoch = $2 AND generation = $3
   AND (CAST($16 AS TEXT) IS NULL OR COALESCE(intent_id, '') = $16)"""
FREE_LEASE = """
UPDATE accounts SET lease_owner = NULL, lease_until = {now} + $5
 WHERE name = $1 AND epoch = $2 AND generation = $3 AND intent_id IS NOT NULL"""
CLEAR_INTENT = """
UPDATE accounts
   SET intent_id = NULL, intent_generation = NULL, intent_at = NULL, lease_owner = NULL, lease_until = NULL
 WHERE name = $1 AND epoch = $2 AND generation = $3"""
TAKE_OVER = f"""
UPDATE accounts
   SET lease_owner = $1, ambiguous = CASE WHEN ambiguous < {LATEST} THEN ambiguous + 1 ELSE ambiguous END,
       trouble = $2, trouble_since = COALESCE(trouble_since, $3)
 WHERE intent_id IS NOT NULL AND COALESCE(lease_owner, '') <> $1
   AND (CAST($4 AS TEXT) IS NULL OR substr(lease_owner, {BOOT_WIDTH + 2}) = $4)"""
OPEN_INTENTS = f"""
SELECT {COLUMNS} FROM accounts WHERE intent_id IS NOT NULL AND lease_owner = $1 ORDER BY intent_at DESC"""
ORPHANED = f"""
UPDATE accounts
   SET lease_owner = NULL, lease_until = {{now}}, ambiguous = ambiguous + 1,
       trouble = '{Reason.UNCERTAIN}', trouble_since = COALESCE(trouble_since, $5), not_before = $6
 WHERE name = $1 AND epoch = $2 AND generation = $3 AND intent_id = $4
   AND lease_owner IS NOT NULL AND (lease_owner = $7 OR lease_until <= {{now}})"""
DUE = f"SELECT {COLUMNS} FROM accounts WHERE next_at IS NOT NULL AND next_at <= $1 ORDER BY next_at LIMIT $2"
CLAIM = "UPDATE accounts SET next_at = $2 WHERE name = $1"
NEXT_DUE = f"SELECT MIN(next_at) FROM accounts WHERE next_at <= {LATEST}"
OLDEST_INTENT = f"SELECT MIN(intent_at) FROM accounts WHERE intent_id IS NOT NULL AND intent_at <= {LATEST}"
FOUND_DAMAGED = "UPDATE accounts SET next_at = 0 WHERE name = $1 AND next_at > 0"
SCHEDULE = "UPDATE accounts SET next_at = $4 WHERE name = $1 AND epoch = $2 AND generation = $3"
BY_TOKEN = ("issued_at", "expires_at", "refreshed_at", "grant_ends_at")
BY_ATTEMPT = (
    *("next_at", "not_before", "trouble_since", "first_refused_at", "intent_at", "lease_until"),
    "last_used_at",
)
MOST_AHEAD = 2 * 3600.0
"""The longest time in seconds by which the next attempt is planned ahead."""
_SHIFTED = ", ".join(
    f"{column} = CASE WHEN {column} BETWEEN $2 AND $4 THEN {column} + $1 ELSE {column} END"
    for column in BY_ATTEMPT
)
SHIFT_ATTEMPTS = f"""
UPDATE accounts SET {_SHIFTED}
 WHERE issued_at NOT BETWEEN $2 AND $3
   AND (next_at BETWEEN $2 AND $4 OR not_before BETWEEN $2 AND $4 OR last_used_at BETWEEN $2 AND $4)"""
SHIFT_TOKENS = f"""
UPDATE accounts SET {", ".join(f"{column} = {column} + $1" for column in (*BY_TOKEN, *BY_ATTEMPT))}
 WHERE issued_at BETWEEN $2 AND $3"""
MAKE_DUE = f"""
UPDATE accounts SET next_at = $1
 WHERE next_at IS NOT NULL AND (issued_at > $2 OR not_before > $3 OR next_at > {LATEST} OR {DAMAGED_SQL})"""
NEWEST = f"""
SELECT MAX(at) FROM (SELECT MAX(refreshed_at) AS at FROM accounts WHERE refreshed_at <= {LATEST}
                     UNION ALL
                     SELECT at FROM events WHERE id = (SELECT MAX(id) FROM events WHERE id <= {LATEST})) AS newest
 WHERE at BETWEEN 0 AND {LATEST}"""
TOUCH = """
UPDATE accounts
   SET last_used_at = $2,
       next_at = CASE WHEN next_at IS NOT NULL AND next_at > $3 THEN $3 ELSE next_at END
 WHERE name = $1 AND (last_used_at IS NULL OR last_used_at < $2)"""

# A name that was purged in the meantime gets no row.
USED_BY = """
INSERT INTO uses (account, caller, last_used_at)
SELECT name, CAST($2 AS TEXT), CAST($3 AS DOUBLE PRECISION) FROM accounts WHERE name = $1
ON CONFLICT (account, caller) DO UPDATE SET last_used_at = excluded.last_used_at"""


@dataclass(frozen=True, slots=True)
class Committed:
    """The new token set is durable and current."""

    account: Account | None = field(default=None, compare=False)
    """The row. None if it is damaged, which must not undo the commit; the next reader of the row handles it."""


@dataclass(frozen=True, slots=True)
class GenerationMoved:
    """Another renewal of the same grant was committed first; ours was not stored."""


@dataclass(frozen=True, slots=True)
class EpochMoved:
    """The account was connected again or purged; our token set belongs to a grant that is gone."""


CommitOutcome = Committed | GenerationMoved | EpochMoved


class RefreshStore(Store):
    """Stores accounts for the use cases that renew tokens."""

    def __init__(self, database: Database, *, keys: RecordKeys) -> None:
        super().__init__(database)
        self._keys = keys
        self._reads = GatheredReads(self._read, shared=database.dialect.shared)

    async def get(self, name: str) -> Account | None:
        """Return the account of that name, also a removed one."""
        return await self._reads.account(name)

    async def begin(self, ref: Ref, intent: Intent) -> bool:
        """R3: write the intent, which is also the lease of the renewal.

        Returns False unless the row is at `ref`, the account does not need re-authorization and is neither frozen nor
        removed, and no other process holds an unexpired lease.
        """
        sql = BEGIN.format(now=self._database.dialect.now("$5"))
        values = (*_key(ref), intent.id, intent.at, intent.owner, intent.until - intent.at)
        return await self._update(ref.name, sql, *values)

    async def commit(self, successor: Successor, events: Sequence[Event]) -> CommitOutcome:
        """R6: make the new token set current: generation + 1, with intent, lease, trouble and death cleared.

        Conditioned on the parent alone and not on the lease, and done for removed accounts too.
        """
        parent = successor.parent

        async def work(transaction: Transaction, successor: Successor) -> CommitOutcome:
            # Also if another broker was first: our cached account is older than its change.
            await transaction.notify(parent.name)
            values = (*_key(parent), *values_of(successor)[1:])
            changed = await transaction.fetch(f"{COMMIT} RETURNING {COLUMNS}", *values)
            if changed:
                await insert_events(transaction, events)
                with suppress(Exception):
                    return Committed(to_account(changed[0]))
                return Committed()
            rows = await transaction.fetch("SELECT epoch FROM accounts WHERE name = $1", parent.name)
            return GenerationMoved() if rows and rows[0][0] == parent.epoch else EpochMoved()

        return await self._keys.write([successor], work)

    @in_transaction
    async def settle(
        self,
        transaction: Transaction,
        ref: Ref,
        *,
        trouble: Trouble,
        keep_intent: bool = False,
        dead: Reason | None = None,
        next_at: float | None,
        at: float,
        events: Sequence[Event] = (),
        intent: str | None = None,
        free_after: float | None = None,
    ) -> bool:
        """Store the result of an attempt on `ref` that gave no new token; `dead` is why re-authorization is needed.

        `intent` is the id that the row must have, "" for none, so that nobody settles another broker's attempt.
        `free_after`: if the intent is kept, its lease has no owner and expires after so many seconds (R7's
        quarantine).
        """
        # Also if another broker was first: our cached account is older than its change.
        await transaction.notify(ref.name)
        values = (*_key(ref), *values_of(trouble), dead, at, next_at, intent)
        if not await transaction.execute(SETTLE, *values):
            return False
        if not keep_intent:
            await transaction.execute(CLEAR_INTENT, *_key(ref))
        elif free_after is not None:
            sql = FREE_LEASE.format(now=self._database.dialect.now("$4"))
            await transaction.execute(sql, *_key(ref), at, free_after)
        await insert_events(transaction, events)
        return True

    async def take_over(self, owner: str, at: float, *, replica: str | None = None) -> list[Account]:
        """R10: take over the leases of earlier boots; return the accounts with an open renewal, newest first.

        Each of these renewals counts as one attempt with unknown outcome. `replica` limits this to earlier boots of
        that replica. Without it every lease is taken over, for a store that this process owns alone.
        """

        async def work(transaction: Transaction) -> list[Account]:
            await transaction.execute(TAKE_OVER, owner, Reason.UNCERTAIN, at, replica)
            opened = [to_account(row) for row in await transaction.fetch(OPEN_INTENTS, owner)]
            return [one for one in opened if not is_damaged(one)]

        return await self._learnt(await self._database.write(work))

    async def orphaned(self, ref: Ref, intent: str, owner: str, *, at: float, not_before: float) -> bool:
        """Count an attempt that nobody settled as one with unknown outcome, and free its lease.

        Returns False if the row has another intent, or its lease belongs neither to `owner` nor has expired.
        """
        sql = ORPHANED.format(now=self._database.dialect.now("$5"))
        return await self._update(ref.name, sql, *_key(ref), intent, at, not_before, owner)

    async def due(self, now: float, limit: int, *, claim_until: float | None = None) -> list[Account]:
        """Return the accounts whose `next_at` has passed, earliest first; an index finds them.

        With `claim_until` they are due again only at that time, so that several brokers get different accounts.
        """
        if claim_until is None:
            return await self._read(DUE, now, limit)

        async def work(transaction: Transaction) -> list[Account]:
            due = list[Account]()
            for row in await transaction.fetch(f"{DUE} {self._database.dialect.unlocked}", now, limit):
                account = to_account(row)
                if is_damaged(account):
                    await _note_damaged(transaction, row, account, now)
                else:
                    await transaction.execute(CLAIM, account.name, claim_until)
                    due.append(account)
            return due

        return await self._learnt(await self._database.write(work))

    async def next_due_at(self) -> float | None:
        """Return the earliest `next_at` of all accounts."""
        return await self._time(NEXT_DUE)

    async def oldest_intent_at(self) -> float | None:
        """Return when the oldest renewal with an unknown outcome began."""
        return await self._time(OLDEST_INTENT)

    async def damaged(self, limit: int) -> list[str]:
        """Return the names of accounts whose row is damaged or whose refresh token could not be decrypted."""
        sql = f"""SELECT name FROM accounts
                   WHERE (removed_at IS NULL OR removed_at = dead_since)
                     AND ('{Reason.RECORD_DAMAGED}' IN (dead, trouble) OR {DAMAGED_SQL})
                   ORDER BY name LIMIT $1"""
        return [str(text(name)) for (name,) in await self._database.read(sql, limit)]

    async def schedule(self, ref: Ref, next_at: float | None) -> None:
        """Set when the background examines the account next."""
        await self._execute(SCHEDULE, *_key(ref), next_at)

    @in_transaction
    async def shift_times(self, transaction: Transaction, by: float, *, since: float, until: float) -> None:
        """Move the times noted from `since` to `until` by `by` seconds, after the clock was set by that much."""
        await transaction.execute(SHIFT_ATTEMPTS, by, since, until, until + MOST_AHEAD)
        await transaction.execute(SHIFT_TOKENS, by, since, until)

    async def make_due(self, now: float, *, issued_after: float, paused_until: float) -> None:
        """Make accounts due whose times a wrong clock noted.

        These have a token issued after `issued_after`, or wait until later than `paused_until`.
        """
        await self._execute(MAKE_DUE, now, issued_after, paused_until)

    async def newest_at(self) -> float | None:
        """Return the time of the newest renewal or event in the store; None if there is none."""
        return await self._time(NEWEST)

    async def touch(
        self, uses: Mapping[str, tuple[float, float]], callers: Mapping[tuple[str, str], float]
    ) -> None:
        """Store when accounts were last used, and when each (account, caller) was last served.

        `uses` has the time of use by account name, and the time to which its next examination is brought forward: a
        used token is renewed when its renewal window opens, and not only before its grant expires from disuse.
        """
        touched = ((name, *times) for name, times in uses.items())
        used_by = ((*key, used_at) for key, used_at in callers.items())
        for sql, rows in ((TOUCH, touched), (USED_BY, used_by)):
            # Too many rows in one transaction would delay every renewal behind it.
            while some := list(islice(rows, TOUCHED_AT_ONCE)):
                # Sorted, so that two brokers never deadlock.
                await execute_all(self._database, sql, sorted(some, key=itemgetter(0, 1)))

    async def is_only_account(self, provider: str) -> bool:
        """Return whether the provider has at most one account, not counting removed ones."""
        sql = "SELECT 1 FROM accounts WHERE provider = $1 AND removed_at IS NULL LIMIT 2"
        return len(await self._database.read(sql, provider)) < 2

    async def add_spare(self, spare: Spare) -> None:
        """Store a refresh token that is not current; adding the same id again changes nothing.

        An account that needs re-authorization becomes due, to try this token.
        """
        await self._keys.write([spare], insert_spare)

    async def spares(self, name: str, epoch: int) -> list[Spare]:
        """Return the spare refresh tokens of that grant, newest first."""
        where = "WHERE account = $1 AND epoch = $2 ORDER BY received_at DESC"
        spares = await self._rows(SPARES, where, name, epoch)
        await self._keys.learn(spare.sealed for spare in spares)
        return spares

    async def refuse_spare(self, spare_id: str) -> None:
        """Count that the provider refused the spare."""
        await self._execute("UPDATE spares SET refusals = refusals + 1 WHERE id = $1", spare_id)

    async def drop_spare(self, spare_id: str) -> None:
        """Delete a spare that was tried or whose grant is gone."""
        await self._execute("DELETE FROM spares WHERE id = $1", spare_id)

    async def _time(self, sql: str) -> float | None:
        [(at,)] = await self._database.read(sql)
        return None if at is None else float(at)

    async def _read(self, sql: str, *values: object) -> list[Account]:
        accounts = [to_account(row) for row in await self._database.read(sql, *values)]
        for account in filter(is_damaged, accounts):
            # Makes it due, so that the background notes the damage with an event.
            with suppress(StorageUnavailable):
                await self._execute(FOUND_DAMAGED, account.name)
        return await self._learnt(accounts)

    async def _learnt(self, accounts: list[Account]) -> list[Account]:
        """Return the same accounts once the keys of their tokens are loaded, if the store has them."""
        await self._keys.learn(
            chain.from_iterable((one.sealed_access, one.sealed_refresh) for one in accounts)
        )
        return accounts

    @in_transaction
    async def _update(
        self, transaction: Transaction, name: str, sql: str, *values: object, events: Sequence[Event] = ()
    ) -> bool:
        """Run one statement on one account; if it changed the row, add the events and notify the subscribers."""
        if not await transaction.execute(sql, *values):
            return False
        await insert_events(transaction, events)
        await transaction.notify(name)
        return True


def _key(ref: Ref) -> tuple[str, int, int]:
    return ref.name, ref.epoch, ref.generation


async def insert_spare(transaction: Transaction, spare: Spare) -> None:
    """Store a spare within the caller's transaction; see `RefreshStore.add_spare`."""
    await transaction.execute(ADD_SPARE, *values_of(spare))
    await transaction.execute(REOPEN, spare.account, spare.epoch, spare.received_at)
    await transaction.notify(spare.account)


async def _note_damaged(transaction: Transaction, row: Row, account: Account, at: float) -> None:
    """Replace the damaged values of a row by valid ones, so that the account can be connected again; add an event."""
    lost = damaged_columns(row)
    # Lost numbers became LATEST; the current time leaves room for later ones.
    epoch, generation = (int(at) if one == LATEST else one for one in (account.epoch, account.generation))
    account = replace(account, epoch=epoch, generation=generation, dead_since=at)
    if "name" in lost:
        # Nobody can request it by its name, and while it exists its user could not connect again.
        account = replace(account, removed_at=at)
    values = changed_values(account, lost)
    sets = ", ".join(f"{column} = ${number}" for number, column in enumerate(values, 2))
    # The stored name may be damaged too, as text or as bytes.
    sql = f"UPDATE accounts SET {sets}, next_at = NULL WHERE name IN ($1, CAST($1 AS TEXT))"
    await transaction.execute(sql, row[0], *values.values())
    detail = f"damaged: {', '.join(lost)}"
    kind, reason = EventKind.NEEDS_REAUTHORIZATION, Reason.RECORD_DAMAGED
    event = Event(at, kind, account.name, account.provider, reason, generation, detail=detail)
    await insert_events(transaction, [event])
    await transaction.notify(account.name)
    log.error("account.needs_reauthorization", account=account.name, reason=reason, why=detail)
