"""Stores accounts for their management: connect, find, freeze, rename, remove, restore, purge."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from broker.model import Account, Event, InstallOutcome, Reason, Ref, Spare, Status
from broker.store.account_queries import AccountGroup, AccountQuery, find_sql, reach_sql
from broker.store.database import LATEST, Transaction, in_transaction, last_of, number, text
from broker.store.events import insert_events
from broker.store.plugin import join_account
from broker.store.renewals import RefreshStore, insert_spare
from broker.store.rows import (
    ASSIGNMENTS,
    COLUMN_NUMBER,
    COLUMNS,
    PLACEHOLDERS,
    STATUS_SQL,
    WIDTH,
    to_account,
    to_values,
)

USERS = "SELECT caller, last_used_at FROM uses WHERE account = $1 ORDER BY last_used_at DESC, caller"
GONE = "gone"
GROUPED_AT_ONCE = 1000
EXPIRY = f"(CASE WHEN expires_at BETWEEN 0 AND {LATEST} THEN expires_at ELSE 0 END)"
GROUPS = f"""
SELECT provider, status, used, span, COUNT(*), MIN(expires_at), MAX(name) FROM (
  SELECT name, provider, {EXPIRY} AS expires_at,
         CASE WHEN removed_at IS NULL THEN {STATUS_SQL} ELSE '{GONE}' END AS status,
         CASE WHEN last_used_at >= $3 THEN 1 ELSE 0 END AS used,
         {{span}} AS span
    FROM accounts WHERE name > $1 AND name < '~' ORDER BY name LIMIT $2) AS page
 GROUP BY provider, status, used, span"""
CUT_MARK = "cut "
CUT = f"identity_double LIKE '{CUT_MARK}%'"
"""The identity has the length to which an earlier version cut it, and is not confirmed yet (migration 0014)."""
OF_IDENTITY = "FROM accounts WHERE provider = $1 AND external_id = $2 AND removed_at IS NULL"
BY_IDENTITY = f"SELECT {COLUMNS} {OF_IDENTITY} AND NOT {CUT} ORDER BY identity_double, name"
MAYBE_CUT = f"SELECT {COLUMNS} {OF_IDENTITY} AND {CUT} ORDER BY name LIMIT 5"
HOLDERS = f"SELECT name {OF_IDENTITY} AND NOT {CUT} ORDER BY identity_double, name"
MARK = "SELECT identity_double FROM accounts WHERE name = $1"
# CROSS makes SQLite start with the few marked rows.
DOUBLES = f"""
SELECT a.name, b.name FROM accounts a CROSS JOIN accounts b
 WHERE a.identity_double <> '' AND NOT a.{CUT} AND a.removed_at IS NULL
   AND b.provider = a.provider AND b.external_id = a.external_id AND b.removed_at IS NULL AND NOT b.{CUT}
   AND (b.name < a.name OR b.identity_double = '')
 ORDER BY b.name, a.name LIMIT $1"""
INSERT = f"""
INSERT INTO accounts ({COLUMNS}, next_at, identity_double) VALUES ({PLACEHOLDERS}, ${WIDTH + 1}, ${WIDTH + 2})
    ON CONFLICT (name) DO NOTHING"""
REPLACE = f"""
UPDATE accounts SET {ASSIGNMENTS}, next_at = ${WIDTH + 1},
       identity_double = CASE WHEN external_id = ${COLUMN_NUMBER["external_id"]} AND NOT {CUT} THEN identity_double
                              ELSE '' END
 WHERE name = ${WIDTH + 2} AND epoch = ${WIDTH + 3} AND generation = ${WIDTH + 4}"""
IDENTIFY = """
UPDATE accounts
   SET external_id = COALESCE($3, external_id), label = COALESCE($4, label),
       frozen = COALESCE($5, frozen),
       frozen_since = CASE WHEN CAST($5 AS TEXT) IS NULL THEN frozen_since ELSE CAST($6 AS DOUBLE PRECISION) END,
       identity_double = COALESCE($7, identity_double)
 WHERE name = $1 AND epoch = $2"""
SPEND_TICKET = "UPDATE tickets SET spent_at = $2 WHERE hash = $1 AND spent_at IS NULL"
CONNECTED = f"""
UPDATE installs SET outcome = '{InstallOutcome.CONNECTED}', outcome_account = $2, sealed_verifier = NULL
 WHERE state_hash = $1"""
DROP_GRANT = """
UPDATE installs SET sealed_access = NULL, sealed_refresh = NULL, grant_meta = NULL, next_at = NULL
 WHERE state_hash = $1"""

FREEZE = """
UPDATE accounts SET frozen = $2,
       frozen_since = CASE WHEN CAST($2 AS TEXT) IS NULL THEN NULL ELSE CAST($3 AS DOUBLE PRECISION) END,
       next_at = CASE WHEN CAST($2 AS TEXT) IS NULL AND dead IS NULL THEN CAST($3 AS DOUBLE PRECISION) ELSE NULL END
 WHERE name = $1 AND removed_at IS NULL"""
REMEMBER_NAME = """
INSERT INTO purged_names (name_hash, epoch, generation) VALUES ($1, $2, $3)
ON CONFLICT (name_hash) DO UPDATE SET epoch = excluded.epoch, generation = excluded.generation"""
RENAMED_WITH_IT = (
    ("events", "account"),
    ("installs", "outcome_account"),
    ("plugin_grants", "account"),
    ("uses", "account"),
    ("foretold_ends", "account"),
    ("imports", "account"),
)
ITS_INSTALLS = "account = $1 OR outcome_account = $1"
ITS_GRANTS = "SELECT id FROM plugin_grants WHERE account = $1"
ITS_SUBJECTS = "SELECT subject FROM plugin_grants WHERE account = $1"
PURGED_WITH_IT = (
    ("tickets", f"account = $1 OR hash IN (SELECT ticket_hash FROM installs WHERE {ITS_INSTALLS})"),
    ("installs", ITS_INSTALLS),
    ("spares", "account = $1"),
    # Not by the account's own subject: whoever may manage the account can set it to another user's.
    ("events", f"account = $1 OR (account IS NULL AND subject IN ({ITS_SUBJECTS}))"),
    ("plugin_codes", f"grant_id IN ({ITS_GRANTS})"),
    ("plugin_pairs", f"grant_id IN ({ITS_GRANTS})"),
    ("plugin_grants", "account = $1"),
    ("uses", "account = $1"),
    ("foretold_ends", "account = $1"),
    ("imports", "account = $1"),
    ("accounts", "name = $1"),
)
"""Conditions of the rows that name the account or its user. The account is last, because the others query it."""
RESTORE = """
UPDATE accounts SET removed_at = NULL,
       next_at = CASE WHEN dead IS NULL AND frozen IS NULL THEN CAST($3 AS DOUBLE PRECISION) ELSE NULL END
 WHERE name = $1 AND removed_at >= $2"""


class TicketSpent(Exception):
    """The install's ticket has already connected an account, or was replaced by a newer link."""


