"""The accounts as renewals need them: intent, commit, settlement, spares, due renewals."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
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
"""Characters of a boot's id, with which a lease's owner begins: `boot@replica`."""

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
"""Seconds by which an attempt is noted ahead at most."""
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

# A name that was removed meanwhile gets no row.
USED_BY = """
INSERT INTO uses (account, caller, last_used_at)
SELECT name, CAST($2 AS TEXT), CAST($3 AS DOUBLE PRECISION) FROM accounts WHERE name = $1
ON CONFLICT (account, caller) DO UPDATE SET last_used_at = excluded.last_used_at"""


@dataclass(frozen=True, slots=True)
class Committed:
    """The successor is durable and current."""

    account: Account | None = field(default=None, compare=False)
    """Its row. None: the row is damaged, which must not undo the commit; whoever reads the row finds it."""


@dataclass(frozen=True, slots=True)
class GenerationMoved:
    """Another renewal of the same grant won; ours was not written."""


@dataclass(frozen=True, slots=True)
class EpochMoved:
    """The person connected again, or the name was purged; ours belongs to a grant that is gone."""


CommitOutcome = Committed | GenerationMoved | EpochMoved


class RefreshStore(Store):
    """The accounts, as the use cases that renew tokens need them."""

    def __init__(self, database: Database, *, keys: RecordKeys) -> None:
        super().__init__(database)
        self._keys = keys
        self._reads = GatheredReads(self._read, shared=database.dialect.shared)

    async def get(self, name: str) -> Account | None:
        """The row of that name, removed ones included."""
        return await self._reads.account(name)

    async def begin(self, ref: Ref, intent: Intent) -> bool:
        """R3: write the intent, which is the lease. False unless the row stands at `ref`, is neither dead, frozen
        nor removed, and no other process holds a lease that has not run out."""
        sql = BEGIN.format(now=self._database.dialect.now("$5"))
        values = (*_key(ref), intent.id, intent.at, intent.owner, intent.until - intent.at)
        return await self._update(ref.name, sql, *values)

    async def commit(self, successor: Successor, events: Sequence[Event]) -> CommitOutcome:
        """R6: make the successor current: generation + 1, intent, lease and trouble cleared, death undone.

        Conditioned on the parent alone, not on the lease; removed rows take it too."""
        return await self._keys.write([successor], partial(_commit, events))

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
        """Note how an attempt on `ref` ended without a new token. `dead` ends the account.

        `intent` is the one that must stand there, "" for none: somebody else's attempt is not settled with ours.
        `free_after`: where the intent is kept, its lease is nobody's from now on, and may be had after so many
        seconds (R7's quarantine)."""
        # Also where another broker was faster: what is kept in memory is older than its change.
        await transaction.tell(ref.name)
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
        """R10: make the leases of earlier boots ours; the accounts whose renewal they left open, newest first.

        Each of these counts as one ambiguous attempt. `replica`: of that one's earlier boots alone; without it
        all are, which is for a store that this process owns alone."""
        return await self._learnt(await self._take_over(owner, at, replica))

    @in_transaction
    async def _take_over(
        self, transaction: Transaction, owner: str, at: float, replica: str | None
    ) -> list[Account]:
        await transaction.execute(TAKE_OVER, owner, Reason.UNCERTAIN, at, replica)
        opened = [to_account(row) for row in await transaction.fetch(OPEN_INTENTS, owner)]
        return [one for one in opened if not is_damaged(one)]

    async def orphaned(self, ref: Ref, intent: str, owner: str, *, at: float, not_before: float) -> bool:
        """Count an attempt whose outcome nobody noted as ambiguous, and free its lease: one of `owner`, or one whose
        lease has run out. False where it is another's and has not, or something else stands there."""
        sql = ORPHANED.format(now=self._database.dialect.now("$5"))
        return await self._update(ref.name, sql, *_key(ref), intent, at, not_before, owner)

    async def due(self, now: float, limit: int, *, claim_until: float | None = None) -> list[Account]:
        """Accounts whose `next_at` has come, the earliest first; by index, never a scan. With `claim_until` they
        are due again only then: of several brokers each looks after other accounts."""
        if claim_until is None:
            return await self._read(DUE, now, limit)
        return await self._learnt(await self._claim_due(now, limit, claim_until))

    @in_transaction
    async def _claim_due(
        self, transaction: Transaction, now: float, limit: int, until: float
    ) -> list[Account]:
        sql = f"{DUE} {self._database.dialect.unlocked}"
        due = list[Account]()
        for row in await transaction.fetch(sql, now, limit):
            account = to_account(row)
            if is_damaged(account):
                await _note_damaged(transaction, row, account, now)
            else:
                await transaction.execute(CLAIM, account.name, until)
                due.append(account)
        return due

    async def next_due_at(self) -> float | None:
        """The earliest `next_at` of all."""
        return await self._time(NEXT_DUE)

    async def oldest_intent_at(self) -> float | None:
        """When the oldest renewal without an outcome was begun."""
        return await self._time(OLDEST_INTENT)

    async def damaged(self, limit: int) -> list[str]:
        """Accounts whose row is damaged, or whose refresh token could not be decrypted when it was needed, by name."""
        sql = f"""SELECT name FROM accounts
                   WHERE (removed_at IS NULL OR removed_at = dead_since)
                     AND ('{Reason.RECORD_DAMAGED}' IN (dead, trouble) OR {DAMAGED_SQL})
                   ORDER BY name LIMIT $1"""
        return [str(text(name)) for (name,) in await self._database.read(sql, limit)]

    async def schedule(self, ref: Ref, next_at: float | None) -> None:
        """Set when the background looks at the account again."""
        await self._execute(SCHEDULE, *_key(ref), next_at)

    @in_transaction
    async def shift_times(self, transaction: Transaction, by: float, *, since: float, until: float) -> None:
        """The clock was set by `by` seconds: move what was noted from `since` to `until` along with it."""
        await transaction.execute(SHIFT_ATTEMPTS, by, since, until, until + MOST_AHEAD)
        await transaction.execute(SHIFT_TOKENS, by, since, until)

    async def make_due(self, now: float, *, issued_after: float, paused_until: float) -> None:
        """Let the background look now at accounts whose token was issued later than that, or that wait for longer
        than that: their times were noted by a wrong clock."""
        await self._execute(MAKE_DUE, now, issued_after, paused_until)

    async def newest_at(self) -> float | None:
        """When the store was last written to, as far as renewals and events say; None: never."""
        return await self._time(NEWEST)

    async def touch(
        self, uses: Mapping[str, tuple[float, float]], callers: Mapping[tuple[str, str], float]
    ) -> None:
        """Note by name when accounts were last handed out, and bring their next look forward to the second
        number: what is used is renewed when its window opens, not only before it would die of idleness.
        `callers`: when each (account, caller) was last served."""
        touched = ((name, *times) for name, times in uses.items())
        used_by = ((*key, used_at) for key, used_at in callers.items())
        for sql, rows in ((TOUCH, touched), (USED_BY, used_by)):
            # A crowd of accounts in one transaction would hold up every renewal behind it.
            while some := list(islice(rows, TOUCHED_AT_ONCE)):
                # In one order, so that two brokers never wait for each other.
                await execute_all(self._database, sql, sorted(some, key=itemgetter(0, 1)))

    async def is_only_account(self, provider: str) -> bool:
        """Whether the provider has one account at most, removed ones left out."""
        sql = "SELECT 1 FROM accounts WHERE provider = $1 AND removed_at IS NULL LIMIT 2"
        return len(await self._database.read(sql, provider)) < 2

    async def add_spare(self, spare: Spare) -> None:
        """Keep a refresh token that is not current; it reopens a dead account. Adding the same id twice keeps one."""
        await self._keys.write([spare], insert_spare)

    async def spares(self, name: str, epoch: int) -> list[Spare]:
        """Spares of that grant, newest first."""
        spares = await self._rows(
            SPARES, "WHERE account = $1 AND epoch = $2 ORDER BY received_at DESC", name, epoch
        )
        await self._keys.learn(spare.sealed for spare in spares)
        return spares

    async def refuse_spare(self, spare_id: str) -> None:
        """Note that the provider refused it."""
        await self._execute("UPDATE spares SET refusals = refusals + 1 WHERE id = $1", spare_id)

    async def drop_spare(self, spare_id: str) -> None:
        """Forget a spare that was tried or whose grant is gone."""
        await self._execute("DELETE FROM spares WHERE id = $1", spare_id)

    async def _time(self, sql: str) -> float | None:
        [(at,)] = await self._database.read(sql)
        return None if at is None else float(at)

    async def _read(self, sql: str, *values: object) -> list[Account]:
        """The accounts of a statement that reads `COLUMNS`."""
        accounts = [to_account(row) for row in await self._database.read(sql, *values)]
        for account in filter(is_damaged, accounts):
            # So that the background notes it, with an event.
            with suppress(StorageUnavailable):
                await self._execute(FOUND_DAMAGED, account.name)
        return await self._learnt(accounts)

    async def _learnt(self, accounts: list[Account]) -> list[Account]:
        """The same accounts, once the keys of their tokens are known as far as the store has them."""
        await self._keys.learn(
            chain.from_iterable((one.sealed_access, one.sealed_refresh) for one in accounts)
        )
        return accounts

    @in_transaction
    async def _update(
        self,
        transaction: Transaction,
        name: str,
        sql: str,
        *values: object,
        events: Sequence[Event] = (),
    ) -> bool:
        """One statement on one account, and its events; whether it changed the row."""
        if not await transaction.execute(sql, *values):
            return False
        await insert_events(transaction, events)
        await transaction.tell(name)
        return True


def _key(ref: Ref) -> tuple[str, int, int]:
    return ref.name, ref.epoch, ref.generation


async def _commit(events: Sequence[Event], transaction: Transaction, successor: Successor) -> CommitOutcome:
    # Also where another broker was faster: what is kept in memory is older than its change.
    await transaction.tell(successor.parent.name)
    values = (*_key(successor.parent), *values_of(successor)[1:])
    changed = await transaction.fetch(f"{COMMIT} RETURNING {COLUMNS}", *values)
    if changed:
        await insert_events(transaction, events)
        with suppress(Exception):
            return Committed(to_account(changed[0]))
        return Committed()
    rows = await transaction.fetch("SELECT epoch FROM accounts WHERE name = $1", successor.parent.name)
    return GenerationMoved() if rows and rows[0][0] == successor.parent.epoch else EpochMoved()


async def insert_spare(transaction: Transaction, spare: Spare) -> None:
    await transaction.execute(ADD_SPARE, *values_of(spare))
    await transaction.execute(REOPEN, spare.account, spare.epoch, spare.received_at)
    await transaction.tell(spare.account)


async def _note_damaged(transaction: Transaction, row: Row, account: Account, at: float) -> None:
    """Let the row hold what its columns can, so that it may be connected again; with an event."""
    lost = damaged_columns(row)
    # Numbers that are lost leave room for later ones.
    epoch, generation = (int(at) if one == LATEST else one for one in (account.epoch, account.generation))
    account = replace(account, epoch=epoch, generation=generation, dead_since=at)
    if "name" in lost:
        # Nobody can ask for it, and its person could not connect again while it stands.
        account = replace(account, removed_at=at)
    values = changed_values(account, lost)
    sets = ", ".join(f"{column} = ${number}" for number, column in enumerate(values, 2))
    # The name as well may be damaged, a text or not.
    sql = f"UPDATE accounts SET {sets}, next_at = NULL WHERE name IN ($1, CAST($1 AS TEXT))"
    await transaction.execute(sql, row[0], *values.values())
    told = f"damaged: {', '.join(lost)}"
    kind, reason = EventKind.NEEDS_REAUTHORIZATION, Reason.RECORD_DAMAGED
    event = Event(at, kind, account.name, account.provider, reason, generation, detail=told)
    await insert_events(transaction, [event])
    await transaction.tell(account.name)
    log.error("account.needs_reauthorization", account=account.name, reason=reason, why=told)