class IdentityTaken(Exception):
    """Another account has the identity at the provider; the message is that account's name."""


class _NameTaken(Exception):
    """Another account was connected under the new name during a rename."""


class AccountStore(RefreshStore):
    """Stores accounts for the use cases that manage them."""

    async def find(self, query: AccountQuery) -> list[Account]:
        """Return the first `query.limit` accounts of a query; it may have to read many rows to find them."""
        sql, values = find_sql(query)
        return await self._read(sql, *values)

    async def reach(self, query: AccountQuery, rows: int) -> tuple[int, str]:
        """Count the rows that `find` has to read for the query, up to `rows`; return the last one's name too."""
        sql, values = reach_sql(query, rows)
        [(count, last)] = await self._database.read(sql, *values)
        return int(count), text(last) or ""

    async def groups(
        self, *, used_since: float, span: float, at_once: int = GROUPED_AT_ONCE
    ) -> AsyncIterator[AccountGroup]:
        """Count all accounts in groups, a page of the table at a time; each page repeats the groups it has."""
        sql = GROUPS.format(span=self._database.dialect.floor.format(f"{EXPIRY} / $4"))
        after, read = "", at_once
        while read >= at_once:
            rows = await self._database.read(sql, after, at_once, used_since, span)
            for provider, status, used, at, count, first, _ in rows:
                if status != GONE:
                    yield AccountGroup(
                        text(provider), Status.stored(status), bool(used), int(at), count, first
                    )
            after, read = last_of(rows), sum(row[4] for row in rows)

    async def users(self, name: str) -> list[tuple[str, float]]:
        """Return the callers that received the account's tokens, with the time of the last one, latest first."""
        return [(text(caller), number(at)) for caller, at in await self._database.read(USERS, name)]

    async def by_identity(self, provider: str, external_id: str) -> Account | None:
        """Return the account with this identity at the provider, unless it is removed."""
        return next(iter(await self._read(BY_IDENTITY, provider, external_id)), None)

    async def maybe_cut(self, provider: str, start: str) -> list[Account]:
        """Return the accounts whose identity an earlier version may have cut to `start`, without removed ones.

        `by_identity` does not find them until `identify` has stored the whole identity.
        """
        return await self._read(MAYBE_CUT, provider, start)

    async def doubles(self, limit: int) -> list[tuple[str, str]]:
        """Return pairs of accounts with the same identity, from before that was refused."""
        return [(str(older), str(name)) for name, older in await self._database.read(DOUBLES, limit)]

    async def connect(
        self,
        account: Account,
        *,
        expected: Ref | None,
        next_at: float | None,
        grant: str | None,
        events: Sequence[Event],
        keep_grant: bool = False,
    ) -> bool:
        """Store `account` with its new grant as the row of its name.

        `expected` is the row that it was built from, None if there was none. Returns False if that row has changed
        or another account has the identity: read again, decide and encrypt again. `grant` is the state hash of its
        install: the same transaction spends the ticket, notes the outcome and deletes the pending grant unless
        `keep_grant`. Raises TicketSpent, and then nothing was changed.
        """

        async def work(transaction: Transaction, account: Account) -> bool:
            if await _identity_holder(transaction, account) is not None:
                return False
            if not await put_account(transaction, account, next_at, expected=expected):
                return False
            # A new grant makes the spares of the old one useless.
            sql = "DELETE FROM spares WHERE account = $1 AND epoch < $2"
            await transaction.execute(sql, account.name, account.epoch)
            if grant is not None:
                sql = "SELECT ticket_hash, browser_hash, subject FROM installs WHERE state_hash = $1"
                at = account.refreshed_at
                for ticket, browser, subject in await transaction.fetch(sql, grant):
                    if ticket is not None and not await transaction.execute(SPEND_TICKET, ticket, at):
                        raise TicketSpent
                    if subject is not None:
                        await join_account(transaction, browser, subject, account.name, at)
                await transaction.execute(CONNECTED, grant, account.name)
                if not keep_grant:
                    await transaction.execute(DROP_GRANT, grant)
            await insert_events(transaction, events)
            await transaction.notify(account.name)
            return True

        return await self._keys.write([account], work)

    @in_transaction
    async def identify(
        self,
        transaction: Transaction,
        ref: Ref,
        *,
        external_id: str | None,
        label: str | None,
        at: float,
        grant: str,
        events: Sequence[Event] = (),
        if_frozen: Sequence[Event] = (),
    ) -> bool:
        """Store an identity that arrived late for the grant of `ref`, in any generation, and delete the pending grant.

        Returns False if another account has the identity; then this one is frozen as a duplicate, and `if_frozen` is
        stored instead of `events`. An account of `maybe_cut` is never frozen: with another account of its identity
        it becomes one of the `doubles`.
        """
        rows = await transaction.fetch(f"SELECT {COLUMNS} FROM accounts WHERE name = $1", ref.name)
        pinned, mark, frozen = external_id, None, None
        if rows and external_id is not None:
            identified = replace(to_account(rows[0]), external_id=external_id)
            is_double = await _identity_holder(transaction, identified) is not None
            if (await _mark(transaction, ref.name)).startswith(CUT_MARK):
                # It was served before the duplicate was known, so it goes on; `broker check` lists it.
                mark = ref.name if is_double else ""
            elif is_double:
                pinned, frozen = None, Reason.DUPLICATE_IDENTITY
        await transaction.execute(IDENTIFY, ref.name, ref.epoch, pinned, label, frozen, at, mark)
        await transaction.execute(DROP_GRANT, grant)
        await insert_events(transaction, if_frozen if frozen else events)
        await transaction.notify(ref.name)
        return frozen is None

    async def freeze(self, name: str, reason: Reason | None, at: float, events: Sequence[Event] = ()) -> bool:
        """Freeze the account with a reason, or unfreeze it with None. False: there is no such account."""
        return await self._update(name, FREEZE, name, reason, at, events=events)

    async def relabel(self, name: str, *, label: str | None, subject: str | None) -> bool:
        """Set the account's label and subject. False: there is no such account."""
        sql = "UPDATE accounts SET label = $2, subject = $3 WHERE name = $1 AND removed_at IS NULL"
        return await self._update(name, sql, name, label, subject)

    async def rename(
        self,
        ref: Ref,
        renamed: Account,
        *,
        spares: Sequence[Spare],
        next_at: float | None,
        old_name_hash: str,
    ) -> bool:
        """Move the row at `ref` to a new name; `renamed` and `spares` are encrypted for that name.

        Returns False if the row has changed or has an intent, or the new name is taken. The generations of the old
        name stay recorded under its hash.
        """

        async def work(transaction: Transaction, renamed: Account, *spares: Spare) -> bool:
            if await transaction.fetch(MARK, renamed.name):
                return False
            mark = await _mark(transaction, ref.name)
            sql = "DELETE FROM accounts WHERE name = $1 AND epoch = $2 AND generation = $3 AND intent_id IS NULL"
            if not await transaction.execute(sql, ref.name, ref.epoch, ref.generation):
                return False
            if not await transaction.execute(INSERT, *to_values(renamed), next_at, mark):
                raise _NameTaken
            await transaction.execute("DELETE FROM spares WHERE account = $1", ref.name)
            # Rows about the account get the new name, so that a purge finds them.
            for table, column in RENAMED_WITH_IT:
                sql = f"UPDATE {table} SET {column} = $2 WHERE {column} = $1"
                await transaction.execute(sql, ref.name, renamed.name)
            for spare in spares:
                await insert_spare(transaction, spare)
            await transaction.execute(REMEMBER_NAME, old_name_hash, ref.epoch, ref.generation)
            await transaction.notify(ref.name)
            await transaction.notify(renamed.name)
            return True

        try:
            return await self._keys.write([renamed, *spares], work)
        except _NameTaken:
            return False

    async def remove(self, name: str, at: float, events: Sequence[Event]) -> bool:
        """Mark the account as removed. False: there is no such account."""
        sql = "UPDATE accounts SET removed_at = $2, next_at = NULL WHERE name = $1 AND removed_at IS NULL"
        return await self._update(name, sql, name, at, events=events)

    @in_transaction
    async def restore(
        self, transaction: Transaction, name: str, since: float, at: float, events: Sequence[Event] = ()
    ) -> bool:
        """Undo a removal that is not older than `since`. Raises IdentityTaken."""
        if not (await _mark(transaction, name)).startswith(CUT_MARK):
            for row in await transaction.fetch(f"SELECT {COLUMNS} FROM accounts WHERE name = $1", name):
                if (holder := await _identity_holder(transaction, to_account(row))) is not None:
                    raise IdentityTaken(holder)
        if not await transaction.execute(RESTORE, name, since, at):
            return False
        await insert_events(transaction, events)
        await transaction.notify(name)
        return True

    @in_transaction
    async def purge(self, transaction: Transaction, name: str, name_hash: str) -> bool:
        """Delete the account's row and every row about it.

        Only its last epoch and generation stay recorded, under `name_hash`.
        """
        # This changes nothing, but locks the row, so that no other broker commits a generation after it was read.
        await transaction.execute("UPDATE accounts SET name = name WHERE name = $1", name)
        rows = await transaction.fetch("SELECT epoch, generation FROM accounts WHERE name = $1", name)
        for epoch, generation in rows:
            await transaction.execute(REMEMBER_NAME, name_hash, epoch, generation)
        for table, which in PURGED_WITH_IT:
            await transaction.execute(f"DELETE FROM {table} WHERE {which}", name)
        await transaction.notify(name)
        return bool(rows)

    async def purged(self, name_hash: str) -> tuple[int, int] | None:
        """Return the last epoch and generation of a purged name."""
        sql = "SELECT epoch, generation FROM purged_names WHERE name_hash = $1"
        return next(((row[0], row[1]) for row in await self._database.read(sql, name_hash)), None)

    async def removed_before(self, at: float, limit: int) -> list[str]:
        """Return the names of accounts that were removed before then."""
        sql = "SELECT name FROM accounts WHERE removed_at IS NOT NULL AND removed_at < $1 LIMIT $2"
        return [name for (name,) in await self._database.read(sql, at, limit)]


async def put_account(
    transaction: Transaction,
    account: Account,
    next_at: float | None,
    *,
    expected: Ref | None,
    replace_sql: str = REPLACE,
) -> bool:
    """Store `account` as the row of its name, replacing the row at `expected`, or as a new row if that is None."""
    if expected is None:
        return await transaction.execute(INSERT, *to_values(account), next_at, "") == 1
    key = (expected.name, expected.epoch, expected.generation)
    return await transaction.execute(replace_sql, *to_values(account), next_at, *key) == 1


async def _identity_holder(transaction: Transaction, account: Account) -> str | None:
    """Return the other account that has this one's identity, unless this one shares it already.

    Accounts that shared an identity before the index existed go on doing so; no new pair may arise.
    """
    if account.external_id is None:
        return None
    # Another transaction that assigns the identity waits here, and then finds what was decided.
    await transaction.lock(f"identity {account.provider} {account.external_id}")
    names = [str(name) for (name,) in await transaction.fetch(HOLDERS, account.provider, account.external_id)]
    return None if account.name in names else next(iter(names), None)


async def _mark(transaction: Transaction, name: str) -> str:
    """Return the account's `identity_double`: the name of its double, a mark for a cut identity, or nothing."""
    return "".join([str(mark) for (mark,) in await transaction.fetch(MARK, name)])
